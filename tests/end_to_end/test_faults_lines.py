"""What lines do wrong, and readers that take too little: nothing is lost, and nobody else is delayed."""

import asyncio
import contextlib
import hashlib
import json
import time
from pathlib import Path

import pytest

from protocol.header import parse
from tests.depth import deep_count
from tests.end_to_end.fault_parts import answer_to, ask, bad_proxy, connect, jobs_of, read_until, submit
from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.papers import PaperUpstream, png
from tests.end_to_end.raw import BINARY, CLOSE, RawSocket
from tests.end_to_end.records import Record, client


async def test_client_frozen_for_longer_than_the_silence_limit_resumes(tmp_path: Path) -> None:
    """It finds its connection closed with 4003, and everything that it missed after the resume."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    settings = {"protocol__silence_ms": 400, "protocol__ping_interval_ms": 100}
    async with gateway_here(tmp_path, upstreams=[paper], **settings) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("frozen"))
        job = (await one.until("accepted"))["job"]
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sessions = running.gateway.node.sessions
        watcher = await _lively_watcher(running, job)
        paper.hold.set()
        await watcher
        async with asyncio.timeout(20):
            while len(sessions):
                await asyncio.sleep(0.01)  # the end of a connection has no event for others
        one.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await one.closing() == 4003
        two = await RawSocket.open(running.url)
        have = [{"job": job, "seq": 1}]
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"], "have": have})
        told, _ = await read_until(two, "synced")
        assert told[0]["resumed"] is True
        assert [message["seq"] for message in told if "seq" in message] == [2, 3, 4]
        one.cut()
        two.cut()


async def _lively_watcher(running: Running, job: str) -> asyncio.Task[None]:
    """Watch until the job's end with a client that answers pings; returns once it watches."""
    record, watches = Record(), asyncio.Event()

    async def watch() -> None:
        async with client(running.url, running.key, record) as one:
            handle = await one.watch(job)
            watches.set()
            async for _ in handle:
                pass

    task = asyncio.create_task(watch())
    await watches.wait()
    return task


async def test_half_open_line_is_given_up_by_both_sides_and_resumed(tmp_path: Path) -> None:
    """The server hears nothing and closes, the client hears nothing for 2.5 heartbeats; neither had been told."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    settings = {
        "protocol__silence_ms": 600, "protocol__ping_interval_ms": 150, "protocol__heartbeat_ms": 200,
    }  # fmt: skip
    async with gateway_here(tmp_path, upstreams=[paper], **settings) as running, bad_proxy(running.url) as proxy:
        record = Record()
        async with client(proxy.url, running.key, record) as one:
            job = await one.submit("txt2img", {"prompt": "half"})
            began = time.monotonic()
            proxy.is_swallowing = True
            await proxy.swallowed.wait()
            paper.hold.set()
            async with asyncio.timeout(20):
                async for _ in job:
                    pass
            assert time.monotonic() - began >= 0.4
            await one.prefs()  # its answer comes when the resume is over
        record.check(job.id)
        assert record.resumed == [False, True]
        async with asyncio.timeout(10):
            while len(running.gateway.node.sessions):
                await asyncio.sleep(0.01)  # the end of a connection has no event for others


async def test_silent_half_open_line_is_closed_by_the_server_with_4003(tmp_path: Path) -> None:
    """The server alone: nobody comes back on the line, and its place is free again."""
    settings = {"protocol__silence_ms": 300, "protocol__ping_interval_ms": 100, "limits__max_connections": 1}
    here = gateway_here(tmp_path, upstreams=[PaperUpstream()], **settings)
    async with here as running, bad_proxy(running.url) as proxy:
        one = await RawSocket.open(proxy.url)
        await one.hello(running.key)
        proxy.is_swallowing = True
        async with asyncio.timeout(10):
            while len(running.gateway.node.sessions):
                await asyncio.sleep(0.01)  # the end of a connection has no event for others
        two = await connect(running)
        two.cut()
        one.cut()


async def test_job_longer_than_the_life_of_every_connection_is_handled_once(tmp_path: Path) -> None:
    """Behind a proxy that ends each connection after a fixed life, resume is the normal case."""
    life, seconds = 0.7, deep_count(4, 30)
    paper = PaperUpstream(pace=lambda _: 0.1, padding=200_000)
    async with gateway_here(tmp_path, upstreams=[paper], limits__max_connections=200) as running:
        async with bad_proxy(running.url, life) as proxy:
            record = Record()
            async with client(proxy.url, running.key, record, max_message=16384) as one, asyncio.timeout(100):
                job = await one.submit("txt2img", {"prompt": "long", "n": 2, "steps": seconds * 5})
                async for _ in job:
                    pass
        record.check(job.id)
        assert len(record.finals(job.id)) == 2
        assert proxy.connections >= seconds / life / 2
        assert all(record.resumed[1:])
        assert paper.calls <= 2


async def test_header_over_its_limit_is_told_apart_from_a_slow_one(tmp_path: Path) -> None:
    """431 and not 408, after which clients of other APIs would send it again by themselves."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rsplit(":", 1)[1]))
        writer.write(b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 40_000)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_header_that_comes_drop_by_drop_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trickle of bytes holds no connection for long, before the upgrade and before hello; others notice nothing."""
    monkeypatch.setattr("gateway.edges.socket.HEAD_SECONDS", 0.4)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], protocol__hello_timeout_ms=400) as running:
        port = int(running.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 100_000
        began = time.monotonic()
        dripping = asyncio.create_task(_drip(writer, head))
        answer = await asyncio.wait_for(reader.read(), 10)
        assert b" 408 " in answer.splitlines()[0]
        assert time.monotonic() - began < 5
        dripping.cancel()
        writer.transport.abort()
        one = await RawSocket.open(running.url)
        hello = b'{"type":"hello","v":1,"token":"' + running.key.encode() + b'"}'
        frame = bytes([0x81, 0x80 | len(hello)]) + b"\0\0\0\0" + hello
        dripping = asyncio.create_task(_drip(one.writer, frame))
        assert await asyncio.wait_for(one.closing(), 10) == 4009
        dripping.cancel()
        one.cut()


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)  # the slowness itself


async def test_reader_of_one_byte_a_second_delays_nobody_and_is_told_why_it_ends(tmp_path: Path) -> None:
    """Another client of the same job gets each step, and the slow one's resume has every number."""
    paper = PaperUpstream(padding=300_000, pace=lambda _: 0.002)
    paper.preview_padding = 20_000
    settings = {"protocol__slow_consumer_ms": 300, "protocol__high_water": 16384}
    async with gateway_here(tmp_path, upstreams=[paper], **settings) as running:
        slow = await RawSocket.open(running.url, receive_buffer=4096)
        synced = await slow.hello(running.key, finals="inline", max_message=65536, previews={"format": "png"})
        slow.send(submit("slow", params={"steps": 50, "n": 2}))
        job = (await slow.until("accepted"))["job"]
        reading = asyncio.create_task(_read_a_byte_a_second(slow))
        fast = await connect(running)
        fast.send({"type": "watch", "ref": "w", "job": job})
        told, _ = await read_until(fast, "completed")
        assert [one["step"] for one in told if one["type"] == "progress"] == [*range(1, 51), *range(1, 51)]
        async with asyncio.timeout(30):
            while len(running.gateway.node.sessions) > 1:
                await asyncio.sleep(0.01)  # the end of a connection has no event for others
        reading.cancel()
        again = await RawSocket.open(running.url)
        have = [{"job": job, "seq": 1}]
        again.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"], "have": have})
        told, _ = await read_until(again, "synced")
        assert [one["seq"] for one in told if "seq" in one] == [2, 3, 4, 5]
        for one in (slow, fast, again):
            one.cut()


