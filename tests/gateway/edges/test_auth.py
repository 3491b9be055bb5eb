"""`/v1/auth`: keys for tokens, revocations, the public keys, and what a 401 says."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import jwt
import msgspec
import pytest

from gateway.core.attempts import BURST
from gateway.core.tokens import MAX_CHARS
from gateway.flow.tokens import new_signing_keys
from tests.answers import Answer
from tests.gateway.edges.conftest import Site

DAY = 86_400


async def exchange(site: Site, **fields: object) -> Answer:
    """Exchange a key."""
    return await site.ask("POST", "/v1/auth/token", key=None, data={"api_key": site.key, **fields})


async def bearer(site: Site, **fields: object) -> str:
    """Return a token of a day."""
    return str((await exchange(site, **fields)).json["access_token"])


async def test_key_is_exchanged_for_a_token_of_a_day(site: Site) -> None:
    """In OAuth's shape; the token is the account's own, with every scope."""
    answer = await exchange(site)
    assert answer.status == 200
    assert answer.json == {"access_token": answer.json["access_token"], "token_type": "bearer", "expires_in": DAY}
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json["access_token"]
    assert (await site.ask("GET", "/v1/jobs", key=token)).status == 200
    site.test.clock.advance(DAY - 5)
    assert (await site.ask("GET", "/v1/jobs", key=token)).status == 200
    site.test.clock.advance(5)
    late = await site.ask("GET", "/v1/jobs", key=token)
    assert (late.status, late.code, late.json["error"]["details"]["reason"]) == (401, "token_expired", "expired")


async def test_exchange_narrows_and_refuses_unknown_scopes_by_name(site: Site) -> None:
    """What was left out is forbidden."""
    token = await bearer(site, scopes=["read", "admin"])
    assert (await site.ask("GET", "/v1/jobs", key=token)).status == 200
    refused = await site.ask("POST", "/v1/jobs", key=token, data={})
    assert (refused.status, refused.code) == (403, "forbidden")
    assert refused.json["error"]["details"] == {"scope": "generate", "scopes": ["admin", "read"]}
    made = await site.ask("POST", "/v1/tokens", key=token, data={"subject": "ann"})
    identity = await site.test.node.access.identify(made.json["token"])
    assert identity.scopes == {"read"}
    unknown = await exchange(site, scopes=["read", "paint"])
    assert (unknown.status, unknown.code) == (422, "invalid_param")
    assert unknown.json["error"]["details"]["unknown"] == ["paint"]
    assert (await exchange(site, scopes=[])).status == 422


async def test_refusal_says_why_and_what_time_it_is(site: Site) -> None:
    """Each reason by its name, the time in the body and in `Date`, by the clock that decides."""
    access, clock = site.test.node.access, site.test.clock
    identity = await access.identify(site.key)
    expired = access.make_token(identity, "ann", 1000)[0]
    revoked = access.make_token(identity, "ann", 3_600_000)[0]
    await access.tokens.revoke(identity, revoked)
    clock.advance(120)
    early = access.make_token(identity, "ann", 3_600_000)[0]
    clock.advance(-60)
    head = {"kid": "gone", "typ": "at+jwt"}
    body = msgspec.json.encode({"iss": "safelight"})
    unknown = jwt.PyJWS().encode(body, access.tokens._signer._private, "EdDSA", headers=head)
    foreign = jwt.PyJWS().encode(b'{"iss":"x"}', access.tokens._signer._private, "EdDSA", headers={"typ": "at+jwt"})
    for credential, code, reason in (
        (None, "unauthorized", "missing"),
        (expired, "token_expired", "expired"),
        (early, "unauthorized", "not yet valid"),
        (revoked, "unauthorized", "revoked"),
        (early[:-8] + "AAAAAAAA", "unauthorized", "bad signature"),
        (unknown, "unauthorized", "unknown key"),
        ("sk-sl-unknown", "unauthorized", "unknown key"),
        ("sk-sl-" + "x" * 1000, "unauthorized", "unknown key"),
        (foreign, "unauthorized", "unknown key"),
        (early[:100], "unauthorized", "malformed"),
        ("a" * MAX_CHARS + ".b.c", "unauthorized", "malformed"),
        ("grüße", "unauthorized", "malformed"),
    ):
        answer = await site.ask("GET", "/v1/jobs", key=credential)
        details = answer.json["error"]["details"]
        assert (answer.status, answer.code, details["reason"]) == (401, code, reason), credential
        assert abs(details["time_ms"] - clock.time_ms()) < 5000
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert [name.lower() for name in answer.headers].count("date") == 1
        told = parsedate_to_datetime(answer.headers["Date"])
        assert abs(told - datetime.fromtimestamp(clock.time_ms() / 1000, UTC)) < timedelta(seconds=5)


async def test_wrong_key_is_refused_with_its_reason(site: Site) -> None:
    """Unknown and revoked are told apart to who has the key's text."""
    wrong = await exchange(site, api_key="sk-sl-nobody")
    assert (wrong.status, wrong.json["error"]["details"]["reason"]) == (401, "unknown key")
    identity = await site.test.node.access.identify(site.key)
    await site.test.ledger.accounts.revoke_key(identity.key, 1)
    gone = await exchange(site)
    assert (gone.status, gone.json["error"]["details"]["reason"]) == (401, "revoked")
    assert (await site.ask("POST", "/v1/auth/token", key=None, data={})).status == 422


