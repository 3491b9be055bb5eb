"""What goes wrong at the v2beta door, in the vendor's words: each status, each name, one shape."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.core.records import Plan
from gateway.core.reports import Outcome, UpstreamFault
from gateway.edges.compat.dialect import CODES
from gateway.edges.compat.stability_v2beta.tables import ERRORS, UNKNOWN
from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door, Easel, open_door
from tests.gateway.edges.compat.stability_v2beta.conftest import IMAGE, MODEL, PICTURE, RESULTS, form
from tests.pictures import flat

CORE = f"{IMAGE}generate/core"
ASKED: dict[str, Any] = {"prompt": "a lighthouse", "seed": 7}
WORDS: dict[str, Any] = {"prompt": "a boat"}
DRAWN: dict[str, Any] = {**WORDS, "image": PICTURE}


def told(answer: Answer) -> tuple[int, str]:
    """Return status and name of a refusal, which has the one shape."""
    assert set(answer.json) == {"id", "name", "errors"}, answer.json
    assert isinstance(answer.json["id"], str)
    assert answer.json["errors"]
    assert all(isinstance(error, str) and error for error in answer.json["errors"])
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, answer.json["name"]


def field(answer: Answer) -> str:
    """Return the field that a refusal names."""
    return str(answer.json["errors"][0]).partition(":")[0]


def test_every_code_has_its_word() -> None:
    """A code without a row would be an error about an error."""
    assert ERRORS.keys() == CODES


FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("generate/core", {}, "prompt"),
    ("generate/core", {"prompt": ""}, "prompt"),
    ("generate/core", {"prompt": "x" * 10_001}, "prompt"),
    ("generate/core", {**WORDS, "negative_prompt": "x" * 10_001}, "negative_prompt"),
    ("generate/core", {**WORDS, "aspect_ratio": "4:3"}, "aspect_ratio"),
    ("generate/core", {**WORDS, "seed": -1}, "seed"),
    ("generate/core", {**WORDS, "seed": 4294967295}, "seed"),
    ("generate/core", {**WORDS, "seed": "7.5"}, "seed"),
    ("generate/core", {**WORDS, "seed": ""}, "seed"),
    ("generate/core", {**WORDS, "style_preset": "nice"}, "style_preset"),
    ("generate/core", {**WORDS, "output_format": "gif"}, "output_format"),
    ("generate/ultra", DRAWN, "strength"),
    ("generate/ultra", {**WORDS, "strength": 0.5}, "strength"),
    ("generate/ultra", {**DRAWN, "strength": 1.1}, "strength"),
    ("generate/ultra", {**DRAWN, "strength": "nan"}, "strength"),
    ("generate/ultra", {**WORDS, "image": b"no picture", "strength": 0.5}, "image"),
    ("generate/sd3", {**WORDS, "mode": "image-to-image", "strength": 0.5}, "image"),
    ("generate/sd3", {**DRAWN, "mode": "image-to-image"}, "strength"),
    ("generate/sd3", {**DRAWN, "mode": "image-to-image", "strength": 1, "aspect_ratio": "1:1"}, "aspect_ratio"),
    ("generate/sd3", {**WORDS, "mode": "video"}, "mode"),
    ("generate/sd3", {**WORDS, "strength": 0.5}, "strength"),
    ("generate/sd3", DRAWN, "image"),
    ("generate/sd3", {**WORDS, "model": "sd2"}, "model"),
    ("generate/sd3", {**WORDS, "cfg_scale": 0.5}, "cfg_scale"),
    ("generate/sd3", {**WORDS, "cfg_scale": 11}, "cfg_scale"),
    ("edit/inpaint", WORDS, "image"),
    ("edit/inpaint", {"image": PICTURE}, "prompt"),
    ("edit/inpaint", {**DRAWN, "mask": b"no picture"}, "mask"),
    ("edit/inpaint", {**DRAWN, "grow_mask": 101}, "grow_mask"),
    ("edit/outpaint", {"left": 5}, "image"),
    ("edit/outpaint", {"image": PICTURE}, "left, right, up, down"),
    ("edit/outpaint", {"image": PICTURE, "left": 2001}, "left"),
    ("edit/outpaint", {"image": PICTURE, "up": -1}, "up"),
    ("edit/outpaint", {"image": PICTURE, "down": 1, "creativity": 2}, "creativity"),
    ("edit/search-and-replace", DRAWN, "search_prompt"),
    ("edit/search-and-replace", {**WORDS, "search_prompt": "x"}, "image"),
    ("edit/search-and-replace", {**DRAWN, "search_prompt": "x", "grow_mask": 21}, "grow_mask"),
    ("edit/remove-background", {}, "image"),
    ("edit/remove-background", {"image": PICTURE, "output_format": "jpeg"}, "output_format"),
    ("control/sketch", WORDS, "image"),
    ("control/structure", {**DRAWN, "control_strength": -0.1}, "control_strength"),
    ("control/style", {**DRAWN, "fidelity": 1.5}, "fidelity"),
    ("control/style-transfer", {"init_image": PICTURE}, "style_image"),
    ("control/style-transfer", {"style_image": PICTURE}, "init_image"),
    ("control/style-transfer", {"init_image": PICTURE, "style_image": PICTURE, "change_strength": 0},
     "change_strength"),
    ("upscale/fast", {}, "image"),
    ("upscale/conservative", {"image": PICTURE}, "prompt"),
    ("upscale/conservative", {**DRAWN, "creativity": 0.1}, "creativity"),
    ("upscale/creative", {**DRAWN, "creativity": 0.6}, "creativity"),
    ("upscale/creative", WORDS, "image"),
]  # fmt: skip
"""What the vendor refuses as well."""
OUR_FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("generate/core", {"prompt": "  "}, "prompt"),
    ("edit/search-and-replace", {**DRAWN, "search_prompt": " "}, "search_prompt"),
    ("control/style-transfer", {"init_image": PICTURE, "style_image": PICTURE}, "prompt"),  # the task needs words
    ("edit/inpaint", {**WORDS, "image": PICTURE[:60]}, "image"),
    ("edit/outpaint", {"image": PICTURE, "left": 2000}, "image"),  # larger than the model draws
    ("edit/remove-background", {"image": flat(0, (131, 97))}, "image"),  # a size that it does not draw
]
"""What this model cannot, or only we refuse."""


async def test_wrong_forms_are_refused_as_the_vendor_refuses_them(door: Door) -> None:
    """The same status and name as the stand-in's, and the same field first; nothing was submitted."""
    async with StandIn(key=door.running.key, limit=None) as standin, aiohttp.ClientSession() as client:
        headers = {"Authorization": f"Bearer {door.running.key}"}
        for path, fields, name in FORMS:
            answer = await door.ask("POST", IMAGE + path, form(**fields))
            assert (*told(answer), field(answer)) == (400, "bad_request", name), (path, fields)
            async with client.post(standin.url + IMAGE + path, data=form(**fields), headers=headers) as theirs:
                refused = await theirs.json()
                assert (theirs.status, refused["name"]) == (400, "bad_request"), (path, fields)
                assert name in {error.partition(":")[0] for error in refused["errors"]}, (path, fields, refused)
        for path, fields, name in OUR_FORMS:
            answer = await door.ask("POST", IMAGE + path, form(**fields))
            assert (*told(answer), field(answer)) == (400, "bad_request", name), (path, fields)
    assert door.easel.orders == []


