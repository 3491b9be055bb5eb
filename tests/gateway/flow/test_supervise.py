"""Tasks that are held and told of, and effects that a cancellation does not cut."""

import asyncio

import pytest

from gateway.flow.supervise import Supervisor, uninterrupted
from tests.gateway.flow.studio import patiently, soon

Told = list[tuple[str, BaseException]]


def supervisor() -> tuple[Supervisor, Told]:
    """Return a supervisor and what is told to it."""
    told: Told = []
    return Supervisor(lambda name, error: told.append((name, error))), told


@patiently
async def test_task_is_held_until_it_ends() -> None:
    """A task that nobody else refers to is named, counted while it runs, and forgotten then."""
    held, told = supervisor()
    done = asyncio.Event()
    task = held.start(done.wait(), "a wait")
    assert (len(held), task.get_name()) == (1, "a wait")
    done.set()
    assert await task
    await soon()
    assert (len(held), told) == (0, [])


@patiently
async def test_failure_that_nobody_awaits_is_told_by_name() -> None:
    """Once, with the task's name; a cancelled task is no failure."""
    held, told = supervisor()
    failure = ZeroDivisionError("a mistake")

    async def fail() -> None:
        raise failure

    held.start(fail(), "a job")
    held.start(asyncio.sleep(60), "a nap").cancel()
    await soon()
    assert told == [("a job", failure)]


@patiently
async def test_kept_work_is_begun_again_after_a_pause() -> None:
    """Each failure is told; work that ends well is over."""
    held, told = supervisor()
    begun: list[float] = []

    async def work() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) < 3:
            raise ZeroDivisionError

    held.keep(work, "a loop", pause_seconds=2.0)
    await asyncio.sleep(30)  # virtual
    assert (begun, len(told), len(held)) == ([0.0, 2.0, 4.0], 2, 0)


@patiently
async def test_stop_waits_for_the_last_deeds_of_every_task() -> None:
    """Also of a task that is begun by one which is being stopped."""
    held, told = supervisor()
    deeds: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            deeds.append(name)
            if name == "first":
                held.start(work("second"), "second")
                await soon()

    held.start(work("first"), "first")
    await soon()
    await held.stop()
    assert (deeds, len(held), told) == (["first", "second"], 0, [])


@patiently
async def test_effect_goes_on_to_its_end_when_its_caller_is_cancelled() -> None:
    """However often; the cancellation follows, and the effect is done by then."""
    may_end, done = asyncio.Event(), []

    async def effect() -> None:
        await may_end.wait()
        done.append(1)

    task = asyncio.ensure_future(uninterrupted(effect()))
    for _ in range(3):
        await soon()
        task.cancel()
    await soon()
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


@patiently
async def test_effect_returns_its_value_or_raises_its_error_if_nobody_interrupts() -> None:
    """As if it had been awaited plainly."""

    async def seven() -> int:
        return 7

    async def fail() -> None:
        raise ZeroDivisionError

    assert await uninterrupted(seven()) == 7
    with pytest.raises(ZeroDivisionError):
        await uninterrupted(fail())


@patiently
async def test_cancellation_outweighs_an_error_of_the_effect() -> None:
    """The caller hears of its cancellation, and the error is not reported as lost."""
    may_end = asyncio.Event()

    async def fail() -> None:
        await may_end.wait()
        raise ZeroDivisionError

    task = asyncio.ensure_future(uninterrupted(fail()))
    await soon()
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@patiently
async def test_cancellation_in_the_very_step_of_the_end_is_not_lost() -> None:
    """The effect has just ended and its caller not yet gone on."""
    inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(uninterrupted(inner))
    await soon()
    inner.set_result(None)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
