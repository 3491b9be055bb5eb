"""Tokens and the ledger: when it is asked, how soon a revocation counts, and how signing keys are rotated."""

import asyncio
from dataclasses import replace

import pytest

from gateway.core.scopes import END_USER
from gateway.core.tokens import look
from gateway.flow import tokens as tokens_module
from gateway.flow.access import Access
from gateway.flow.tokens import new_signing_keys
from protocol.errors import ClientFault
from tests.gateway.node import NodeUnderTest, node

__all__ = ["node"]

DAY_MS = 86_400_000


async def why(access: Access, credential: str) -> str:
    """Return the reason with which a credential is refused."""
    with pytest.raises(ClientFault) as refused:
        await access.identify(credential)
    assert refused.value.code == ("token_expired" if refused.value.details["reason"] == "expired" else "unauthorized")
    return str(refused.value.details["reason"])


async def test_token_is_checked_without_the_ledger(node: NodeUnderTest) -> None:
    """It is asked once in two seconds for each key, however many ask."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    texts = [access.make_token(identity, f"player-{number}", 60_000)[0] for number in range(20)]
    await access.identify(texts[0])
    before = node.ledger.store.reads
    for text in texts:
        await access.identify(text)
    assert node.ledger.store.reads == before
    node.clock.advance(2)
    await access.identify(texts[0])
    assert node.ledger.store.reads == before + 1


async def test_revocation_counts_at_once_where_it_is_made(node: NodeUnderTest) -> None:
    """One token, and no other; then all of the key, but not those that are made after."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    one, other = (access.make_token(identity, "player", 60_000)[0] for _ in range(2))
    mine = await access.identify(one)
    assert await access.stands(mine)
    await access.tokens.revoke(identity, one)
    assert await why(access, one) == "revoked"
    assert not await access.stands(mine)
    assert (await access.identify(other)).subject == "player"
    assert await access.tokens.revoke_all(identity.key)
    assert await why(access, other) == "revoked"
    assert not await access.tokens.revoke_all("nobody's")
    again = replace(identity, epoch=identity.epoch + 1)
    assert (await access.identify(access.make_token(again, "player", 60_000)[0])).subject == "player"
    assert await access.stands(identity), "the key itself was not revoked"


async def test_revocation_made_elsewhere_counts_within_two_seconds(node: NodeUnderTest) -> None:
    """What this node believes of a key it believes no longer."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    one, other = (access.make_token(identity, "player", 60_000)[0] for _ in range(2))
    mine = await access.identify(one)
    await node.ledger.accounts.revoke_token(identity.key, mine.token, node.clock.time_ms() + DAY_MS, 0, 9)
    node.clock.advance(2)
    assert await why(access, one) == "revoked"
    await node.ledger.accounts.revoke_tokens(identity.key)
    node.clock.advance(2)
    assert await why(access, other) == "revoked"
    await node.ledger.accounts.revoke_key(identity.key, 1)
    node.clock.advance(2)
    assert not await access.stands(identity)


async def test_revocation_during_a_look_is_not_lost(node: NodeUnderTest) -> None:
    """What was read before it was written is not believed after."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    text, _ = access.make_token(identity, "player", 60_000)
    jti = (await access.identify(text)).token
    for _ in range(20):
        node.clock.advance(2)
        await asyncio.gather(access.identify(text), access.tokens.revoke(identity, "x" * 22), access.identify(text))
    await asyncio.gather(access.stands(identity), access.tokens.revoke(identity, jti))
    assert await why(access, text) == "revoked"


async def test_everybody_may_revoke_his_own_token(node: NodeUnderTest) -> None:
    """Others of the key only who has `admin`, and those of another key nobody."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    texts = [access.make_token(identity, "ann", 60_000)[0] for _ in range(2)]
    ann = await access.identify(texts[0])
    with pytest.raises(ClientFault) as fault:
        await access.tokens.revoke(ann, texts[1])
    assert (fault.value.code, fault.value.details["scope"]) == ("forbidden", "admin")
    await access.tokens.revoke(ann, texts[0])
    assert await why(access, texts[0]) == "revoked"
    other = await access.identify(await node.add_key("umbrella"))
    with pytest.raises(ClientFault) as fault:
        await access.tokens.revoke(other, texts[1])
    assert fault.value.code == "forbidden"
    with pytest.raises(ClientFault) as fault:
        await access.tokens.revoke(other, texts[1][:-8] + "AAAAAAAA")
    assert (fault.value.code, fault.value.details["reason"]) == ("invalid_param", "bad signature")
    node.clock.advance(60)
    await access.tokens.revoke(other, texts[1])


async def test_single_revocations_are_bounded(node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has more to revoke revokes all; what has ended makes room."""
    monkeypatch.setattr(tokens_module, "MAX_REVOKED", 2)
    access = node.node.access
    identity = await access.identify(await node.add_key())
    for jti in ("a", "b"):
        await access.tokens.revoke(identity, jti)
    with pytest.raises(ClientFault, match="revoke all"):
        await access.tokens.revoke(identity, "c")
    node.clock.advance(DAY_MS / 1000)
    await access.tokens.revoke(identity, "c")
    await access.forget()


