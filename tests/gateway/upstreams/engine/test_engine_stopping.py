"""How the embedded engine is stopped, and that its processes never outlive it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.core.reports import ImageMade, PreviewMade, StepDone, UpstreamFault, WorkBegun
from gateway.engine import wire
from gateway.upstreams.engine import Engine
from tests.gateway.upstreams.engine.talk import DEADLINE_SECONDS, ROOT, order, process_id, runs, told, wait_until


async def test_engine_closes_a_call_between_steps_and_uses_the_process_again(engine: Engine) -> None:
    """Closing the generator after the second step stops the painting well within a second."""
    before = process_id(engine)
    reports = engine.run(order(steps=150, width=512, height=512))
    async for report in reports:
        if isinstance(report, StepDone) and report.step == 2:
            break
    began = time.monotonic()
    await reports.aclose()
    assert time.monotonic() - began < 1
    assert [report.step for report in await told(engine, order()) if isinstance(report, StepDone)] == [1, 2, 3]
    assert process_id(engine) == before


@pytest.mark.parametrize("after", range(0, 12, 3))
async def test_engine_cancelled_at_any_point_paints_the_next_order(engine: Engine, after: int) -> None:
    """A task cancelled while it waits for the report after so many leaves no trace of its order."""
    seen = asyncio.Semaphore(0)

    async def watch() -> None:
        async for _ in engine.run(order(steps=150, width=512, height=512)):
            seen.release()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch())
        for _ in range(after):
            await seen.acquire()
        task.cancel()
    assert [type(report) for report in await told(engine, order(steps=1))] == [
        WorkBegun,
        StepDone,
        PreviewMade,
        ImageMade,
    ]
    assert len(engine._processes) == 1


async def test_engine_replaces_a_process_that_does_not_obey(engine: Engine) -> None:
    """A stopped process cannot acknowledge; it is killed after a second."""
    stopped = process_id(engine)
    reports = engine.run(order(steps=150))
    await anext(reports)
    os.kill(stopped, signal.SIGSTOP)
    await reports.aclose()
    assert not runs(stopped)
    assert isinstance((await told(engine, order()))[-1], ImageMade)


async def test_engine_cancelled_twice_leaves_no_process_that_paints(engine: Engine) -> None:
    """A second cancellation, in the middle of the first one's clearing up, kills at once."""
    stopped = process_id(engine)
    begun = asyncio.Event()

    async def watch() -> None:
        async for _ in engine.run(order(steps=150)):
            begun.set()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch())
        await begun.wait()
        os.kill(stopped, signal.SIGSTOP)
        task.cancel()
        await asyncio.sleep(0)  # let the first one arrive
        task.cancel()
    assert wait_until(lambda: not runs(stopped), 1)
    assert isinstance((await told(engine, order()))[-1], ImageMade)


async def test_engine_closes_while_a_call_runs() -> None:
    """The call gets `worker_lost`, and no process is left."""
    engine = Engine()
    reports = engine.run(order(steps=150))
    await anext(reports)
    pid = process_id(engine)
    await engine.close()
    with pytest.raises(UpstreamFault, match="worker_lost"):
        async for _ in reports:
            pass
    assert not runs(pid)
    assert not engine._processes


async def test_engine_ends_a_process_that_ignores_the_end_of_its_input(engine: Engine) -> None:
    """A stopped process heeds neither its input nor SIGTERM: SIGKILL ends it."""
    pid = process_id(engine)
    os.kill(pid, signal.SIGSTOP)
    await engine.close()
    assert not runs(pid)


async def test_process_ignores_ctrl_c(engine: Engine) -> None:
    """The gateway decides when painting ends."""
    reports = engine.run(order(steps=10))
    await anext(reports)
    os.kill(process_id(engine), signal.SIGINT)
    assert [report async for report in reports][-1] == (await told(engine, order(steps=10)))[-1]


async def test_process_gets_none_of_the_gateways_secrets(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor's key in our environment is not in its."""
    monkeypatch.setenv("SAFELIGHT_OPENAI_KEY", "secret")
    engine._idle.clear()
    (first,) = engine._processes
    await told(engine, order())
    (second,) = engine._processes - {first}
    environment = Path(f"/proc/{second._process.pid}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"OPENBLAS_NUM_THREADS=1" in environment


PARENT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from gateway.core.normal import Request
from gateway.ports import CallOrder
from gateway.upstreams.engine import Engine

async def main():
    engine = Engine()
    await engine.open()
    request = Request("txt2img", "icons", "sea", "", 2048, 2048, 150, 7.0, 1, 4)
    async for _ in engine.run(CallOrder("c", engine.models[0], request, 1, 4)):
        (process,) = engine._processes
        print(process._process.pid, flush=True)
        {then}

{run}
"""


@pytest.mark.parametrize("then", ["pass", "await asyncio.sleep(60)"])
def test_process_ends_when_its_parent_is_killed(then: str) -> None:
    """No process is left two seconds after `kill -9`, be it painting or blocked on a pipe that nobody reads."""
    program = PARENT.format(root=str(ROOT), then=then, run="asyncio.run(main())")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert runs(pid)
        parent.kill()
        assert wait_until(lambda: not runs(pid), 2)


def test_process_ends_at_the_end_of_its_input_alone() -> None:
    """Where the kernel does not tell of a parent's death, the end of stdin does, also while it paints."""
    paint = wire.encode(wire.Paint(1, "sea", 1, 2048, 2048, 150, 4))
    command = [sys.executable, "-m", "gateway.upstreams.engine_child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(paint)
        process.stdin.flush()
        assert process.stdout.read(4)
        process.stdin.close()
        assert process.wait(2) == 0


@pytest.mark.parametrize("sent", [(wire.MAX_ORDER + 1).to_bytes(4, "big"), b"\x00\x00\x00\x01\xc1", b"\x00\x00"])
def test_process_ends_upon_nonsense(sent: bytes) -> None:
    """A length over the bound, a body that is no order, a cut head: none is waited for."""
    command = [sys.executable, "-m", "gateway.upstreams.engine_child"]
    run = subprocess.run(command, input=sent, stdout=subprocess.PIPE, cwd=ROOT, timeout=DEADLINE_SECONDS, check=False)
    assert (run.returncode, run.stdout) == (0, b"")


async def test_engine_works_on_uvloop() -> None:
    """The gateway's own loop starts, stops and reaps processes too."""
    program = PARENT.format(root=str(ROOT), then="break", run="import uvloop; uvloop.run(main())").replace("2048", "64")
    program = program.replace("150, 7.0", "2, 7.0").replace("        break", "        pass\n    await engine.close()")
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
