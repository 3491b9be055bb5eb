"""What networks, clocks and clients do wrong, over real sockets: nothing is lost, nothing happens twice."""

import asyncio
import contextlib
import hashlib
import json
import random
import struct
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from protocol import uploads
from protocol.client import Client
from protocol.header import parse
from tests.depth import deep_count
from tests.end_to_end.fault_parts import (
    NO_JOB,
    SetClock,
    another_key,
    answer_to,
    ask,
    bad_proxy,
    chunk,
    chunks,
    connect,
    jobs_of,
    numbered_until,
    read_until,
    submit,
    token_of,
    upload_id,
)
from tests.end_to_end.harness import GatewayProcess, Running, gateway_here
from tests.end_to_end.papers import PaperUpstream, png
from tests.end_to_end.ports import free_port
from tests.end_to_end.raw import BINARY, CLOSE, RawSocket
from tests.end_to_end.records import Record, client

HOUR_MS = 3_600_000
INIT = png(64, 64, (9, 9, 9), padding=300)


# --- hello, resume, credentials ---


async def test_second_hello_on_a_connection_is_closed_with_4500(tmp_path: Path) -> None:
    """A session is opened once a connection; its session lives on and resumes."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send({"type": "hello", "v": 1, "token": running.key})
        assert await one.closing() == 4500
        two = await RawSocket.open(running.url)
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await two.until("welcome"))["resumed"] is True
        one.cut()
        two.cut()


async def _ending(one: RawSocket) -> tuple[list[int], int | None]:
    """The numbers that a connection got, and its close code if it was closed before the job's end."""
    numbers: list[int] = []
    while True:
        opcode, payload = await one.receive()
        if opcode == CLOSE:
            return numbers, one.close_code
        if opcode != BINARY and payload.startswith(b"{"):
            message = json.loads(payload)
            numbers += [message["seq"]] if "seq" in message else []
            if message["type"] == "completed":
                return numbers, None


async def test_of_two_connections_that_resume_at_the_same_moment_one_lives(tmp_path: Path) -> None:
    """The other is closed with 4505, and the one that lives gets every number; whoever is first."""
    paper = PaperUpstream()
    async with gateway_here(tmp_path, upstreams=[paper], limits__max_connections=500) as running:
        for _ in range(deep_count(5, 100)):
            paper.hold = asyncio.Event()
            first = await RawSocket.open(running.url)
            synced = await first.hello(running.key)
            first.send(submit(synced["resume"][-20:-1].replace(".", "-")))
            await first.until("accepted")
            first.cut()
            both = [await RawSocket.open(running.url) for _ in range(2)]
            for one in both:
                one.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
            loser = asyncio.create_task(_ending(both[0])), asyncio.create_task(_ending(both[1]))
            done, _ = await asyncio.wait(loser, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1, "one is closed while the work is held"
            assert done.pop().result()[1] == 4505
            paper.hold.set()
            results = await asyncio.gather(*loser)
            (winner,) = [numbers for numbers, code in results if code is None]
            assert winner == [1, 2, 3, 4]
            for one in both:
                one.cut()


async def test_old_resume_token_of_a_session_stays_valid(tmp_path: Path) -> None:
    """A `synced` that was lost on its way does no harm."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await RawSocket.open(running.url)
        first = (await one.hello(running.key))["resume"]
        for _ in range(3):
            one.cut()
            one = await RawSocket.open(running.url)
            one.send({"type": "hello", "v": 1, "token": running.key, "resume": first})
            assert (await one.until("welcome"))["resumed"] is True
            await one.until("synced")
        one.cut()


async def test_resume_token_of_somebody_else_or_a_tampered_one_opens_a_new_session(tmp_path: Path) -> None:
    """Nothing of the session is told to whoever does not own it, and it stays with its owner."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        owner = await RawSocket.open(running.url)
        owner.send({"type": "hello", "v": 1, "token": running.key})
        session = (await owner.until("welcome"))["session"]
        resume = (await owner.until("synced"))["resume"]
        owner.send(submit("mine"))
        job = (await owner.until("accepted"))["job"]
        flipped = resume[:-3] + ("A" if resume[-3] != "A" else "B") + resume[-2:]
        head, key, body, mac = resume.split(".")
        tried = [
            (await another_key(running, "other"), resume),
            (await token_of(running, "somebody"), resume),
            (running.key, flipped),
            (running.key, f"{head}.{key}.{body[:-2]}.{mac}"),
            (running.key, f"g1.{key}.{body}.{mac}"),
            (running.key, f"{head}.ffffffff.{body}.{mac}"),
            (running.key, "\u00e9" * 500),
            (running.key, "..." * 100),
            (running.key, ""),
        ]
        for token, text in tried:
            thief = await RawSocket.open(running.url)
            thief.send({"type": "hello", "v": 1, "token": token, "resume": text, "have": [{"job": job, "seq": 0}]})
            told, _ = await read_until(thief, "synced")
            assert [message["type"] for message in told] == ["welcome", "synced"], text
            assert told[0]["resumed"] is False
            assert told[0]["session"] != session
            thief.cut()
        assert (await answer_to(owner, {"type": "ping", "ref": "still", "t": 1}))["type"] == "pong"
        paper.hold.set()
        await owner.until("completed")
        owner.cut()


async def test_ticket_opens_exactly_one_of_fifty_connections_that_race_for_it(tmp_path: Path) -> None:
    """The others are closed with 4507, also whoever comes later and whoever comes too late."""
    clock = SetClock()
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], clock=clock) as running:
        ticket = json.loads((await ask(running.url, "POST", "/v1/tickets", running.key)).body)["ticket"]
        sockets = await asyncio.gather(*(RawSocket.open(running.url, f"/v1/stream?ticket={ticket}") for _ in range(50)))
        for one in sockets:
            one.send({"type": "hello", "v": 1})
        verdicts = Counter(await asyncio.gather(*(_welcome_or_code(one) for one in sockets)))
        assert verdicts == {"welcome": 1, "4507": 49}
        late = json.loads((await ask(running.url, "POST", "/v1/tickets", running.key)).body)
        clock.ahead_ms += late["expires_in_ms"]
        for text in (ticket, late["ticket"], "never-made", ""):
            one = await RawSocket.open(running.url, f"/v1/stream?ticket={text}")
            assert await one.closing() == 4507
            one.cut()
        for one in sockets:
            one.cut()