async def _read_a_byte_a_second(one: RawSocket) -> None:
    while await one.reader.read(1):
        await asyncio.sleep(1)  # the slowness itself


async def test_client_that_asks_and_takes_no_answer_is_read_no_further(tmp_path: Path) -> None:
    """What its pings bring about is bounded here, not by its patience; when it reads again, it is answered."""
    mebibyte = _frames(9, b"x" * 125, 2**20)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64:
                one.writer.write(mebibyte)
                await asyncio.wait_for(one.writer.drain(), 1)
                sent += 1
        assert sent < 32
        one.send({"type": "ping", "t": 7})
        async with asyncio.timeout(30):
            assert (await one.until("pong"))["t"] == 7
        one.cut()


def _frames(opcode: int, payload: bytes, size: int) -> bytes:
    """Return as many small frames as `size` bytes hold."""
    frame = bytes([0x80 | opcode, 0x80 | len(payload)]) + b"\0\0\0\0" + payload
    return frame * (size // len(frame))


# --- plain HTTP ---

CHUNKED = b"POST /v1/nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


async def _plain(running: Running, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send the beginning of a request."""
    port = int(running.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(head)
    return reader, writer


async def _pour(writer: asyncio.StreamWriter, block: bytes, most: int, pause: float = 0) -> int:
    """Write blocks until the connection is gone, `most` at most; returns how many bytes were taken."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            writer.write(block)
            await writer.drain()
            sent += len(block)
            await asyncio.sleep(pause)
    return sent


@pytest.mark.parametrize("block", [b"a: b\r\n" * 10_000, b"v" * 60_000])
async def test_trailers_without_end_are_cut_off(tmp_path: Path, block: bytes) -> None:
    """Many of them, or one that is long: nothing is kept, and the connection is closed."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        _, writer = await _plain(running, CHUNKED + b"0\r\nx: ")
        assert await _pour(writer, block, 64 * 2**20) < 32 * 2**20
        writer.transport.abort()


async def test_extension_of_a_chunk_without_end_is_cut_off(tmp_path: Path) -> None:
    """It is neither head nor body, and comes beside both."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        _, writer = await _plain(running, CHUNKED + b"5;x=")
        assert await _pour(writer, b"v" * 60_000, 64 * 2**20) < 32 * 2**20
        writer.transport.abort()


async def test_trailer_is_no_header(tmp_path: Path) -> None:
    """What it says counts for nothing, its credential least of all."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        told = f"Authorization: Bearer {running.key}\r\n".encode()
        asked = CHUNKED.replace(b"/v1/nowhere", b"/v1/tickets") + b"2\r\n{}\r\n0\r\n"
        reader, writer = await _plain(running, asked + told + b"\r\n")
        assert b" 401 " in await asyncio.wait_for(reader.readline(), 10)
        writer.transport.abort()
        reader, writer = await _plain(
            running, asked.replace(b"\r\n\r\n", b"\r\n" + told + b"\r\n", 1) + b"X-T: 1\r\n\r\n"
        )
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
        writer.transport.abort()


async def test_request_that_goes_on_after_its_answer_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come to its end, for some clients read only then, and another may follow; but not for ever."""
    monkeypatch.setattr("gateway.edges.socket.LATE_SECONDS", 0.2)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        reader, writer = await _plain(running, CHUNKED)
        assert b" 404 " in await asyncio.wait_for(reader.readline(), 10)
        assert await _pour(writer, b"1\r\nx\r\n", 6000, pause=0.01) < 6000
        writer.transport.abort()
        reader, writer = await _plain(running, CHUNKED)
        assert b" 404 " in await asyncio.wait_for(reader.readline(), 10)
        writer.write(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert b" 200 OK" in await asyncio.wait_for(reader.read(), 10)
        writer.transport.abort()


async def test_line_breaks_between_requests_hold_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no request, so the next one's head has its time from the first of them."""
    monkeypatch.setattr("gateway.edges.socket.HEAD_SECONDS", 0.2)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        _, writer = await _plain(running, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert await _pour(writer, b"\r\n", 600, pause=0.01) < 600
        writer.transport.abort()


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
async def test_reader_that_takes_nothing_of_an_answer_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """While its answer is sent, and as well if that was the last on its connection; another is not in its way."""
    monkeypatch.setattr("gateway.edges.socket.READER_SECONDS", 0.2)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        stored = await ask(running.url, "PUT", "/v1/assets", running.key, png(64, 64, (1, 2, 3), padding=15_000_000))
        path = f"/v1/assets/{json.loads(stored.body)['asset']}"
        told = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {running.key}\r\n".encode()
        reader, writer = await _plain(running, told + more + b"\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        answers = [one for one in asyncio.all_tasks() if "run_asgi" in repr(one)]
        while not answers:
            await asyncio.sleep(0.01)
            answers = [one for one in asyncio.all_tasks() if "run_asgi" in repr(one)]
        async with asyncio.timeout(10):
            await asyncio.wait(answers)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        taken = 0
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.wait_for(reader.read(2**16), 10):
                taken += len(part)
        assert 0 < taken < 15_000_000
        assert len((await ask(running.url, "GET", path, running.key)).body) > 15_000_000
        writer.transport.abort()


# --- acknowledgements ---


async def test_client_that_never_acks_is_closed_and_resumes_with_clean_counters(tmp_path: Path) -> None:
    """The window holds what was sent, 4002 ends it, and the resume sends the final from its first byte."""
    paper = PaperUpstream(padding=100_000)
    async with gateway_here(tmp_path, upstreams=[paper], protocol__slow_consumer_ms=300) as running:
        hello = {"finals": "inline", "max_message": 32768, "window": 65536}
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key, **hello)
        one.send(submit("unacked"))
        received = 0
        while True:
            opcode, payload = await one.receive()
            received += len(payload) if opcode == BINARY else 0
            if opcode == CLOSE:
                break
        assert one.close_code == 4002
        assert 0 < received <= 65536
        two = await RawSocket.open(running.url)
        job = (await jobs_of(running))[0].id
        have = [{"job": job, "seq": 2}]
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"], "have": have, **hello})
        content, total = b"", 0
        while True:
            opcode, payload = await two.receive()
            if opcode == BINARY:
                header = parse(payload)
                assert header.chunk_offset == len(content)
                content += payload[header.data_offset :]
                total += len(payload)
                two.send({"type": "ack", "bytes": total})
            elif b'"completed"' in payload:
                break
        asset = json.loads(payload)["images"][0]["asset"]
        assert "sha256:" + hashlib.sha256(content).hexdigest() == asset
        one.cut()
        two.cut()


async def test_ack_beyond_what_was_sent_counts_as_all_of_it_and_no_more(tmp_path: Path) -> None:
    """Whoever acknowledges the future does not widen the window: the bytes under way stay below it."""
    paper = PaperUpstream(padding=100_000)
    async with gateway_here(tmp_path, upstreams=[paper], protocol__slow_consumer_ms=300) as running:
        one = await connect(running, finals="inline", max_message=32768, window=65536)
        for total in (2**53 - 1, 10**9, 5):
            one.send({"type": "ack", "bytes": total})
        assert (await answer_to(one, {"type": "ack", "ref": "acked", "bytes": 2**52}))["type"] == "ok"
        one.send(submit("greedy"))
        received = 0
        while True:
            opcode, payload = await one.receive()
            received += len(payload) if opcode == BINARY else 0
            if opcode == CLOSE:
                break
        assert one.close_code == 4002
        assert 0 < received <= 65536
        one.cut()
