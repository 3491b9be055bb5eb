"""The embedded default upstream: a painter in processes of its own, so that painting never holds up the event loop.

Each process (`engine_child`) paints one call at a time; calls wait in order of arrival while all are busy. A process
that dies, talks nonsense or does not obey a cancellation is replaced by the next call.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import msgspec

import gateway
from gateway.core.models import Model, Sizes
from gateway.core.reports import (
    ImageMade,
    Outcome,
    Picture,
    PreviewMade,
    Report,
    StepDone,
    UpstreamFault,
    WorkBegun,
)
from gateway.engine import wire
from gateway.ports import CallOrder, Findings

_GRACE_SECONDS: Final = 1.0
"""How long a process may take to obey: a cancellation, the end of its input, a SIGTERM."""
_INHERITED: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT",
)  # fmt: skip
"""A process that decodes strangers' images gets no more of our environment: the rest may hold the vendors' keys."""
_ROOT: Final = str(Path(gateway.__file__).resolve().parent.parent)
"""The folder that holds this package: it need not be the current one, nor be installed."""
_FAILED: Final = frozenset(("image_decode_failed", "payload_too_large", "out_of_memory", "upstream_error"))


class Engine:
    """The painter as an `Upstream`: one model, no cost, real steps and previews.

    `processes` is how many pictures are painted at once; each takes one core and some 60 to 200 MB.
    """

    def __init__(self, *, name: str = "engine", processes: int = 1) -> None:
        self.name = name
        self.models: tuple[Model, ...] = (_model(name),)
        # A semaphore wakes its waiters in the order of their arrival.
        self._slots = asyncio.Semaphore(processes)
        self._at_once = processes
        self._processes: set[_Process] = set()
        self._idle: list[_Process] = []
        self._closed = False
        self._orders = 0

    async def open(self) -> None:
        """Start the first process, so that it is warm when it is needed; does not wait until it is."""
        self._idle.append(await self._start())

    async def close(self) -> None:
        """End every process, also one that paints; a call still running gets `worker_lost`."""
        self._closed = True
        for process in self._processes:
            process.hang_up()
        while self._processes:
            process = next(iter(self._processes))
            await process.end()
            self._processes.discard(process)

    async def refresh(self) -> None:
        """See `Upstream.refresh`: the painter is what it is."""

    async def probe(self) -> Findings:
        """See `Upstream.probe`: a process that starts can paint."""
        await self._give_back(await self._borrow())
        return Findings("the embedded painter", (f"paints up to {self._at_once} pictures at once",))

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: what a process painted died with it."""
        return False

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: what a process painted died with it."""
        raise UpstreamFault(Outcome.GONE, "worker_lost", "the painting process died")
        yield  # pragma: no cover - makes this a generator

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Paint `order.count` pictures, the first from `order.seed`, each next from the seed that follows."""
        self._orders += 1
        paint = _paint(order, self._orders)
        message = wire.encode(paint)
        if len(message) > wire.MAX_ORDER:
            raise UpstreamFault(Outcome.FAILED, "payload_too_large", "the input images are too large together")
        async with self._slots:
            process = await self._borrow()
            try:
                await process.send(message, paint.id)
                order.sent()
                async for report in process.reports(paint.id):
                    for told in _told(report, paint):
                        yield told
            finally:
                await self._give_back(process)

    async def _borrow(self) -> "_Process":
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            await self._bury(process)
        return await self._start()

    async def _start(self) -> "_Process":
        if self._closed:
            raise UpstreamFault(Outcome.NOT_SENT, "model_unavailable", "the painter is closed")
        try:
            process = _Process(await _spawn())
        except OSError as fault:
            raise UpstreamFault(Outcome.NOT_SENT, "model_unavailable", "no painting process can be started") from fault
        self._processes.add(process)
        return process

    async def _give_back(self, process: "_Process") -> None:
        """Make the process idle again if it obeys, else end it; at most some two seconds."""
        settled = False
        try:
            settled = await process.settle()
        finally:
            if not settled:
                # First, and without waiting: whoever cancels us again must still leave no process that paints.
                process.kill()
        if settled and not self._closed:
            self._idle.append(process)
        else:
            await self._bury(process)

    async def _bury(self, process: "_Process") -> None:
        # If we are cancelled in here, the process stays in the set and `close` waits for it.
        process.kill()
        await process.end()
        self._processes.discard(process)


