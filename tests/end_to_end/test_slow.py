"""A hundred readers of 1 KB/s beside ten that keep up: the ten notice nothing, and the gateway's memory stays."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.depth import deep_count
from tests.end_to_end.raw import BINARY, CLOSE, PING, PONG, TEXT, RawSocket

FAST = 10
RATE = deep_count(32768, 1024)
"""Bytes a second of a slow reader."""


@dataclass(slots=True)
class Served:
    """A gateway process with its long job."""

    url: str
    key: str
    job: str
    pid: int

    def resident_kib(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])


@dataclass(slots=True)
class Arrivals:
    """When a fast reader's previews came."""

    times: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def gaps(self) -> list[float]:
        """Seconds between one preview and the next."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


@contextlib.asynccontextmanager
async def _served(folder: Path, seconds: float) -> AsyncIterator[Served]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.end_to_end.slow_readers", str(folder), str(seconds),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        url, key, job = (await process.stdout.readline()).decode().split()
        yield Served(url, key, job, process.pid)
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _watch(served: Served, receive_buffer: int | None = None) -> RawSocket:
    one = await RawSocket.open(served.url, receive_buffer=receive_buffer)
    await one.hello(served.key, previews={"max_edge": 64, "format": "png"}, max_message=65536)
    one.send({"type": "watch", "ref": "w", "job": served.job})
    await one.until("ok")
    return one


async def _read_fast(one: RawSocket, arrivals: Arrivals) -> None:
    while True:
        opcode, payload = await one.receive()
        if opcode == BINARY:
            arrivals.times.append(time.monotonic())
        elif opcode == PING:
            one.send_frame(PONG, payload)
        elif opcode == TEXT and payload.startswith(b"{"):
            message = json.loads(payload)
            if "seq" in message:
                arrivals.numbers.append(message["seq"])
            if message["type"] == "completed":
                one.cut()
                return


async def _read_slowly(one: RawSocket) -> str:
    """Read 1 KB a second for ever; returns how it ended: the job's end event, or the close code."""
    frames = asyncio.StreamReader()
    inner = RawSocket(frames, one.writer)
    async with asyncio.TaskGroup() as tasks:
        drip = tasks.create_task(_drip(one.reader, frames))
        ended = await _end_of(inner)
        drip.cancel()
    one.cut()
    return ended


async def _end_of(one: RawSocket) -> str:
    while True:
        opcode, payload = await one.receive()
        if opcode == CLOSE:
            return f"closed {one.close_code}"
        if opcode == PING:
            one.send_frame(PONG, payload)
        if opcode == TEXT and json.loads(payload)["type"] == "completed":
            return "completed"


async def _drip(source: asyncio.StreamReader, sink: asyncio.StreamReader) -> None:
    while data := await source.read(RATE // 4):
        sink.feed_data(data)
        await asyncio.sleep(0.25)  # the slowness itself
    sink.feed_eof()


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


@pytest.mark.timing
@pytest.mark.timeout(400)
async def test_slow_readers_delay_nobody_and_cost_no_memory(tmp_path: Path) -> None:
    """The control runs beside it in the same minute, with ten readers and no slow ones."""
    seconds, slow_count = deep_count(6, 60), deep_count(40, 100)
    async with _served(tmp_path / "a", seconds) as crowded, _served(tmp_path / "b", seconds) as control:
        fast = {served.url: [await _watch(served) for _ in range(FAST)] for served in (crowded, control)}
        slow = [await _watch(crowded, receive_buffer=4096) for _ in range(slow_count)]
        before = crowded.resident_kib()
        arrivals = {url: [Arrivals() for _ in range(FAST)] for url in fast}
        async with asyncio.TaskGroup() as tasks:
            drips = [tasks.create_task(_read_slowly(one)) for one in slow]
            async with asyncio.TaskGroup() as readers:
                for url, sockets in fast.items():
                    for one, seen in zip(sockets, arrivals[url], strict=True):
                        readers.create_task(_read_fast(one, seen))
            grown = crowded.resident_kib() - before
            async with asyncio.timeout(240):
                ends = await asyncio.gather(*drips)
        gaps = {url: [gap for seen in each for gap in seen.gaps()] for url, each in arrivals.items()}
        p99 = {url: _percentile(each, 0.99) for url, each in gaps.items()}
    ratio = p99[crowded.url] / p99[control.url]
    print(f"p99 {p99[crowded.url]:.4f} s against {p99[control.url]:.4f} s: {ratio:.2f}")
    print(f"memory +{grown / 1024:.1f} MiB; slow readers ended: {set(ends)}")
    assert all(seen.numbers == [1, 2, 3, 4] for each in arrivals.values() for seen in each)
    assert set(ends) <= {"completed", "closed 4002"}
    assert ratio <= 1.5
    assert grown <= 16 * 1024
