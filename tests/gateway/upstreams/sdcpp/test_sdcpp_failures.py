"""Each failure of the server or of the way there, told as what it means for work that costs nothing but time."""

import asyncio
import json
import socket
from typing import Any

import pytest

from gateway.core.reports import ImageMade, Outcome, WorkBegun
from gateway.core.secret import Secret
from gateway.upstreams.sdcpp.wire import accepted, failed, refusal, state_of
from load.upstreams.faults import Cut, Garbage, Refuse, Rule, Stall
from load.upstreams.sdcpp import SdCpp as StandIn
from load.upstreams.sdcpp import Shop
from load.upstreams.sdcpp.catalogue import capabilities
from load.upstreams.sdcpp.special import Special
from tests.gateway.upstreams.sdcpp.vendor import (
    KEY,
    adapter,
    answering,
    count,
    fault,
    images,
    noting,
    order,
    raw_server,
    reports,
    until,
)

NOT_SENT, REFUSED, FAILED = Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED
UNKNOWN, GONE = Outcome.UNKNOWN, Outcome.GONE
PLAIN = {"locked_out": False, "retry_after_seconds": None, "credential": False, "charged": False}
ORDERS = [
    # what happens to the order, then the outcome, the code and the marks that are set
    (Refuse(429), REFUSED, "model_unavailable", {"locked_out": True, "retry_after_seconds": 1.0}),
    (Refuse(429, retry_after=7), REFUSED, "model_unavailable", {"locked_out": True, "retry_after_seconds": 7}),
    (Refuse(503), REFUSED, "model_unavailable", {}),
    (Refuse(503, retry_after=3), REFUSED, "model_unavailable", {"retry_after_seconds": 3}),
    (Refuse(401), FAILED, "upstream_error", {"credential": True}),
    (Refuse(403), FAILED, "upstream_error", {"credential": True}),
    (Refuse(400, "invalid generation parameters"), FAILED, "upstream_error", {}),
    (Refuse(404), FAILED, "upstream_error", {}),
    (Refuse(413), FAILED, "upstream_error", {}),
    (Refuse(500), FAILED, "upstream_error", {}),
    (Refuse(502), UNKNOWN, "outcome_unknown", {}),
    (Refuse(504), UNKNOWN, "outcome_unknown", {}),
    (Cut(0), UNKNOWN, "outcome_unknown", {}),
    (Cut(0, "rst"), UNKNOWN, "outcome_unknown", {}),
    (Cut(20), UNKNOWN, "outcome_unknown", {}),
    (Cut(-1), UNKNOWN, "outcome_unknown", {}),
    (Cut(-1, "rst"), UNKNOWN, "outcome_unknown", {}),
    (Stall(0), UNKNOWN, "outcome_unknown", {}),
    (Stall(20), UNKNOWN, "outcome_unknown", {}),
    (Stall(-1), UNKNOWN, "outcome_unknown", {}),
    (Garbage("not_json"), FAILED, "invalid_output", {}),
    (Garbage("truncated_json"), FAILED, "invalid_output", {}),
    (Garbage("empty"), FAILED, "invalid_output", {}),
    (Garbage("huge", size_bytes=3_000_000), FAILED, "invalid_output", {}),
    (Garbage("wrong_base64"), FAILED, "invalid_output", {}),
    (Garbage("not_png"), FAILED, "invalid_output", {}),
    (Special("fail"), FAILED, "upstream_error", {}),
    (Special("out_of_memory"), FAILED, "upstream_error", {}),
    (Special("stick"), FAILED, "upstream_error", {}),
    (Special("expire"), GONE, "worker_lost", {}),
    (Special("crash", seconds=0.05), GONE, "worker_lost", {}),
    (Special("crash"), UNKNOWN, "outcome_unknown", {}),
]


