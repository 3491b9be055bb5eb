"""Whatever is malformed is refused by its number, names the field, changes nothing, and holds nobody up."""

import asyncio
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from protocol.errors import ERRORS
from protocol.ids import make_ulid
from tests.depth import deep_count
from tests.end_to_end.fault_loop import elsewhere, watching_callbacks
from tests.end_to_end.fault_parts import (
    NO_JOB,
    another_key,
    ask,
    chunk,
    chunks,
    connect,
    jobs_of,
    numbered_until,
    submit,
    token_of,
    upload_id,
)
from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.papers import PaperUpstream, png
from tests.end_to_end.raw import BINARY, CLOSE, TEXT, RawSocket

INIT = png(64, 64, (9, 9, 9), padding=300)
HUGE = 10**30
_FACTS = {"allowed", "pattern", "min_length", "max_length", "multiple_of", "max", "max_bytes"}


def _with(**fields: Any) -> dict[str, Any]:
    return {"task": "txt2img", "params": {"prompt": "x"}, **fields}


def _params(**fields: Any) -> dict[str, Any]:
    return _with(params={"prompt": "x", **fields})


# body of a submit, the error, its path, and whether it says what would be allowed
BAD_SUBMITS: list[tuple[dict[str, Any], str, str, bool]] = [
    (_with(task=7), "invalid_param", "task", True),
    (_with(task=""), "invalid_param", "task", True),
    (_with(task="x" * 65), "invalid_param", "task", True),
    (_with(task="sculpt"), "task_not_supported", "task", True),
    (_with(task="img2img"), "invalid_param", "inputs", True),
    (_with(model="none"), "model_not_found", "model", True),
    (_with(model=""), "invalid_param", "model", True),
    (_with(model=None), "invalid_param", "model", True),
    (_with(params=[]), "invalid_param", "params", True),
    (_with(params=None), "invalid_param", "params", True),
    (_with(params="x"), "invalid_param", "params", True),
    (_with(params={}), "invalid_param", "params.prompt", False),
    (_params(prompt=""), "invalid_param", "params.prompt", False),
    (_params(prompt=" \n"), "invalid_param", "params.prompt", False),
    (_params(prompt=7), "invalid_param", "params.prompt", False),
    (_params(prompt="x" * 8001), "prompt_too_long", "params.prompt", True),
    (_params(prompt="x" * 33_000), "payload_too_large", "params", False),
    (_params(width=0), "invalid_param", "params.width", True),
    (_params(width=-64), "invalid_param", "params.width", True),
    (_params(width=1.5), "invalid_param", "params.width", True),
    (_params(width="64"), "invalid_param", "params.width", True),
    (_params(width=True), "invalid_param", "params.width", True),
    (_params(width=None), "invalid_param", "params.width", True),
    (_params(width=HUGE), "invalid_param", "params.width", True),
    (_params(width=63), "resolution_not_supported", "params.width", True),
    (_params(height=16384, width=16384), "resolution_not_supported", "params.width", True),
    (_params(steps=0), "invalid_param", "params.steps", True),
    (_params(steps=100_000), "invalid_param", "params.steps", True),
    (_params(n=0), "invalid_param", "params.n", True),
    (_params(n=9), "invalid_param", "params.n", True),
    (_params(seed=-1), "invalid_param", "params.seed", True),
    (_params(seed=2**53), "invalid_param", "params.seed", True),
    (_params(strength=0.5), "invalid_param", "params.strength", False),
    (_params(strength=1.01), "invalid_param", "params.strength", True),
    (_params(guidance=7.5), "invalid_param", "params.guidance", True),
    (_params(style="none"), "invalid_param", "params.style", True),
    (_params(colour="red"), "invalid_param", "params.colour", False),
    (_params(**{"x" * 20_000: 1}), "invalid_param", "params.xxx", False),
    (_params(**{"\u00e9\u0000`": 1}), "invalid_param", "params.", False),
    (_with(inputs={}), "invalid_param", "inputs", True),
    (_with(inputs=[{"role": "init"}]), "invalid_param", "inputs[0]", False),
    (_with(inputs=[{"role": "init", "asset": "sha256:12"}]), "invalid_param", "inputs[0].asset", True),
    (_with(inputs=[{"role": "init", "asset": f"sha256:{'0' * 64}"}]), "asset_not_found", "", False),
    (_with(inputs=[{"role": "init", "upload": "short"}]), "invalid_param", "inputs[0].upload", True),
    (_with(inputs=[{"role": "init", "upload": upload_id(9)}]), "asset_not_found", "inputs[0].upload", False),
    (_with(inputs=[{"role": "", "upload": upload_id(9)}]), "invalid_param", "inputs[0].role", True),
    (_with(inputs=[{"role": "init", "upload": upload_id(9)}] * 9), "invalid_param", "inputs", True),
    (_with(previews={"max_edge": 8}), "invalid_param", "previews.max_edge", True),
    (_with(previews={"format": "gif"}), "invalid_param", "previews.format", True),
    (_with(previews={"quality": 101}), "invalid_param", "previews.quality", True),
    (_with(previews={"max_fps": -1}), "invalid_param", "previews.max_fps", True),
    (_with(previews={"progress_max_hz": 0}), "invalid_param", "previews.progress_max_hz", True),
    (_with(finals="post"), "invalid_param", "finals", True),
    (_with(priority=2), "invalid_param", "priority", True),
    (_with(max_cost_micros=-1), "invalid_param", "max_cost_micros", True),
    (_with(max_cost_micros=HUGE), "invalid_param", "max_cost_micros", True),
    (_with(deadline_ms=0), "invalid_param", "deadline_ms", True),
    (_with(deadline_ms=2**53), "invalid_param", "deadline_ms", True),
    (_with(on_disconnect="explode"), "invalid_param", "on_disconnect", True),
]

