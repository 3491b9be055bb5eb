import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect

from gateway.core.records import KeyRecord, Plan
from gateway.core.signing import SigningKey
from gateway.ledger import FolderInUse, lock_folder, migrate, migrations, open_ledger
from gateway.ledger.schema import metadata
from tests.gateway.ledger.conftest import Open
from tests.gateway.ledger.made import claim_one, job_id, log_of, new_job

KEY = SigningKey("k1", b"secret" * 6, 10**15)


def shape(engine: Engine) -> dict[str, object]:
    """Return every table and index of a database as SQLite keeps them, but for the order of columns and white space."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
        indices: dict[str, object] = {row[0]: " ".join(row[1].split()) for row in rows}
    look = inspect(engine)
    columns = {
        name: sorted((column["name"], str(column["type"]), column["nullable"]) for column in look.get_columns(name))
        for name in look.get_table_names()
        if name != "alembic_version"
    }
    return indices | columns


def test_migrations_make_what_the_schema_says(migrated: Path, tmp_path: Path) -> None:
    """Alembic finds no difference, and neither does SQLite, which shows the indices that Alembic cannot compare."""
    made, said = create_engine(f"sqlite:///{migrated}"), create_engine(f"sqlite:///{tmp_path / 'said.db'}")
    with made.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    metadata.create_all(said)
    assert shape(made) == shape(said)
    made.dispose()
    said.dispose()


def test_migrations_lead_down_and_up_again(migrated: Path, tmp_path: Path) -> None:
    """Going back leaves nothing, and going forward makes the same."""
    path = tmp_path / "ledger.db"
    path.write_bytes(migrated.read_bytes())
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = f"sqlite:///{path}"
    command.downgrade(config, "base")
    engine = create_engine(f"sqlite:///{path}")
    assert shape(engine) == {}
    migrate(path)
    other = create_engine(f"sqlite:///{migrated}")
    assert shape(engine) == shape(other)
    engine.dispose()
    other.dispose()


async def test_new_folder_becomes_a_ledger(tmp_path: Path) -> None:
    """Nobody has to prepare anything, whatever the folder is called."""
    folder = tmp_path / "100% new" / "data"
    async with open_ledger(folder) as ledger:
        assert await ledger.jobs.counts() == {}
    assert (folder / "ledger.db").exists()


async def test_reopening_keeps_everything(reopen: Open) -> None:
    """The epoch, signing keys, accounts, jobs with their logs and claims."""
    async with reopen() as ledger:
        assert await ledger.accounts.found("epoch-1", [KEY]) == "epoch-1"
        await ledger.accounts.add_tenant("t", Plan(weight=2), 1)
        await ledger.accounts.add_key(KeyRecord("k", "t", "label", 1), "d" * 64)
        made = await ledger.jobs.submit(new_job(1))
        claimed = await claim_one(ledger)
    async with reopen() as ledger:
        assert await ledger.accounts.found("epoch-2", [SigningKey("k2", b"other", 1)]) == "epoch-1"
        assert await ledger.accounts.signing_keys(0) == [KEY]
        assert await ledger.accounts.key("d" * 64) == (KeyRecord("k", "t", "label", 1), Plan(weight=2))
        assert await log_of(ledger, job_id(1)) == [made.accepted]
        assert await ledger.jobs.find(job_id(1)) == claimed.job
        assert await ledger.jobs.request(job_id(1)) == claimed.request


async def test_second_gateway_on_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    """It is told which folder and what to do, and the first goes on."""
    async with open_ledger(tmp_path) as first:
        with pytest.raises(FolderInUse, match=f"another gateway uses {tmp_path}; give this one its own --data"):
            async with open_ledger(tmp_path):
                pass
        await first.jobs.submit(new_job(1))


async def test_folder_is_free_when_its_gateway_has_ended(tmp_path: Path) -> None:
    """Also when it ended by a fault."""
    with pytest.raises(RuntimeError, match="boom"), lock_folder(tmp_path):
        raise RuntimeError("boom")
    async with open_ledger(tmp_path):
        pass


def test_folder_is_free_when_its_process_is_gone(tmp_path: Path) -> None:
    """A lock does not outlive who held it, however he died."""
    text = (
        "import os, sys, pathlib\n"
        "from gateway.ledger import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1])):\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", text, tmp_path], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 9
    with lock_folder(tmp_path):
        pass


async def test_command_line_works_beside_the_gateway(reopen: Open) -> None:
    """Without the lock it reads what the gateway wrote, and the gateway finds what it wrote."""
    async with reopen() as gateway:
        await gateway.accounts.add_tenant("t", Plan(), 1)
        async with reopen(exclusive=False) as beside:
            assert await beside.accounts.add_tenant("t", Plan(), 2) is False
            await beside.accounts.add_key(KeyRecord("k", "t", "by hand", 2), "d" * 64)
            await gateway.jobs.submit(new_job(1))
            assert await beside.jobs.find(job_id(1)) is not None
        assert [key.label for key in await gateway.accounts.keys()] == ["by hand"]
