"""The embedded painter as an upstream: what it tells, how it is stopped, and that its processes never outlive it."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.core.normal import Request
from gateway.core.reports import (
    ImageMade,
    Outcome,
    PreviewMade,
    Report,
    StepDone,
    UpstreamFault,
    WorkBegun,
)
from gateway.engine import wire
from gateway.engine.interface import Latent, Painting, Pixels
from gateway.engine.painter import Painter
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.engine import Engine
from gateway.upstreams.engine_child import PaintingFault, Studio, decode_mask, decode_picture, read_orders
from tests import pictures

DEADLINE_SECONDS = 20.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """An open engine of one process."""
    painter = Engine()
    await painter.open()
    yield painter
    await painter.close()


def order(count: int = 1, inputs: dict[str, bytes] | None = None, **changes: Any) -> CallOrder:
    """Return a small call."""
    asked: dict[str, Any] = {
        "task": "txt2img",
        "model": "painter",
        "prompt": "a lighthouse at dusk",
        "negative_prompt": "",
        "width": 128,
        "height": 64,
        "steps": 3,
        "guidance": 7.0,
        "seed": 5,
        "n": count,
    }
    request = Request(**asked | changes)
    return CallOrder("call-1", Engine().models[0], request, request.seed, count, inputs or {})


async def told(engine: Engine, call: CallOrder) -> list[Report]:
    """Run the call to its end."""
    async with contextlib.aclosing(engine.run(call)) as reports:
        return [report async for report in reports]


def encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]], format: str = "PNG") -> bytes:
    """Return pixels as a file."""
    return pictures.encoded(Image.fromarray(pixels), format)


def pixels_of(content: bytes) -> Pixels:
    """Return a file's pixels."""
    return np.asarray(Image.open(io.BytesIO(content)))


def process_id(engine: Engine) -> int:
    """Return the id of the engine's only process."""
    (process,) = engine._processes
    return process._process.pid


