"""What goes wrong at OpenAI's door, in the vendor's words: each status, each code, one shape."""

import asyncio
from typing import Any, Final

import msgspec
import pytest

from gateway.core.records import Plan
from gateway.core.reports import Outcome, UpstreamFault
from gateway.edges.compat.dialect import CODES, Trouble
from gateway.edges.compat.openai_images.routes import Words
from gateway.edges.compat.openai_images.tables import ERRORS
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door
from tests.pictures import flat

Json = dict[str, Any]
MAKE: Final = "/v1/images/generations"
EDIT: Final = "/v1/images/edits"
IMAGE: Final = flat("red", (64, 64))
MASK: Final = flat((0, 0, 0, 0), (64, 64), "RGBA")


def told(answer: Answer) -> tuple[int, str | None, str | None]:
    """Return status, code and field of a refusal, which has the one shape."""
    assert set(answer.json) == {"error"}, answer.json
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, error["code"], error["param"]


def form(*fields: tuple[str, Any]) -> tuple[bytes, str]:
    """Return a form's body and its content type; bytes are files."""
    parts = []
    for name, value in fields:
        is_file = isinstance(value, bytes)
        head = f'Content-Disposition: form-data; name="{name}"' + ('; filename="a.png"' if is_file else "")
        parts.append(b"--cut\r\n%b\r\n\r\n%b\r\n" % (head.encode(), value if is_file else str(value).encode()))
    return b"".join(parts) + b"--cut--\r\n", "multipart/form-data; boundary=cut"


async def edit(door: Door, *fields: tuple[str, Any]) -> Answer:
    """Send a form to `edits`."""
    body, kind = form(*fields)
    return await door.ask("POST", EDIT, body, Content_Type=kind)


def test_every_code_has_its_word() -> None:
    """A code without a row would be an error about an error."""
    assert ERRORS.keys() == CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_error_has_the_one_shape(code: str) -> None:
    """And says whether to try again where the vendor's clients would do so by the status alone."""
    response = Words().refusal(Trouble(code, "because"), "ref")
    status, kind, word = ERRORS[code]
    told_word = "moderation_blocked" if code == "content_filtered" else word
    error = {"message": "because", "type": kind, "param": None, "code": told_word}
    assert (response.status_code, bytes(response.body)) == (status, _json({"error": error}))
    final = {"quota_exceeded", "insufficient_credits", "idempotency_conflict", "outcome_unknown", "out_of_memory"}
    if code in final:
        assert response.headers["x-should-retry"] == "false"
    if code in {"rate_limited", "queue_full", "upstream_error", "model_unavailable", "invalid_param"}:
        assert "x-should-retry" not in response.headers


def _json(body: Any) -> bytes:
    return msgspec.json.encode(body)


@pytest.mark.parametrize("body,code,param", [
    ({"prompt": None}, "invalid_type", "prompt"),
    ({"prompt": ""}, "string_below_min_length", "prompt"),
    ({"prompt": "x" * 32_001}, "string_above_max_length", "prompt"),
    ({"n": 0}, "integer_below_min_value", "n"),
    ({"n": 11}, "integer_above_max_value", "n"),
    ({"n": 9}, "invalid_value", "n"),  # the model's most is 4
    ({"n": "2"}, "invalid_type", "n"),
    ({"size": "big"}, "invalid_value", "size"),
    ({"size": "0x64"}, "invalid_value", "size"),
    ({"size": "4096x64"}, "invalid_value", "size"),
    ({"quality": "best"}, "invalid_value", "quality"),
    ({"background": "green"}, "invalid_value", "background"),
    ({"background": "transparent", "output_format": "jpeg"}, "invalid_value", "output_format"),
    ({"output_format": "gif"}, "invalid_value", "output_format"),
    ({"output_compression": 101}, "integer_above_max_value", "output_compression"),
    ({"response_format": "file"}, "invalid_value", "response_format"),
    ({"moderation": "none"}, "invalid_value", "moderation"),
    ({"style": "anime"}, "invalid_value", "style"),
    ({"partial_images": 4, "stream": True}, "integer_above_max_value", "partial_images"),
    ({"partial_images": 1}, "invalid_value", "partial_images"),
    ({"stream": True, "n": 2}, "invalid_value", "stream"),
    ({"stream": True, "response_format": "url"}, "invalid_value", "response_format"),
    ({"seed": 1}, "unknown_parameter", "seed"),
])  # fmt: skip
async def test_wrong_bodies_are_refused(door: Door, body: Json, code: str, param: str) -> None:
    """With 400 and the field; nothing was submitted."""
    assert told(await door.ask("POST", MAKE, {"prompt": "p"} | body)) == (400, code, param)
    assert door.easel.orders == []


async def test_what_is_no_request_at_all_is_refused(door: Door) -> None:
    """Broken JSON, nothing, a broken form."""
    assert told(await door.ask("POST", MAKE, b"{")) == (400, None, None)
    assert told(await door.ask("POST", MAKE, b"")) == (400, "missing_required_parameter", "prompt")
    assert told(await door.ask("POST", EDIT, b"--", Content_Type="multipart/form-data; boundary=x"))[0] == 400