@pytest.mark.parametrize("what,outcome,code,marks", ORDERS, ids=lambda value: str(value) if value else "-")
async def test_order_s_failure_is_told_by_the_table(
    standin: StandIn, what: Any, outcome: Outcome, code: str, marks: dict[str, Any]
) -> None:
    """Each way to fail has its outcome, and no order is sent twice by the adapter."""
    standin.script(Rule(do=what))
    sent: list[None] = []
    options: dict[str, Any] = {"answer_seconds": 0.3} if isinstance(what, Stall) else {}
    options |= {"timeout_seconds": 0.1} if what == Special("stick") else {}
    options |= {"patience_seconds": 5.0} if what == Special("crash", seconds=0.05) else {}
    async with adapter(standin.url, **options) as upstream:
        found = await fault(upstream.run(order(upstream, sent=lambda: sent.append(None))))
    assert (found.outcome, found.code) == (outcome, code)
    assert {name: getattr(found, name) for name in PLAIN} == {**PLAIN, **marks}
    assert (standin.calls, len(sent)) == (1, 1)


@pytest.mark.parametrize(
    "what",
    [
        *(Refuse(status) for status in (400, 401, 429, 500, 502, 503)),
        *(Cut(place, how) for place in (0, 20, -1) for how in ("fin", "rst")),
        *(Stall(place) for place in (0, -1)),
        *(Garbage(what) for what in ("not_json", "truncated_json", "empty")),
    ],
    ids=str,
)
async def test_answer_about_a_job_that_is_no_good_is_asked_for_again(standin: StandIn, what: Any) -> None:
    """The work is there and costs nothing: twice in a row something goes wrong, and the picture comes all the same."""
    standin.script(Rule(do=what, operation="job", times=2))
    async with adapter(standin.url, answer_seconds=0.3, patience_seconds=5.0) as upstream:
        told = await reports(upstream, order(upstream))
    assert [type(report) for report in told] == [WorkBegun, ImageMade]
    assert (standin.calls, count(standin, "job") > 2) == (1, True)


@pytest.mark.parametrize("what", [Refuse(500), Refuse(401), Cut(0), Stall(0), Garbage("not_json")], ids=str)
async def test_server_that_tells_no_more_of_a_job_leaves_it_unknown(standin: StandIn, what: Any) -> None:
    """When patience ends the job is not called off: it can be looked up by its id."""
    standin.script(Rule(do=what, operation="job"))
    noted: list[str] = []
    async with adapter(standin.url, answer_seconds=0.3, patience_seconds=0.1) as upstream:
        found = await fault(upstream.run(order(upstream, noted=noting(noted))))
    assert (found.outcome, found.code, found.details["upstream"]) == (UNKNOWN, "outcome_unknown", "home")
    assert (len(noted), standin.calls, count(standin, "cancel")) == (1, 1, 0)


@pytest.mark.parametrize(
    "what",
    [Garbage("wrong_base64"), Garbage("not_png"), Garbage("huge", size_bytes=3_000_000)],
    ids=str,
)
async def test_result_that_is_no_picture_is_final(standin: StandIn, what: Any) -> None:
    """Asking again would bring the same."""
    standin.script(Rule(do=what, operation="job", first=1))
    async with adapter(standin.url, max_answer_bytes=2_000_000) as upstream:
        found = await fault(upstream.run(order(upstream)))
    assert (found.outcome, found.code, found.charged) == (FAILED, "invalid_output", False)


@pytest.mark.parametrize(
    "result,message",
    [
        ({"images": []}, "0 pictures came instead of 1"),
        ({"images": [{"index": 0, "b64_json": ""}, {"index": 1, "b64_json": ""}]}, "2 pictures came instead of 1"),
        (None, "the job has ended and tells of no pictures"),
        ({"images": "none"}, "the job has ended and tells of no pictures"),
        ({"images": [{"index": 0, "b64_json": None}]}, "neither PNG nor JPEG nor WebP"),
    ],
)
async def test_result_that_is_not_whole_is_final(standin: StandIn, result: object, message: str) -> None:
    """A picture that the server could not encode is simply missing from its list."""
    served = answering(
        ("200 OK", json.dumps(capabilities(Shop())).encode()),
        ("202 Accepted", b'{"id": "job_1"}'),
        ("200 OK", json.dumps({"id": "job_1", "status": "completed", "result": result}).encode()),
    )
    async with raw_server(served) as url, adapter(url) as upstream:
        found = await fault(upstream.run(order(upstream)))
    assert (found.outcome, found.code, found.message, found.charged) == (FAILED, "invalid_output", message, False)


