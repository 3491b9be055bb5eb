"""Events as an async iterator."""

import asyncio

import pytest

from protocol.feed import Feed
from protocol.streams import Job, Stream
from tests.protocol.playbook import JOB, notice


class Owner:
    """A client that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def look_for_room(self) -> None:
        self.asked.append("room")

    async def cancel(self, job: str) -> None:
        self.asked.append(f"cancel {job}")

    async def unwatch(self, job: str) -> None:
        self.asked.append(f"unwatch {job}")


def stream(owner: Owner) -> Stream:
    """Return an empty stream that is full with two events."""
    return Stream(owner, Feed(max_numbered=2), asyncio.Event())


async def test_stream_gives_what_was_put_and_then_ends() -> None:
    """After `finish` too; each event that is taken may make room."""
    owner = Owner()
    events = stream(owner)
    events.put(notice(3))
    assert not events.is_full
    events.put(notice(4))
    assert events.is_full
    events.finish()
    assert [event async for event in events] == [notice(3), notice(4)]
    assert owner.asked == ["room", "room"]
    assert repr(events) == "<Stream <Feed of 0 events, 0 bytes>>"


async def test_reader_waits_for_an_event_or_the_end() -> None:
    """It is woken by either."""
    events = stream(Owner())
    loop = asyncio.get_running_loop()
    loop.call_soon(events.put, notice(3))
    assert await anext(events) == notice(3)
    loop.call_soon(events.finish)
    assert [event async for event in events] == []


async def test_failure_comes_after_the_last_event() -> None:
    """And again for whoever asks again."""
    events = stream(Owner())
    events.put(notice(3))
    events.finish(LookupError("gone"))
    assert await anext(events) == notice(3)
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            await anext(events)


async def test_job_asks_its_client() -> None:
    """By its id."""
    owner = Owner()
    job = Job(owner, Feed(), asyncio.Event(), JOB)
    await job.cancel()
    await job.unwatch()
    assert owner.asked == [f"cancel {JOB}", f"unwatch {JOB}"]
    assert job.id == JOB