BAD_MESSAGES: list[tuple[dict[str, Any], str, str, bool]] = [
    ({"type": "submit", "task": "txt2img", "params": {}}, "invalid_param", "ref", True),
    ({"type": "submit", "ref": "a b", "task": "txt2img", "params": {}}, "invalid_param", "ref", True),
    ({"type": "submit", "ref": "x" * 65, "task": "txt2img", "params": {}}, "invalid_param", "ref", True),
    ({"type": "submit", "ref": 7, "task": "txt2img", "params": {}}, "invalid_param", "ref", True),
    ({"type": "ping", "ref": ""}, "invalid_param", "ref", True),
    ({"type": "nothing"}, "unknown_type", "type", False),
    ({"type": "x" * 60_000}, "unknown_type", "type", False),
    ({"type": None}, "bad_request", "type", False),
    ({"kind": "ping"}, "bad_request", "type", False),
    ({"type": "welcome", "v": 1}, "unknown_type", "type", False),
    ({"type": "cancel"}, "invalid_param", "job", True),
    ({"type": "cancel", "job": "1"}, "invalid_param", "job", True),
    ({"type": "cancel", "job": NO_JOB.lower()}, "invalid_param", "job", True),
    ({"type": "cancel", "job": NO_JOB}, "job_not_found", "job", False),
    ({"type": "cancel", "job": NO_JOB, "grant": "x" * 513}, "invalid_param", "grant", True),
    ({"type": "cancel", "job": NO_JOB, "grant": "x.y.z"}, "unauthorized", "", False),
    ({"type": "watch", "job": NO_JOB}, "job_not_found", "job", False),
    ({"type": "watch", "job": NO_JOB, "after": -1}, "invalid_param", "after", True),
    ({"type": "watch", "job": NO_JOB, "after": 2**32}, "invalid_param", "after", True),
    ({"type": "watch", "job": NO_JOB, "after": "1"}, "invalid_param", "after", True),
    ({"type": "unwatch", "job": 7}, "invalid_param", "job", True),
    ({"type": "prefs", "job": NO_JOB}, "job_not_found", "job", False),
    ({"type": "prefs", "previews": []}, "invalid_param", "previews", True),
    ({"type": "prefs", "previews": {"max_fps": 241}}, "invalid_param", "previews.max_fps", True),
    ({"type": "ack"}, "invalid_param", "bytes", True),
    ({"type": "ack", "bytes": -1}, "invalid_param", "bytes", True),
    ({"type": "ack", "bytes": HUGE}, "invalid_param", "bytes", True),
    ({"type": "ping", "t": -1}, "invalid_param", "t", True),
    ({"type": "ping", "t": 1e400}, "bad_message", "", False),
]


