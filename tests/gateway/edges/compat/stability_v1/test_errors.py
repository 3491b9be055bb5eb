"""What goes wrong at the v1 door, in the vendor's words: each status, each name, one shape."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.core.records import Plan
from gateway.core.reports import Outcome, UpstreamFault
from gateway.edges.compat.dialect import CODES
from gateway.edges.compat.stability_v1.tables import ERRORS
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door
from tests.gateway.edges.compat.stability_v1.test_routes import ASKED, ENGINE, INIT, TEXT, b64, form
from tests.pictures import flat

Json = dict[str, Any]
LONG = [{"text": "x" * 2001}]
SHAPE = {"id", "name", "message"}


def told(answer: Answer) -> tuple[int, str]:
    """Return status and name of a refusal, which has the one shape."""
    assert set(answer.json) == SHAPE, answer.json
    assert all(isinstance(value, str) and value for value in answer.json.values())
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, answer.json["name"]


def test_every_code_has_its_word() -> None:
    """A code without a row would be an error about an error."""
    assert ERRORS.keys() == CODES


BODIES: list[tuple[Json, str, str]] = [
    ({"text_prompts": []}, "bad_request", "text_prompts"),
    ({"text_prompts": [{"text": ""}]}, "bad_request", "text_prompts[0].text"),
    ({"text_prompts": LONG}, "bad_request", "text_prompts[0].text"),
    ({"text_prompts": [{"weight": 1}]}, "bad_request", "text_prompts[0].text"),
    ({"text_prompts": "a lighthouse"}, "bad_request", "text_prompts"),
    ({"text_prompts": None}, "bad_request", "text_prompts"),
    ({"cfg_scale": -0.1}, "bad_request", "cfg_scale"),
    ({"cfg_scale": 35.1}, "bad_request", "cfg_scale"),
    ({"cfg_scale": "7"}, "bad_request", "cfg_scale"),
    ({"steps": 9}, "bad_request", "steps"),
    ({"steps": 151}, "bad_request", "steps"),
    ({"samples": 0}, "invalid_samples", "samples"),
    ({"samples": 11}, "invalid_samples", "samples"),
    ({"seed": -1}, "bad_request", "seed"),
    ({"seed": 4294967296}, "bad_request", "seed"),
    ({"sampler": "K_EULER_X"}, "bad_request", "sampler"),
    ({"style_preset": "nice"}, "bad_request", "style_preset"),
    ({"clip_guidance_preset": "WILD"}, "bad_request", "clip_guidance_preset"),
    ({"width": 130}, "invalid_height_or_width", "width"),
    ({"height": 64}, "invalid_height_or_width", "height"),
]
"""What the vendor refuses as well, by the same name."""
OUR_BODIES: list[tuple[Json, str, str]] = [
    ({"samples": 9}, "invalid_samples", "samples"),  # the model's most is 8
    ({"sampler": "DDIM"}, "bad_request", "sampler"),  # none of the model's
    ({"width": 4096}, "invalid_height_or_width", "width"),
    ({"width": 2048, "height": 2048}, "invalid_pixel_count", "width"),
    ({"text_prompts": [{"text": "fog", "weight": -1}]}, "bad_request", "text_prompts"),
]
"""What this model cannot, or only we refuse."""


async def test_wrong_bodies_are_refused_as_the_vendor_refuses_them(door: Door) -> None:
    """The same status and name as the stand-in's, and the field in the message; nothing was submitted."""
    async with StandIn(key=door.running.key) as standin, aiohttp.ClientSession() as client:
        for body, name, field in [*BODIES, *OUR_BODIES]:
            answer = await door.ask("POST", TEXT, ASKED | body)
            assert (*told(answer), answer.json["message"].partition(":")[0]) == (400, name, field), body
            if (body, name, field) in BODIES:
                path = standin.url + TEXT
                sane = ASKED | {"width": 512, "height": 512}  # the vendor's engine draws nothing as small as ours
                headers = {"Authorization": f"Bearer {door.running.key}"}
                async with client.post(path, json=sane | body, headers=headers) as theirs:
                    assert ((await theirs.json())["name"], theirs.status) == (name, 400), body
    assert door.easel.orders == []


