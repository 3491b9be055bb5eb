"""Credentials of every kind, and that none passes as another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.core.records import Identity
from gateway.core.scopes import ALL
from gateway.core.signing import SigningKey
from gateway.flow.access import ASSET_URL_MS, TICKET_MS, Access
from gateway.flow.tokens import TOKEN_MAX_MS
from protocol.errors import ClientFault
from protocol.tail import URL_STEP_MS
from tests.gateway.node import NodeUnderTest, node, open_node

__all__ = ["node"]

JOB, OTHER_JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW", "01JD9Z6Q8M4T7V2XK3B5N0RCEX"
ASSET, OTHER_ASSET = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def refusal(check: Callable[[], object]) -> str:
    """Return the code of the fault that `check` raises."""
    with pytest.raises(ClientFault) as refused:
        check()
    return refused.value.code


async def refused_code(access: Access, credential: str) -> str:
    """Return the code with which a credential is refused."""
    with pytest.raises(ClientFault) as refused:
        await access.identify(credential)
    return refused.value.code


def signed(access: Access, identity: Identity, now_ms: int) -> dict[str, str]:
    """Return one good text of every kind that is signed."""
    return {
        "token": access.make_token(identity, "player", 60_000)[0],
        "resume": access.make_resume(JOB, now_ms + 60_000),
        "grant": access.make_grant(JOB, ["watch", "cancel"], 60_000),
        "asset": access.asset_query("acme", ASSET, now_ms)[0],
    }


async def test_key_stands_for_its_account(node: NodeUnderTest) -> None:
    """The account itself, with its plan, without end and with every scope."""
    identity = await node.node.access.identify(await node.add_key())
    assert (identity.tenant, identity.subject, identity.scopes, identity.expires_ms) == ("acme", "", ALL, None)


async def test_key_that_is_unknown_or_revoked_is_refused(node: NodeUnderTest) -> None:
    """Every token of the key with it: at once where it is revoked, and within two seconds elsewhere."""
    access, key = node.node.access, await node.add_key()
    identity = await access.identify(key)
    token, _ = access.make_token(identity, "player", 60_000)
    await access.identify(token)
    assert await node.ledger.accounts.revoke_key(identity.key, node.clock.time_ms())
    node.clock.advance(2)
    for credential in (key, token, "sk-sl-nobody", "", "sk", "\udc80", "t1...", "ä.ö.ü.ß"):
        assert await refused_code(access, credential) == "unauthorized"


async def test_token_names_a_subject_and_ends(node: NodeUnderTest) -> None:
    """It carries its scopes, lives as long as was said, a day at most, and never longer than what it was made with."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    token, ttl_ms = access.make_token(identity, "player", 60_000, frozenset({"generate"}))
    player = await access.identify(token)
    assert (player.tenant, player.subject, player.key, set(player.scopes)) == (
        "acme",
        "player",
        identity.key,
        {"generate"},
    )
    assert ttl_ms == 60_000
    assert access.make_token(identity, "player", 2 * TOKEN_MAX_MS)[1] == TOKEN_MAX_MS
    assert access.make_token(player, "other", TOKEN_MAX_MS, player.scopes)[1] <= 60_000
    node.clock.advance(60.001)
    assert await refused_code(access, token) == "token_expired"