def _check_fault(error: dict[str, Any], code: str, path: str, facts: bool, what: object) -> None:
    shown = str(what)[:200]
    assert error["code"] == code, (error, shown)
    assert error["retryable"] is ERRORS[code].retryable
    assert error.get("details", {}).get("path", "").startswith(path), (error, shown)
    if facts:
        assert _FACTS & error["details"].keys(), (error, shown)


async def test_message_that_is_wrong_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    """One answer each, at most 16 KiB, on a connection that lives; no job is made and every ref stays free."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__msgs_per_s=100_000) as running:
        one = await connect(running)
        submits = [({"type": "submit", "ref": "free", **one[0]}, *one[1:]) for one in BAD_SUBMITS]
        for message, code, path, facts in [*submits, *BAD_MESSAGES]:
            if code == "bad_message":
                continue
            one.send(message)
            opcode, payload = await one.receive()
            assert opcode == TEXT
            assert len(payload) <= 16_384, code
            told = json.loads(payload)
            assert told["type"] == "error", told
            _check_fault(told["error"], code, path, facts, message)
            ref = message.get("ref")
            if isinstance(ref, str) and 0 < len(ref) <= 64:
                assert told["ref"] == ref
        assert await jobs_of(running) == []
        one.send(submit("free"))
        assert (await one.until("completed"))["seq"] == 4
        one.cut()


async def test_same_mistakes_over_http_have_the_same_codes(tmp_path: Path) -> None:
    """Each with the status of its code; no job is made and the key of idempotency stays free."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        for body, code, path, facts in BAD_SUBMITS:
            told = await ask(
                running.url, "POST", "/v1/jobs", running.key, json.dumps(body).encode(), Idempotency_Key="free"
            )
            assert told.status == ERRORS[code].http, body
            _check_fault(told.error, code, path, facts, body)
        assert await jobs_of(running) == []
        made = await ask(
            running.url, "POST", "/v1/jobs", running.key, json.dumps(_with()).encode(), Idempotency_Key="free"
        )
        assert made.status == 202