def runs(pid: int) -> bool:
    """Whether a process lives and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Poll until something is true; return whether it became so in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)  # another process works meanwhile, and tells us nothing
    return True


# ---- what it tells


def test_engine_fills_the_upstream_port() -> None:
    """The type checker agrees, and its model is offered for nothing."""
    upstream: Upstream = Engine(name="house")
    (model,) = upstream.models
    assert (model.id, model.upstream, model.billed, model.price_micros) == ("painter", "house", False, 0)
    assert model.params == {"prompt", "width", "height", "steps", "seed", "n", "strength"}


async def test_engine_tells_each_step_with_its_preview_and_then_the_picture(engine: Engine) -> None:
    """The reports of one picture, in order."""
    sent: list[bool] = []
    call = order()
    reports = await told(engine, CallOrder("c", call.model, call.request, 9, 1, sent=lambda: sent.append(True)))
    assert [type(report) for report in reports] == [WorkBegun, *[StepDone, PreviewMade] * 3, ImageMade]
    assert [report.step for report in reports if isinstance(report, StepDone)] == [1, 2, 3]
    made = reports[-1]
    assert isinstance(made, ImageMade)
    assert (made.seed, made.index, made.picture.format, made.picture.width, made.picture.height) == (
        9,
        0,
        "png",
        128,
        64,
    )
    assert pixels_of(made.picture.content).shape == (64, 128, 3)
    assert sent == [True]


async def test_engine_paints_each_next_picture_of_a_call_from_the_next_seed(engine: Engine) -> None:
    """Picture i of a call is the first picture of a call with seed + i."""
    both = [report for report in await told(engine, order(2)) if isinstance(report, ImageMade)]
    second = [report for report in await told(engine, order(seed=6)) if isinstance(report, ImageMade)]
    assert [(made.index, made.seed) for made in both] == [(0, 5), (1, 6)]
    assert both[1].picture == second[0].picture


async def test_engine_paints_the_same_bytes_in_each_of_its_processes() -> None:
    """Two processes painting at once agree."""
    engine = Engine(processes=2)
    async with asyncio.TaskGroup() as tasks:
        two = [tasks.create_task(told(engine, order())) for _ in range(2)]
    assert len(engine._processes) == 2
    await engine.close()
    assert two[0].result() == two[1].result()


@pytest.mark.parametrize("width,height,edges", [(512, 512, (512, 512)), (1024, 256, (512, 128)), (64, 64, (64, 64))])
async def test_engine_bounds_the_long_edge_of_previews(
    engine: Engine, width: int, height: int, edges: tuple[int, int]
) -> None:
    """At most 512, never more than the picture, always as wide for its height."""
    reports = await told(engine, order(width=width, height=height, steps=1))
    (preview,) = [report.picture for report in reports if isinstance(report, PreviewMade)]
    assert Image.open(io.BytesIO(preview.content)).size == edges == (preview.width, preview.height)


@pytest.mark.parametrize("steps", [1, 150])
async def test_engine_takes_as_many_steps_as_asked(engine: Engine, steps: int) -> None:
    """One step or the most."""
    reports = await told(engine, order(width=64, height=64, steps=steps))
    assert len([report for report in reports if isinstance(report, StepDone)]) == steps


async def test_engine_keeps_masked_pixels_of_an_init_image_that_it_had_to_resize(engine: Engine) -> None:
    """What the mask holds black is the resized init, byte by byte."""
    init = encoded(np.random.default_rng(1).integers(0, 256, (100, 90, 3), np.uint8))
    mask = np.zeros((10, 10), np.uint8)
    mask[:5] = 255
    inputs = {"init": init, "mask": encoded(mask)}
    reports = await told(engine, order(inputs=inputs, task="inpaint", strength=0.8))
    made = reports[-1]
    assert isinstance(made, ImageMade)
    picture, kept = pixels_of(made.picture.content), decode_picture(init, (128, 64))
    assert np.array_equal(picture[32:], kept[32:])
    assert not np.array_equal(picture[:32], kept[:32])


async def test_engine_serves_waiting_calls_in_the_order_they_came(engine: Engine) -> None:
    """With one process, pictures are finished first come, first served."""
    finished: list[int] = []

    async def paint(seed: int) -> None:
        await told(engine, order(seed=seed))
        finished.append(seed)

    async with asyncio.TaskGroup() as tasks:
        for seed in range(5):
            tasks.create_task(paint(seed))
    assert finished == [0, 1, 2, 3, 4]
    assert len(engine._processes) == 1


@pytest.mark.timing
async def test_engine_paints_a_picture_of_512_pixels_in_20_steps_in_a_second_and_a_half(engine: Engine) -> None:
    """From the call to the finished PNG, previews included, by a process that is warm."""
    await told(engine, order())
    began = time.monotonic()
    await told(engine, order(width=512, height=512, steps=20))
    assert time.monotonic() - began < 1.5


# ---- how it fails


@pytest.mark.parametrize(
    "content", [b"", b"no image", encoded(np.zeros((64, 64, 3), np.uint8))[:-90], b"GIF89a" + bytes(99)]
)
async def test_engine_refuses_a_broken_init_image_by_name_and_goes_on(engine: Engine, content: bytes) -> None:
    """The call fails for good, the process lives."""
    before = process_id(engine)
    with pytest.raises(UpstreamFault) as caught:
        await told(engine, order(inputs={"init": content}, task="img2img", strength=0.5))
    assert (caught.value.outcome, caught.value.code) == (Outcome.FAILED, "image_decode_failed")
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert process_id(engine) == before


async def test_engine_refuses_inputs_that_are_too_large_together() -> None:
    """Nothing is started for an order that a process would not read."""
    engine = Engine()
    with pytest.raises(UpstreamFault, match="payload_too_large"):
        await told(engine, order(inputs={"init": bytes(wire.MAX_ORDER)}))
    assert not engine._processes


async def test_engine_tells_a_lost_worker_and_paints_the_next_order(engine: Engine) -> None:
    """A process killed in the middle of an order costs that order alone."""
    reports = engine.run(order(steps=150))
    assert isinstance(await anext(reports), WorkBegun)
    os.kill(process_id(engine), signal.SIGKILL)
    with pytest.raises(UpstreamFault) as caught:
        async for _ in reports:
            pass
    assert (caught.value.outcome, caught.value.code) == (Outcome.UNKNOWN, "worker_lost")
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert len(engine._processes) == 1


async def test_engine_replaces_a_process_that_died_while_idle(engine: Engine) -> None:
    """Nobody notices."""
    await told(engine, order())
    (process,) = engine._processes
    os.kill(process_id(engine), signal.SIGKILL)
    await process._process.wait()
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert process not in engine._processes


async def test_engine_drops_a_process_that_talks_nonsense(engine: Engine) -> None:
    """A report over the bound ends the process before it is read."""
    (process,) = engine._processes
    process._due = wire.MAX_REPORT + 1
    with pytest.raises(UpstreamFault, match="worker_lost"):
        await told(engine, order())
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert process not in engine._processes


async def test_engine_that_is_closed_refuses_calls() -> None:
    """No process is started after `close`."""
    engine = Engine()
    await engine.close()
    with pytest.raises(UpstreamFault) as caught:
        await told(engine, order())
    assert (caught.value.outcome, caught.value.code) == (Outcome.NOT_SENT, "model_unavailable")


# ---- how it is stopped


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
    request = Request("txt2img", "painter", "sea", "", 2048, 2048, 150, 7.0, 1, 4)
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
    program = program.replace("        break", "        pass\n    await engine.close()")
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- the studio, in this process


class Clumsy:
    """A denoiser that fails as it is told."""

    def __init__(self, fault: BaseException) -> None:
        self.fault: BaseException | None = fault
        self._painter = Painter()

    def begin(self, painting: Painting) -> Latent:
        return self._painter.begin(painting)

    def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
        if self.fault is not None:
            raise self.fault
        return self._painter.step(painting, latent, step)

    def finish(self, painting: Painting, latent: Latent) -> Pixels:
        return self._painter.finish(painting, latent)


def reports_in(stream: io.BytesIO) -> list[wire.Report]:
    """Return all reports of a stream."""
    stream.seek(0)
    reports = []
    while head := stream.read(4):
        reports.append(wire.decode_report(stream.read(int.from_bytes(head, "big"))))
    return reports


PAINT = wire.Paint(1, "sea", 1, 64, 64, 2)


@pytest.mark.parametrize(
    "fault,code",
    [(MemoryError(), "out_of_memory"), (KeyError("/etc/passwd"), "upstream_error"), (OSError(5), "upstream_error")],
)
def test_studio_survives_an_exception_and_names_it(fault: Exception, code: str) -> None:
    """The order ends with a code and neither a path nor a trace; the next one is painted."""
    stream, denoiser = io.BytesIO(), Clumsy(fault)
    studio = Studio(denoiser, stream)
    studio.paint(PAINT)
    denoiser.fault = None
    studio.paint(wire.Paint(2, "sea", 1, 64, 64, 2))
    failed, *_, finished, ended = [report for report in reports_in(stream) if not isinstance(report, wire.Begun)]
    assert isinstance(failed, wire.Ended)
    assert failed.code == code
    assert "/" not in failed.message
    assert isinstance(finished, wire.Finished)
    assert ended == wire.Ended(2)


def test_studio_does_not_begin_an_order_that_was_cancelled() -> None:
    """Cancellations overtake orders that wait."""
    stream = io.BytesIO()
    studio = Studio(Painter(), stream)
    studio.cancel(1)
    studio.paint(PAINT)
    assert reports_in(stream) == [wire.Ended(1)]


def test_studio_forgets_a_cancellation_that_came_too_late() -> None:
    """The cancellation of one order does not touch the next."""
    stream, orders = io.BytesIO(), Queue[wire.Paint]()
    studio = Studio(Painter(), stream)
    read_orders(io.BytesIO(wire.encode(wire.Cancel(0)) + wire.encode(PAINT)), studio, orders)
    studio.paint(orders.get_nowait())
    assert isinstance(reports_in(stream)[-2], wire.Finished)


def test_decoding_refuses_too_many_pixels_by_the_header_alone() -> None:
    """A header that tells of 25 megapixels is believed before anything is decoded."""
    content = bytearray(encoded(np.zeros((8, 8), np.uint8)))
    content[16:24] = (5_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(PaintingFault) as caught:
        decode_picture(bytes(content), (64, 64))
    assert caught.value.code == "payload_too_large"


def test_decoding_lays_transparent_pixels_on_white() -> None:
    """What cannot be seen in the init does not come through as black."""
    assert decode_picture(encoded(np.zeros((64, 64, 4), np.uint8)), (64, 64)).min() == 255


def test_decoding_gives_a_resized_mask_no_new_greys() -> None:
    """The border between kept and painted stays sharp."""
    mask = decode_mask(encoded(np.eye(5, dtype=np.uint8) * 255), (64, 128))
    assert mask.shape == (128, 64)
    assert set(np.unique(mask).tolist()) == {0, 255}
