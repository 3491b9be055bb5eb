"""Each failure of a server or of the way there, told as what it means for a call."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from gateway.core.reports import Outcome
from gateway.core.secret import Secret
from gateway.upstreams.comfyui.wire import read_history, read_queue, refusal, wrong_inputs
from load.upstreams.comfyui import Library
from load.upstreams.faults import Cut, Garbage, Refuse, Rule, Stall
from tests.gateway.upstreams.comfyui.vendor import (
    TOKEN,
    StandIn,
    adapter,
    asked_for,
    fault,
    flat,
    opened,
    order,
    reports,
)

NOT_SENT, REFUSED, FAILED, UNKNOWN = Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN
ANSWERS = [
    (Refuse(429, retry_after=7), REFUSED, "model_unavailable"),
    (Refuse(503), REFUSED, "model_unavailable"),
    (Refuse(401), FAILED, "upstream_error"),
    (Refuse(403), FAILED, "upstream_error"),
    (Refuse(413), FAILED, "payload_too_large"),
    (Refuse(404), FAILED, "upstream_error"),
    (Cut(0), UNKNOWN, "outcome_unknown"),
    (Cut(0, "rst"), UNKNOWN, "outcome_unknown"),
    (Cut(30), UNKNOWN, "outcome_unknown"),
    (Cut(-1), UNKNOWN, "outcome_unknown"),
    (Stall(0), UNKNOWN, "outcome_unknown"),
    (Garbage("not_json"), UNKNOWN, "outcome_unknown"),
    (Garbage("empty"), UNKNOWN, "outcome_unknown"),
]


@pytest.mark.parametrize("what,outcome,code", ANSWERS, ids=lambda value: str(value) if value else "-")
async def test_failure_of_the_prompt_is_told_by_the_table(what: Any, outcome: Outcome, code: str) -> None:
    """Each way to fail has its outcome, and none is tried again by the adapter."""
    sent: list[None] = []
    rules = [Rule(what, operation="prompt")]
    seconds = 0.4 if isinstance(what, Stall) else 5.0
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url, timeout_seconds=seconds) as upstream:
        found = await fault(upstream, order(upstream, sent=lambda: sent.append(None)))
        assert (found.outcome, found.code) == (outcome, code)
        assert (standin.calls, len(sent)) == (1, 1)
        assert found.locked_out == (what == Refuse(429, retry_after=7))


async def test_error_of_500_is_looked_up() -> None:
    """It may have taken the prompt all the same; then the call goes on, and else it has failed."""
    rules = [Rule(Refuse(500), times=1), Rule(Refuse(500), begun=False, times=1), Rule(Refuse(502), times=1)]
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url) as upstream:
        assert opened(await reports(upstream, order(upstream))).size == (64, 64)
        found = await fault(upstream, order(upstream, seed=8))
        assert (found.outcome, found.code, found.details["status"]) == (FAILED, "upstream_error", 500)
        assert opened(await reports(upstream, order(upstream, seed=9))).size == (64, 64)
        assert standin.calls == 3


async def test_no_server_is_not_sent() -> None:
    """Where nobody listens, nothing was sent; the adapter opens all the same."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with adapter(url, refresh=False, checkpoints=["a.ckpt"]) as upstream:
            assert (await fault(upstream, order(upstream))).outcome is NOT_SENT
            assert (await fault(upstream, order(upstream, "img2img", inputs={"init": flat("red")}))).outcome is NOT_SENT


@pytest.mark.parametrize(
    "what,outcome",
    [(Cut(), NOT_SENT), (Stall(), NOT_SENT), (Refuse(500), REFUSED), (Refuse(413), FAILED), (Garbage(), FAILED)],
)
async def test_upload_that_fails_begins_no_work(what: Any, outcome: Outcome) -> None:
    """The prompt was not sent, so all but a lasting refusal may be tried again."""
    rules = [Rule(what, operation="upload_image")]
    async with StandIn(script=rules) as standin, adapter(standin.url, timeout_seconds=0.3) as upstream:
        found = await fault(upstream, order(upstream, "img2img", inputs={"init": flat("red")}))
        assert (found.outcome, standin.calls) == (outcome, 0)