BAD_REQUESTS: list[tuple[str, str, bytes | None, dict[str, str], int, str, str]] = [
    ("POST", "/v1/jobs", b"", {}, 400, "bad_request", "body"),
    ("POST", "/v1/jobs", b"[]", {}, 422, "invalid_param", "body"),
    ("POST", "/v1/jobs", b"{", {}, 400, "bad_request", "body"),
    ("POST", "/v1/jobs", b'{"a":' * 10_000, {}, 400, "bad_request", "body"),
    ("POST", "/v1/jobs", b"{" + b" " * 70_000 + b"}", {}, 413, "payload_too_large", "body"),
    ("POST", "/v1/jobs", json.dumps(_with()).encode(), {"Idempotency_Key": "a b"}, 422, "invalid_param", "ref"),
    (
        "POST",
        "/v1/jobs",
        json.dumps(_with(ref="one")).encode(),
        {"Idempotency_Key": "two"},
        422,
        "invalid_param",
        "ref",
    ),
    ("GET", "/v1/jobs?limit=0", None, {}, 422, "invalid_param", "limit"),
    ("GET", "/v1/jobs?limit=101", None, {}, 422, "invalid_param", "limit"),
    ("GET", "/v1/jobs?limit=x", None, {}, 422, "invalid_param", "limit"),
    ("GET", "/v1/jobs?state=lost", None, {}, 422, "invalid_param", "state"),
    ("GET", "/v1/jobs?after=1", None, {}, 422, "invalid_param", "after"),
    ("GET", "/v1/jobs?ref=%20", None, {}, 422, "invalid_param", "ref"),
    ("GET", f"/v1/jobs/{NO_JOB}", None, {}, 404, "job_not_found", "job"),
    ("GET", "/v1/jobs/short", None, {}, 404, "job_not_found", "job"),
    ("GET", "/v1/jobs/%00%ff", None, {}, 404, "job_not_found", "job"),
    ("GET", f"/v1/jobs/{NO_JOB}/events", None, {}, 404, "job_not_found", "job"),
    ("GET", f"/v1/jobs/{NO_JOB}/preview?max_edge=9", None, {}, 404, "job_not_found", "job"),
    ("DELETE", f"/v1/jobs/{NO_JOB}", None, {}, 404, "job_not_found", "job"),
    ("POST", f"/v1/jobs/{NO_JOB}/grants", b"{}", {}, 404, "job_not_found", "job"),
    ("PUT", "/v1/assets", b"", {}, 415, "unsupported_media", ""),
    ("PUT", "/v1/assets", b"GIF89a", {}, 415, "unsupported_media", ""),
    ("PUT", "/v1/assets", INIT[:30], {}, 422, "image_decode_failed", ""),
    ("GET", "/v1/assets/sha256:12", None, {}, 404, "asset_not_found", ""),
    ("GET", f"/v1/assets/{'0' * 64}", None, {}, 404, "asset_not_found", ""),
    ("POST", "/v1/tokens", b'{"subject":""}', {}, 422, "invalid_param", "subject"),
    ("POST", "/v1/tokens", b'{"subject":"a/b"}', {}, 422, "invalid_param", "subject"),
    ("POST", "/v1/tokens", b'{"ttl_ms":0}', {}, 422, "invalid_param", "ttl_ms"),
    ("POST", "/v1/tokens", b'{"scopes":["all"]}', {}, 422, "invalid_param", "scopes"),
    ("POST", "/v1/tokens", b" " * 17_000, {}, 413, "payload_too_large", "body"),
    ("GET", "/v1/nothing", None, {}, 404, "not_found", ""),
    ("GET", "/v1/jobs/", None, {}, 404, "", ""),
    ("PATCH", "/v1/jobs", b"{}", {}, 405, "method_not_allowed", ""),
    ("GET", "/v1/limits", None, {"Host": "evil.example"}, 403, "forbidden", ""),
    ("GET", "/v1/limits", None, {"Origin": "https://evil.example"}, 403, "forbidden", ""),
    ("GET", "/v1/limits", None, {"Origin": "null"}, 403, "forbidden", ""),
]


