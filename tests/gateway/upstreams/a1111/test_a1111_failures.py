"""Each failure of a server or of the way there, told as what it means; point 7 of what the real servers do."""

import json
from typing import Any

import pybase64
import pytest

from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.upstreams.a1111.wire import from_vendor, job_failure, plain, refusal
from load.upstreams.a1111 import Crash, JobError, out_of_memory
from load.upstreams.faults import Cut, Drip, Garbage, Refuse, Rule, Stall
from protocol.errors import ClientFault
from tests.gateway.upstreams.a1111.server import (
    CAT,
    PASSWORD,
    USER,
    StandIn,
    adapter,
    fault,
    flat,
    images,
    order,
    pixel,
    until,
)

REFUSED, FAILED, UNKNOWN = Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN
ANSWERS = [
    # the fault, then the outcome, the code and the marks that are set
    (Refuse(429, retry_after=7), REFUSED, "model_unavailable", {"locked_out": True, "retry_after_seconds": 7}),
    (Refuse(503), REFUSED, "model_unavailable", {}),
    (Refuse(401), FAILED, "upstream_error", {"credential": True}),
    (Refuse(400), FAILED, "upstream_error", {}),
    (Refuse(404), FAILED, "upstream_error", {}),
    (Refuse(422), FAILED, "upstream_error", {}),
    (Refuse(404, message="Sampler not found"), FAILED, "sampler_not_supported", {}),
    (Refuse(400, message="Sampler not found"), FAILED, "sampler_not_supported", {}),
    (Refuse(500), FAILED, "upstream_error", {}),
    (Refuse(502), UNKNOWN, "outcome_unknown", {}),
    (Refuse(504), UNKNOWN, "outcome_unknown", {}),
    (JobError("RuntimeError", "made up"), FAILED, "upstream_error", {}),
    (JobError("RuntimeError", "MPS backend out of memory"), FAILED, "out_of_memory", {}),
    (JobError("torch.cuda.OutOfMemoryError", "CUDA ..."), FAILED, "out_of_memory", {}),
    (out_of_memory(at_step=3), FAILED, "out_of_memory", {}),
    (Crash(at_step=3), UNKNOWN, "outcome_unknown", {}),
    (Cut(0), UNKNOWN, "outcome_unknown", {}),
    (Cut(0, "rst"), UNKNOWN, "outcome_unknown", {}),
    (Cut(300), UNKNOWN, "outcome_unknown", {}),
    (Cut(-1), UNKNOWN, "outcome_unknown", {}),
    (Stall(0), UNKNOWN, "outcome_unknown", {}),
    (Stall(300), UNKNOWN, "outcome_unknown", {}),
    (Garbage("not_json"), FAILED, "invalid_output", {}),
    (Garbage("truncated_json"), FAILED, "invalid_output", {}),
    (Garbage("wrong_base64"), FAILED, "invalid_output", {}),
    (Garbage("not_png"), FAILED, "invalid_output", {}),
    (Garbage("empty"), FAILED, "invalid_output", {}),
    (Garbage("huge", size_bytes=3_000_000), FAILED, "invalid_output", {}),
]


IN_EVERY_FLAVOUR = [row for row in ANSWERS if isinstance(row[0], Refuse | JobError)]
TABLE = [("forge", *row) for row in ANSWERS] + [("a1111", *row) for row in IN_EVERY_FLAVOUR]


@pytest.mark.parametrize("flavour,what,outcome,code,marks", TABLE, ids=lambda value: str(value) if value else "-")
async def test_failure_is_told_by_the_table(
    flavour: Any, what: Any, outcome: Outcome, code: str, marks: dict[str, Any]
) -> None:
    """Point 7: each way to fail has its outcome in every flavour's words, and none is tried again by the adapter."""
    async with StandIn(flavour=flavour, web=True, service_time=0.0005) as standin:
        sent: list[None] = []
        patience = 0.25 if isinstance(what, Stall) else 5.0
        async with adapter(standin.url, timeout_seconds=patience, max_answer_bytes=2_000_000) as upstream:
            standin.script(Rule(do=what))
            found = await fault(upstream, order(upstream, sent=lambda: sent.append(None)))
        assert (found.outcome, found.code) == (outcome, code)
        plain_marks = {"locked_out": False, "retry_after_seconds": None, "credential": False, "charged": False}
        assert {name: getattr(found, name) for name in plain_marks} == {**plain_marks, **marks}
        assert (standin.calls, len(sent)) == (1, 1)


