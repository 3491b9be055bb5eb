"""A real client sees each close code where the contract says so."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.end_to_end.raw import RawSocket


async def test_server_that_drains_says_goaway_and_closes_with_4001(tmp_path: Path) -> None:
    """A client is told to come back, and when, before its connection ends."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        client = await RawSocket.open(running.url)
        await client.hello(running.key)
        await running.gateway.drain()
        assert (await client.until("goaway"))["reason"] == "drain"
        assert await client.closing() == 4001
        client.cut()


async def test_client_that_takes_nothing_for_too_long_is_closed_with_4002(tmp_path: Path) -> None:
    """A numbered item that waits for the window longer than allowed ends the connection."""
    paper = PaperUpstream(padding=200_000)
    async with gateway_here(tmp_path, upstreams=[paper], protocol__slow_consumer_ms=300) as running:
        client = await RawSocket.open(running.url)
        await client.hello(running.key, finals="inline", max_message=65536, window=65536)
        client.send({"type": "submit", "ref": "a", "task": "txt2img", "params": {"prompt": "x"}})
        assert await client.closing() == 4002
        client.cut()


async def test_client_that_is_silent_is_closed_with_4003(tmp_path: Path) -> None:
    """Without a byte from the client, not even a pong, the connection ends."""
    async with gateway_here(
        tmp_path, upstreams=[PaperUpstream()], protocol__silence_ms=400, protocol__ping_interval_ms=100
    ) as running:
        client = await RawSocket.open(running.url)
        await client.hello(running.key)
        assert await client.closing() == 4003
        client.cut()


async def test_client_that_says_no_hello_is_closed_with_4009(tmp_path: Path) -> None:
    """An upgrade alone holds a connection only for the hello's time."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], protocol__hello_timeout_ms=200) as running:
        client = await RawSocket.open(running.url)
        assert await client.closing() == 4009
        client.cut()


async def test_connection_over_the_limit_is_told_and_closed_with_4010(tmp_path: Path) -> None:
    """A subject has a number of connections; one more is sent away with a time to come back."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__max_connections=1) as running:
        first = await RawSocket.open(running.url)
        await first.hello(running.key)
        second = await RawSocket.open(running.url)
        second.send({"type": "hello", "v": 1, "token": running.key})
        assert (await second.until("goaway"))["reason"] == "connection_limit"
        assert await second.closing() == 4010
        first.cut()
        second.cut()


@pytest.mark.parametrize(
    "first_frame,code",
    [
        (b"not json", 4500),
        (b'{"type":"submit","ref":"a","task":"t","params":{}}', 4500),
        (b'{"type":"hello","v":2}', 4501),
        (b'{"type":"hello","v":1}', 4502),
        (b'{"type":"hello","v":1,"token":"sk-sl-wrong"}', 4502),
        (b'{"type":"hello","v":1,"pad":"' + b"x" * 40_000 + b'"}', 1009),
    ],
)
async def test_bad_first_message_is_closed_by_its_number(tmp_path: Path, first_frame: bytes, code: int) -> None:
    """Before a client is known it has one message, and what is wrong with it ends the connection."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        client = await RawSocket.open(running.url)
        client.send_frame(1, first_frame)
        assert await client.closing() == code
        client.cut()


async def test_session_opened_elsewhere_closes_the_older_connection_with_4505(tmp_path: Path) -> None:
    """The newest connection of a session wins, and resumes."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        older = await RawSocket.open(running.url)
        synced = await older.hello(running.key)
        newer = await RawSocket.open(running.url)
        newer.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await newer.until("welcome"))["resumed"] is True
        assert await older.closing() == 4505
        older.cut()
        newer.cut()


async def test_used_ticket_is_closed_with_4507(tmp_path: Path) -> None:
    """A ticket opens one connection."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        identity = await running.gateway.node.access.identify(running.key)
        ticket = running.gateway.node.access.make_ticket(identity).ticket
        first = await RawSocket.open(running.url, f"/v1/stream?ticket={ticket}")
        first.send({"type": "hello", "v": 1})
        await first.until("synced")
        second = await RawSocket.open(running.url, f"/v1/stream?ticket={ticket}")
        assert await second.closing() == 4507
        first.cut()
        second.cut()


async def test_foreign_origin_is_closed_with_4503(tmp_path: Path) -> None:
    """A page of another origin gets no session."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        client = await RawSocket.open(running.url, headers="Origin: https://evil.example\r\n")
        assert await client.closing() == 4503
        client.cut()


async def test_flood_of_messages_is_slowed_and_then_closed_with_4006(tmp_path: Path) -> None:
    """Over its rate a client is read slowly, and after a while no more."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__msgs_per_s=5) as running:
        client = await RawSocket.open(running.url)
        await client.hello(running.key)
        began = time.monotonic()
        for _ in range(2000):
            client.send({"type": "ping", "t": 1})
        async with asyncio.timeout(60):
            assert await client.closing() == 4006
        assert time.monotonic() - began > 8
        client.cut()
