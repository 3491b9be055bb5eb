"""Latency, faults, counters, control paths and the command line of the stand-in of Stability v1."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from load.upstreams.faults import Cut, Drip, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.stability_v1 import StabilityV1
from tests.load.upstreams.talk import (
    AUTH,
    OLD,
    SMALL,
    Client,
    ManualClock,
    connect,
    draw,
    raw_answer,
    read_until_closed,
    request_bytes,
    send,
)

ROOT = Path(__file__).parents[3]


async def raw_until_closed(url: str) -> tuple[bytes, bool]:
    """The bytes of one answer until the connection ends, and whether it ended by a reset."""
    reader, writer = await connect(url)
    writer.write(request_bytes(url))
    try:
        return await read_until_closed(reader)
    finally:
        writer.close()


async def until_in_flight(standin: StabilityV1, count: int) -> None:
    """Wait until so many calls are in flight."""
    # The stand-in runs in this loop and only needs turns; it has no event for its callers to wait on.
    while standin.tally.in_flight != count:
        await asyncio.sleep(0.001)


# Refusals and finishes


@pytest.mark.parametrize(
    "status,name,billed",
    [
        (401, "unauthorized", 0),
        (403, "permission_denied", 0),
        (429, "rate_limit_exceeded", 0),
        (500, "server_error", 1),
        (502, "server_error", 1),
        (503, "service_unavailable", 0),
        (418, "bad_request", 0),
    ],
)
async def test_scripted_refusal_answers_in_the_vendors_form(
    client: Client, status: int, name: str, billed: int
) -> None:
    """Every status can be scripted; only those that may follow begun work are billed."""
    async with StabilityV1(script=[Rule(Refuse(status), requests=frozenset({1}))]) as standin:
        refused, fine = await draw(client, standin.url), await draw(client, standin.url)
        assert (refused.status, refused.name, fine.status) == (status, name, 200)
        assert "Retry-After" not in refused.headers
        assert (standin.calls, standin.tally.billed) == (2, billed + 1)
        assert standin.log[0].fault == "refuse"


async def test_scripted_refusal_may_carry_retry_after_and_words(client: Client) -> None:
    """Header, name and message of a refusal can be chosen."""
    rule = Rule(Refuse(429, "slow_down", "not so fast", retry_after=17))
    async with StabilityV1(script=[rule]) as standin:
        reply = await draw(client, standin.url)
    assert (reply.headers["Retry-After"], reply.name, reply.json["message"]) == (
        "17",
        "slow_down",
        "not so fast",
    )


async def test_script_can_turn_the_bill_round(client: Client) -> None:
    """Whether a refusal was billed can be said by the rule."""
    rules = [Rule(Refuse(500), first=1, last=1, begun=False), Rule(Refuse(503), begun=True)]
    async with StabilityV1(script=rules) as standin:
        assert [(await draw(client, standin.url)).status for _ in range(2)] == [500, 503]
        assert [call.billed for call in standin.log] == [False, True]


async def test_error_after_begun_work_leaves_bad_requests_their_own_error(client: Client) -> None:
    """A scripted 500 meets only requests that would have succeeded."""
    async with StabilityV1(script=[Rule(Refuse(500))]) as standin:
        reply = await draw(client, standin.url, {**SMALL, "samples": 99})
    assert (reply.status, reply.name) == (400, "invalid_samples")


async def test_reading_the_account_fails_when_named_by_the_script(client: Client) -> None:
    """A rule that names an operation meets requests that generate nothing."""
    async with StabilityV1(script=[Rule(Refuse(500), operation="user/balance")]) as standin:
        reply = await send(client, "GET", f"{standin.url}/v1/user/balance")
        assert (reply.status, reply.name) == (500, "server_error")
        assert (await draw(client, standin.url)).status == 200


@pytest.mark.parametrize("reason", ["CONTENT_FILTERED", "ERROR"])
async def test_scripted_finish_reason_is_a_success_of_the_transport(client: Client, reason: str) -> None:
    """A finish reason other than SUCCESS still arrives with 200 and is billed."""
    async with StabilityV1() as standin:
        standin.script({"do": {"kind": "finish", "reason": reason}})
        reply = await draw(client, standin.url)
        assert (reply.status, reply.json["artifacts"][0]["finishReason"]) == (200, reason)
        assert standin.tally.billed == 1
        assert Finish(reason="ERROR") != Finish()


async def test_script_meets_engines_keys_and_chance(client: Client) -> None:
    """Rules pick by engine and key, and by a chance that repeats with the seed."""
    rules = [Rule(Refuse(503), engine="stable-diffusion-v1-5"), Rule(Refuse(500), probability=0.5)]
    runs = []
    for _ in range(2):
        async with StabilityV1(script=rules, seed=5) as standin:
            assert (await draw(client, standin.url, engine="stable-diffusion-v1-5")).status == 503
            runs.append([(await draw(client, standin.url)).status for _ in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


# Cuts


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_connection_cut_before_the_answer_sends_no_byte(how: str) -> None:
    """The request is read, called and billed, and the connection ends as the script says."""
    async with StabilityV1() as standin:
        standin.script({"do": {"kind": "cut", "how": how}})
        received, was_reset = await raw_until_closed(standin.url)
        assert (received, was_reset) == (b"", how == "rst")
        assert (standin.calls, standin.tally.billed) == (1, 1)
        assert (standin.log[0].outcome, standin.log[0].status, standin.log[0].fault) == ("cut", 200, "cut")


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("at_byte", [1, 30, 100, 200, 1000, 60_000, 150_000, -1])
async def test_connection_is_cut_at_exactly_that_byte(at_byte: int, how: str) -> None:
    """Of the whole answer, head included, exactly the bytes before the cut arrive."""
    async with StabilityV1(limit=None, picture_bytes=150_000) as standin:
        whole = await raw_answer(standin.url)
        standin.script({"do": {"kind": "cut", "at_byte": at_byte, "how": how}})
        received, was_reset = await raw_until_closed(standin.url)
        assert len(received) == (at_byte if at_byte > 0 else len(whole) + at_byte)
        # The Date header may differ by a second.
        assert received.partition(b"Content-Type")[2] == whole[: len(received)].partition(b"Content-Type")[2]
        assert was_reset == (how == "rst")


async def test_cut_beyond_the_end_leaves_the_answer_whole() -> None:
    """A cut after the last byte only closes the connection."""
    async with StabilityV1() as standin:
        whole = await raw_answer(standin.url)
        standin.script(Rule(Cut(at_byte=10**9)))
        assert len((await raw_until_closed(standin.url))[0]) == len(whole)


async def test_unbilled_cut_is_possible() -> None:
    """A cut may stand for a request that never reached the work."""
    async with StabilityV1(script=[Rule(Cut(), begun=False)]) as standin:
        await raw_until_closed(standin.url)
        assert (standin.calls, standin.tally.billed) == (1, 0)


async def test_cut_answer_looks_like_a_broken_payload_to_a_client(client: Client) -> None:
    """An ordinary client sees an incomplete body as an error."""
    async with StabilityV1(script=[Rule(Cut(at_byte=-10))]) as standin:
        with pytest.raises(aiohttp.ClientPayloadError):
            await draw(client, standin.url)


# Stalls and drips


async def test_stalled_headers_never_come() -> None:
    """The connection stays open without a byte until the client gives up."""
    async with StabilityV1(script=[Rule(Stall())]) as standin:
        reader, writer = await connect(standin.url)
        writer.write(request_bytes(standin.url))
        await until_in_flight(standin, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)  # silence can only be shown by waiting
        writer.close()
        await until_in_flight(standin, 0)
        assert (standin.log[0].outcome, standin.log[0].fault) == ("stalled", "stall")


async def test_stall_after_some_bytes_sends_exactly_those() -> None:
    """What was sent before the stall arrives, and the stand-in's end closes the rest."""
    async with StabilityV1(script=[Rule(Stall(after_bytes=150))]) as standin:
        reader, writer = await connect(standin.url)
        writer.write(request_bytes(standin.url))
        begun = await reader.readexactly(150)
    assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
    assert await read_until_closed(reader) == (b"", False)
    writer.close()
    assert standin.log[0].outcome == "stalled"