async def test_what_is_no_form_at_all_is_refused_as_by_the_vendor(door: Door) -> None:
    """JSON, a form without files, a broken one, an odd `Accept`, a client that says too much of itself."""
    cases: list[tuple[Any, dict[str, str]]] = [
        (b'{"prompt": "x"}', {"content_type": "application/json"}),
        (b"prompt=x", {"content_type": "application/x-www-form-urlencoded"}),
        (b"", {"content_type": "multipart/form-data"}),
        (b"--x\r\n", {"content_type": "multipart/form-data; boundary=x"}),
        (None, {"accept": "text/html"}),
        (None, {"accept": "image/png"}),
        (None, {"stability_client_id": "x" * 257}),
    ]
    async with StandIn(key=door.running.key, limit=None) as standin, aiohttp.ClientSession() as client:
        for body, headers in cases:
            answer = await door.ask("POST", CORE, form(**ASKED) if body is None else body, **headers)
            assert told(answer) == (400, "bad_request"), headers
            theirs = {name.replace("_", "-"): value for name, value in headers.items()}
            theirs["Authorization"] = f"Bearer {door.running.key}"
            data = form(**ASKED) if body is None else body
            async with client.post(standin.url + CORE, data=data, headers=theirs) as refused:
                assert (refused.status, (await refused.json())["name"]) == (400, "bad_request"), headers


