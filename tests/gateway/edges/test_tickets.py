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
    for body, path in (({"subject": "a b"}, "subject"), ({"ttl_ms": 0}, "ttl_ms"), ({"scopes": ["read"]}, "scopes")):
        answer = await site.ask("POST", "/v1/tokens", data=body)
        assert (answer.status, answer.code) == (422, "invalid_param")
        assert answer.json["error"]["details"]["path"] == path


async def test_revoked_key_is_refused_with_its_tokens(site: Site) -> None:
    """Revoking a key ends what was made with it."""
    token = await site.token("ann")
    identity = await site.test.node.access.identify(site.key)
    await site.test.ledger.accounts.revoke_key(identity.key, site.test.clock.time_ms())
    for credential in (site.key, token, "sk-sl-unknown", "t1.k1.e30.x", "grüße"):
        answer = await site.ask("GET", "/v1/jobs", key=credential)
        assert (answer.status, answer.code) == (401, "unauthorized"), credential
