"""What goes wrong at the web UI's door: each status with its form, told before anything is submitted."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.records import Plan
from gateway.edges.compat.a1111.fields import MOST_WORDS
from tests.answers import Answer
from tests.gateway.edges.compat.a1111.test_routes import API, ASKED, INIT, b64, basic
from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door

Json = dict[str, Any]
NAMES = ["error", "detail", "body", "errors"]


def told(answer: Answer) -> tuple[int, Any]:
    """Return the status and what is wrong: a sentence, the place of a field, or the class of a failure."""
    assert answer.headers["Content-Type"] == "application/json"
    if answer.status >= 500:
        assert list(answer.json) == NAMES
        assert answer.json["errors"]
        return answer.status, answer.json["error"]
    assert list(answer.json) == ["detail"]
    detail = answer.json["detail"]
    if isinstance(detail, str):
        return answer.status, detail
    [entry] = detail
    assert list(entry) == ["type", "loc", "msg"]
    return answer.status, (entry["type"], *entry["loc"])


BODIES: list[tuple[Json, str, tuple[Any, ...]]] = [
    ({"steps": "many"}, "int_type", ("steps",)),
    ({"steps": 0}, "int_type", ("steps",)),
    ({"steps": 9999}, "int_type", ("steps",)),
    ({"steps": 200}, "value_error", ("steps",)),
    ({"cfg_scale": "much"}, "float_type", ("cfg_scale",)),
    ({"cfg_scale": 101}, "float_type", ("cfg_scale",)),
    ({"prompt": 7}, "string_type", ("prompt",)),
    ({"prompt": ""}, "value_error", ("prompt",)),
    ({"prompt": "x" * 9000}, "string_too_long", ("prompt",)),
    ({"styles": "photographic"}, "list_type", ("styles",)),
    ({"styles": [7]}, "string_type", ("styles", 0)),
    ({"styles": ["a", "b"]}, "value_error", ("styles",)),
    ({"styles": ["unheard of"]}, "value_error", ("styles",)),
    ({"seed": -2}, "int_type", ("seed",)),
    ({"width": 100}, "value_error", ("width",)),
    ({"height": 4096}, "value_error", ("height",)),
    ({"batch_size": 0}, "int_type", ("batch_size",)),
    ({"n_iter": 65}, "int_type", ("n_iter",)),
    ({"n_iter": 9}, "value_error", ("batch_size",)),
    ({"batch_size": 64, "n_iter": 64}, "int_type", ("batch_size",)),
    ({"tiling": "perhaps"}, "bool_type", ("tiling",)),
    ({"override_settings": []}, "dict_type", ("override_settings",)),
    ({"enable_hr": True}, "value_error", ("enable_hr",)),
    ({"script_name": "loopback"}, "value_error", ("script_name",)),
    ({"alwayson_scripts": {"roop": {"args": [1]}}}, "value_error", ("alwayson_scripts",)),
    (
        {"alwayson_scripts": {"controlnet": {"args": [{"model": "canny"}]}}},
        "value_error",
        ("alwayson_scripts", "controlnet", "image"),
    ),
    (
        {"alwayson_scripts": {"controlnet": {"args": [{"model": "depth", "image": INIT}]}}},
        "value_error",
        ("alwayson_scripts", 0, "role"),
    ),
]


async def test_wrong_fields_are_named_in_a_list(door: Door) -> None:
    """422 with the place of what is wrong, as the web UI's framework has it."""
    for body, kind, place in BODIES:
        assert told(await door.ask("POST", f"{API}/txt2img", ASKED | body)) == (422, (kind, "body", *place)), body
    assert door.easel.orders == []


SENTENCES: list[tuple[str, str, Any, int, str]] = [
    ("POST", "txt2img", ASKED | {"sampler_name": "Heun"}, 400, "Sampler not found"),
    ("POST", "img2img", ASKED, 404, "Init image not found"),
    ("POST", "img2img", ASKED | {"init_images": []}, 404, "Init image not found"),
    ("POST", "img2img", ASKED | {"init_images": ["@@@"]}, 422, "Invalid encoded image"),
    ("POST", "img2img", ASKED | {"init_images": ["http://127.0.0.1/x.png"]}, 422, "Invalid encoded image"),
    ("POST", "img2img", ASKED | {"init_images": [b64(b"no picture")]}, 422, "Invalid encoded image"),
    ("POST", "img2img", ASKED | {"init_images": [INIT], "mask": b64(b"no picture")}, 422, "Invalid encoded image"),
    ("POST", "extra-single-image", {"upscaler_1": "easel"}, 422, "Invalid encoded image"),
    ("POST", "unheard-of", {}, 404, "Not Found"),
    ("GET", "txt2img", None, 405, "Method Not Allowed"),
    ("GET", "jobs/x", None, 404, "there is no such job"),
    ("POST", "options", {"sd_model_checkpoint": "unheard of"}, 404, "there is no such checkpoint"),
]


async def test_sentences(door: Door) -> None:
    """What is wrong with no field in particular is a sentence, where clients may know it the web UI's."""
    for method, path, body, status, sentence in SENTENCES:
        assert told(await door.ask(method, f"{API}/{path}", body)) == (status, sentence), (path, body)
    other = ASKED | {"override_settings": {"sd_model_checkpoint": "unheard of"}}
    assert told(await door.ask("POST", f"{API}/txt2img", other)) == (404, "there is no such model")
    assert told(await door.ask("GET", "/controlnet/unheard-of")) == (404, "Not Found")
    assert (await door.ask("GET", f"{API}/txt2img")).headers["Allow"] == "POST"
    assert door.easel.orders == []


