from dataclasses import replace

from gateway.ports import Ledger
from tests.gateway.ledger.made import asset


async def test_asset_is_its_tenants_alone(ledger: Ledger) -> None:
    """The same picture may belong to two, each for itself."""
    await ledger.assets.keep(asset(1, "one"))
    assert await ledger.assets.find("one", asset(1).id, 999) == asset(1, "one")
    assert await ledger.assets.find("two", asset(1).id, 999) is None
    await ledger.assets.keep(asset(1, "two", 2000))
    assert await ledger.assets.find("two", asset(1).id, 999) == asset(1, "two", 2000)
    assert await ledger.assets.find("one", asset(1).id, 999) == asset(1, "one")


async def test_asset_is_kept_for_longer_and_never_for_shorter(ledger: Ledger) -> None:
    """Who needs it last decides."""
    for expires_ms in (1000, 3000, 2000):
        await ledger.assets.keep(asset(1, expires_ms=expires_ms))
    assert await ledger.assets.find("t", asset(1).id, 2999) == replace(asset(1), expires_ms=3000)


async def test_asset_is_gone_at_its_time(ledger: Ledger) -> None:
    """It is not found any more, and listed for deletion."""
    await ledger.assets.keep(asset(1))
    await ledger.assets.keep(asset(2, expires_ms=5000))
    assert await ledger.assets.find("t", asset(1).id, 1000) is None
    assert await ledger.assets.expired(999) == []
    assert await ledger.assets.expired(1000) == [("t", asset(1).id)]
    assert await ledger.assets.expired(9000, limit=1) == [("t", asset(1).id)]


async def test_asset_is_dropped_once_and_only_if_its_time_is_over(ledger: Ledger) -> None:
    """Who renewed it between the question and the deed keeps it."""
    await ledger.assets.keep(asset(1))
    await ledger.assets.keep(asset(1, expires_ms=5000))
    assert await ledger.assets.drop("t", asset(1).id, 1000) is False
    assert await ledger.assets.drop("t", asset(1).id, 5000) is True
    assert await ledger.assets.drop("t", asset(1).id, 5000) is False
    assert await ledger.assets.drop("t", asset(2).id, 5000) is False