async def test_wrong_keys_are_bounded_by_address(site: Site) -> None:
    """Also many at once, without a look into the ledger; time brings more, and a right key costs nothing."""
    for _ in range(2 * BURST):
        assert (await exchange(site)).status == 200
    before = site.test.ledger.store.reads
    answers = await asyncio.gather(*(exchange(site, api_key=f"sk-sl-{number}") for number in range(3 * BURST)))
    assert sorted(answer.status for answer in answers) == [401] * BURST + [429] * 2 * BURST
    assert site.test.ledger.store.reads - before == BURST
    refused = await exchange(site)
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    site.test.clock.advance(6.1)
    assert (await exchange(site)).status == 200


async def test_token_is_revoked_alone_or_with_all_of_its_key(site: Site) -> None:
    """By itself, by its `jti`, or all; the key stays good, and so does what others have."""
    one, two, three = [await site.token(name) for name in ("ann", "bob", "cid")]
    other = await site.token("ann", await site.test.add_key("umbrella"))
    jti = (await site.test.node.access.identify(two)).token
    for data in ({"token": one}, {"token": jti}, {"token": one}):
        assert (await site.ask("POST", "/v1/auth/revoke", data=data)).status == 204
    assert [(await site.ask("GET", "/v1/jobs", key=token)).status for token in (one, two, three)] == [401, 401, 200]
    assert (await site.ask("POST", "/v1/auth/revoke", data={"all": True})).status == 204
    assert [(await site.ask("GET", "/v1/jobs", key=token)).status for token in (three, other, "")] == [401, 200, 200]
    assert (await site.ask("GET", "/v1/jobs", key=await site.token("ann"))).status == 200


async def test_end_user_revokes_only_his_own_token(site: Site) -> None:
    """Logging out needs no scope; logging others out needs `admin`."""
    mine, others = await site.token("ann"), await site.token("bob")
    for data in ({"token": others}, {"token": "x" * 22}, {"all": True}):
        refused = await site.ask("POST", "/v1/auth/revoke", key=mine, data=data)
        assert (refused.status, refused.json["error"]["details"]["scope"]) == (403, "admin")
    assert (await site.ask("POST", "/v1/auth/revoke", key=mine, data={"token": mine})).status == 204
    assert (await site.ask("POST", "/v1/auth/revoke", key=mine, data={"token": mine})).status == 401
    assert (await site.ask("GET", "/v1/jobs", key=others)).status == 200


@pytest.mark.parametrize(
    "data", [{}, {"token": "x", "all": True}, {"token": ""}, {"token": "a b"}, {"token": "x" * 65}]
)
async def test_revocation_says_what_it_revokes(site: Site, data: dict[str, object]) -> None:
    """Exactly one thing, in the letters that it may have."""
    answer = await site.ask("POST", "/v1/auth/revoke", data=data)
    assert (answer.status, answer.json["error"]["details"]["path"]) == (422, "token")


async def test_public_keys_are_everybodys(site: Site) -> None:
    """Without a credential, and kept for a while; a rotated key is there until its grace is over."""
    answer = await site.ask("GET", "/.well-known/jwks.json", key=None)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=60")
    [key] = answer.json["keys"]
    token = await bearer(site)
    found = jwt.decode(token, jwt.PyJWK.from_dict(key), ["EdDSA"], audience="safelight", issuer="safelight")
    assert (found["tenant"], found["sub"]) == ("acme", "")
    now = site.test.clock.time_ms()
    await site.test.ledger.accounts.rotate_signing(new_signing_keys(now), now + 3_600_000)
    await site.test.node.access.refresh()
    assert len((await site.ask("GET", "/.well-known/jwks.json", key=None)).json["keys"]) == 2
    site.test.clock.advance(3601)
    assert key not in (await site.ask("GET", "/.well-known/jwks.json", key=None)).json["keys"]


async def test_token_of_another_tenant_opens_nothing_of_ours(site: Site) -> None:
    """It is good, but for its own account."""
    job = await site.test.submit(await site.test.identity(site.key))
    theirs = await bearer(site, api_key=await site.test.add_key("umbrella"))
    for method, path in (("GET", f"/v1/jobs/{job}"), ("DELETE", f"/v1/jobs/{job}")):
        answer = await site.ask(method, path, key=theirs)
        assert (answer.status, answer.code) == (404, "job_not_found")
    assert (await site.ask("GET", f"/v1/jobs/{job}", key=await bearer(site))).status == 200