async def test_other_fields_that_are_refused(door: Door) -> None:
    """At the routes that are not generations of words."""
    cases: list[tuple[str, Json, tuple[Any, ...]]] = [
        ("img2img", ASKED | {"init_images": [INIT, INIT]}, ("init_images",)),
        ("img2img", ASKED | {"init_images": [INIT], "latent_mask": INIT}, ("latent_mask",)),
        ("extra-single-image", {"image": INIT}, ("upscaler_1",)),
        ("extra-single-image", {"image": INIT, "upscaler_1": "easel", "gfpgan_visibility": 1}, ("gfpgan_visibility",)),
        ("options", {"sd_vae": "other"}, ("sd_vae",)),
        ("options", {"made\nup": 1}, ()),
        ("options", {"sd_model_checkpoint": 7}, ("override_settings",)),
    ]
    for path, body, place in cases:
        assert told(await door.ask("POST", f"{API}/{path}", body)) == (422, ("value_error", "body", *place)), body
    for broken in (b"{", b"\xff"):
        assert told(await door.ask("POST", f"{API}/txt2img", broken)) == (422, ("json_invalid", "body"))
    assert told(await door.ask("POST", f"{API}/txt2img", b"[]"))[1][:2] == ("dict_type", "body")


@pytest.mark.parametrize("fields", [
    {"prompt": "x" * MOST_WORDS},
    {"override_settings": {"x": "y" * MOST_WORDS}},
    {"styles": ["x"] * MOST_WORDS},
    {"s_noise": [[{"x": 10**99}] * 1999] * 2, "script_args": [10**99] * 1999},
])  # fmt: skip
async def test_what_an_answer_repeats_is_bounded(door: Door, fields: Json) -> None:
    """It is kept while the request waits; pictures and unknown names are not repeated, and may be large."""
    assert told(await door.ask("POST", f"{API}/txt2img", ASKED | fields))[0] == 413
    more = {"unheard_of": "x" * MOST_WORDS, "alwayson_scripts": {"another": {"args": ["x" * MOST_WORDS]}}}
    assert told(await door.ask("POST", f"{API}/img2img", ASKED | more))[0] == 404  # there is no picture


async def test_credentials(door: Door) -> None:
    """401 asks for Basic; a key is the password of any user, and counts as a bearer too."""
    wrong = [None, "Basic", "Basic @@@", "Basic " + b64(b"nocolon"), basic("u", ""), basic("u", "sk-sl-nobody"),
             basic("a b", door.running.key), basic("u" * 129, door.running.key), "Bearer nobody"]  # fmt: skip
    for header in wrong:
        headers = {} if header is None else {"Authorization": header}
        answer = await door.ask("GET", f"{API}/progress", key=None, **headers)
        assert told(answer)[0] == 401, header
        assert answer.headers["WWW-Authenticate"] == "Basic"
    for header in (basic("anybody", door.running.key), basic("", door.running.key), f"Bearer {door.running.key}"):
        assert (await door.ask("GET", f"{API}/progress", key=None, Authorization=header)).status == 200


async def test_a_failure_after_white_space_is_the_same_object(tmp_path: Path) -> None:
    """The status is gone by then."""
    easel = Easel()
    async with open_door(tmp_path, easel, compat__silence_ms=1000) as door:
        easel.hold = asyncio.Event()
        asked = asyncio.create_task(door.ask("POST", f"{API}/txt2img", ASKED))
        await asyncio.sleep(1.5)
        await door.ask("POST", f"{API}/interrupt")
        answer = await asked
    assert (answer.status, answer.body[:1], answer.json["images"]) == (200, b" ", [])


async def test_a_task_that_no_model_does_is_refused_for_that_alone(tmp_path: Path) -> None:
    """And not for the names that only the web UI has."""
    words = replace(EASEL, tasks={"txt2img": EASEL.tasks["txt2img"]})
    async with open_door(tmp_path, Easel(words)) as door:
        answer = await door.ask("POST", f"{API}/img2img", ASKED | {"init_images": [INIT], "mask_blur": 9})
    assert told(answer) == (422, "easel cannot do this task")


async def test_unfinished_pictures_are_kept_for_a_while_only(door: Door) -> None:
    """Of a request that nobody waits for they are hardly ever fetched; and another account's are its own."""
    door.easel.hold = asyncio.Event()
    other = await door.key_of("other", Plan())

    async def interrupted(key: str) -> str:
        path = (await door.ask("POST", f"{API}/txt2img", ASKED, key=key, prefer="respond-async")).headers["Location"]
        await door.ask("POST", f"{API}/interrupt", key=key)
        while (ended := await door.ask("GET", path, key=key)).status == 202:
            await asyncio.sleep(0.01)
        assert (ended.status, ended.json["images"]) == (200, [])
        return path

    theirs = await interrupted(other)
    paths = [await interrupted("") for _ in range(9)]
    assert told(await door.ask("GET", paths[0])) == (500, "InterruptedError")
    assert (await door.ask("GET", paths[1])).status == (await door.ask("GET", theirs, key=other)).status == 200


async def test_an_unfinished_picture_is_forgotten_once_it_was_told(door: Door) -> None:
    """To the last of those who waited for it."""
    door.easel.hold = asyncio.Event()
    asked = [asyncio.ensure_future(door.ask("POST", f"{API}/txt2img", ASKED, idempotency_key="k")) for _ in range(2)]
    while len(door.running.gateway.doors.waiting) < 2:
        await asyncio.sleep(0.01)
    await door.ask("POST", f"{API}/interrupt")
    answers = [await one for one in asked]
    assert [(answer.status, answer.json["images"]) for answer in answers] == [(200, [])] * 2
    assert told(await door.ask("GET", f"{API}/jobs/{answers[0].headers['X-Job-Id']}")) == (500, "InterruptedError")
