import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from gateway.edges.http import SMALL, read_body, redact, refusal
from protocol.errors import ClientFault
from tests.gateway.edges.conftest import Site


def request_of(
    *parts: bytes, length: int | None = None, then_waits: bool = False, then_leaves: bool = False
) -> Request:
    """Return a request whose body comes in `parts`."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        if then_waits:
            await asyncio.Event().wait()
        if then_leaves:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return Request({"type": "http", "method": "PUT", "path": "/", "headers": headers}, receive)


async def test_body_is_read_to_its_end() -> None:
    """The parts come back as one, up to the very limit."""
    assert await read_body(request_of(b"ab", b"", b"c"), 3) == b"abc"


async def test_body_is_refused_by_what_it_declares() -> None:
    """Nothing is read from a body that says it is too long."""
    with pytest.raises(ClientFault, match="payload_too_large"):
        await read_body(request_of(then_waits=True, length=11), 10)


async def test_connection_is_closed_behind_a_body_that_is_far_too_long() -> None:
    """A little too much is read away, so that the client learns why; far too much is not."""
    little, much = request_of(length=11), request_of(length=41)
    for request in (little, much):
        with pytest.raises(ClientFault):
            await read_body(request, 10)
    assert ("safelight.close" in little.scope, "safelight.close" in much.scope) == (False, True)


async def test_body_without_a_length_is_refused_by_count() -> None:
    """A chunked body ends where the limit is, whatever it has still to say."""
    request = request_of(b"x" * 8, b"x" * 8, then_waits=True)
    with pytest.raises(ClientFault, match="payload_too_large"):
        await read_body(request, 10)
    assert request.scope["safelight.close"]


async def test_stalled_body_is_given_up() -> None:
    """A body that makes no progress is refused, and its connection closed."""
    request = request_of(b"x", then_waits=True)
    with pytest.raises(ClientFault, match="too slowly"):
        await read_body(request, 10, stalled_seconds=0.01)
    assert request.scope["safelight.close"]


async def test_trickling_body_is_given_up() -> None:
    """Progress by the drop does not keep a body alive for ever."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    request = Request({"type": "http", "method": "PUT", "path": "/", "headers": []}, receive)
    with pytest.raises(ClientFault, match="too slowly"):
        await read_body(request, 10, stalled_seconds=0.05)


async def test_large_body_takes_room_once_it_is_more_than_a_small_one() -> None:
    """And not before: whoever sends little is in nobody's way."""
    asked: list[str] = []

    async def enter() -> None:
        asked.append("room")

    assert len(await read_body(request_of(b"x" * SMALL), 10 * SMALL, enter=enter)) == SMALL
    assert asked == []
    assert len(await read_body(request_of(*[b"x" * SMALL] * 4), 10 * SMALL, enter=enter)) == 4 * SMALL
    assert asked == ["room"]


@pytest.mark.parametrize("bound,value", [("LARGE_SECONDS", 0.05), ("LARGE_BYTES_PER_SECOND", 10**9)])
async def test_large_body_that_is_slow_is_given_up(monkeypatch: pytest.MonkeyPatch, bound: str, value: float) -> None:
    """It holds what others wait for: for so long at most, and not at the rate that is enough for a small one."""
    monkeypatch.setattr(f"gateway.edges.http.{bound}", value)
    came = 0

    async def receive() -> dict[str, Any]:
        nonlocal came
        await asyncio.sleep(0)
        came += 1
        return {"type": "http.request", "body": b"x" * (SMALL + 1) if came == 1 else b"x" * 10, "more_body": True}

    async def enter() -> None:
        return

    request = Request({"type": "http", "method": "PUT", "path": "/", "headers": []}, receive)
    with pytest.raises(ClientFault, match="too slowly"):
        await read_body(request, 10**8, stalled_seconds=0.05, enter=enter)
    assert came > 1
    assert request.scope["safelight.close"]


async def test_body_of_who_left_is_nobodys_fault() -> None:
    """A client that leaves in the middle gets no answer."""
    with pytest.raises(ClientDisconnect):
        await read_body(request_of(b"x", then_leaves=True), 10)


async def test_chunked_body_over_the_limit_is_refused_over_a_real_socket(site: Site) -> None:
    """A stream without a declared length is bounded just as well."""

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 40_000

    answer = await site.ask("POST", "/v1/jobs", data=stream())
    assert (answer.status, answer.code) == (413, "payload_too_large")


async def test_unknown_path_and_method_are_told_as_errors(site: Site) -> None:
    """Routing fails in the same shape as everything else."""
    answer = await site.ask("GET", "/v1/nothing")
    assert (answer.status, answer.code) == (404, "not_found")
    answer = await site.ask("POST", "/v1/models")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    assert (await site.ask("GET", "/v1/jobs/")).code in {"not_found", "job_not_found"}


@pytest.mark.parametrize("path,methods", [
    ("/v1/jobs", {"GET", "HEAD", "POST"}),
    ("/v1/jobs/x", {"DELETE", "GET", "HEAD"}),
    ("/sdapi/v1/options", {"GET", "HEAD", "POST"}),
    ("/v1/images/generations", {"POST"}),
])  # fmt: skip
async def test_every_method_of_a_path_is_told(site: Site, path: str, methods: set[str]) -> None:
    """Whichever routes they have, at a door too."""
    answer = await site.ask("PATCH", path)
    assert (answer.status, set(answer.headers["Allow"].split(", "))) == (405, methods)


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    """A client that waits as told is never too early."""
    told = refusal(ClientFault("rate_limited", "slowly", retry_after_ms=1001))
    assert (told.status_code, told.headers["retry-after"]) == (429, "2")


@pytest.mark.parametrize("path,expected", [
    ("/v1/jobs", "/v1/jobs"),
    ("/v1/jobs?", "/v1/jobs?"),
    ("/v1/jobs?limit=5&state=failed", "/v1/jobs?limit=5&state=failed"),
    ("/v1/stream?ticket=abc", "/v1/stream?ticket=-"),
    ("/v1/stream?after=1&Ticket=abc&sig=x", "/v1/stream?after=1&ticket=-&sig=-"),
    ("/v1/stream?%74icket=abc", "/v1/stream?ticket=-"),
    ("/v1/stream?after=1?ticket=abc", "/v1/stream?after=-"),
    ("/v1/stream?sk-sl-secret", "/v1/stream?-"),
    ("/v1/stream?sk-sl-secret=", "/v1/stream?-"),
    ("/v1/x?a b=c", "/v1/x?-"),
    ("/v1/x\r\nfake", "/v1/x??fake"),
])  # fmt: skip
def test_path_in_a_log_shows_no_credential(path: str, expected: str) -> None:
    """Values are shown by a list of names that are harmless, not hidden by a list of those that are not."""
    assert redact(path) == expected


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_value_of_an_unlisted_name_is_never_logged(before: str, name: str, after: str) -> None:
    """Whatever stands around it."""
    shown = redact(f"/v1/stream?{before}&x{name}=S3CRET{after}")
    assert "S3CRET" not in shown