@pytest.mark.parametrize("path,fields,name,field", [
    ("image-to-image", {}, "bad_request", "init_image"),
    ("image-to-image", {"init_image": b"no picture"}, "invalid_mime_type", "init_image"),
    ("image-to-image", {"init_image": INIT[:20]}, "bad_request", "init_image"),
    ("image-to-image", {"init_image": flat(0, (130, 129))}, "invalid_image_dimensions", "init_image"),
    ("image-to-image", {"init_image": INIT, "image_strength": "1.1"}, "bad_request", "image_strength"),
    ("image-to-image", {"init_image": INIT, "init_image_mode": "NO"}, "bad_request", "init_image_mode"),
    ("image-to-image/masking", {"init_image": INIT}, "bad_request", "mask_source"),
    ("image-to-image/masking", {"init_image": INIT, "mask_source": "MASK_IMAGE_WHITE"}, "invalid_mask_image",
     "mask_image"),
    ("image-to-image/masking", {"init_image": INIT, "mask_source": "MASK_IMAGE_WHITE", "mask_image": flat(0, (64, 64))},
     "invalid_mask_image", "mask_image"),
    ("image-to-image/masking", {"init_image": INIT, "mask_source": "MASK_IMAGE_BLACK", "mask_image": INIT[:200]},
     "bad_request", "mask_image"),
    ("image-to-image-inpainting", {"init_image": INIT}, "invalid_mask_image", "mask_image"),
    ("text-to-image-controlnet", {"controlnet_type": "canny"}, "bad_request", "init_image"),
    ("text-to-image-controlnet", {"controlnet_type": "magic", "init_image": INIT}, "bad_request", "controlnet_type"),
    ("text-to-image-controlnet", {"controlnet_weight": "2.5", "init_image": INIT}, "bad_request", "controlnet_weight"),
    ("image-to-image/upscale", {"image": INIT, "width": 512, "height": 512}, "invalid_height_or_width", "width"),
    ("image-to-image/upscale", {"image": INIT, "width": 511}, "invalid_height_or_width", "width"),
    ("image-to-image/upscale", {}, "bad_request", "image"),
    ("image-to-image/upscale", {"image": INIT, "width": 1344}, "invalid_pixel_count", "width"),
])  # fmt: skip
async def test_wrong_forms_are_refused(door: Door, path: str, fields: Json, name: str, field: str) -> None:
    """By the vendor's names of them, with the field."""
    answer = await door.ask("POST", f"{ENGINE}/{path}", form(**{"x": b"1", **fields}))
    assert (*told(answer), answer.json["message"].partition(":")[0]) == (400, name, field)


async def test_what_is_no_request_at_all_is_refused(door: Door) -> None:
    """Broken JSON, broken forms, odd `Accept`, broken base64."""
    cases: list[tuple[Any, dict[str, str]]] = [
        (b"{", {}),
        (b"[]", {}),
        (b"", {}),
        (b"--x\r\n", {"content_type": "multipart/form-data; boundary=x"}),
        (b"--x--", {"content_type": "multipart/form-data"}),
        (ASKED, {"accept": "text/html"}),
        (ASKED | {"samples": 2}, {"accept": "image/png"}),
    ]
    for body, headers in cases:
        assert told(await door.ask("POST", TEXT, body, **headers)) == (400, "bad_request"), body
    data = ASKED | {"init_image": "@@@", "controlnet_type": "canny"}
    assert told(await door.ask("POST", f"{TEXT}-controlnet", data)) == (400, "bad_request")


async def test_used_up_rate_says_when_to_come_back(door: Door) -> None:
    """429 with `Retry-After` and the limit; a good answer tells what is left."""
    key = await door.key_of("slow", Plan(submits_per_second=1.0))
    first = await door.ask("POST", TEXT, ASKED, key=key)
    assert (first.status, first.headers["RateLimit"][:14]) == (200, '"submits";r=1;')
    answers = [await door.ask("POST", TEXT, ASKED, key=key, prefer="respond-async") for _ in range(12)]
    last = answers[-1]
    assert told(last) == (429, "rate_limit_exceeded")
    assert (last.headers["Retry-After"], last.headers["RateLimit"]) == ("1", '"submits";r=0;t=2')
    assert not [name for name in last.headers if name.lower().startswith("x-ratelimit")]