async def test_ticket_opens_once_within_its_time(node: NodeUnderTest) -> None:
    """Used, late or made up: nobody."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    ticket, late = access.make_ticket(identity), access.make_ticket(identity)
    assert (ticket.expires_in_ms, access.take_ticket(ticket.ticket)) == (TICKET_MS, identity)
    assert access.take_ticket(ticket.ticket) is None
    node.clock.advance(TICKET_MS / 1000)
    assert access.take_ticket(late.ticket) is None
    assert access.take_ticket("never made") is None


async def test_resume_says_its_session_and_epoch(node: NodeUnderTest) -> None:
    """One that is over its time is as none: a new session begins."""
    access = node.node.access
    text = access.make_resume(JOB, node.clock.time_ms() + 60_000)
    found = access.read_resume(text)
    assert found is not None
    assert (found.session, found.epoch) == (JOB, access.epoch)
    node.clock.advance(60.001)
    assert access.read_resume(text) is None


async def test_grant_gives_its_rights_to_its_job_for_its_time(node: NodeUnderTest) -> None:
    """Another job or another right is forbidden, and the time is told apart."""
    access = node.node.access
    grant = access.make_grant(JOB, ["watch"], 60_000)
    access.check_grant(grant, JOB, "watch")
    assert refusal(lambda: access.check_grant(grant, JOB, "cancel")) == "forbidden"
    assert refusal(lambda: access.check_grant(grant, OTHER_JOB, "watch")) == "forbidden"
    node.clock.advance(60.001)
    assert refusal(lambda: access.check_grant(grant, JOB, "watch")) == "expired"


async def test_addresses_are_equal_for_everybody_within_a_step(node: NodeUnderTest) -> None:
    """So frames can be shared; each is good for its whole time all the same."""
    access = node.node.access
    begin = node.clock.time_ms() // URL_STEP_MS * URL_STEP_MS
    early, late = (access.asset_query("acme", ASSET, begin + at) for at in (0, URL_STEP_MS - 1))
    assert early[0] == late[0] != access.asset_query("acme", ASSET, begin + URL_STEP_MS)[0]
    assert ASSET_URL_MS <= late[1] < early[1] <= ASSET_URL_MS + URL_STEP_MS
    assert access.events_grant(JOB, begin) == access.events_grant(JOB, begin + URL_STEP_MS - 1)
    access.check_grant(access.events_grant(JOB, begin), JOB, "watch")
    assert refusal(lambda: access.check_grant(access.events_grant(JOB, begin), JOB, "cancel")) == "forbidden"


async def test_asset_address_opens_one_asset_of_one_tenant(node: NodeUnderTest) -> None:
    """The signature says whose it is; for another asset or late it is refused."""
    access = node.node.access
    text, ttl_ms = access.asset_query("acme", ASSET, node.clock.time_ms())
    assert access.check_asset(text, ASSET) == "acme"
    assert refusal(lambda: access.check_asset(text, OTHER_ASSET)) == "forbidden"
    node.clock.advance(ttl_ms / 1000 + 0.001)
    assert refusal(lambda: access.check_asset(text, ASSET)) == "expired"


@pytest.mark.parametrize("kind", ["token", "resume", "grant", "asset"])
async def test_no_kind_passes_as_another(node: NodeUnderTest, kind: str) -> None:
    """Every signed text opens its own door alone, and an API key opens none of these."""
    access, key = node.node.access, await node.add_key()
    text = signed(access, await access.identify(key), node.clock.time_ms())[kind]
    for credential in (text, key):
        is_own = credential == text
        if not (is_own and kind == "token") and credential != key:
            assert await refused_code(access, credential) == "unauthorized"
        if not (is_own and kind == "resume"):
            assert access.read_resume(credential) is None
        if not (is_own and kind == "grant"):
            assert refusal(lambda text=credential: access.check_grant(text, JOB, "watch")) == "unauthorized"  # type: ignore[misc]
        if not (is_own and kind == "asset"):
            assert refusal(lambda text=credential: access.check_asset(text, ASSET)) == "unauthorized"  # type: ignore[misc]
        assert access.take_ticket(credential) is None


@pytest.mark.parametrize("kind", ["token", "resume", "grant", "asset"])
async def test_one_changed_letter_spoils_any_signature(node: NodeUnderTest, kind: str) -> None:
    """Wherever it is: in the kind, the key's name, the payload or the signature."""
    access = node.node.access
    text = signed(access, await access.identify(await node.add_key()), node.clock.time_ms())[kind]
    for place in [*range(0, len(text), 5), text.rindex(".") - 1, text.rindex(".") + 1]:
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        assert await refused_code(access, changed) == "unauthorized"
        assert access.read_resume(changed) is None
        assert refusal(lambda text=changed: access.check_grant(text, JOB, "watch")) == "unauthorized"  # type: ignore[misc]
        assert refusal(lambda text=changed: access.check_asset(text, ASSET)) == "unauthorized"  # type: ignore[misc]


async def test_what_one_gateway_signed_is_nothing_to_another(node: NodeUnderTest, tmp_path: Path) -> None:
    """Keys are the ledger's own; here another ledger has another key of the same name."""
    access = node.node.access
    keys = [SigningKey("k1", b"x" * 32, 2**52), SigningKey("t1", b"x" * 32, 2**52, "ed25519")]
    other = Access(node.ledger.accounts, access._tickets, keys, node.clock, "e")
    identity = await access.identify(await node.add_key())
    texts = signed(other, identity, node.clock.time_ms())
    assert await refused_code(access, texts["token"]) == "unauthorized"
    assert access.read_resume(texts["resume"]) is None


async def test_signatures_survive_a_restart(tmp_path: Path) -> None:
    """Signing key and epoch are rows: what was signed yesterday counts today."""
    async with open_node(tmp_path) as first:
        key = await first.add_key()
        texts = signed(first.node.access, await first.node.access.identify(key), first.clock.time_ms())
        epoch = first.node.access.epoch
    async with open_node(tmp_path, epoch="another") as second:
        access = second.node.access
        assert (access.epoch, (await access.identify(key)).tenant) == (epoch, "acme")
        assert (await access.identify(texts["token"])).subject == "player"
        assert access.read_resume(texts["resume"]) is not None
        access.check_grant(texts["grant"], JOB, "cancel")
        assert access.check_asset(texts["asset"], ASSET) == "acme"