async def _welcome_or_code(one: RawSocket) -> str:
    while True:
        opcode, payload = await one.receive()
        if opcode == CLOSE:
            return str(one.close_code)
        if b'"welcome"' in payload:
            return "welcome"


async def test_token_that_expires_on_a_live_connection_is_told_and_closed_with_4005(tmp_path: Path) -> None:
    """`goaway` comes before; with a new token the session goes on, with the old one nobody comes in."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        body = b'{"subject":"player","ttl_ms":1200}'
        made = json.loads((await ask(running.url, "POST", "/v1/tokens", running.key, body)).body)
        one = await RawSocket.open(running.url)
        began = time.monotonic()
        one.send({"type": "hello", "v": 1, "token": made["token"]})
        one.send(submit("long"))
        told: dict[str, dict[str, Any]] = {}
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                while True:
                    message = await one.message()
                    told[message["type"]] = message
        assert one.close_code == 4005
        assert told["goaway"]["reason"] == "auth_expired"
        synced, job = told["synced"], told["accepted"]["job"]
        assert time.monotonic() - began > 0.9
        one.cut()
        old = await RawSocket.open(running.url)
        old.send({"type": "hello", "v": 1, "token": made["token"], "resume": synced["resume"]})
        assert await old.closing() == 4502
        old.cut()
        by_header = await RawSocket.open(running.url, headers=f"Authorization: Bearer {made['token']}\r\n")
        assert await by_header.closing() == 4502
        by_header.cut()
        new = await RawSocket.open(running.url)
        new.send({"type": "hello", "v": 1, "token": await token_of(running, "player"), "resume": synced["resume"]})
        assert (await new.until("welcome"))["resumed"] is True
        paper.hold.set()
        events = await numbered_until(new, "completed")
        assert [(event["job"], event["seq"]) for event in events] == [(job, number) for number in range(1, 5)]
        new.cut()


async def test_revoked_key_and_its_tokens_open_nothing(tmp_path: Path) -> None:
    """From the moment of the revocation; a connection that stands is not cut."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        accounts = running.gateway.ledger.accounts
        key = await another_key(running, "other")
        identity = await running.gateway.node.access.identify(key)
        token = running.gateway.node.access.make_token(identity, "player", HOUR_MS, [])[0]
        before = await connect(running, token)
        assert await accounts.revoke_key(identity.key, 1)
        for credential in (key, token):
            one = await RawSocket.open(running.url)
            one.send({"type": "hello", "v": 1, "token": credential})
            assert await one.closing() == 4502
            one.cut()
            told = await ask(running.url, "GET", "/v1/jobs", credential)
            assert (told.status, told.error["code"]) == (401, "unauthorized")
        assert (await answer_to(before, {"type": "ping", "ref": "p"}))["type"] == "pong"
        before.cut()


