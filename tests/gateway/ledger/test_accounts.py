from dataclasses import replace

from gateway.core.records import KeyRecord, KeyStanding, Plan
from gateway.core.signing import SigningKey
from gateway.ports import Ledger

KEY = KeyRecord("k1", "t", "laptop", 10)
DIGEST = "d" * 64


async def with_key(ledger: Ledger, plan: Plan | None = None) -> None:
    """Make the tenant and its key."""
    await ledger.accounts.add_tenant("t", plan or Plan(), 1)
    await ledger.accounts.add_key(KEY, DIGEST)


async def test_epoch_is_the_one_that_was_first(ledger: Ledger) -> None:
    """And so are the keys; a second start founds nothing."""
    first, second = SigningKey("a", b"a" * 32, 100), SigningKey("b", b"b" * 32, 200)
    assert await ledger.accounts.found("one", [first]) == "one"
    assert await ledger.accounts.found("two", [second]) == "one"
    assert await ledger.accounts.signing_keys(99) == [first]
    assert await ledger.accounts.signing_keys(100) == []


async def test_tenant_is_made_once(ledger: Ledger) -> None:
    """The second time it is left as it is."""
    assert await ledger.accounts.add_tenant("t", Plan(weight=3), 1) is True
    assert await ledger.accounts.add_tenant("t", Plan(weight=9), 2) is False
    await ledger.accounts.add_key(KEY, DIGEST)
    assert await ledger.accounts.key(DIGEST) == (KEY, Plan(weight=3))


async def test_key_is_found_by_its_digest_and_by_its_id(ledger: Ledger) -> None:
    """With the tenant's plan, whole."""
    plan = Plan(weight=0.5, max_jobs=3, submits_per_second=2.5)
    await with_key(ledger, plan)
    assert await ledger.accounts.key(DIGEST) == (KEY, plan)
    assert await ledger.accounts.standing("k1", 0) == KeyStanding(KEY, plan, frozenset())
    assert await ledger.accounts.key("e" * 64) is None
    assert await ledger.accounts.standing("k2", 0) is None


async def test_key_is_revoked_for_good(ledger: Ledger) -> None:
    """It is still found, with the moment of the first time."""
    await with_key(ledger)
    assert await ledger.accounts.revoke_key("k1", 50) is True
    assert await ledger.accounts.revoke_key("k1", 60) is False
    assert await ledger.accounts.revoke_key("k2", 60) is False
    assert [key.revoked_ms for key in await ledger.accounts.keys()] == [50]
    found = await ledger.accounts.key(DIGEST)
    assert found is not None
    assert found[0].revoked_ms == 50


async def test_keys_are_listed_oldest_first(ledger: Ledger) -> None:
    """By their ids, which begin with their time."""
    await with_key(ledger)
    await ledger.accounts.add_key(KeyRecord("k0", "t", "older", 5), "e" * 64)
    assert [key.id for key in await ledger.accounts.keys()] == ["k0", "k1"]


async def test_lock_out_is_kept_for_each_credential(ledger: Ledger) -> None:
    """The newest counts."""
    await ledger.accounts.lock_out("up", "a", 100)
    await ledger.accounts.lock_out("up", "a", 50)
    await ledger.accounts.lock_out("up", "b", 70)
    assert [await ledger.accounts.locked_until("up", name) for name in "abc"] == [50, 70, 0]


async def test_rotated_signing_keys_count_for_their_grace(ledger: Ledger) -> None:
    """No longer than they would have anyway; the new ones have their full time."""
    long, short = SigningKey("a", b"a" * 32, 900), SigningKey("b", b"b" * 32, 100, "ed25519")
    new = SigningKey("c", b"c" * 32, 2000, "ed25519")
    await ledger.accounts.found("one", [long, short])
    assert await ledger.accounts.rotate_signing([new], 200) == 1
    assert await ledger.accounts.signing_keys(99) == [replace(long, not_after_ms=200), short, new]
    assert await ledger.accounts.signing_keys(200) == [new]


async def test_plan_is_the_tenants(ledger: Ledger) -> None:
    """A tenant that was never made has none."""
    await ledger.accounts.add_tenant("t", Plan(weight=3), 1)
    assert await ledger.accounts.plan("t") == Plan(weight=3)
    assert await ledger.accounts.plan("u") is None


async def test_token_is_revoked_until_it_ends(ledger: Ledger) -> None:
    """It may be repeated; what has ended is no longer told, and forgotten."""
    await with_key(ledger)
    for jti, expires_ms in (("one", 100), ("two", 200), ("one", 100)):
        assert await ledger.accounts.revoke_token("k1", jti, expires_ms, 0, 9)
    assert await revoked(ledger, 99) == {"one", "two"}
    assert await revoked(ledger, 100) == {"two"}
    assert await ledger.accounts.revoke_token("k1", "one", 300, 100, 9)
    assert await revoked(ledger, 100) == {"one", "two"}
    assert await ledger.accounts.forget_tokens(200) == 1
    assert await ledger.accounts.forget_tokens(200) == 0
    assert await revoked(ledger, 0) == {"one"}


async def test_revoked_tokens_of_a_key_are_bounded(ledger: Ledger) -> None:
    """One more is refused, one that is there is not; a key that nobody made has none."""
    await with_key(ledger)
    assert [await ledger.accounts.revoke_token("k1", jti, 100, 0, 2) for jti in "abca"] == [True, True, False, True]
    assert await ledger.accounts.revoke_token("k2", "a", 100, 0, 2) is False


async def test_all_tokens_of_a_key_are_revoked_by_its_epoch(ledger: Ledger) -> None:
    """Those that were revoked one by one need not be remembered any more."""
    await with_key(ledger)
    await ledger.accounts.revoke_token("k1", "one", 100, 0, 9)
    assert await ledger.accounts.revoke_tokens("k1") is True
    assert await ledger.accounts.revoke_tokens("k2") is False
    found = await ledger.accounts.standing("k1", 0)
    assert found is not None
    assert (found.record.token_epoch, found.revoked) == (1, frozenset())
    assert [key.token_epoch for key in await ledger.accounts.keys()] == [1]


async def revoked(ledger: Ledger, now_ms: int) -> frozenset[str]:
    """Return the revoked tokens of the key that count."""
    found = await ledger.accounts.standing("k1", now_ms)
    assert found is not None
    return found.revoked