async def test_stall_of_limited_length_is_followed_by_the_rest(client: Client) -> None:
    """After the silence the answer goes on as if nothing had happened."""
    async with StabilityV1(script=[Rule(Stall(after_bytes=300, seconds=0.05))]) as standin:
        began = time.monotonic()
        reply = await draw(client, standin.url)
        assert time.monotonic() - began >= 0.05
        assert len(reply.images) == 1
        assert standin.log[0].outcome == "answered"


async def test_drip_delivers_the_whole_answer_slowly(client: Client) -> None:
    """A dripping answer is complete and takes a pause for each piece."""
    async with StabilityV1(script=[Rule(Drip(piece_bytes=400, pause_seconds=0.005))]) as standin:
        began = time.monotonic()
        reply = await draw(client, standin.url)
        assert time.monotonic() - began >= 0.005 * (len(reply.body) // 400)
        assert len(reply.images) == 1


async def test_client_that_leaves_a_dripping_answer_has_dropped_it() -> None:
    """Hanging up in the middle of an answer ends the call."""
    async with StabilityV1(script=[Rule(Drip(piece_bytes=1))]) as standin:
        reader, writer = await connect(standin.url)
        writer.write(request_bytes(standin.url))
        assert await reader.readexactly(5) == b"HTTP/"
        writer.transport.abort()
        await until_in_flight(standin, 0)
        assert standin.log[0].outcome == "dropped"


# Garbage


async def garbage(client: Client, what: str) -> bytes:
    """The body of an answer spoilt this way, which must have status 200."""
    async with StabilityV1() as standin:
        standin.script({"do": {"kind": "garbage", "what": what, "size_bytes": 3_000_000}})
        reply = await draw(client, standin.url)
        assert (reply.status, standin.tally.billed) == (200, 1)
        return reply.body


@pytest.mark.parametrize("what", ["not_json", "truncated_json", "empty"])
async def test_garbage_body_is_no_json(client: Client, what: str) -> None:
    """The length is right and the content is not."""
    with pytest.raises(json.JSONDecodeError):
        json.loads(await garbage(client, what))


async def test_garbage_base64_can_not_be_decoded(client: Client) -> None:
    """The JSON is fine and the base64 inside is not."""
    text = json.loads(await garbage(client, "wrong_base64"))["artifacts"][0]["base64"]
    with pytest.raises(ValueError, match=r"base64|[Pp]adding|characters"):
        base64.b64decode(text, validate=True)


async def test_garbage_picture_is_no_png(client: Client) -> None:
    """The base64 is fine and the bytes inside are no PNG."""
    text = json.loads(await garbage(client, "not_png"))["artifacts"][0]["base64"]
    assert not base64.b64decode(text, validate=True).startswith(b"\x89PNG")


async def test_huge_body_has_the_size_asked_for(client: Client) -> None:
    """A huge body is valid JSON of exactly the scripted size."""
    body = await garbage(client, "huge")
    assert len(body) == 3_000_000
    assert json.loads(body)["artifacts"][0]["finishReason"] == "SUCCESS"


async def test_garbage_leaves_errors_alone(client: Client) -> None:
    """A request that earned an error gets it."""
    async with StabilityV1(script=[Rule(Garbage())]) as standin:
        assert (await draw(client, standin.url, {})).name == "bad_request"


# Time and concurrency


async def test_service_time_passes_before_a_success_and_not_before_an_error(client: Client) -> None:
    """Work takes its time; a refusal at the door does not."""
    async with StabilityV1(service_time=0.05) as standin:
        began = time.monotonic()
        await draw(client, standin.url)
        assert time.monotonic() - began >= 0.05
    async with StabilityV1(service_time=3600) as standin:
        assert (await draw(client, standin.url, {})).status == 400


async def test_rule_can_set_the_time_of_one_request(client: Client) -> None:
    """A rule without a fault still slows a request down."""
    async with StabilityV1(script=[Rule(requests=frozenset({1}), service_seconds=0.05)]) as standin:
        began = time.monotonic()
        assert (await draw(client, standin.url)).status == 200
        assert time.monotonic() - began >= 0.05


async def test_two_hundred_requests_are_served_side_by_side(client: Client) -> None:
    """A service time that all share shows that none waits for another; the peak is counted."""
    async with StabilityV1(limit=None, service_time=1.0) as standin:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            draws = [group.create_task(draw(client, standin.url, {**SMALL, "seed": n})) for n in range(1, 251)]
        took = time.monotonic() - began
        assert {draw.result().status for draw in draws} == {200}
        assert standin.tally.peak == 250
        assert took < 60  # one after the other they would take 250 seconds


async def test_client_that_leaves_is_called_and_billed(client: Client) -> None:
    """Dropping the socket while work is under way ends the call as dropped, with its bill."""
    async with StabilityV1(service_time=60) as standin:
        reader, writer = await connect(standin.url)
        writer.write(request_bytes(standin.url))
        await until_in_flight(standin, 1)
        writer.close()
        await until_in_flight(standin, 0)
        assert (standin.calls, standin.tally.billed, standin.log[0].outcome) == (1, 1, "dropped")
        assert await read_until_closed(reader) == (b"", False)


async def test_leaving_ends_requests_still_at_work() -> None:
    """The end of the block closes connections instead of waiting for the work."""
    async with StabilityV1(service_time=60) as standin:
        reader, writer = await connect(standin.url)
        writer.write(request_bytes(standin.url))
        await until_in_flight(standin, 1)
    assert await read_until_closed(reader) == (b"", False)
    writer.close()
    with pytest.raises(RuntimeError, match="not running"):
        _ = standin.url


# Counters and control


async def test_counters_tell_keys_engines_statuses_and_outcomes(client: Client) -> None:
    """The control path gives all counts and a record of each request with its times."""
    clock = ManualClock()
    async with StabilityV1(clock=clock) as standin:
        await draw(client, standin.url, headers={**AUTH, "Stability-Client-ID": "probe"})
        clock.now += 1
        await draw(client, standin.url, {})
        standin.script(Rule(Cut()))
        await raw_until_closed(standin.url)
        seen = (await send(client, "GET", f"{standin.url}/__standin/")).json
        later = (await send(client, "GET", f"{standin.url}/__standin/?since=2")).json
        alone = (await send(client, "GET", f"{standin.url}/__standin/counters")).json
    assert seen["counters"] == alone
    assert seen["counters"] == {
        "requests": 3,
        "called": 3,
        "billed": 2,
        "billed_images": 2,
        "limited": 0,
        "per_key": {"sk-test": 3},
        "per_engine": {OLD: 3},
        "per_operation": {"text-to-image": 3},
        "statuses": {"200": 1, "400": 1},
        "outcomes": {"answered": 2, "cut": 1},
        "in_flight": 0,
        "peak": 1,
    }
    first = seen["log"][0]
    assert (first["client"], first["seeds"], first["arrived"], first["ended"]) == (
        "probe",
        [7],
        1000.0,
        1000.0,
    )
    assert [call["arrived"] for call in seen["log"]] == [1000.0, 1001.0, 1001.0]
    assert [call["number"] for call in later["log"]] == [3]


async def test_script_can_be_set_while_it_runs(client: Client) -> None:
    """A posted script counts from its own beginning and replaces the one before."""
    async with StabilityV1(script=[Rule(Refuse(503))]) as standin:
        assert (await draw(client, standin.url)).status == 503
        rules = [{"requests": [2], "do": {"kind": "refuse", "status": 401}}]
        reply = await send(client, "POST", f"{standin.url}/__standin/script", json={"rules": rules})
        assert (reply.status, reply.json) == (200, {"rules": 1})
        assert [(await draw(client, standin.url)).status for _ in range(3)] == [200, 401, 200]


@pytest.mark.parametrize("data", [b"{", b'[{"do":{"kind":"explode"}}]'])
async def test_bad_script_is_refused_and_the_old_one_stays(client: Client, data: bytes) -> None:
    """A script that can't be read changes nothing."""
    async with StabilityV1(script=[Rule(Refuse(503))]) as standin:
        reply = await send(client, "POST", f"{standin.url}/__standin/script", data=data)
        assert reply.status == 400
        assert reply.json["message"]
        assert (await draw(client, standin.url)).status == 503


@pytest.mark.parametrize(
    "method,path,status", [("GET", "nothing", 404), ("GET", "script", 404), ("GET", "?since=x", 400)]
)
async def test_control_paths_refuse_the_unknown(client: Client, method: str, path: str, status: int) -> None:
    """A mistyped control request is told so."""
    async with StabilityV1() as standin:
        assert (await send(client, method, f"{standin.url}/__standin/{path}")).status == status
        assert standin.log == []


async def test_reset_forgets_counts_limits_script_and_draws(client: Client) -> None:
    """After a reset everything is as on the first day, random seeds included."""
    body = {"text_prompts": [{"text": "a"}]}
    async with StabilityV1(limit=1) as standin:
        first = await draw(client, standin.url, body)
        assert (await draw(client, standin.url, body)).status == 429
        standin.script(Rule(Refuse(500)))
        assert (await send(client, "POST", f"{standin.url}/__standin/reset")).status == 200
        assert (standin.calls, standin.log) == (0, [])
        again = await draw(client, standin.url, body)
    assert first.body == again.body


# The command line


async def test_command_line_announces_its_address_and_ends_on_sigterm(client: Client, tmp_path: Path) -> None:
    """The process prints one line of JSON, obeys its script and leaves with status 0."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"requests": [2], "do": {"kind": "refuse", "status": 503}}]))
    options = [
        "--script",
        str(script),
        "--key",
        "sk-test",
        "--limit",
        "0",
        "--service-time",
        "uniform:0,0.01",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "load.upstreams.stability_v1",
        *options,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = json.loads(await process.stdout.readline())
        assert set(ready) == {"url", "control"}
        assert [(await draw(client, ready["url"])).status for _ in range(2)] == [200, 503]
        assert (await send(client, "GET", ready["control"])).json["counters"]["called"] == 2
    finally:
        process.send_signal(signal.SIGTERM)
        rest = await process.stdout.read()
    assert (await process.wait(), rest) == (0, b"")
