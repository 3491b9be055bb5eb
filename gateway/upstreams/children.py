"""Upstreams that work in processes of their own, so that their work never holds up the event loop.

Each process does one order at a time; calls wait in order of arrival while all are busy. A process that dies, talks
nonsense or does not obey a cancellation is replaced by the next call. `child` is the other side.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

import gateway
from gateway.core.reports import Outcome, Report, UpstreamFault
from gateway.ports import CallOrder
from gateway.upstreams.child import LENGTH_BYTES

GRACE_SECONDS: Final = 1.0
"""How long a process may take to obey: a cancellation, the end of its input, a SIGTERM."""
_INHERITED: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT",
)  # fmt: skip
"""A process that decodes strangers' images gets no more of our environment: the rest may hold the vendors' keys."""
_ROOT: Final = str(Path(gateway.__file__).resolve().parent.parent)
"""The folder that holds this package: it need not be the current one, nor be installed."""

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Trade(Generic[Told]):
    """What processes of one kind are started with, and how they are spoken with."""

    module: str
    """What is run."""
    decode: Callable[[bytes], Told]
    """Returns a report; raises `msgspec.MsgspecError`."""
    ended: type
    """The report behind which nothing comes for an order."""
    cancel: Callable[[int], bytes]
    """Returns the message that stops an order, with its length before it."""
    max_report: int
    """Bytes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited: tuple[str, ...] = ()
    """Variables that it needs of our environment, besides those that any program does."""
    grace_seconds: float = GRACE_SECONDS
    """How long a cancellation may take."""


class Children(Generic[Told]):
    """What upstreams have in common that work in up to `processes` processes of a trade."""

    def __init__(self, trade: Trade[Told], processes: int) -> None:
        self._trade = trade
        # A semaphore wakes its waiters in the order of their arrival.
        self._slots = asyncio.Semaphore(processes)
        self._processes: set[Process[Told]] = set()
        self._idle: list[Process[Told]] = []
        self._closed = False

    async def open(self) -> None:
        """Start the first process, so that it is warm when it is needed; does not wait until it is."""
        self._idle.append(await self._start())

    async def close(self) -> None:
        """End every process, also one that works; a call still running gets `worker_lost`."""
        self._closed = True
        for process in self._processes:
            process.hang_up()
        while self._processes:
            process = next(iter(self._processes))
            await process.end()
            self._processes.discard(process)

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: what a process did died with it."""
        return False

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: what a process did died with it."""
        raise UpstreamFault(Outcome.GONE, "worker_lost", "the painting process died")
        yield  # pragma: no cover - makes this a generator

    async def _borrow(self) -> "Process[Told]":
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            await self._bury(process)
        return await self._start()

    async def _start(self) -> "Process[Told]":
        if self._closed:
            raise UpstreamFault(Outcome.NOT_SENT, "model_unavailable", "the painter is closed")
        try:
            process = Process(await _spawn(self._trade), self._trade)
        except OSError as fault:
            raise UpstreamFault(Outcome.NOT_SENT, "model_unavailable", "no painting process can be started") from fault
        self._processes.add(process)
        return process

    async def _give_back(self, process: "Process[Told]") -> None:
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

    async def _bury(self, process: "Process[Told]") -> None:
        # If we are cancelled in here, the process stays in the set and `close` waits for it.
        process.kill()
        await process.end()
        self._processes.discard(process)


class Process(Generic[Told]):
    """A working process and the state of talking with it; at most one order is open."""

    def __init__(self, process: asyncio.subprocess.Process, trade: Trade[Told]) -> None:
        assert process.stdin is not None, "started with a pipe"
        assert process.stdout is not None, "started with a pipe"
        self._process = process
        self._trade = trade
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

    async def reports(self, id: int) -> AsyncGenerator[Told, None]:
        """Yield the order's reports up to and with its end; raises `UpstreamFault` `worker_lost`."""
        while self._open == id:
            yield await self._receive()

    async def settle(self) -> bool:
        """Cancel the open order if there is one, and return whether the process can be used again."""
        if self._open is None or not self.alive:
            return self._open is None and self.alive
        try:
            async with asyncio.timeout(self._trade.grace_seconds):
                await self.send(self._trade.cancel(self._open), self._open)
                while self._open is not None:
                    await self._receive()
        except (TimeoutError, UpstreamFault):
            return False
        return True

    def call_off(self) -> None:
        """Cancel the open order if there is one, without waiting for its end; `settle` does that."""
        if self._open is not None and self.alive:
            self._in.write(self._trade.cancel(self._open))

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
                async with asyncio.timeout(GRACE_SECONDS):
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

    async def _receive(self) -> Told:
        """Read one report. May be cancelled at any point and called again: nothing is lost."""
        try:
            if self._due is None:
                self._due = int.from_bytes(await self._out.readexactly(LENGTH_BYTES), "big")
            if self._due > self._trade.max_report:
                raise self._gone()
            body = await self._out.readexactly(self._due)
            self._due = None
            report = self._trade.decode(body)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as fault:
            raise self._gone() from fault
        if isinstance(report, self._trade.ended):
            self._open = None
        return report

    def _gone(self) -> UpstreamFault:
        self._lost = True
        return UpstreamFault(Outcome.UNKNOWN, "worker_lost", "the painting process died")


async def _spawn(trade: Trade[Told]) -> asyncio.subprocess.Process:
    names = (*_INHERITED, *trade.inherited)
    inherited = {name: os.environ[name] for name in names if name in os.environ}
    path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        trade.module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=inherited | dict(trade.environment) | {"PYTHONPATH": path},
        # Out of the terminal's group: no Ctrl-C can come before the process has learnt to ignore it.
        start_new_session=True,
    )