# ----------------------------------------------------------------------------------------------------- before the order


async def test_no_byte_out_is_not_sent(standin: StandIn) -> None:
    """Where nobody listens, nothing was sent."""
    sent: list[None] = []
    async with adapter(standin.url) as upstream:
        asked = order(upstream, sent=lambda: sent.append(None))
        await standin.kill()
        found = await fault(upstream.run(asked))
    assert (found.outcome, found.code, sent) == (NOT_SENT, "model_unavailable", [])
    assert found.details == {"upstream": "home", "cause": "ClientConnectorError"}


@pytest.mark.parametrize("what", [Cut(0), Cut(20), Stall(0), Refuse(500), Refuse(503), Refuse(504)], ids=str)
async def test_question_before_the_order_sends_nothing_of_it(standin: StandIn, what: Any) -> None:
    """What the server has is asked for first where that is not known: if that fails, the order may be sent again."""
    async with adapter(standin.url) as known, adapter(standin.url, asked=False, answer_seconds=0.3) as upstream:
        asked = order(known)
        # Twice, as reading is what aiohttp tries again by itself.
        standin.script(Rule(do=what, operation="capabilities", times=2))
        found = await fault(upstream.run(asked))
        assert found.outcome in (NOT_SENT, REFUSED)
        assert (found.code, standin.calls) == ("model_unavailable", 0)
        standin.script()
        assert len(await images(upstream, asked)) == 1


async def test_server_with_another_model_is_not_asked() -> None:
    """Started anew with another checkpoint, it would draw something else under the old name."""
    async with StandIn(step_seconds=0, shop=Shop(model="other.gguf")) as other, adapter(other.url) as upstream:
        async with StandIn(step_seconds=0) as standin, adapter(standin.url) as known:
            asked = order(known)
        found = await fault(upstream.run(asked))
        assert (found.outcome, found.code, other.calls) == (FAILED, "model_not_found", 0)


async def test_connection_not_made_in_time_is_not_sent() -> None:
    """A TLS handshake that hangs is no request: not a byte of it was sent."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with StandIn() as standin, adapter(standin.url) as known:
        asked = order(known)
    options: dict[str, Any] = {"connect_timeout_seconds": 0.1, "asked": False}
    async with raw_server(hang) as url, adapter(url.replace("http:", "https:"), **options) as upstream:
        found = await fault(upstream.run(asked))
    assert (found.outcome, found.code) == (NOT_SENT, "model_unavailable")


async def test_order_cut_on_its_way_is_unknown(standin: StandIn) -> None:
    """Part of it went out: the server may have it, and has no way to be asked."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            body = json.dumps(capabilities(Shop())).encode()
            writer.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        else:
            writer.transport.abort()

    async with raw_server(cut) as url, adapter(url) as upstream:
        found = await fault(upstream.run(order(upstream)))
    assert (found.outcome, found.code) == (UNKNOWN, "outcome_unknown")


async def test_server_that_dies_at_work_and_comes_back_has_lost_it(standin: StandIn) -> None:
    """While it is away we wait; back, it knows nothing: unbilled, so begun anew by whoever asked."""
    standin.script(Rule(service_seconds=30))
    async with adapter(standin.url, patience_seconds=2.0) as upstream:
        run = upstream.run(order(upstream))
        assert await anext(run) == WorkBegun(2)
        await standin.kill()
        async with asyncio.TaskGroup() as group:
            found = group.create_task(fault(run))
            await asyncio.sleep(0.05)  # some looks into the void
            assert not found.done()
            await standin.restart()
        assert (found.result().outcome, found.result().code) == (GONE, "worker_lost")
        standin.script()
        assert len(await images(upstream, order(upstream))) == 1


