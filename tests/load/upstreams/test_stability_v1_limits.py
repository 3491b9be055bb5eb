"""The rate limit of the stand-in of Stability v1, and its HTTP down at the bytes."""

from __future__ import annotations

from typing import Any

import pytest

from load.upstreams.stability_v1 import StabilityV1
from tests.load.upstreams.talk import Client, ManualClock, connect, draw, raw_answer, request_bytes, send

# The rate limit


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
async def test_key_over_its_limit_is_locked_out_and_let_in_again(client: Client, kind: Any) -> None:
    """Over the limit comes 429 for the whole lock-out; then the key works again."""
    clock = ManualClock()
    async with StabilityV1(limit=3, period=10, lockout=60, window_kind=kind, clock=clock) as standin:
        statuses = [(await draw(client, standin.url)).status for _ in range(4)]
        clock.now += 59.9
        locked = await draw(client, standin.url)
        clock.now += 0.2
        free = await draw(client, standin.url)
        counters = standin.tally.counters()
    assert statuses == [200, 200, 200, 429]
    assert (locked.status, locked.name, free.status) == (429, "rate_limit_exceeded", 200)
    assert "Retry-After" not in locked.headers
    assert (counters["called"], counters["billed"], counters["limited"]) == (6, 4, 2)


async def test_each_key_has_a_limit_of_its_own(client: Client) -> None:
    """One key's lock-out leaves the other alone, and a wrong key uses up nobody's limit."""
    keys = [{"Authorization": f"Bearer sk-{name}"} for name in "aab?b"]
    async with StabilityV1(key={"sk-a", "sk-b"}, limit=1) as standin:
        statuses = [(await draw(client, standin.url, headers=key)).status for key in keys]
    assert statuses == [200, 429, 200, 401, 429]


async def test_every_request_of_a_key_counts_against_its_limit(client: Client) -> None:
    """Reading the account and refused bodies use up the limit as well."""
    async with StabilityV1(limit=2) as standin:
        await send(client, "GET", f"{standin.url}/v1/engines/list")
        await draw(client, standin.url, {})
        assert (await draw(client, standin.url)).status == 429
        assert (await send(client, "GET", f"{standin.url}/v1/user/balance")).status == 429


async def test_limit_can_name_the_rest_of_the_lockout(client: Client) -> None:
    """With that option a 429 carries Retry-After in whole seconds, rounded up."""
    clock = ManualClock()
    async with StabilityV1(limit=1, lockout=60, retry_after=True, clock=clock) as standin:
        await draw(client, standin.url)
        first = await draw(client, standin.url)
        clock.now += 10.5
        later = await draw(client, standin.url)
    assert (first.headers["Retry-After"], later.headers["Retry-After"]) == ("60", "50")


async def test_default_limit_is_the_published_one(client: Client) -> None:
    """150 requests pass and the next one does not."""
    async with StabilityV1(clock=ManualClock()) as standin:
        for _ in range(150):
            await send(client, "GET", f"{standin.url}/v1/user/balance")
        assert (await send(client, "GET", f"{standin.url}/v1/user/balance")).status == 429


# The wire


async def test_answer_is_http_as_the_vendor_writes_it(standin: StabilityV1) -> None:
    """Status line, plain headers with a length, no chunks, and no trace of a Python server."""
    head, _, body = (await raw_answer(standin.url)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    names = [line.partition(":")[0] for line in lines[1:]]
    assert names == ["Date", "Content-Type", "Content-Length", "Connection"]
    assert f"Content-Length: {len(body)}" in lines


async def test_connection_is_kept_for_the_next_request(standin: StabilityV1) -> None:
    """Two requests on one connection get two answers."""
    reader, writer = await connect(standin.url)
    for _ in range(2):
        writer.write(request_bytes(standin.url))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    assert standin.calls == 2


async def test_request_whose_body_never_ends_is_not_called(standin: StabilityV1) -> None:
    """A client that leaves in the middle of its body has ordered nothing."""
    _, writer = await connect(standin.url)
    writer.write(request_bytes(standin.url)[:-5])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await raw_answer(standin.url)
    assert standin.calls == 1