async def test_slow_answer_is_waited_for(standin: StandIn) -> None:
    """An answer in small pieces is an answer."""
    async with adapter(standin.url) as upstream:
        standin.script(Rule(do=Drip(piece_bytes=256, pause_seconds=0.001)))
        (made,) = await images(upstream, order(upstream))
    assert pixel(made) == CAT


async def test_lack_of_memory_suggests_a_smaller_picture(standin: StandIn) -> None:
    """Point 7: the same size would fail again, so a smaller one is named; type and message are the server's."""
    async with adapter(standin.url) as upstream:
        standin.script(Rule(do=out_of_memory()))
        found = await fault(upstream, order(upstream, width=1024, height=768))
    assert found.details["suggest"] == {"width": 512, "height": 384}
    assert (found.details["vendor_code"], found.details["status"]) == ("OutOfMemoryError", 500)
    assert found.details["vendor_message"].startswith("CUDA out of memory. Tried to allocate 9.00 GiB")
    assert not found.details["retryable"]


async def test_unknown_sampler_is_refused_before_the_server_hears_of_it(standin: StandIn) -> None:
    """Point 7: Forge would take it and use another one, so only those that it lists can be asked for."""
    async with adapter(standin.url) as upstream:
        with pytest.raises(ClientFault) as caught:
            order(upstream, sampler="nonsense")
    assert (caught.value.code, standin.calls) == ("sampler_not_supported", 0)


async def test_lists_of_problems_become_words(standin: StandIn) -> None:
    """Point 7: 422 comes with a list or with a sentence; of neither are our values told."""
    listed = {"detail": [{"loc": ["body", "steps"], "msg": "not an integer", "input": "secret prompt"}, "odd", {}]}
    for value, words in (
        (listed, "body.steps: not an integer; ?:"),
        ({"detail": "Script 'x' not found"}, "Script 'x' not found"),
        ({"error": "HTTPException", "detail": "Invalid encoded image", "errors": ""}, "Invalid encoded image"),
        ({"error": "ValueError", "detail": "", "errors": "bad unit"}, "bad unit"),
        ({"error": "ValueError", "detail": {"a": 1}, "message": "bad unit"}, "bad unit"),
        ({"error": "ValueError", "detail": [{"loc": 7, "msg": "bad"}]}, "?: bad"),
        ({}, ""),
        ([1], "[1]"),
    ):
        found = refusal(422, {}, json.dumps(value).encode(), Secret(""), "webui")
        assert (found.outcome, found.code, found.details["vendor_message"]) == (FAILED, "upstream_error", words)
    assert refusal(500, {}, b"\xff<html>", Secret(""), "webui").code == "upstream_error"