FAULTS = [
    ("content_filtered", 400, "invalid_prompts"),
    ("upstream_error", 500, "server_error"),
    ("out_of_memory", 500, "server_error"),
    ("outcome_unknown", 500, "server_error"),
    ("invalid_output", 500, "server_error"),
    ("internal", 500, "server_error"),
    ("insufficient_credits", 402, "insufficient_balance"),
    ("adapter_incompatible", 422, "bad_request"),
    ("model_unavailable", 503, "service_unavailable"),
]


async def test_job_that_fails_is_told_with_its_id(door: Door) -> None:
    """What the job ended with, at the blocked call and at its status."""
    for code, status, name in FAULTS:
        door.easel.fault = UpstreamFault(Outcome.FAILED, code, "as the test says")
        answer = await door.ask("POST", TEXT, ASKED)
        assert told(answer) == (status, name), code
        again = await door.ask("GET", f"/v1/generation/{answer.headers['X-Job-Id']}/status")
        assert (again.json["state"], again.json["error"]["name"], again.json["artifacts"]) == ("failed", name, [])


async def test_key_used_for_another_body_is_refused(door: Door) -> None:
    """The same key joins its job; with another body it is 422, as the header's draft has it."""
    one = await door.ask("POST", TEXT, ASKED, idempotency_key="order 17: first/second?")
    two = await door.ask("POST", TEXT, ASKED, idempotency_key="order 17: first/second?")
    assert (one.body, one.headers["X-Job-Id"]) == (two.body, two.headers["X-Job-Id"])
    assert len(door.easel.orders) == 1
    answer = await door.ask("POST", TEXT, ASKED | {"seed": 9}, idempotency_key="order 17: first/second?")
    assert told(answer) == (422, "idempotency_conflict")


async def test_bare_picture_gives_up_at_its_limit(tmp_path: Path) -> None:
    """408 with the job's id, and the job goes on."""
    async with open_door(tmp_path, compat__picture_wait_ms=50) as door:
        door.easel.hold = asyncio.Event()
        answer = await door.ask("POST", TEXT, ASKED, accept="image/png")
        assert told(answer) == (408, "request_timeout")
        door.easel.hold.set()
        path = f"/v1/generation/{answer.headers['X-Job-Id']}/status"
        while (await door.ask("GET", path)).json["state"] != "completed":
            await asyncio.sleep(0.01)


async def test_failure_of_ours_is_said_in_the_dialect(door: Door) -> None:
    """500 in its shape; the id is the log's."""
    door.running.gateway.node.admission._inputs = None  # type: ignore[assignment, method-assign]
    answer = await door.ask("POST", TEXT, ASKED)
    assert told(answer) == (500, "server_error")
    assert answer.json["id"] == answer.headers["X-Request-Id"]


async def test_model_that_can_less_leaves_out_what_the_vendor_would(tmp_path: Path) -> None:
    """An engine without the task is as one that is not there; hints that it has no use for are told and left out."""
    plain = replace(EASEL, tasks={"txt2img": frozenset({"prompt", "width", "height", "steps", "seed", "n"})})
    async with open_door(tmp_path, Easel(plain)) as door:
        data = ASKED | {"init_image": b64(INIT)}
        assert told(await door.ask("POST", f"{TEXT}-controlnet", data)) == (404, "not_found")
        prompts = [{"text": "a"}, {"text": "b", "weight": 2}, {"text": "c", "weight": -2}]
        more = {"cfg_scale": 9, "sampler": "K_HEUN", "style_preset": "anime", "text_prompts": prompts}
        answer = await door.ask("POST", TEXT, ASKED | more)
        ignored = "cfg_scale, sampler, style_preset, text_prompts"
        assert (answer.status, answer.headers["X-Ignored"]) == (200, ignored)
        assert [part.text for part in door.easel.orders[-1].request.prompts] == ["a", "b"]