@pytest.mark.parametrize("fields,code,param", [
    ([("prompt", "p")], "missing_required_parameter", "image"),
    ([("image", IMAGE)], "missing_required_parameter", "prompt"),
    ([("image", IMAGE), ("prompt", "p"), ("n", "many")], "invalid_type", "n"),
    ([("image", IMAGE), ("prompt", "p"), ("seed", 1)], "unknown_parameter", "seed"),
    ([("image", b"no picture"), ("prompt", "p")], "unsupported_file_mimetype", "image"),
    ([("image", IMAGE[:20]), ("prompt", "p")], "invalid_image_format", "image"),
    ([("image[]", IMAGE), ("image[]", IMAGE[:20]), ("prompt", "p")], "invalid_image_format", "image[1]"),
    ([("image", IMAGE), ("mask", IMAGE), ("prompt", "p")], "invalid_image_format", "mask"),
    ([("image", flat("red", (72, 64))), ("mask", MASK), ("prompt", "p")], "invalid_image_format", "mask"),
    ([("image", IMAGE), ("input_fidelity", "some"), ("prompt", "p")], "invalid_value", "input_fidelity"),
    ([*[("image[]", IMAGE)] * 17, ("prompt", "p")], "array_above_max_length", "image"),
])  # fmt: skip
async def test_wrong_forms_are_refused(door: Door, fields: list[Any], code: str, param: str) -> None:
    """With 400 and the field; nothing was submitted."""
    assert told(await edit(door, *fields)) == (400, code, param)
    assert door.easel.orders == []


@pytest.mark.parametrize("reference,code,param", [
    ({"file_id": "file-1"}, "invalid_value", "images[0].file_id"),
    ({"image_url": "https://example.org/a.png"}, "invalid_value", "images[0].image_url"),
    ({}, "invalid_value", "images[0].image_url"),
    ({"image_url": "data:image/png;base64,@@@"}, "invalid_image_format", "images[0].image_url"),
    ({"image_uri": "data:"}, "unknown_parameter", "images[0].image_uri"),
])  # fmt: skip
async def test_pictures_in_json_are_data_alone(door: Door, reference: Json, code: str, param: str) -> None:
    """The gateway fetches no address of a client's, and keeps no files under ids."""
    assert told(await door.ask("POST", EDIT, {"prompt": "p", "images": [reference]})) == (400, code, param)


async def test_a_key_is_one_request_s(door: Door) -> None:
    """Another body under the same key is refused, the same one joins."""
    first = await door.ask("POST", MAKE, {"prompt": "p"}, Idempotency_Key="k")
    again = await door.ask("POST", MAKE, {"prompt": "p"}, Idempotency_Key="k")
    assert first.headers["X-Job-Id"] == again.headers["X-Job-Id"]
    other = await door.ask("POST", MAKE, {"prompt": "other"}, Idempotency_Key="k")
    assert told(other)[:2] == (409, "idempotency_conflict")
    assert other.headers["x-should-retry"] == "false"


async def test_limits_say_when_to_come_back(door: Door) -> None:
    """With the vendor's headers beside the standard ones; every answer has them."""
    key = await door.key_of("small", Plan(submits_per_second=0.5))
    fine = await door.ask("POST", MAKE, {"prompt": "p"}, key=key)
    assert (fine.status, fine.headers["x-ratelimit-limit-requests"]) == (200, "1")
    answer = await door.ask("POST", MAKE, {"prompt": "p"}, key=key)
    assert told(answer)[:2] == (429, "rate_limit_exceeded")
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
    assert 1 <= int(answer.headers["Retry-After"]) <= 2
    assert "x-should-retry" not in answer.headers


async def test_failure_that_stays_is_not_repeated(door: Door) -> None:
    """Whether an upstream's failure may pass is not told by its code alone: a refused credential does not."""
    for is_final in (False, True):
        door.easel.fault = UpstreamFault(
            Outcome.FAILED, "upstream_error", "it failed", credential=is_final, details={"status": 500}
        )
        answer = await door.ask("POST", MAKE, {"prompt": "p"})
        assert told(answer)[:2] == (500, "server_error")
        assert answer.headers.get("x-should-retry") == ("false" if is_final else None)


async def test_the_older_models_name_their_filter_otherwise(door: Door) -> None:
    """As they did."""
    door.easel.fault = UpstreamFault(Outcome.FAILED, "content_filtered", "it failed")
    answer = await door.ask("POST", MAKE, {"prompt": "p", "model": "dall-e-3"})
    assert told(answer)[:2] == (400, "content_policy_violation")


async def test_a_failure_after_white_space_is_in_the_body(brisk: Door) -> None:
    """The status has gone by then; the package's reader skips white space."""
    brisk.easel.hold = asyncio.Event()
    asked = asyncio.ensure_future(brisk.ask("POST", MAKE, {"prompt": "p"}))
    while not brisk.running.gateway.doors.waiting:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    [job] = brisk.running.gateway.doors.waiting._watches
    assert (await brisk.ask("DELETE", f"/v1/jobs/{job}")).status == 202
    answer = await asked
    assert (answer.status, answer.body[:1]) == (200, b" ")
    assert answer.json["error"]["code"] == "canceled"