async def test_request_that_is_wrong_is_refused_by_name(tmp_path: Path) -> None:
    """Bodies, queries, paths, methods, hosts and origins."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        for method, path, body, headers, status, code, field in BAD_REQUESTS:
            told = await ask(running.url, method, path, running.key, body, **headers)
            assert told.status == status, (method, path, told)
            if code:
                _check_fault(told.error, code, field, False, (method, path))
        assert await jobs_of(running) == []


async def test_credential_that_is_wrong_opens_no_route(tmp_path: Path) -> None:
    """Every route that needs one says `unauthorized` and how to ask; a token's time that is over is told as such."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        token = await token_of(running, "player")
        head, body, mac = token.split(".")
        other = (await token_of(running, "somebody")).split(".")
        wrong = [
            "", "Bearer", "Bearer ", "Basic YTpi", f"Token {running.key}", f"Bearer {running.key}x",
            f"Bearer {running.key[:-1]}", "Bearer sk-sl-", f"Bearer {'x' * 5000}", f"Bearer {head}.{body}",
            f"Bearer {head}.{other[1]}.{mac}", f"Bearer g1.{head}.{body}.{mac}", f"Bearer {token}\u00e9",
            f"Bearer {head}.{body}.", "Bearer ....",
        ]  # fmt: skip
        routes = [("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("POST", "/v1/tickets"), ("POST", "/v1/tokens"),
                  ("PUT", "/v1/assets"), ("GET", f"/v1/jobs/{NO_JOB}"), ("GET", f"/v1/assets/{'0' * 64}")]  # fmt: skip
        for method, path in routes:
            for text in wrong if path == "/v1/jobs" and method == "GET" else wrong[:3]:
                headers = {"Authorization": text} if text else {}
                body_sent = b"{}" if method in {"POST", "PUT"} else None
                told = await ask(running.url, method, path, None, body_sent, **headers)
                assert (told.status, told.error["code"]) == (401, "unauthorized"), (path, text)
                assert told.headers["www-authenticate"] == "Bearer"
        short = await token_of(running, "player", ttl_ms=1)
        await asyncio.sleep(0.002)  # its whole life
        told = await ask(running.url, "GET", "/v1/jobs", short)
        assert (told.status, told.error["code"]) == (401, "token_expired")
        told = await ask(running.url, "POST", "/v1/tokens", token, b"{}")
        assert (told.status, told.error["code"]) == (403, "forbidden")


BAD_HELLOS: list[tuple[dict[str, Any], int]] = [
    ({"v": 2}, 4501),
    ({"v": 0}, 4500),
    ({"v": "1"}, 4500),
    ({"v": 65536}, 4500),
    ({"v": None}, 4500),
    ({"token": 7}, 4500),
    ({"token": "x" * 4097}, 4500),
    ({"token": "sk-sl-\u00e9"}, 4502),
    ({"token": ""}, 4502),
    ({"agent": "x" * 257}, 4500),
    ({"max_message": 16383}, 4500),
    ({"max_message": -1}, 4500),
    ({"max_message": HUGE}, 4500),
    ({"window": 1}, 4500),
    ({"window": -1}, 4500),
    ({"finals": "mail"}, 4500),
    ({"previews": {"max_edge": 2000}}, 4500),
    ({"resume": "x" * 513}, 4500),
    ({"resume": None}, 4500),
    ({"have": [{"job": "x", "seq": 1}]}, 4500),
    ({"have": [{"job": NO_JOB}]}, 4500),
    ({"have": [{"job": NO_JOB, "seq": -1}]}, 4500),
    ({"have": [{"job": NO_JOB, "seq": 1}] * 257}, 4500),
]


async def test_hello_that_is_wrong_is_closed_by_its_number(tmp_path: Path) -> None:
    """No session is made, whatever else is right."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        for fields, code in BAD_HELLOS:
            one = await RawSocket.open(running.url)
            one.send({"type": "hello", "v": 1, "token": running.key, **fields})
            assert await one.closing() == code, str(fields)[:100]
            one.cut()
        many = [{"job": make_ulid(place, random.Random(1)), "seq": 1} for place in range(256)]
        one = await connect(running, have=many, resume="x" * 512, agent="x" * 256)
        one.cut()


NOT_JSON: list[tuple[int, bytes, int]] = [
    (TEXT, b"", 4500),
    (TEXT, b"{", 4500),
    (TEXT, b"[]", 4500),
    (TEXT, b"7", 4500),
    (TEXT, b' {"type":"ping"}', 4500),
    (TEXT, b'\xef\xbb\xbf{"type":"ping"}', 4500),
    (TEXT, b'{"type":"ping"}{"type":"ping"}', 4500),
    (TEXT, b'{"type":"ping","t":1e400}', 0),
    (TEXT, b'{"type":"ping","t":NaN}', 4500),
    (TEXT, b'{"type":"ping","x":"\\ud800"}', 4500),
    (TEXT, b'{"a":' * 10_000, 4500),
    (TEXT, b'{"type":"ping","pad":"' + b"x" * 65_536 + b'"}', 4506),
    (TEXT, b"{" + b"x" * 300_000, 1009),
    (BINARY, b"", 4500),
    (BINARY, b"S", 4500),
    (BINARY, b"SFL1" + b"\0" * 59, 4500),
    (BINARY, b"\0" * 64, 4500),
    (BINARY, chunk(upload_id(1), b"x", 0, 1, last=True).replace(b"SFL1", b"SFL2"), 4500),
    (BINARY, struct.pack("<4sBBH", b"SFL1", 16, 2, 63) + b"\0" * 60, 4500),
    (BINARY, struct.pack("<4sBBH", b"SFL1", 16, 2, 65532) + b"\0" * 60, 4500),
    (3, b"reserved opcode", 1002),
    (11, b"reserved control", 1002),
]


async def test_bytes_that_are_no_message_close_the_connection_by_number(tmp_path: Path) -> None:
    """The session survives each of them, and JSON in a binary message is a message."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        for opcode, payload, code in NOT_JSON:
            one.send_frame(opcode, payload)
            if code == 0:
                told = await one.until("error")
                assert (told["error"]["code"], told["error"]["details"]["path"]) == ("invalid_param", "t")
                continue
            assert await one.closing() == code, payload[:60]
            one.cut()
            one = await RawSocket.open(running.url)
            one.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
            assert (await one.until("welcome"))["resumed"] is True
            await one.until("synced")
        one.send_frame(BINARY, b'{"type":"ping","t":5}')
        assert (await one.until("pong"))["t"] == 5
        one.cut()


BAD_UPGRADES: list[tuple[str, dict[str, str | None], bytes]] = [
    ("/v1/stream", {"Sec-WebSocket-Protocol": "safelight.v9"}, b"400"),
    ("/v1/stream", {"Sec-WebSocket-Version": "12"}, b"4"),
    ("/v1/stream", {"Sec-WebSocket-Key": None}, b"400"),
    ("/v1/stream", {"Sec-WebSocket-Key": "short"}, b"400"),
    ("/v1/stream", {"Connection": "close"}, b"4"),
    ("/v1/nowhere", {}, b"403"),
    ("/v1/stream?ticket=\u00e9", {}, b"4"),
    ("/v1/stream?" + "a=1&" * 200, {}, b"101"),
    ("/v1/stream", {"X-Long": "x" * 40_000}, b"4"),
    ("/v1/stream", {"Authorization": "Bearer \u00ff\u0001"}, b""),
]


async def test_upgrade_that_is_wrong_is_refused_and_the_next_one_works(tmp_path: Path) -> None:
    """Headers and paths that no client sends; nothing of it reaches the log as a failure of ours."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        for path, changed, status in BAD_UPGRADES:
            answer = await _upgrade(running.url, path, changed)
            assert answer[9:].startswith(status), (path[:40], answer)
        for query in ("ticket", "ticket=&ticket=x", "&" * 300 + "ticket=x", "ticket=%ff%00"):
            one = await RawSocket.open(running.url, f"/v1/stream?{query}")
            assert await one.closing() == 4507, query
            one.cut()
        one = await connect(running)
        one.cut()


async def _upgrade(url: str, path: str, changed: dict[str, str | None]) -> bytes:
    """Send an upgrade with headers changed or left out (`None`); returns the status line, empty if there is none."""
    parts = urlsplit(url)
    headers: dict[str, str | None] = {
        "Host": parts.netloc, "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13", **changed,
    }  # fmt: skip
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    try:
        return await asyncio.wait_for(reader.readline(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


# --- noise ---

NASTY: list[Any] = [
    None, True, 0, -1, 2**31, 2**53, 2**64, HUGE, -HUGE, 1.5, 1e308, "", "x" * 600, "\u0000", "\ud83d\ude00", [], [[]],
    {}, {"": {}}, [None] * 300, "sha256:" + "0" * 64, NO_JOB, "../..", "'; drop table jobs; --", "%s%n", "\u202e",
]  # fmt: skip


def _valid(chance: random.Random, job: str) -> dict[str, Any]:
    previews = {"max_fps": 4, "max_edge": 64, "format": "png", "quality": 50}
    return chance.choice(
        [
            submit(f"r{chance.randrange(50)}", previews=previews, finals="inline", deadline_ms=60_000),
            submit(f"r{chance.randrange(50)}", inputs=[{"role": "init", "upload": upload_id(1), "weight": 1}]),
            {"type": "cancel", "ref": "c", "job": job, "grant": "g1.a.b.c"},
            {"type": "watch", "ref": "w", "job": job, "after": 1, "previews": previews, "finals": "url"},
            {"type": "unwatch", "ref": "u", "job": job},
            {"type": "prefs", "ref": "p", "previews": previews, "finals": "inline", "job": job},
            {"type": "ack", "bytes": 1000},
            {"type": "ping", "t": 5, "ref": "t"},
        ]
    )


def _twisted(chance: random.Random, value: Any) -> Any:
    """Return the value with one part somewhere in it replaced, removed or doubled."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        if chance.random() < 0.2:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: _twisted(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.5:
        return value * chance.choice([2, 20])
    return chance.choice(NASTY)


def _damaged(chance: random.Random, raw: bytes) -> bytes:
    """Return the bytes with some flipped, left out, repeated or put in."""
    data = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at:at] = data[at : at + chance.randrange(1, 30)]
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


