"""Each engine of the ledger as a factory, so that one suite runs over all."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gateway.ledger import SqlLedger, migrate, open_ledger

Open = Callable[..., AbstractAsyncContextManager[SqlLedger]]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty SQLite ledger; copying it is faster than making it."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    migrate(path)
    return path


@pytest.fixture(params=["sqlite"])
def reopen(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> Open:
    """Return what opens the test's ledger: empty at first, and the same one each time."""
    shutil.copy(migrated, tmp_path)
    return lambda *, exclusive=True: open_ledger(tmp_path, exclusive=exclusive)


@pytest.fixture
async def ledger(reopen: Open) -> AsyncIterator[SqlLedger]:
    """Return an empty ledger that is open for the test."""
    async with reopen() as ledger:
        yield ledger