# --- clocks ---


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
async def test_wall_clock_that_jumps_an_hour_ends_and_repeats_nothing(tmp_path: Path, jump_ms: int) -> None:
    """Work that runs goes on, its session lives and resumes, what waits is begun, and every log is in order."""
    clock, paper = SetClock(), PaperUpstream(billed=True)
    paper.hold = asyncio.Event()
    settings: dict[str, Any] = {
        "work__poll_ms": 50,
        "upstreams__engine__kind": "engine",
        "upstreams__engine__processes": 4,
    }
    async with gateway_here(tmp_path, upstreams=[paper], clock=clock, **settings) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        jobs = []
        for ref in ("a", "b"):
            one.send(submit(ref, on_disconnect="cancel"))
            jobs.append((await one.until("started"))["job"])
        clock.ahead_ms += jump_ms
        sessions, dispatch = running.gateway.node.sessions, running.gateway.dispatch
        await sessions.sweep()
        dispatch.ring(paper.name)
        await running.gateway.node.feeds.poll()
        one.send(submit("after"))
        jobs.append((await one.until("accepted"))["job"])
        await asyncio.sleep(0.3)  # several polls of the queue, in which a lease that seems over would be taken
        assert paper.calls == 3
        one.cut()
        two = await RawSocket.open(running.url)
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await two.until("welcome"))["resumed"] is True
        paper.hold.set()
        seen: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
        async with asyncio.timeout(20):
            while any(not log or log[-1]["type"] != "completed" for log in seen.values()):
                message = await two.message()
                assert message["type"] not in {"failed", "canceled"}, message
                if "seq" in message:
                    seen[message["job"]].append(message)
        for log in seen.values():
            assert [event["seq"] for event in log] == [1, 2, 3, 4]
            assert [event["type"] for event in log] == ["accepted", "started", "image", "completed"]
            assert log[1]["attempt"] == 1
            assert all(value >= 0 for value in log[-1]["timings"].values())
        assert paper.calls == 3
        two.cut()


async def test_session_that_nobody_holds_ends_when_its_time_is_over_and_not_before(tmp_path: Path) -> None:
    """A jump back prolongs it; `on_disconnect: cancel` acts when it ends, and not when the socket drops."""
    clock, paper = SetClock(), PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper], clock=clock) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("ends", on_disconnect="cancel"))
        ends = (await one.until("started"))["job"]
        one.send(submit("goes-on"))
        goes_on = (await one.until("accepted"))["job"]
        one.cut()
        sessions = running.gateway.node.sessions
        async with asyncio.timeout(10):
            while len(sessions):
                await asyncio.sleep(0.01)  # the end of a connection has no event for others
        clock.ahead_ms -= HOUR_MS
        await sessions.sweep()
        assert not any(job.has_ended or job.cancel_by for job in await jobs_of(running))
        watcher = await connect(running)
        for job in (ends, goes_on):
            watcher.send({"type": "watch", "ref": job, "job": job})
        clock.ahead_ms += 2 * HOUR_MS
        canceled = await watcher.until("canceled")
        assert (canceled["job"], canceled["by"]) == (ends, "session")
        paper.hold.set()
        assert (await watcher.until("completed"))["job"] == goes_on
        again = await RawSocket.open(running.url)
        again.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await again.until("welcome"))["resumed"] is False
        watcher.cut()
        again.cut()