async def test_model_that_was_removed_is_told_by_name() -> None:
    """The server's own sentence would list its files; ours names the input."""
    library = Library()
    async with StandIn(library=library) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        library.checkpoints = ()
        found = await fault(upstream, asked)
    assert (found.outcome, found.code) == (FAILED, "model_not_found")
    assert found.details["node_errors"] == ["CheckpointLoaderSimple.ckpt_name: value_not_in_list"]
    assert found.details["status"] == 400


async def test_picture_that_is_too_large_or_none_is_invalid() -> None:
    """It is measured before anything else is done with it."""
    async with StandIn(step_time=0, picture_bytes=300_000) as standin:
        async with adapter(standin.url, max_answer_bytes=100_000) as upstream:
            assert (await fault(upstream, order(upstream))).code == "invalid_output"
        standin.script(Rule(Garbage("not_png"), operation="view"))
        async with adapter(standin.url) as upstream:
            assert (await fault(upstream, order(upstream))).code == "invalid_output"


def test_wrong_inputs_of_odd_shapes() -> None:
    """What cannot be read is left out; what is told is plain and bounded."""
    many = {str(n): {"class_type": "K<b>", "errors": [{"type": "t/../x"}]} for n in range(20)}
    assert wrong_inputs(many) == ("Kb: t..x",) * 8
    assert wrong_inputs([]) == wrong_inputs({"1": {"errors": 5}}) == ()


def test_refusal_repeats_no_secret_and_no_path() -> None:
    """Their words may hold what we sent."""
    body = json.dumps({"error": f"no {TOKEN} in /srv/comfyui/x"}).encode()
    found = refusal(400, {}, body, Secret(TOKEN), "comfy")
    assert found.details["vendor_message"] == "no *** in ..."


def test_lists_of_odd_shapes() -> None:
    """Old and new servers' entries have more parts or fewer."""
    item = [0, "p", {"1": {}}, {"client_id": "c", "safelight": "t"}, ["9"], {"sensitive": 1}]
    body = json.dumps({"queue_running": [[], [1, 2, 3, 4], item], "queue_pending": []}).encode()
    for name, tag in (("p", "x"), ("x", "t")):
        found = read_queue(body, name, tag)
        assert found is not None
        assert (found.prompt_id, found.is_running, found.client_id, found.graph) == ("p", True, "c", {"1": {}})
    assert read_queue(body, "x", "x") is None
    shown = {"1": {"text": ["x"]}, "2": {"images": 5}, "3": {"images": [{"filename": "a.png", "type": "temp"}]}}
    entry = read_history(json.dumps({"p": {"outputs": shown}}).encode(), "p", "t")
    assert entry is not None
    assert (entry.is_good, entry.places[0].filename, entry.graph) == (True, "a.png", {})


@asynccontextmanager
async def server(routes: dict[str, Any]) -> AsyncIterator[str]:
    """A server that does what the stand-in never would."""
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", ["/ws", "/upload/image"])
async def test_redirect_is_not_followed(path: str) -> None:
    """A credential goes where it was configured to go and nowhere else, also with a WebSocket's handshake."""
    followed: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        followed.append(request.path)
        return web.Response()

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with (
        server({path: redirect, "/elsewhere": elsewhere}) as url,
        adapter(url, refresh=False, checkpoints=["a.ckpt"]) as upstream,
    ):
        asked = order(upstream, "img2img", inputs={"init": flat("red")}) if path != "/ws" else order(upstream)
        assert (await fault(upstream, asked)).outcome in (NOT_SENT, FAILED)
    assert followed == []


async def test_token_goes_along_with_everything() -> None:
    """Requests and the socket alike carry the bearer, and without one none is sent."""
    async with StandIn(step_time=0) as standin:
        async with adapter(standin.url) as upstream:
            await reports(upstream, order(upstream, "img2img", inputs={"init": flat("red")}))
        assert {one.headers.get("Authorization") for one in standin.requests} == {f"Bearer {TOKEN}"}
        standin.reset()
        async with adapter(standin.url, token=None) as upstream:
            await reports(upstream, order(upstream))
        assert {one.headers.get("Authorization") for one in standin.requests} == {None}
        assert asked_for(standin, "/history/") == 1