@pytest.mark.parametrize(
    "words,told",
    [
        ("plain words", "plain words"),
        ("no file /home/me/models/x.safetensors, sorry", "no file ..., sorry"),
        (r"no file 'C:\Users\me\x.ckpt'", "no file '...'"),
        ("missing models/Stable-diffusion/x.ckpt here", "missing ... here"),
        ('Traceback (most recent call last):\n  File "/a/b.py"\nValueError: no', "ValueError: no"),
        ("shape mismatch\nTraceback ...", "shape mismatch"),
        ("got tensor([[0.1, 0.2]], device='cuda:0')", "got ..."),
        ("x" * 9000, "x" * 300),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_words_of_the_server_lose_what_is_nobodys_business(words: str, told: str) -> None:
    """Neither paths nor tensors nor tracebacks reach a client."""
    assert plain(words) == told


def test_password_in_an_error_is_taken_out() -> None:
    """A server that repeats what we sent does not make us repeat it, not even half of it."""
    body = json.dumps({"error": "RuntimeError", "message": "x" * 290 + PASSWORD}).encode()
    found = refusal(500, {}, body, Secret(PASSWORD), "webui")
    assert PASSWORD[:8] not in str(found.details)
    error = job_failure(f"RuntimeError: {PASSWORD}", Secret(PASSWORD), "webui", None)  # type: ignore[arg-type]
    assert (error.details["vendor_message"], error.details["vendor_code"]) == ("***", "RuntimeError")


@pytest.mark.parametrize("refreshes", [True, False])
@pytest.mark.parametrize("flavour", ["auto", "forge", "sdnext"])
async def test_no_byte_out_is_not_sent(flavour: Any, refreshes: bool) -> None:
    """Where nobody listens, nothing was sent, whatever was asked before the work itself."""
    sent: list[None] = []
    async with (
        StandIn(web=True, flavour="sdnext" if flavour == "sdnext" else "forge") as standin,
        adapter(standin.url, flavour=flavour, keepalive_seconds=0) as upstream,
    ):
        asked = order(upstream, sent=lambda: sent.append(None))
        if not refreshes:
            upstream._ways = None
        await standin.kill()
        found = await fault(upstream, asked)
    assert (found.outcome, found.code, sent) == (Outcome.NOT_SENT, "model_unavailable", [])


async def test_question_before_the_work_that_breaks_is_not_sent(standin: StandIn) -> None:
    """What is asked first is not the work: if its answer is lost, the work may still be begun anywhere."""
    async with adapter(standin.url) as upstream:
        asked = order(upstream)
        upstream._ways = None
        standin.script(Rule(do=Cut(0), operation="unknown"))
        found = await fault(upstream, asked)
    assert (found.outcome, standin.calls) == (Outcome.NOT_SENT, 0)


@pytest.mark.parametrize("flavour", ["forge", "a1111", "sdnext"])
async def test_password_opens_the_server(flavour: Any) -> None:
    """Basic auth goes along with everything; a wrong one is a matter of the credential."""
    async with StandIn(flavour=flavour, web=True, auth=f"{USER}:{PASSWORD}", service_time=0.001) as standin:
        async with adapter(standin.url, user=USER, password=PASSWORD) as upstream:
            (made,) = await images(upstream, order(upstream))
            asked = order(upstream)
            assert PASSWORD not in repr(upstream) + repr(upstream._vendor) + repr(upstream._secret)
        async with adapter(standin.url, refreshes=False, user=USER, password="wrong-one") as other:
            found = await fault(other, asked)
    assert made.picture.width == 64
    assert (found.outcome, found.credential) == (FAILED, True)


BAD_INPUTS = {
    "no image": (b"GIF89a" + bytes(50), "unsupported_media"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image_decode_failed"),
    "broken pixels": (flat("red", (32, 32))[:60] + bytes(20), "image_decode_failed"),
    "too many pixels": (flat(0, (5000, 4000), "1"), "payload_too_large"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
@pytest.mark.parametrize("task", ["img2img", "outpaint"])
async def test_unusable_input_image_costs_no_call(standin: StandIn, task: str, name: str) -> None:
    """An input that can't be used is the end, before the server hears of it."""
    content, code = BAD_INPUTS[name]
    async with adapter(standin.url) as upstream:
        more = {"expand": {"left": 8}} if task == "outpaint" else {}
        asked = order(upstream, task, {"init": flat("red")}, **more)
        asked.inputs["init"] = content  # type: ignore[index]
        found = await fault(upstream, asked)
    assert (found.outcome, found.code, standin.calls) == (FAILED, code, 0)


async def test_what_the_server_lost_since_is_told_by_name(standin: StandIn) -> None:
    """A ControlNet model or upscaler that is gone is refused here."""
    async with adapter(standin.url) as upstream:
        control = order(upstream, "controlnet", {"canny": flat("white")})
        larger = order(upstream, "upscale", {"init": flat("red")})
        upstream._offer = type(upstream._offer)()
        found = [await fault(upstream, control), await fault(upstream, larger)]
    assert [one.code for one in found] == ["adapter_not_found", "task_not_supported"]
    assert standin.calls == 0


async def test_answer_with_too_few_pictures_is_unusable(standin: StandIn) -> None:
    """A batch is delivered whole or not at all; what stands in `info` is only believed as far as it can be."""
    async with adapter(standin.url) as upstream:
        asked = order(upstream, count=2)
    coded = pybase64.b64encode(flat("red")).decode()
    for answer in (f'{{"images":["{coded}"]}}', '{"images":null,"info":"{"}', '{"images":[7,7],"info":null}'):
        with pytest.raises(UpstreamFault) as caught:
            from_vendor(asked, answer.encode())
        assert (caught.value.code, caught.value.charged) == ("invalid_output", False)


async def test_server_that_comes_back_works_again(standin: StandIn) -> None:
    """Nothing of a crash stays behind."""
    async with adapter(standin.url) as upstream:
        standin.script(Rule(do=Crash(at_step=2, down_seconds=0.05), times=1))
        found = await fault(upstream)
        await until(lambda: not standin.jobs and standin._runner is not None and bool(standin._runner.addresses))
        (made,) = await images(upstream, order(upstream, id="01KAN0AGAIN"))
    assert (found.outcome, pixel(made)) == (UNKNOWN, CAT)