def _noise(chance: random.Random, job: str) -> tuple[int, bytes]:
    """Return the opcode and payload of a message that is nearly right, or not at all."""
    draw = chance.random()
    if draw < 0.45:
        return TEXT, json.dumps(_twisted(chance, _valid(chance, job))).encode()
    if draw < 0.65:
        return TEXT, _damaged(chance, json.dumps(_valid(chance, job)).encode())
    if draw < 0.9:
        whole = list(chunks(upload_id(chance.randrange(6)), INIT, chance.choice([100, 500])))
        return BINARY, _damaged(chance, chance.choice(whole))
    if draw < 0.95:
        return BINARY, chance.choice(list(chunks(upload_id(1), INIT, 200)))
    return chance.choice([TEXT, BINARY]), chance.randbytes(chance.randrange(200))


async def _make_noise(running: Running, seed: int, count: int, token: str) -> None:
    """Send noise over one connection after another; a connection that lives answers a ping in the end."""
    chance, left, job = random.Random(seed), count, NO_JOB
    while left > 0:
        one = await RawSocket.open(running.url)
        await one.hello(token)
        one.send(submit(f"real-{seed}-{left}"))
        job = (await one.until("accepted"))["job"]
        for _ in range(min(left, 20)):
            one.send_frame(*_noise(chance, job))
            left -= 1
        one.send({"type": "ping", "t": 4242})
        code = await _pong_or_close(one)
        assert code in {0, 1000, 1002, 1009, 4500, 4506}, code
        one.cut()


