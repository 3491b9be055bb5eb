import asyncio

from gateway.core.scopes import ALL, UNRESTRICTED, Restriction
from tests.gateway.edges.conftest import Site


async def test_ticket_is_given_to_a_bearer_and_opens_once(site: Site) -> None:
    """A ticket stands for who asked for it, for 30 s, and for one connection."""
    answer = await site.ask("POST", "/v1/tickets")
    assert (answer.status, answer.json["expires_in_ms"]) == (200, 30_000)
    taken = site.test.node.access.take_ticket(answer.json["ticket"])
    assert taken is not None
    assert taken.tenant == "acme"
    assert site.test.node.access.take_ticket(answer.json["ticket"]) is None


async def test_ticket_is_refused_without_a_bearer(site: Site) -> None:
    """No route gives a credential without one."""
    answer = await site.ask("POST", "/v1/tickets", key=None)
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_ticket_opens_no_http_route(site: Site) -> None:
    """A ticket in the query is nothing over HTTP, where a bearer can always be sent."""
    ticket = (await site.ask("POST", "/v1/tickets")).json["ticket"]
    answer = await site.ask("GET", f"/v1/jobs?ticket={ticket}", key=None)
    assert (answer.status, answer.code) == (401, "unauthorized")


async def test_token_names_its_subject_and_ends(site: Site) -> None:
    """A token is the account's, for one end user, and is refused after its time."""
    answer = await site.ask("POST", "/v1/tokens", data={"subject": "player-1@eu", "ttl_ms": 60_000})
    assert (answer.status, answer.json["expires_in_ms"]) == (200, 60_000)
    identity = await site.test.node.access.identify(answer.json["token"])
    assert (identity.tenant, identity.subject) == ("acme", "player-1@eu")
    site.test.clock.advance(61)
    late = await site.ask("GET", "/v1/jobs", key=answer.json["token"])
    assert (late.status, late.code) == (401, "token_expired")


async def test_token_needs_no_body_and_lives_a_day_at_most(site: Site) -> None:
    """Without a body the token is the key's own subject's; a longer life than a day is a day."""
    assert (await site.ask("POST", "/v1/tokens")).json["expires_in_ms"] == 3_600_000
    assert (await site.ask("POST", "/v1/tokens", data={"ttl_ms": 10**12})).json["expires_in_ms"] == 86_400_000


async def test_token_makes_no_token(site: Site) -> None:
    """Only a key does: a token would prolong itself."""
    answer = await site.ask("POST", "/v1/tokens", key=await site.token("ann"))
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_token_with_a_wrong_field_is_refused_by_name(site: Site) -> None:
    """The path of the wrong field is told, and a scope that nobody would check is one."""
    for body, path in (({"subject": "a b"}, "subject"), ({"ttl_ms": 0}, "ttl_ms"), ({"scopes": ["paint"]}, "scopes")):
        answer = await site.ask("POST", "/v1/tokens", data=body)
        assert (answer.status, answer.code) == (422, "invalid_param")
        assert answer.json["error"]["details"]["path"] == path


async def test_revoked_key_is_refused_with_its_tokens(site: Site) -> None:
    """Revoking a key ends what was made with it."""
    token = await site.token("ann")
    identity = await site.test.node.access.identify(site.key)
    await site.test.ledger.accounts.revoke_key(identity.key, site.test.clock.time_ms())
    site.test.clock.advance(2)
    for credential in (site.key, token, "sk-sl-unknown", "t1.k1.e30.x", "grüße"):
        answer = await site.ask("GET", "/v1/jobs", key=credential)
        assert (answer.status, answer.code) == (401, "unauthorized"), credential


async def test_ticket_is_scoped_down(site: Site) -> None:
    """To an end user, scopes, models and a cost; without a body it is all that the bearer may."""
    wanted = {"subject": "ann", "scopes": ["generate"], "models": ["easel-1", "easel-1"], "max_cost_micros": 900}
    answer = await site.ask("POST", "/v1/tickets", data=wanted)
    taken = site.test.node.access.take_ticket(answer.json["ticket"])
    assert taken is not None
    assert (taken.subject, taken.scopes) == ("ann", frozenset({"generate"}))
    assert taken.restriction == Restriction(("generate",), ("easel-1",), 900)
    whole = site.test.node.access.take_ticket((await site.ask("POST", "/v1/tickets", data={})).json["ticket"])
    assert whole is not None
    assert (whole.scopes, whole.restriction) == (ALL, UNRESTRICTED)


async def test_ticket_is_never_wider_than_its_bearer(site: Site) -> None:
    """An end user makes none for another, nor with what he lacks himself; a misspelt restriction is no restriction."""
    ann = await site.token("ann")
    assert (await site.ask("POST", "/v1/tickets", key=ann, data={"subject": "ann"})).status == 200
    other = await site.ask("POST", "/v1/tickets", key=ann, data={"subject": "bob"})
    assert (other.status, other.json["error"]["details"]["scope"]) == (403, "admin")
    few = (await site.ask("POST", "/v1/tokens", data={"subject": "ann", "scopes": ["read"]})).json["token"]
    for data, path in (
        ({"scopes": ["generate"]}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"models": []}, "models"),
        ({"max_cost_micros": -1}, "max_cost_micros"),
    ):
        answer = await site.ask("POST", "/v1/tickets", key=few, data=data)
        assert (answer.status, answer.code, answer.json["error"]["details"]["path"]) == (422, "invalid_param", path)
    misspelt = await site.ask("POST", "/v1/tickets", data={"max_cost_micro": 5})
    assert (misspelt.status, misspelt.code) == (422, "invalid_param")


async def test_one_of_fifty_has_the_ticket(site: Site) -> None:
    """However they race."""
    access = site.test.node.access
    ticket = (await site.ask("POST", "/v1/tickets")).json["ticket"]

    async def take() -> bool:
        await asyncio.sleep(0)
        return access.take_ticket(ticket) is not None

    assert sum(await asyncio.gather(*(take() for _ in range(50)))) == 1