# --- lines that fail ---


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


# --- uploads ---


def _hundred_megapixels() -> bytes:
    """A PNG whose header says 10,000 x 10,000, with the pixels of a tiny one."""
    tiny = png(8, 8, (0, 0, 0))
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return tiny[:16] + header + crc + tiny[33:]


BAD_UPLOADS: dict[str, tuple[list[bytes], str]] = {
    "a gap": ([chunk(upload_id(1), b"x" * 10, 0, 30), chunk(upload_id(1), b"x" * 10, 20, 30, last=True)], "bad_chunk"),
    "an overlap": ([chunk(upload_id(1), b"x" * 10, 0, 30), chunk(upload_id(1), b"x" * 10, 5, 30)], "bad_chunk"),
    "another total": ([chunk(upload_id(1), b"x" * 10, 0, 30), chunk(upload_id(1), b"x" * 10, 10, 31)], "bad_chunk"),
    "a first chunk that is none": ([chunk(upload_id(1), b"x" * 10, 10, 30)], "bad_chunk"),
    "a last chunk too early": ([chunk(upload_id(1), b"x" * 10, 0, 30, last=True)], "bad_chunk"),
    "no last chunk": ([chunk(upload_id(1), b"x" * 30, 0, 30)], "bad_chunk"),
    "an empty chunk": ([chunk(upload_id(1), b"", 0, 30)], "bad_chunk"),
    "zero bytes": ([chunk(upload_id(1), b"", 0, 0, last=True)], "bad_chunk"),
    "wrong magic": (list(chunks(upload_id(1), b"GIF89a" + b"x" * 100)), "unsupported_media"),
    "a broken PNG": (list(chunks(upload_id(1), INIT[:30])), "image_decode_failed"),
    "a PNG header of 100 megapixels": (list(chunks(upload_id(1), _hundred_megapixels())), "payload_too_large"),
    "over 16 MiB announced": ([chunk(upload_id(1), b"x", 0, 16 * 1024 * 1024 + 1)], "payload_too_large"),
    "raw pixels": ([chunk(upload_id(1), b"x" * 12, 0, 12, last=True, form=5)], "unsupported_media"),
    "a kind for servers": ([chunk(upload_id(1), b"x" * 12, 0, 12, last=True, kind=1)], "bad_request"),
    "an unknown kind": ([chunk(upload_id(1), b"x" * 12, 0, 12, last=True, kind=99)], "bad_request"),
}


async def test_upload_that_is_wrong_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """Each has its error with the upload's id; the same id can be used again, and a submit cannot refer to it."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__max_connections=100) as running:
        for name, (messages, code) in BAD_UPLOADS.items():
            one = await connect(running)
            for message in messages:
                one.send_frame(BINARY, message)
            told = await one.until("error")
            assert (told["error"]["code"], told["upload"]) == (code, upload_id(1)), name
            wish = submit("none", task="img2img", inputs=[{"role": "init", "upload": upload_id(1)}])
            assert (await answer_to(one, wish))["error"]["code"] == "asset_not_found", name
            for message in chunks(upload_id(1), INIT):
                one.send_frame(BINARY, message)
            assert (await one.until("asset"))["bytes"] == len(INIT), name
            one.cut()
        assert await jobs_of(running) == []


async def test_message_that_reaches_beyond_its_upload_closes_the_connection(tmp_path: Path) -> None:
    """Its header contradicts itself, so nothing in it can be believed; the session resumes."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        for wrong in (
            chunk(upload_id(1), b"x" * 31, 0, 30, last=True),
            chunk(upload_id(1), b"x", 30, 30),
            b"SFL1" + b"\0" * 20,
            b"XFL1" + chunk(upload_id(1), b"x", 0, 1, last=True)[4:],
            chunk(upload_id(1), b"x", 0, 1, last=True).replace(b"01JD", b"01jd"),
        ):
            one = await connect(running)
            one.send_frame(BINARY, wrong)
            assert await one.closing() == 4500
            one.cut()