async def test_statuses_before_a_job_are_true(door: Door) -> None:
    """401, 403, 404, 405, 413 and what they carry, as far as the vendor has them by the same names."""
    answer = await door.ask("POST", CORE, form(**ASKED), key=None)
    assert (*told(answer), answer.headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")
    assert told(await door.ask("GET", f"{RESULTS}x", key="sk-sl-nobody")) == (401, "unauthorized")
    assert told(await door.ask("POST", f"{IMAGE}generate/huge", form(**ASKED))) == (404, "not_found")
    assert told(await door.ask("POST", "/v2beta/image-to-video", form(**ASKED))) == (404, "not_found")
    for path in (RESULTS, f"{IMAGE}upscale/creative/result/"):
        for job in ("x", "01JD9Z6Q8M4T7V2XK3B5N0RCEW", "01JD9Z6Q8M4T7V2XK3B5N0RCEW.webp", "a.gif"):
            assert told(await door.ask("GET", path + job)) == (404, "generation_not_found")
    answer = await door.ask("GET", CORE)
    assert (*told(answer), answer.headers["Allow"]) == (405, "method_not_allowed", "POST")
    for size in (24_000_000, 34_000_000):  # over what a picture may have, and over what a request may
        answer = await door.ask("POST", f"{IMAGE}upscale/fast", form(image=PICTURE + bytes(size)))
        assert told(answer) == (413, "payload_too_large")
    assert "X-Job-Id" not in answer.headers
    wide = flat(0, (20_000, 4000), "1")
    assert told(await door.ask("POST", f"{IMAGE}upscale/fast", form(image=wide))) == (400, "bad_request")
    token = await door.ask("POST", "/v1/auth/token", {"api_key": door.running.key, "scopes": ["read"]}, key=None)
    answer = await door.ask("POST", CORE, form(**ASKED), key=token.json["access_token"])
    assert told(answer) == (403, "permission_denied")


@pytest.mark.parametrize("path", sorted(UNKNOWN))
async def test_what_nothing_here_can_do_is_said(door: Door, path: str) -> None:
    """404 with the reason, and not the one of a path that nobody has; to whoever may generate."""
    answer = await door.ask("POST", IMAGE + path, form(image=PICTURE, prompt="x"))
    assert told(answer) == (404, "not_found")
    assert answer.json["errors"] == [UNKNOWN[path]]
    assert told(await door.ask("POST", IMAGE + path, form(image=PICTURE), key=None)) == (401, "unauthorized")


async def test_used_up_rate_says_when_to_come_back(door: Door) -> None:
    """429 with `Retry-After` and the limit; a good answer tells what is left."""
    key = await door.key_of("slow", Plan(submits_per_second=1.0))
    first = await door.ask("POST", CORE, form(**ASKED), key=key)
    assert (first.status, first.headers["RateLimit"][:14]) == (200, '"submits";r=1;')
    answers = [await door.ask("POST", CORE, form(**ASKED), key=key, prefer="respond-async") for _ in range(12)]
    assert told(answers[-1]) == (429, "rate_limit_exceeded")
    assert answers[-1].headers["Retry-After"] == "1"


async def test_too_many_jobs_at_once_say_so(door: Door) -> None:
    """The plan's jobs are another limit than its rate; an asynchronous service is held to it as well."""
    key = await door.key_of("narrow", Plan(max_jobs=1))
    door.easel.hold = asyncio.Event()
    assert (await door.ask("POST", f"{IMAGE}upscale/creative", form(**DRAWN), key=key)).status == 200
    answer = await door.ask("POST", f"{IMAGE}upscale/creative", form(**DRAWN), key=key)
    assert told(answer) == (429, "rate_limit_exceeded")
    assert answer.headers["RateLimit"] == '"jobs";r=0;t=1'
    door.easel.hold.set()


FAULTS = [
    ("content_filtered", 403, "content_moderation"),
    ("upstream_error", 500, "internal_error"),
    ("out_of_memory", 500, "internal_error"),
    ("outcome_unknown", 500, "internal_error"),
    ("invalid_output", 500, "internal_error"),
    ("internal", 500, "internal_error"),
    ("insufficient_credits", 402, "payment_required"),
    ("invalid_param", 400, "bad_request"),
    ("model_unavailable", 503, "service_unavailable"),
]


async def test_job_that_fails_is_told_with_its_id(door: Door) -> None:
    """What the job ended with, at the blocked call and at its result; JSON whatever the client accepts."""
    for code, status, name in FAULTS:
        door.easel.fault = UpstreamFault(Outcome.FAILED, code, "as the test says")
        answer = await door.ask("POST", CORE, form(**ASKED), accept="image/*")
        assert told(answer) == (status, name), code
        again = await door.ask("GET", RESULTS + answer.headers["X-Job-Id"], accept="image/*")
        assert told(again) == (status, name), code


async def test_key_used_for_another_body_is_refused(door: Door) -> None:
    """422, as the header's draft has it."""
    await door.ask("POST", CORE, form(**ASKED), idempotency_key="k")
    answer = await door.ask("POST", CORE, form(**ASKED | {"seed": 9}), idempotency_key="k")
    assert told(answer) == (422, "idempotency_conflict")


async def test_bare_picture_gives_up_at_its_limit_and_json_does_not(tmp_path: Path) -> None:
    """408 with the job's id, and the job goes on; JSON begins with white space."""
    async with open_door(tmp_path, Easel(MODEL), compat__picture_wait_ms=50, compat__silence_ms=50) as door:
        door.easel.hold = asyncio.Event()
        answer = await door.ask("POST", CORE, form(**ASKED))
        assert told(answer) == (408, "request_timeout")
        waiting = asyncio.ensure_future(door.ask("POST", CORE, form(**ASKED), accept="application/json"))
        await asyncio.sleep(0.2)
        door.easel.hold.set()
        assert (await waiting).body[:1] == b" "
        assert (await waiting).json["finish_reason"] == "SUCCESS"
        while (done := await door.ask("GET", RESULTS + answer.headers["X-Job-Id"])).status == 202:
            await asyncio.sleep(0.01)
        assert done.headers["Seed"] == "7"


async def test_canceled_job_is_told(door: Door) -> None:
    """Whoever waits for a job that somebody cancels is told so."""
    door.easel.hold = asyncio.Event()
    asked = asyncio.ensure_future(door.ask("POST", CORE, form(**ASKED), idempotency_key="k"))
    while not (listed := (await door.ask("GET", "/v1/jobs?ref=k")).json["jobs"]):
        await asyncio.sleep(0.01)
    await door.ask("DELETE", f"/v1/jobs/{listed[0]['job']}")
    assert told(await asked) == (409, "canceled")


async def test_failure_of_ours_is_said_in_the_dialect(door: Door) -> None:
    """500 in its shape; the id is the log's."""
    door.running.gateway.node.admission._inputs = None  # type: ignore[assignment, method-assign]
    answer = await door.ask("POST", CORE, form(**ASKED))
    assert told(answer) == (500, "internal_error")
    assert answer.json["id"] == answer.headers["X-Request-Id"]


async def test_model_that_can_less_leaves_out_hints_and_refuses_tasks(tmp_path: Path) -> None:
    """A service that no model does is as one that is not there."""
    plain = replace(MODEL, tasks={"txt2img": frozenset({"prompt", "seed"})}, controls=())
    async with open_door(tmp_path, Easel(plain)) as door:
        more = {"negative_prompt": "fog", "style_preset": "anime", "cfg_scale": 5, "aspect_ratio": "1:1"}
        answer = await door.ask("POST", f"{IMAGE}generate/sd3", form(**ASKED, **more))
        assert (answer.status, answer.headers["X-Ignored"]) == (
            200,
            "aspect_ratio, cfg_scale, negative_prompt, style_preset",
        )
        transfer = {"prompt": "x", "init_image": PICTURE, "style_image": PICTURE}
        for path, fields in (
            ("edit/inpaint", DRAWN),
            ("upscale/fast", {"image": PICTURE}),
            ("control/style", DRAWN),
            ("control/style-transfer", transfer),
        ):
            assert told(await door.ask("POST", IMAGE + path, form(**fields))) == (404, "not_found"), path