async def _pong_or_close(one: RawSocket) -> int:
    async with asyncio.timeout(20):
        while True:
            opcode, payload = await one.receive()
            if opcode == CLOSE:
                assert one.close_code is not None
                return one.close_code
            if b'"t":4242' in payload:
                return 0


async def _spill_bytes(running: Running, seed: int, count: int) -> None:
    """Send random bytes to the port, before an upgrade and after it."""
    chance, parts = random.Random(seed), urlsplit(running.url)
    for place in range(count):
        if place % 2:
            one = await RawSocket.open(running.url)
            writer = one.writer
        else:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(chance.randbytes(chance.randrange(1, 3000)))
        if chance.random() < 0.3:
            writer.write(b"GET /v1/stream HTTP/1.1\r\n" + chance.randbytes(500) + b"\r\n\r\n")
        await asyncio.sleep(0)
        writer.transport.abort()


async def test_noise_ends_nothing_and_delays_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Random bytes and twisted messages beside a client that does nothing wrong: it gets everything of its jobs."""
    count = deep_count(400, 20_000)
    paper = PaperUpstream(pace=lambda _: 0.002)
    settings = {"limits__msgs_per_s": 100_000, "limits__max_connections": 1000, "limits__max_jobs": 100_000}
    async with gateway_here(tmp_path, upstreams=[paper], **settings) as running:
        noisy = await another_key(running, "noisy")
        stop = asyncio.Event()

        async def innocent() -> int:
            one, number = await connect(running), 0
            while not stop.is_set():
                number += 1
                one.send(submit(f"innocent-{number}", params={"steps": 8}))
                async with asyncio.timeout(20):
                    events = await numbered_until(one, "completed")
                assert [event["seq"] for event in events] == [1, 2, 3, 4]
            one.cut()
            return number

        async with asyncio.TaskGroup() as tasks:
            watched = tasks.create_task(innocent())
            async with asyncio.TaskGroup() as noises:
                for seed in range(4):
                    noises.create_task(_make_noise(running, seed, count // 4, noisy))
                    noises.create_task(_spill_bytes(running, seed, count // 20))
            stop.set()
        assert watched.result() >= 1
        assert (await ask(running.url, "GET", "/healthz", None)).status == 200
        metrics = (await ask(running.url, "GET", "/metrics", None)).body.decode()
        assert not [line for line in metrics.splitlines() if line.startswith("safelight_task_failures_total{")]
    wrong = [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]
    assert not wrong, [(record.name, record.getMessage(), record.exc_info) for record in wrong[:3]]


# --- the loop ---


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65536:
        head = bytes([0x80 | opcode, 0x80 | 126]) + struct.pack(">H", size)
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + struct.pack(">Q", size)
    return head + b"\0\0\0\0" + payload


def _json_frame(message: dict[str, Any]) -> bytes:
    return _frame(TEXT, json.dumps(message).encode())


def _big_picture() -> bytes:
    return png(64, 64, (1, 2, 3), padding=16 * 1024 * 1024 - 400)


def _whole_upload(number: int, size: int) -> bytes:
    return b"".join(_frame(BINARY, one) for one in chunks(upload_id(number), _big_picture(), size))


HEAVY: dict[str, Callable[[], bytes]] = {
    "deep nesting in a field": lambda: _frame(TEXT, b'{"type":"x","a":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001),
    "deep nesting in params": lambda: _frame(
        TEXT, b'{"type":"submit","ref":"d","task":"t","params":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001
    ),
    "64 KiB of keys": lambda: _frame(TEXT, b'{"type":"ping",' + b",".join(b'"k":1' for _ in range(10_000)) + b"}"),
    "params of many keys": lambda: _json_frame(submit("k", params={f"k{place}": 1 for place in range(2500)})),
    "a key of 30 KiB": lambda: _json_frame(submit("k", params={"x" * 30_000: 1})),
    "a prompt of 8000 characters": lambda: _json_frame(submit("p", params={"prompt": "x" * 8000})),
    "huge integers": lambda: _frame(TEXT, b'{"type":"ping","t":' + b"9" * 65_000 + b"}"),
    "a huge fraction": lambda: _frame(
        TEXT, b'{"type":"submit","ref":"f","task":"t","params":{"guidance":1.' + b"7" * 30_000 + b"}}"
    ),
    "thousands of acks": lambda: _json_frame({"type": "ack", "bytes": 1}) * 9000,
    "a hundred wrong submits": lambda: _json_frame(submit("w", params={"steps": "x"})) * 95,
    "many pings in one segment": lambda: _frame(9, b"") * 20_000,
    "many fragments in one segment": lambda: b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 20_000 + _frame(9, b""),
    "thousands of bad chunks": lambda: _frame(BINARY, chunk(upload_id(1), b"", 5, 9)) * 2000,
    "an upload of 16 MiB": lambda: _whole_upload(1, 262_144),
    "an upload of 16 MiB in small chunks": lambda: _whole_upload(2, 16_384),
}


@pytest.mark.timing
async def test_no_message_holds_the_loop_up_for_50_ms(tmp_path: Path) -> None:
    """The worst that a client may send, each in one write; CPU time of every callback, so other load is no fault."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__max_connections=100) as running:
        told: dict[str, list[tuple[float, str]]] = {}
        for name, make in HEAVY.items():
            data = make()
            with watching_callbacks() as worst:
                await elsewhere(_send_whole(running.url, running.key, data))
            print(f"{name}: {worst.seconds * 1000:.1f} ms")
            if worst.slow:
                told[name] = worst.slow
        jobs = [make_ulid(place, random.Random(1)) for place in range(256)]
        with watching_callbacks() as worst:
            await elsewhere(_resume_with(running.url, running.key, [{"job": job, "seq": 1} for job in jobs]))
        print(f"256 entries in have: {worst.seconds * 1000:.1f} ms")
        assert not worst.slow
        with watching_callbacks() as worst:
            told_asset = await ask(running.url, "PUT", "/v1/assets", running.key, _big_picture())
        print(f"PUT of 16 MiB: {worst.seconds * 1000:.1f} ms")
        assert told_asset.status == 200
        assert not worst.slow
        assert not told


async def _send_whole(url: str, key: str, data: bytes) -> None:
    one = await RawSocket.open(url)
    await one.hello(key)
    one.writer.write(data)
    one.send({"type": "ping", "t": 4242})
    await _pong_or_close(one)
    one.cut()
    await asyncio.sleep(0)  # the loop ends with this coroutine, and the transport closes in its next turn


async def _resume_with(url: str, key: str, have: list[dict[str, Any]]) -> None:
    one = await RawSocket.open(url)
    synced = await one.hello(key)
    one.cut()
    two = await RawSocket.open(url)
    await two.hello(key, resume=synced["resume"], have=have)
    two.cut()
    await asyncio.sleep(0)  # as above
