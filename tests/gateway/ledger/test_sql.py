import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, event, func, insert, select
from sqlalchemy.exc import IntegrityError

from gateway.ledger import SqlLedger, sql
from gateway.ledger.schema import facts
from gateway.ledger.sql import LedgerBusy, LedgerClosed, Store
from tests.gateway.ledger.conftest import Open


@pytest.fixture
def store(ledger: SqlLedger) -> Store:
    """Return the store of an empty ledger."""
    return ledger.store


def note(name: str) -> Callable[[Connection], str]:
    """Return a write of one row."""

    def write(connection: Connection) -> str:
        connection.execute(insert(facts), {"name": name, "value": "x"})
        return name

    return write


def note_and_fail(name: str) -> Callable[[Connection], str]:
    """Return a write that changes its mind."""

    def write(connection: Connection) -> str:
        note(name)(connection)
        raise RuntimeError(f"{name} failed")

    return write


async def names(store: Store) -> set[str]:
    """Return what was written."""
    return set(await store.read(lambda connection: connection.scalars(select(facts.c.name)).all()))


async def test_writers_are_committed_together(store: Store) -> None:
    """A burst costs a few commits and not one each, and everybody gets his own result."""
    commits: list[object] = []
    event.listen(store._writer, "commit", commits.append)
    wanted = [f"n{number}" for number in range(600)]
    assert await asyncio.gather(*(store.write(note(name)) for name in wanted)) == wanted
    assert await names(store) == set(wanted)
    assert len(commits) <= 4


async def test_failing_write_takes_nobody_with_it(store: Store) -> None:
    """Its caller hears why, nothing of it stays, and its neighbours of the same commit are there."""
    works = [note_and_fail(f"n{number}") if number % 10 == 0 else note(f"n{number}") for number in range(100)]
    results = await asyncio.gather(*(store.write(work) for work in works), return_exceptions=True)
    assert [str(result) for result in results[::10]] == [f"n{number} failed" for number in range(0, 100, 10)]
    assert await names(store) == {f"n{number}" for number in range(100) if number % 10}


async def test_write_that_the_database_refuses_takes_nobody_with_it(store: Store) -> None:
    """A broken constraint is the fault of one."""
    results = await asyncio.gather(*(store.write(note(name)) for name in "abac"), return_exceptions=True)
    assert isinstance(results[2], IntegrityError)
    assert await names(store) == set("abc")


async def test_transaction_that_is_gone_fails_everybody_in_it(store: Store) -> None:
    """Where the database itself rolled back (a full disk), no one is told that his write is kept; the next ones are."""

    def lose_transaction(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        raise OSError("the disk is full")

    works = [note("before"), lose_transaction, note("after")]
    results = await asyncio.gather(*(store.write(work) for work in works), return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
    assert await names(store) == set()
    assert await store.write(note("next")) == "next"
    assert await names(store) == {"next"}


async def test_write_of_a_cancelled_caller_stays(store: Store) -> None:
    """Who is cancelled while he waits cannot know, and the write is whole all the same."""
    writing = asyncio.ensure_future(store.write(note("kept")))
    failing = asyncio.ensure_future(store.write(note_and_fail("lost")))
    await asyncio.sleep(0)  # both are in the queue now
    writing.cancel()
    failing.cancel()
    await store.write(note("next"))
    assert await names(store) == {"kept", "next"}
    assert writing.cancelled()
    assert failing.cancelled()


async def test_closing_commits_what_waits_and_takes_no_more(reopen: Open) -> None:
    """A promise that was asked for before the end is kept."""
    async with reopen() as ledger:
        writing = [asyncio.ensure_future(ledger.store.write(note(f"n{number}"))) for number in range(300)]
        await asyncio.sleep(0)  # all are in the queue now
        ledger.store.stop()
        with pytest.raises(LedgerClosed):
            await ledger.store.write(note("late"))
    assert [task.result() for task in writing] == [f"n{number}" for number in range(300)]
    async with reopen() as ledger:
        assert len(await names(ledger.store)) == 300


async def test_too_many_waiting_writes_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded; who is over the bound is told at once and nothing of his is written."""
    monkeypatch.setattr(sql, "MAX_WAITING", 3)
    results = await asyncio.gather(*(store.write(note(name)) for name in "abcde"), return_exceptions=True)
    assert [isinstance(result, LedgerBusy) for result in results] == [False, False, False, True, True]
    assert await names(store) == set("abc")


async def test_readers_see_one_moment(store: Store) -> None:
    """Two questions of one read have the same answer, whatever is written between them."""
    loop = asyncio.get_running_loop()

    def count_twice(connection: Connection) -> tuple[int, int]:
        count = select(func.count()).select_from(facts)
        before = connection.scalar(count) or 0
        asyncio.run_coroutine_threadsafe(store.write(note("between")), loop).result(10)
        return before, connection.scalar(count) or 0

    assert await store.read(count_twice) == (0, 0)
    assert await names(store) == {"between"}


async def test_reads_are_counted(store: Store) -> None:
    """The tests of fan-out rest on it."""
    before = store.reads
    await names(store)
    assert store.reads == before + 1