async def test_interleaved_uploads_and_the_submit_behind_them_need_no_waiting(tmp_path: Path) -> None:
    """Two uploads chunk by chunk in turn, then the submit that needs both, all in one write."""
    mask = png(64, 64, (255, 255, 255), padding=500)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        for pair in zip(chunks(upload_id(1), INIT, 100), chunks(upload_id(2), mask, 150), strict=False):
            for message in pair:
                one.send_frame(BINARY, message)
        for number, content, size in ((1, INIT, 100), (2, mask, 150)):
            both = min(-(-len(INIT) // 100), -(-len(mask) // 150))
            for message in list(chunks(upload_id(number), content, size))[both:]:
                one.send_frame(BINARY, message)
        inputs = [{"role": "init", "upload": upload_id(1)}, {"role": "mask", "upload": upload_id(2)}]
        one.send(submit("both", task="inpaint", inputs=inputs))
        told, _ = await read_until(one, "completed")
        assert {message["upload"] for message in told if message["type"] == "asset"} == {upload_id(1), upload_id(2)}
        one.cut()


async def test_upload_that_falls_silent_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, and the place is free for another."""
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        one.send_frame(BINARY, chunk(upload_id(1), b"x" * 10, 0, 30))
        told = await asyncio.wait_for(one.until("error"), 10)
        assert (told["error"]["code"], told["upload"]) == ("bad_chunk", upload_id(1))
        one.cut()


async def test_fifth_open_upload_is_refused_and_the_four_go_on(tmp_path: Path) -> None:
    """What is open at once is bounded; when one is whole the next may begin."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        for number in range(5):
            one.send_frame(BINARY, chunk(upload_id(number), INIT[:10], 0, len(INIT)))
        told = await one.until("error")
        assert (told["error"]["code"], told["upload"]) == ("concurrency_limit", upload_id(4))
        for number in range(4):
            one.send_frame(BINARY, chunk(upload_id(number), INIT[10:], 10, len(INIT), last=True))
            assert (await one.until("asset"))["upload"] == upload_id(number)
        for message in chunks(upload_id(4), INIT):
            one.send_frame(BINARY, message)
        assert (await one.until("asset"))["upload"] == upload_id(4)
        one.cut()


# --- cancel and grants ---


async def test_cancel_of_queued_running_and_ended_jobs_and_of_somebody_elses(tmp_path: Path) -> None:
    """`ok` at once, the end event tells the truth; a foreign job looks like none at all."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one, other = await connect(running), await connect(running, await token_of(running, "other"))
        one.send(submit("running"))
        first = (await one.until("started"))["job"]
        one.send(submit("queued"))
        second = (await one.until("accepted"))["job"]
        for job in (first, second, NO_JOB):
            told = await answer_to(other, {"type": "cancel", "ref": f"no-{job[-4:]}", "job": job})
            assert told["error"]["code"] == "job_not_found"
            assert told["job"] == job
        assert (await answer_to(one, {"type": "cancel", "ref": "c2", "job": second}))["type"] == "ok"
        canceled = await one.until("canceled")
        assert (canceled["job"], canceled["seq"], canceled["by"], canceled["cost_micros"]) == (second, 2, "client", 0)
        assert (await answer_to(one, {"type": "cancel", "ref": "c1", "job": first}))["type"] == "ok"
        canceled = await one.until("canceled")
        assert (canceled["job"], canceled["seq"], canceled["by"]) == (first, 3, "client")
        for job in (first, second):
            assert (await answer_to(one, {"type": "cancel", "ref": "again", "job": job}))["type"] == "ok"
        assert sorted(job.seq for job in await jobs_of(running)) == [2, 3]
        one.cut()
        other.cut()


async def test_grant_gives_its_rights_to_its_job_for_its_time_and_nothing_else(tmp_path: Path) -> None:
    """Watching shows neither ref nor costs; the right to cancel is one of its own."""
    clock, paper = SetClock(), PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper], clock=clock) as running:
        one, guest = await connect(running), await connect(running, await another_key(running, "other"))
        one.send(submit("shown"))
        job = (await one.until("started"))["job"]
        one.send(submit("hidden"))
        hidden = (await one.until("accepted"))["job"]
        grants = {}
        for rights in ("watch", "cancel"):
            body = json.dumps({"rights": [rights], "ttl_ms": 60_000}).encode()
            made = await ask(running.url, "POST", f"/v1/jobs/{job}/grants", running.key, body)
            grants[rights] = json.loads(made.body)["grant"]
        refused = [
            ({"type": "watch", "job": job}, "job_not_found"),
            ({"type": "watch", "job": hidden, "grant": grants["watch"]}, "forbidden"),
            ({"type": "watch", "job": job, "grant": grants["cancel"]}, "forbidden"),
            ({"type": "watch", "job": job, "grant": grants["watch"][:-1]}, "unauthorized"),
            ({"type": "cancel", "job": job, "grant": grants["watch"]}, "forbidden"),
            ({"type": "cancel", "job": hidden, "grant": grants["cancel"]}, "forbidden"),
        ]
        for place, (message, code) in enumerate(refused):
            told = await answer_to(guest, {"ref": f"r{place}", **message})
            assert told["type"] == "error", message
            assert told["error"]["code"] == code, message
        guest.send({"type": "watch", "ref": "w", "job": job, "grant": grants["watch"]})
        accepted = await guest.until("accepted")
        assert {"ref", "cost_max_micros", "events_url"}.isdisjoint(accepted)
        clock.ahead_ms += 60_001
        late = await answer_to(guest, {"type": "cancel", "ref": "late", "job": job, "grant": grants["cancel"]})
        assert late["error"]["code"] == "expired"
        clock.ahead_ms -= 60_001
        told = await answer_to(guest, {"type": "cancel", "ref": "now", "job": job, "grant": grants["cancel"]})
        assert told == {"type": "ok", "ref": "now", "job": job}
        canceled = await guest.until("canceled")
        assert canceled["by"] == "client"
        assert "cost_micros" not in canceled
        paper.hold.set()
        one.cut()
        guest.cut()


async def test_unwatch_ends_the_events_here_and_prefs_change_them_from_now_on(tmp_path: Path) -> None:
    """Previews begin and end, finals change their way, and an unwatched job goes on unseen."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await connect(running)
        one.send(submit("changed", params={"n": 2}))
        job = (await one.until("started"))["job"]
        prefs = {"previews": {"format": "png", "max_edge": 64}, "finals": "inline"}
        assert (await answer_to(one, {"type": "prefs", "ref": "p", "job": job, **prefs}))["type"] == "ok"
        paper.hold.set()
        told, pictures = await read_until(one, "completed")
        kinds = Counter(parse(picture).kind for picture in pictures)
        assert kinds == {1: 8, 2: 2}
        assert not any(message["type"] == "image" for message in told)
        off = {"previews": {"max_fps": 0}, "finals": "url"}
        assert (await answer_to(one, {"type": "prefs", "ref": "q", **off}))["type"] == "ok"
        told = (await answer_to(one, {"type": "prefs", "ref": "none", "job": NO_JOB, **off}))["error"]
        assert (told["code"], told["details"]["path"]) == ("job_not_found", "job")
        one.send(submit("plain", params={"n": 2}))
        told, pictures = await read_until(one, "completed")
        assert pictures == []
        assert [message["index"] for message in told if message["type"] == "image"] == [0, 1]
        paper.hold = asyncio.Event()
        one.send(submit("unseen"))
        unseen = (await one.until("started"))["job"]
        assert (await answer_to(one, {"type": "unwatch", "ref": "u", "job": unseen}))["type"] == "ok"
        other = await connect(running)
        other.send({"type": "watch", "ref": "w", "job": unseen})
        await other.until("ok")
        paper.hold.set()
        await other.until("completed")
        told, _ = await _until_pong(one)
        assert not any(message.get("job") == unseen for message in told)
        one.send({"type": "watch", "ref": "w", "job": unseen, "after": 2})
        assert [event["seq"] for event in await numbered_until(one, "completed")] == [3, 4]
        one.cut()
        other.cut()


async def _until_pong(one: RawSocket) -> tuple[list[dict[str, Any]], list[bytes]]:
    one.send({"type": "ping", "t": 7})
    return await read_until(one, "pong")


async def test_bye_ends_the_session_and_with_it_the_jobs_that_said_so(tmp_path: Path) -> None:
    """`resume` is void from then on; jobs that said nothing go on."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("ends", on_disconnect="cancel"))
        ends = (await one.until("started"))["job"]
        one.send(submit("waits", on_disconnect="cancel"))
        waits = (await one.until("accepted"))["job"]
        one.send(submit("goes-on"))
        goes_on = (await one.until("accepted"))["job"]
        watcher = await connect(running)
        for job in (ends, waits, goes_on):
            watcher.send({"type": "watch", "ref": job, "job": job})
        one.send({"type": "bye"})
        assert await one.closing() == 1000
        canceled = [await watcher.until("canceled") for _ in range(2)]
        assert {(event["job"], event["by"]) for event in canceled} == {(ends, "session"), (waits, "session")}
        paper.hold.set()
        assert (await watcher.until("completed"))["job"] == goes_on
        again = await RawSocket.open(running.url)
        again.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await again.until("welcome"))["resumed"] is False
        for socket in (one, watcher, again):
            socket.cut()


async def test_job_over_its_deadline_is_canceled_by_deadline(tmp_path: Path) -> None:
    """Running or still in the queue; one with time left ends well."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await connect(running)
        one.send(submit("runs", deadline_ms=700))
        runs = (await one.until("started"))["job"]
        one.send(submit("waits", deadline_ms=1))
        waits = (await one.until("accepted"))["job"]
        one.send(submit("patient", deadline_ms=600_000))
        patient = (await one.until("accepted"))["job"]
        async with asyncio.timeout(10):
            canceled = [await one.until("canceled") for _ in range(2)]
        assert [(event["job"], event["by"]) for event in canceled] == [(waits, "deadline"), (runs, "deadline")]
        paper.hold.set()
        assert (await one.until("completed"))["job"] == patient
        one.cut()


# --- drain ---


class ShortWaits(random.Random):
    """Chance whose waits are short but none: a starting gateway needs the processor too."""

    def random(self) -> float:
        return 0.05


async def test_terminated_gateway_tells_everybody_ends_well_and_finishes_after_its_restart(tmp_path: Path) -> None:
    """The job that runs has a while to end; what does not goes back to the queue and is done by the next start."""
    config = "[protocol]\ndrain_grace_ms = 300\ndrain_spread_ms = 50\n"
    gateway = GatewayProcess(tmp_path, free_port(), config)
    record = Record()
    async with (
        gateway,
        Client(gateway.url, token=gateway.key, hook=record, chance=ShortWaits(), patience=60, finals="inline") as one,
    ):
        params = {"prompt": "long", "width": 512, "height": 512, "steps": 40}
        running = await one.submit("txt2img", params)
        waiting = await one.submit("txt2img", {**params, "prompt": "waits", "steps": 4, "width": 64, "height": 64})
        async for event in running:
            if type(event).__name__ == "Progress":
                break
        watcher = await RawSocket.open(gateway.url)
        await watcher.hello(gateway.key)
        stopping = asyncio.create_task(gateway.stop())
        goaway = await watcher.until("goaway")
        assert (goaway["reason"], goaway["retry_after_ms"] <= 50) == ("drain", True)
        assert await watcher.closing() == 4001
        watcher.cut()
        assert await stopping == 0
        assert "Traceback" not in gateway.log
        await gateway.start()
        async with asyncio.timeout(60):
            for job in (running, waiting):
                async for _ in job:
                    pass
        for job in (running, waiting):
            record.check(job.id)
            assert type(record.ends(job.id)[0]).__name__ == "Completed"
        assert record.resumed[0] is False
        assert len(record.resumed) > 1
        assert all(record.resumed[1:])


async def test_job_that_can_end_in_the_grace_ends_before_the_gateway_does(tmp_path: Path) -> None:
    """What is nearly done is not thrown away, and is told after the restart."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("nearly"))
        job = (await one.until("started"))["job"]
        draining = asyncio.create_task(running.gateway.drain())
        assert await one.closing() == 4001
        assert not draining.done()
        paper.hold.set()
        await draining
        one.cut()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        two = await RawSocket.open(running.url)
        have = [{"job": job, "seq": 2}]
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"], "have": have})
        told, _ = await read_until(two, "synced")
        assert [message["type"] for message in told] == ["welcome", "image", "completed", "synced"]
        assert paper.calls == 1
        two.cut()