async def test_keys_known_are_bounded(node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was read longest ago is read again."""
    monkeypatch.setattr(tokens_module, "MAX_KEYS_KNOWN", 2)
    access = node.node.access
    for tenant in ("a", "b", "c"):
        identity = await access.identify(await node.add_key(tenant))
        await access.identify(access.make_token(identity, "player", 60_000)[0])
    assert len(access.tokens._known) == 2


async def test_token_of_a_key_that_is_gone_is_refused(node: NodeUnderTest) -> None:
    """Of no key, or of one that is somebody else's now."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    for changed in (replace(identity, key="k" * 26), replace(identity, tenant="umbrella")):
        assert await why(access, access.make_token(changed, "player", 60_000)[0]) == "unknown key"


async def test_rotated_keys_count_for_their_grace(node: NodeUnderTest) -> None:
    """What they signed is good until then and not after; new ones are signed with from the next look on."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    now = node.clock.time_ms()
    before, grant = access.make_token(identity, "player", DAY_MS)[0], access.make_grant("j", ["watch"], DAY_MS)
    await node.ledger.accounts.rotate_signing(new_signing_keys(now), now + 3_600_000)
    await access.refresh()
    after, later = access.make_token(identity, "player", DAY_MS)[0], access.make_grant("j", ["watch"], DAY_MS)
    assert look(before).key != look(after).key
    assert len(access.tokens.jwks()["keys"]) == 2
    for text in (before, after):
        assert (await access.identify(text)).subject == "player"
    access.check_grant(grant, "j", "watch")
    node.clock.advance(3600.001)
    assert await why(access, before) == "unknown key"
    assert (await access.identify(after)).subject == "player"
    assert [key["kid"] for key in access.tokens.jwks()["keys"]] == [look(after).key]
    access.check_grant(later, "j", "watch")
    with pytest.raises(ClientFault):
        access.check_grant(grant, "j", "watch")


async def test_signing_key_made_elsewhere_is_found_by_its_first_token(node: NodeUnderTest) -> None:
    """Made-up names make us look once a second and no more."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    now = node.clock.time_ms()
    new = new_signing_keys(now)
    await node.ledger.accounts.rotate_signing(new, now + 3_600_000)
    other = Access(node.ledger.accounts, access._tickets, new, node.clock, access.epoch)
    text, _ = other.make_token(identity, "player", 60_000)
    node.clock.advance(1)
    assert (await access.identify(text)).subject == "player"
    forged = Access(node.ledger.accounts, access._tickets, new_signing_keys(now), node.clock, access.epoch)
    text, _ = forged.make_token(identity, "player", 60_000)
    before = node.ledger.store.reads
    node.clock.advance(1)
    for _ in range(10):
        assert await why(access, text) == "unknown key"
    assert node.ledger.store.reads == before + 1


async def test_token_only_narrows(node: NodeUnderTest) -> None:
    """Neither a scope more nor a millisecond more than what it is made with."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    few = await access.identify(access.make_token(identity, "", 60_000, frozenset({"read", "admin"}))[0])
    assert few.scopes == {"read", "admin"}
    with pytest.raises(ClientFault) as fault:
        access.make_token(few, "", 60_000, END_USER)
    assert fault.value.code == "invalid_param"
    assert access.make_token(few, "", DAY_MS, frozenset({"read"}))[1] <= 60_000


async def test_token_of_a_day_lives_a_day(node: NodeUnderTest) -> None:
    """To the second, by the clock of the node."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    text, ttl_ms = access.make_token(identity, "player", DAY_MS)
    assert ttl_ms == DAY_MS
    node.clock.advance(DAY_MS / 1000 - 5)
    assert (await access.identify(text)).subject == "player"
    node.clock.advance(5)
    assert await why(access, text) == "expired"


async def test_token_of_a_clock_that_is_ahead_is_refused(node: NodeUnderTest) -> None:
    """Half a minute is forgiven."""
    access = node.node.access
    identity = await access.identify(await node.add_key())
    node.clock.advance(60)
    text, _ = access.make_token(identity, "player", DAY_MS)
    node.clock.advance(-29)
    assert (await access.identify(text)).subject == "player"
    node.clock.advance(-10)
    assert await why(access, text) == "not yet valid"