async def test_nobody_listens_at_first(standin: StandIn) -> None:
    """Refresh and probe raise what an order would."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with adapter(f"http://127.0.0.1:{taken.getsockname()[1]}", asked=False) as upstream:
            found = []
            for asking in (upstream.refresh, upstream.probe):
                try:
                    await asking()
                except Exception as error:  # noqa: BLE001 - looked at below
                    found.append(str(error))
            assert found == ["not_sent model_unavailable: there is no connection to the vendor"] * 2
            assert upstream.models == ()


async def test_redirect_is_not_followed(standin: StandIn) -> None:
    """A credential goes where it was configured to go and nowhere else."""
    served = answering(("200 OK", json.dumps(capabilities(Shop())).encode()), ("307 Moved", b""))
    async with raw_server(served) as url, adapter(url) as upstream:
        found = await fault(upstream.run(order(upstream)))
    assert (found.outcome, found.code, found.details["status"]) == (FAILED, "upstream_error", 307)


# --------------------------------------------------------------------------------------------------------- what is told


def test_words_of_the_server_are_cut_and_cleaned() -> None:
    """Neither our key, nor a folder of the server's, nor a proxy's page reaches a client."""
    text = f"cannot open [/srv/models/secret dir/x.gguf], C:\\models\\a.ckpt with {KEY} " + "x" * 600
    body = json.dumps({"error": "server_error", "message": text}).encode()
    told = refusal(500, {}, body, Secret(KEY), "home").details
    assert told["vendor_message"].startswith("cannot open [(path) dir/x.gguf], (path) with *** xxx")
    assert (len(told["vendor_message"]), told["vendor_code"], told["status"]) == (500, "server_error", 500)
    page = refusal(403, {}, b"<html>intranet</html>", Secret(KEY), "home").details
    assert (page["vendor_message"], page["vendor_code"]) == ("", "")
    assert refusal(400, {}, b'{"error": "empty body"}', Secret(""), "home").details["vendor_message"] == "empty body"


async def test_failed_job_tells_the_servers_reason(standin: StandIn) -> None:
    """Type and message, and what may help; it counts as the server's failure and not the request's."""
    standin.script(Rule(do=Special("fail", message="no tensor in /srv/models/x.gguf")))
    async with adapter(standin.url) as upstream:
        found = await fault(upstream.run(order(upstream)))
    assert found.details == {
        "upstream": "home",
        "retryable": True,
        "vendor_code": "generation_failed",
        "vendor_message": "no tensor in (path)",
    }
    assert found.message == "the server could not make the picture; a smaller one, or fewer, may do"
    odd = state_of(b'{"status": "failed", "error": "why"}')
    assert odd is not None
    assert failed(odd, Secret(""), "home").details["vendor_message"] == ""


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{}", b'{"id": 7}', b'{"id": "../x"}', b'{"id": ""}', b"\xff"])
def test_odd_answer_names_no_job(body: bytes) -> None:
    """What is no id is not put into a path."""
    assert accepted(body) is None
    assert state_of(body) is None


async def test_environment_names_no_proxy(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment would see prompts, and the key of the one before the server."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with adapter(standin.url) as upstream:
        await reports(upstream, order(upstream))
    assert standin.calls == 1


async def test_key_goes_along_only_where_there_is_one() -> None:
    """The server knows no keys; a proxy before it may."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_server(serve) as url:
        for key in (KEY, ""):
            async with adapter(url, asked=False, api_key=key) as upstream:
                await upstream.probe()
    await until(lambda: len(heads) == 2)
    assert [b"Authorization: Bearer " + KEY.encode() in head for head in heads] == [True, False]
    assert b"Authorization" not in heads[1]
