import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.upstreams.http import Beside, retry_after_seconds

DATE = "Sun, 22 Nov 2026 07:00:00 GMT"


@pytest.mark.parametrize(
    "headers,seconds",
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 0 "}, 0),
        ({"Retry-After": "9" * 5000}, 1e12),
        ({"Retry-After": "Sun, 22 Nov 2026 07:01:30 GMT", "Date": DATE}, 90),
        ({"Retry-After": "Sun, 22 Nov 2026 06:00:00 GMT", "Date": DATE}, 0),
        ({"Retry-After": "Sun, 22 Nov 2026 07:01:30 GMT"}, None),
        ({"Retry-After": "Sun, 22 Nov 99999 07:01:30 GMT", "Date": DATE}, None),
        ({"Retry-After": "soon", "Date": DATE}, None),
        ({"Retry-After": "-5", "Date": DATE}, None),
        ({"Retry-After": "1.5", "Date": DATE}, None),
        ({"Retry-After": "²", "Date": DATE}, None),
        ({"Retry-After": "7", "Date": "yesterday"}, 7),
    ],
)
def test_retry_after_is_read_in_both_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, or a date against the answer's own; anything else is as if there were none."""
    assert retry_after_seconds(headers) == seconds


async def forever(log: list[str]) -> None:
    """Work that ends only when it is cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        log.append("stopped")


async def beside_forever(log: list[str]) -> AsyncGenerator[int, None]:
    """A generator with such work beside it."""
    async with Beside(forever(log), "work") as beside:
        await asyncio.sleep(0)
        beside.move()
        await beside.moved()
        yield 1
        await beside.result()


async def test_closing_the_generator_stops_the_work_beside_it() -> None:
    """`aclose` ends the work before it returns, and raises nothing."""
    log: list[str] = []
    generator = beside_forever(log)
    assert await anext(generator) == 1
    await generator.aclose()
    assert log == ["stopped"]


async def test_work_that_did_not_start_is_ended_too() -> None:
    """Leaving at once, before the work took its first step, leaves nothing behind that Python would warn of."""
    log: list[str] = []
    async with Beside(forever(log), "work"):
        pass
    assert log == []


async def test_cancelling_the_iteration_stops_the_work_beside_it() -> None:
    """The cancellation goes on as it came, after the work has ended."""
    log: list[str] = []

    async def iterate() -> None:
        async for _ in beside_forever(log):
            pass

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await iterate()
    assert log == ["stopped"]


async def test_failure_beside_does_not_cancel_who_iterates() -> None:
    """What the work raises reaches its owner when he asks for the result, and nobody before."""

    async def fail() -> None:
        raise LookupError("odd")

    async with Beside(fail(), "work") as beside:
        await beside.moved()
        await asyncio.sleep(0)
        with pytest.raises(LookupError, match="odd"):
            await beside.result()


async def test_result_beside_is_returned() -> None:
    """The work's end wakes who waits for its middle."""

    async def work() -> int:
        return 5

    async with Beside(work(), "work") as beside:
        await beside.moved()
        assert await beside.result() == 5
