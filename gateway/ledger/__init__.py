"""The ledger: what may never be lost, in SQL. `open_ledger` makes the data folder's own, alone."""

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config

from gateway.ledger.accounts import Accounts
from gateway.ledger.assets import Assets
from gateway.ledger.jobs import Jobs
from gateway.ledger.sessions import Sessions
from gateway.ledger.sql import Store
from gateway.ledger.work import Work

_MIGRATIONS = Path(__file__).parent / "migrations"


class FolderInUse(Exception):
    """Another gateway holds the data folder; SQLite takes one."""


class SqlLedger:
    """The five groups of the ledger's port, over one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.accounts = Accounts(store)
        self.assets = Assets(store)
        self.jobs = Jobs(store)
        self.sessions = Sessions(store)
        self.work = Work(store)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the data folder while the context lasts; raises `FolderInUse`. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"another gateway uses {folder}; give this one its own --data") from None
        yield


def migrate(path: Path) -> None:
    """Bring the SQLite file `path` to the newest schema, making it if it is not there."""
    if not path.exists():
        # It holds private keys, so it is its owner's alone; SQLite gives the files beside it the same mode.
        path.touch(mode=0o600)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = f"sqlite:///{path}"
    command.upgrade(config, "head")


@contextlib.asynccontextmanager
async def open_ledger(folder: Path, *, exclusive: bool = True) -> AsyncIterator[SqlLedger]:
    """Open the ledger in `folder` while the context lasts.

    `exclusive`: as the gateway does, alone; else beside it, as the command line does for keys.
    """
    with lock_folder(folder) if exclusive else contextlib.nullcontext():
        path = folder / "ledger.db"
        await asyncio.to_thread(migrate, path)
        store = Store(path)
        # A task group would wrap whatever goes wrong inside the context; this one task is held here to its end.
        committer = asyncio.create_task(store.commit_forever(), name="ledger committer")  # noqa: TID251
        try:
            yield SqlLedger(store)
        finally:
            store.stop()
            await committer
            store.close()