class _Process:
    """A painting process and the state of talking with it; at most one order is open."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None, "started with a pipe"
        assert process.stdout is not None, "started with a pipe"
        self._process = process
        self._in, self._out = process.stdin, process.stdout
        self._open: int | None = None
        self._due: int | None = None
        self._lost = False
        # Then `drain` waits until the last byte has left us, which is what `sent` promises.
        self._in.transport.set_write_buffer_limits(high=0)

    @property
    def alive(self) -> bool:
        """Whether the process is believed to run and to talk sense."""
        return not self._lost and self._process.returncode is None and not self._out.at_eof()

    async def send(self, message: bytes, id: int) -> None:
        """Hand over an order; raises `UpstreamFault` `worker_lost`."""
        self._open = id
        try:
            self._in.write(message)
            await self._in.drain()
        except (ConnectionError, RuntimeError) as fault:
            raise self._gone() from fault

    async def reports(self, id: int) -> AsyncGenerator[wire.Report, None]:
        """Yield the order's reports up to and with `Ended`; raises `UpstreamFault` `worker_lost`."""
        while self._open == id:
            yield await self._receive()

    async def settle(self) -> bool:
        """Cancel the open order if there is one, and return whether the process can be used again."""
        if self._open is None or not self.alive:
            return self._open is None and self.alive
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await self.send(wire.encode(wire.Cancel(self._open)), self._open)
                while self._open is not None:
                    await self._receive()
        except (TimeoutError, UpstreamFault):
            return False
        return True

    def hang_up(self) -> None:
        """End the process's input, upon which it ends itself."""
        self._in.close()

    def kill(self) -> None:
        """End the process at once, if it runs."""
        self._lost = True
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """Wait until the process has ended, with ever harder means, and release its pipes."""
        self.hang_up()
        for harder in (self._process.terminate, self._process.kill):
            try:
                async with asyncio.timeout(_GRACE_SECONDS):
                    await self._gather()
            except TimeoutError:
                if self._process.returncode is None:
                    harder()
            else:
                return
        await self._gather()

    async def _gather(self) -> None:
        # Unread bytes would keep the pipe, and with it the process's transport, open for ever.
        while await self._out.read(2**16):
            pass
        await self._process.wait()

    async def _receive(self) -> wire.Report:
        """Read one report. May be cancelled at any point and called again: nothing is lost."""
        try:
            if self._due is None:
                self._due = int.from_bytes(await self._out.readexactly(wire.LENGTH_BYTES), "big")
            if self._due > wire.MAX_REPORT:
                raise self._gone()
            body = await self._out.readexactly(self._due)
            self._due = None
            report = wire.decode_report(body)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as fault:
            raise self._gone() from fault
        if isinstance(report, wire.Ended):
            self._open = None
        return report

    def _gone(self) -> UpstreamFault:
        self._lost = True
        return UpstreamFault(Outcome.UNKNOWN, "worker_lost", "the painting process died")


async def _spawn() -> asyncio.subprocess.Process:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
    # One thread each: numpy's own would fight with the other processes and with the gateway for the cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "gateway.upstreams.engine_child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=inherited | threads | {"PYTHONPATH": path},
        # Out of the terminal's group: no Ctrl-C can come before the process has learnt to ignore it.
        start_new_session=True,
    )


def _paint(order: CallOrder, id: int) -> wire.Paint:
    request = order.request
    return wire.Paint(
        id=id,
        prompt=request.prompt,
        seed=order.seed,
        width=request.width,
        height=request.height,
        steps=request.steps,
        count=order.count,
        strength=1.0 if request.strength is None else request.strength,
        init=order.inputs.get("init"),
        mask=order.inputs.get("mask"),
    )


def _told(report: wire.Report, paint: wire.Paint) -> list[Report]:
    """What a process's report is to the gateway; raises the fault that it tells."""
    match report:
        case wire.Begun():
            return [WorkBegun(paint.steps)]
        case wire.Stepped(index=index, step=step):
            preview = Picture(report.preview, "jpeg", report.width, report.height)
            return [
                StepDone("denoising", step, paint.steps, index),
                PreviewMade(preview, step, paint.steps, index, approximate=True),
            ]
        case wire.Finished(index=index):
            picture = Picture(report.image, "png", paint.width, paint.height)
            return [ImageMade(picture, index, paint.seed + index)]
        case wire.Ended(code=None):
            return []
        case wire.Ended(code=code):
            known = code if code in _FAILED else "upstream_error"
            raise UpstreamFault(Outcome.FAILED, known, report.message, details=_advice(known, paint))


def _advice(code: str, paint: wire.Paint) -> dict[str, object]:
    if code != "out_of_memory":
        return {}
    width, height = (max(64, edge // 16 * 8) for edge in (paint.width, paint.height))
    return {"suggest": {"width": width, "height": height}}


_PARAMS: Final = frozenset(("prompt", "width", "height", "steps", "seed", "n"))


def _model(upstream: str) -> Model:
    return Model(
        id="painter",
        upstream=upstream,
        vendor_model="painter",
        tasks={"txt2img": _PARAMS, "img2img": _PARAMS | {"strength"}, "inpaint": _PARAMS | {"strength"}},
        sizes=Sizes(smallest=64, largest=2048, multiple_of=8, max_pixels=2048 * 2048),
        default_size=(512, 512),
        steps=(1, 150),
        default_steps=20,
        max_n=4,
        images_per_call=1,
        progress="steps",
        previews=True,
        cancel="yes",
        billed=False,
        price_micros=0,
        description=(
            "A procedural painter: it paints landscapes from a table of words and flows of colour for all others, "
            "on the CPU, without a network. It is no model of the world."
        ),
    )
