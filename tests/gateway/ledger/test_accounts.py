from gateway.core.records import KeyRecord, Plan
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
    assert await ledger.accounts.found("one", first) == "one"
    assert await ledger.accounts.found("two", second) == "one"
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
    assert await ledger.accounts.key_by_id("k1") == (KEY, plan)
    assert await ledger.accounts.key("e" * 64) is None
    assert await ledger.accounts.key_by_id("k2") is None


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
