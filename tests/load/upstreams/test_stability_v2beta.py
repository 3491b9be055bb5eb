"""The dialect of Stability v2beta as its stand-in speaks it, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import jsonschema
import pytest
from PIL import Image

from load.upstreams.faults import Refuse, Rule
from load.upstreams.pictures import BLUR, flat_png
from load.upstreams.stability_v2beta import StabilityV2Beta
from load.upstreams.stability_v2beta.endpoints import CORE_SIZES, ENDPOINTS, SMALL_SIZES, STYLE_PRESETS, STYLE_SIZES
from tests.load.upstreams.talk import ManualClock, send
from tests.load.upstreams.talk_v2beta import BASE, CAT, CORE, KEY, SQUARE, VALID, errors, multipart, picture, poll, post
from tests.pictures import encoded

Client = aiohttp.ClientSession
SYNC = [path for path, endpoint in ENDPOINTS.items() if not endpoint.is_async]
ASYNC = [path for path, endpoint in ENDPOINTS.items() if endpoint.is_async]

# The shapes of the published specification, written down anew: an error, a picture in JSON, an order taken.
NON_EMPTY = {"type": "string", "minLength": 1}
ERROR_SHAPE = {
    "type": "object",
    "required": ["id", "name", "errors"],
    "additionalProperties": False,
    "properties": {"id": NON_EMPTY, "name": NON_EMPTY, "errors": {"type": "array", "minItems": 1, "items": NON_EMPTY}},
}
PICTURE_SHAPE = {
    "type": "object",
    "required": ["image", "finish_reason"],
    "additionalProperties": False,
    "properties": {
        "image": NON_EMPTY,
        "finish_reason": {"enum": ["SUCCESS", "CONTENT_FILTERED"]},
        "seed": {"type": "integer", "minimum": 0, "maximum": 4294967294},
    },
}
TAKEN_SHAPE = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {"id": {"type": "string", "minLength": 64, "maxLength": 64}},
}


@pytest.fixture
async def standin() -> AsyncIterator[StabilityV2Beta]:
    """A stand-in without delay, limit or faults."""
    async with StabilityV2Beta(limit=None) as running:
        yield running


# Answers


async def test_bare_picture_comes_with_its_facts_in_headers(client: Client, standin: StabilityV2Beta) -> None:
    """With image/* the body is the picture; finish reason, seed and request id are headers."""
    reply = await post(client, standin.url)
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    assert (reply.headers["finish-reason"], reply.headers["seed"]) == ("SUCCESS", "7")
    assert len(reply.headers["x-request-id"]) == 32
    assert picture(reply).getpixel((0, 0)) == CAT


async def test_json_picture_comes_with_its_facts_in_the_body(client: Client, standin: StabilityV2Beta) -> None:
    """With application/json the picture is base64 and the headers don't repeat what the body says."""
    reply = await post(client, standin.url, accept="application/json")
    assert reply.headers["content-type"] == "application/json; type=image/png"
    assert not {"seed", "finish-reason"} & {name.lower() for name in reply.headers}
    assert (reply.json["seed"], reply.json["finish_reason"]) == (7, "SUCCESS")
    assert picture(reply).getpixel((0, 0)) == CAT


@pytest.mark.parametrize("accept", ["image/*", "application/json"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_output_format_decides_the_picture(
    client: Client, standin: StabilityV2Beta, kind: str, accept: str
) -> None:
    """Each format comes back as declared, with the same colour."""
    reply = await post(client, standin.url, "generate/ultra", {**CORE, "output_format": kind}, accept=accept)
    pixel = picture(reply).convert("RGB").getpixel((5, 5))
    assert reply.headers["content-type"].endswith(f"image/{kind}")
    assert isinstance(pixel, tuple)
    assert max(abs(one - two) for one, two in zip(pixel, CAT, strict=True)) <= (3 if kind == "jpeg" else 0)


@pytest.mark.parametrize("path", SYNC)
async def test_every_synchronous_endpoint_answers_in_the_published_shape(
    client: Client, standin: StabilityV2Beta, path: str
) -> None:
    """Each takes its form, returns one picture and charges its price."""
    reply = await post(client, standin.url, path, VALID[path], accept="application/json")
    assert reply.status == 200, reply.body
    jsonschema.validate(reply.json, PICTURE_SHAPE)
    assert standin.log[-1].billed
    assert standin.log[-1].unknown_fields == ()


@pytest.mark.parametrize("path", ASYNC)
async def test_every_asynchronous_endpoint_answers_with_an_id(
    client: Client, standin: StabilityV2Beta, path: str
) -> None:
    """Each takes its form with 200 and an id of 64 characters, whatever Accept says."""
    reply = await post(client, standin.url, path, VALID[path], accept="text/plain")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    jsonschema.validate(reply.json, TAKEN_SHAPE)


@pytest.mark.parametrize("accept,status", [("*/*", 200), ("image/png", 400), ("text/html", 400), ("IMAGE/*;q=1", 200)])
async def test_other_accept_headers_are_refused(
    client: Client, standin: StabilityV2Beta, accept: str, status: int
) -> None:
    """Only the two documented forms, and a client that leaves the choice open."""
    assert (await post(client, standin.url, accept=accept)).status == status


@pytest.mark.parametrize("path,sizes", [("generate/ultra", SMALL_SIZES), ("generate/core", CORE_SIZES)])
@pytest.mark.parametrize("ratio", ["21:9", "1:1", "2:3", "9:21"])
async def test_aspect_ratio_decides_the_size(
    client: Client, standin: StabilityV2Beta, path: str, sizes: Mapping[str, tuple[int, int]], ratio: str
) -> None:
    """The table of the vendor's own node, turned on its side for upright ratios."""
    reply = await post(client, standin.url, path, {**CORE, "aspect_ratio": ratio})
    assert picture(reply).size == sizes[ratio]


async def test_sizes_are_the_published_ones(client: Client, standin: StabilityV2Beta) -> None:
    """Upright sizes mirror wide ones, and three spot checks."""
    for sizes in (SMALL_SIZES, CORE_SIZES, STYLE_SIZES):
        assert all(sizes[f"{h}:{w}"] == sizes[f"{w}:{h}"][::-1] for w, h in ((21, 9), (16, 9), (3, 2), (5, 4)))
    reply = await post(client, standin.url, "control/style", {**VALID["control/style"], "aspect_ratio": "16:9"})
    assert (SMALL_SIZES["16:9"], CORE_SIZES["1:1"], picture(reply).size) == ((1344, 768), (1536, 1536), (1365, 768))


async def test_seed_zero_is_random_and_reported(client: Client) -> None:
    """A random seed is in range, drawn anew each time and the same for the same stand-in's seed."""
    drawn = []
    for _ in range(2):
        async with StabilityV2Beta(seed=3) as standin:
            fields = ({"prompt": "a cat", "seed": 0}, {"prompt": "a cat"})
            drawn.append([int((await post(client, standin.url, fields=form)).headers["seed"]) for form in fields])
            assert [call.seeds for call in standin.log] == [(seed,) for seed in drawn[-1]]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 2
    assert all(1 <= seed <= 4294967294 for seed in drawn[0])


async def test_each_text_decides_the_picture(client: Client, standin: StabilityV2Beta) -> None:
    """Prompt, negative prompt, style and seed each change the colour."""
    changes: list[dict[str, object]] = [{}, {"prompt": "a dog"}, {"negative_prompt": "fur"}, {"style_preset": "anime"}]
    changes.append({"seed": 8})
    replies = [await post(client, standin.url, fields={**CORE, **change}) for change in changes]
    assert len({picture(reply).getpixel((0, 0)) for reply in replies}) == 5


# Keys and paths


@pytest.mark.parametrize("header", ["Bearer sk-test", "bearer sk-test", "sk-test"])
async def test_key_goes_with_and_without_bearer(client: Client, standin: StabilityV2Beta, header: str) -> None:
    """The documented form and that of the vendor's own node are both good."""
    assert (await post(client, standin.url, headers={"Authorization": header})).status == 200


@pytest.mark.parametrize("header", ["Bearer sk-wrong", "sk-wrong", "Basic sk-test", "Bearer", ""])
@pytest.mark.parametrize("path", [f"{BASE}generate/core", f"/v2beta/results/{'a' * 64}"])
async def test_wrong_key_is_unauthorized(client: Client, standin: StabilityV2Beta, header: str, path: str) -> None:
    """Every path asks for an accepted key, and no credential is written down."""
    media, body = multipart(CORE)
    method = "POST" if path.startswith(BASE) else "GET"
    headers = {"Authorization": header, "Content-Type": media}
    reply = await send(client, method, standin.url + path, headers, data=body if method == "POST" else None)
    assert (reply.status, reply.json["name"]) == (401, "unauthorized")
    assert errors(reply) == ["authorization: invalid or missing header value"]
    assert standin.log[-1].key is None


@pytest.mark.parametrize(
    "method,path",
    [("GET", f"{BASE}generate/core"), ("POST", f"{BASE}generate/video"), ("GET", "/v2beta"), ("GET", "/")],
)
async def test_unknown_path_is_not_found(client: Client, standin: StabilityV2Beta, method: str, path: str) -> None:
    """What isn't there answers 404 in the vendor's form and is no generation call."""
    reply = await send(client, method, standin.url + path, {"Authorization": KEY})
    assert (reply.status, reply.json["name"], standin.calls) == (404, "not_found", 0)


# Requests


async def test_body_that_is_no_form_is_refused_byte_for_byte(client: Client, standin: StabilityV2Beta) -> None:
    """The body matches a live answer to JSON but for its id: 117 bytes, no spaces, errors before id before name."""
    reply = await send(
        client, "POST", f"{standin.url}{BASE}generate/core", {"Authorization": KEY}, json={"prompt": "x"}
    )
    opening, ending = b'{"errors":["content-type: must be multipart/form-data"],"id":"', b'","name":"bad_request"}'
    assert (reply.status, len(reply.body)) == (400, 117)
    assert reply.body == opening + reply.json["id"].encode() + ending
    jsonschema.validate(reply.json, ERROR_SHAPE)


async def test_empty_post_misses_its_content_type(client: Client, standin: StabilityV2Beta) -> None:
    """Without a body there is no content type, and that is what the answer says."""
    url = f"{standin.url}{BASE}generate/core"
    reply = await send(client, "POST", url, {"Authorization": KEY}, skip_auto_headers=["Content-Type"])
    assert (reply.status, errors(reply)) == (400, ["content-type: required"])


async def test_damaged_form_is_refused(client: Client, standin: StabilityV2Beta) -> None:
    """A form without its last boundary is no form."""
    media, body = multipart(CORE)
    url = f"{standin.url}{BASE}generate/core"
    reply = await send(client, "POST", url, {"Authorization": KEY, "Content-Type": media}, data=body[:-10])
    assert (reply.status, reply.json["name"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "path,name",
    [(path, field.name) for path, e in ENDPOINTS.items() for field in e.fields if getattr(field, "required", False)],
)
async def test_each_required_field_is_required(client: Client, standin: StabilityV2Beta, path: str, name: str) -> None:
    """Leaving it out is named in the words of live answers, and costs nothing."""
    reply = await post(client, standin.url, path, {**VALID[path], name: None})
    assert (reply.status, errors(reply)) == (400, [f"{name}: required"])
    assert (standin.credits, standin.tally.billed) == (1000.0, 0)


RANGES: list[tuple[str, str, tuple[object, ...], tuple[object, ...]]] = [
    ("generate/core", "seed", (0, 4294967294), (-1, 4294967295, 1.5, "x", "", "nan")),
    ("generate/core", "prompt", ("x", "x" * 10000), ("", "x" * 10001)),
    ("generate/core", "negative_prompt", ("", "x" * 10000), ("x" * 10001,)),
    ("generate/core", "aspect_ratio", ("9:21",), ("4:3", "")),
    ("generate/core", "output_format", ("webp",), ("gif", "PNG")),
    ("generate/core", "style_preset", STYLE_PRESETS, ("none",)),
    ("generate/sd3", "model", ("sd3.5-flash", "sd3-medium"), ("sdxl",)),
    ("generate/sd3", "cfg_scale", (1, 10), (0.9, 10.1)),
    ("upscale/conservative", "creativity", (0.2, 0.5), (0.19, 0.51)),
    ("upscale/creative", "creativity", (0.1, 0.5), (0.09, 0.51)),
    ("edit/erase", "grow_mask", (0, 20), (-1, 21)),
    ("edit/inpaint", "grow_mask", (0, 100), (-1, 101)),
    ("edit/outpaint", "left", (1, 2000), (-1, 2001, 1.5)),
    ("edit/outpaint", "creativity", (0, 1), (-0.1, 1.1)),
    ("edit/search-and-replace", "grow_mask", (0, 20), (21,)),
    ("edit/search-and-replace", "search_prompt", ("", "x" * 10000), ("x" * 10001,)),
    ("edit/search-and-recolor", "select_prompt", ("x" * 10000,), ("x" * 10001,)),
    ("edit/remove-background", "output_format", ("png", "webp"), ("jpeg",)),
    ("edit/replace-background-and-relight", "preserve_original_subject", (0, 1), (-0.1, 1.1)),
    ("edit/replace-background-and-relight", "original_background_depth", (0, 1), (1.1,)),
    ("edit/replace-background-and-relight", "keep_original_background", ("true", "false"), ("True", "1")),
    ("edit/replace-background-and-relight", "light_source_direction", ("left", "below"), ("none", "up")),
    ("control/sketch", "control_strength", (0, 1), (-0.1, 1.1)),
    ("control/structure", "control_strength", (0, 1), (-0.1, 1.1)),
    ("control/style", "fidelity", (0, 1), (-0.1, 1.1)),
    ("control/style-transfer", "style_strength", (0, 1), (-0.1, 1.1)),
    ("control/style-transfer", "composition_fidelity", (0, 1), (1.1,)),
    ("control/style-transfer", "change_strength", (0.1, 1), (0.09, 1.1)),
]


@pytest.mark.parametrize("path,name,good,bad", RANGES, ids=[f"{path}-{name}" for path, name, _, _ in RANGES])
async def test_each_range_ends_where_it_is_published(
    client: Client, standin: StabilityV2Beta, path: str, name: str, good: tuple[object, ...], bad: tuple[object, ...]
) -> None:
    """Both ends are inside, what lies beyond is refused by the field's name."""
    # A huge strip is costly to paint and tells no more than a small one: only its check is of interest.
    shown = good[:1] if path in ("edit/outpaint", "upscale/conservative", "upscale/creative") else (good[0], good[-1])
    for value in shown:
        reply = await post(client, standin.url, path, {**VALID[path], name: value})
        assert reply.status == 200, reply.body
    for value in bad:
        reply = await post(client, standin.url, path, {**VALID[path], name: value})
        assert reply.status == 400, value
        assert [message.partition(":")[0] for message in errors(reply)] == [name]


SD3_TO_IMAGE: dict[str, object] = {**CORE, "mode": "image-to-image", "image": SQUARE, "strength": 0.5}
RELIGHT = VALID["edit/replace-background-and-relight"]


@pytest.mark.parametrize(
    "path,fields,named",
    [
        ("generate/ultra", {**CORE, "image": SQUARE}, ["strength"]),
        ("generate/ultra", {**CORE, "strength": 0.5}, ["strength"]),
        ("generate/sd3", {**CORE, "image": SQUARE, "strength": 0.5}, ["image", "strength"]),
        ("generate/sd3", {**CORE, "mode": "image-to-image"}, ["image", "strength"]),
        ("generate/sd3", {**SD3_TO_IMAGE, "aspect_ratio": "1:1"}, ["aspect_ratio"]),
        ("generate/sd3", SD3_TO_IMAGE, None),
        ("edit/outpaint", {**CORE, "image": SQUARE, "left": 0}, ["left, right, up, down"]),
        ("edit/outpaint", {"image": SQUARE, "down": 8}, None),
        ("edit/replace-background-and-relight", {**RELIGHT, "background_prompt": None}, ["background_prompt"]),
        ("edit/replace-background-and-relight", {**RELIGHT, "background_prompt": ""}, ["background_prompt"]),
        (
            "edit/replace-background-and-relight",
            {**RELIGHT, "background_prompt": None, "background_reference": SQUARE},
            None,
        ),
        ("edit/replace-background-and-relight", {**RELIGHT, "light_source_strength": 1}, ["light_source_strength"]),
        (
            "edit/replace-background-and-relight",
            {**RELIGHT, "light_source_strength": 1, "light_source_direction": "left"},
            None,
        ),
        ("control/style-transfer", {**VALID["control/style-transfer"], "prompt": ""}, None),
        ("generate/core", {"seed": "x", "prompt": "", "aspect_ratio": "1"}, ["prompt", "aspect_ratio", "seed"]),
    ],
)
async def test_fields_that_need_or_exclude_each_other(
    client: Client, standin: StabilityV2Beta, path: str, fields: dict[str, Any], named: list[str] | None
) -> None:
    """One refusal names all that is wrong; None stands for a form that is taken."""
    reply = await post(client, standin.url, path, fields)
    if named is None:
        assert reply.status == 200, reply.body
    else:
        assert (reply.status, [message.partition(":")[0] for message in errors(reply)]) == (400, named)


@pytest.mark.parametrize(
    "path,size,taken",
    [
        ("upscale/fast", (32, 32), True),
        ("upscale/fast", (31, 40), False),
        ("upscale/fast", (1537, 32), False),
        ("upscale/fast", (1100, 1000), False),
        ("upscale/creative", (63, 80), False),
        ("upscale/creative", (1025, 1024), False),
        ("edit/outpaint", (160, 64), True),
        ("edit/outpaint", (161, 64), False),
        ("edit/outpaint", (64, 161), False),
        ("edit/outpaint", (63, 70), False),
        ("edit/outpaint", (3073, 3072), False),
        ("edit/erase", (320, 64), True),
        ("edit/remove-background", (2049, 2048), False),
        ("control/style", (200, 64), False),
    ],
)
async def test_each_image_has_its_bounds(
    client: Client, standin: StabilityV2Beta, path: str, size: tuple[int, int], taken: bool
) -> None:
    """Sides, pixels and shape are checked where the specification bounds them."""
    reply = await post(client, standin.url, path, {**VALID[path], "image": flat_png(*size, CAT)})
    assert reply.status == (200 if taken else 400), reply.body
    assert taken or errors(reply)[0].startswith("image: ")


async def test_images_are_jpeg_png_or_webp_files(client: Client, standin: StabilityV2Beta) -> None:
    """The bytes decide, not the declared type; a picture sent as plain text is none."""
    image = Image.new("RGB", (64, 64))
    for kind, status in (("PNG", 200), ("JPEG", 200), ("WEBP", 200), ("GIF", 400), ("BMP", 400)):
        reply = await post(client, standin.url, "upscale/fast", {"image": encoded(image, kind)})
        assert reply.status == status, kind
    assert errors(await post(client, standin.url, "upscale/fast", {"image": "text"})) == ["image: required"]
    cut = await post(client, standin.url, "upscale/fast", {"image": encoded(image)[:-40]})
    assert (cut.status, standin.credits) == (400, 1000.0 - 6)


async def test_body_may_have_ten_mebibytes(client: Client, standin: StabilityV2Beta) -> None:
    """A request of exactly 10 MiB is taken, one byte more is too large."""
    room = 10 * 1024 * 1024 - len(multipart({**CORE, "filler": b""})[1])
    fits = await post(client, standin.url, fields={**CORE, "filler": bytes(room)})
    large = await post(client, standin.url, fields={**CORE, "filler": bytes(room + 1)})
    assert (fits.status, large.status, large.json["name"]) == (200, 413, "payload_too_large")
    assert standin.log[-1].body_bytes == 10 * 1024 * 1024 + 1


async def test_client_headers_are_bounded(client: Client, standin: StabilityV2Beta) -> None:
    """256 characters are taken, one more is refused."""
    for name in ("stability-client-id", "stability-client-user-id", "stability-client-version"):
        assert (await post(client, standin.url, headers={name: "x" * 256})).status == 200
        assert errors(await post(client, standin.url, headers={name: "x" * 257}))[0].startswith(f"{name}: ")


async def test_log_and_forms_show_what_came(client: Client, standin: StabilityV2Beta) -> None:
    """The log has the texts, the kept form the files; fields nobody knows are named, the samples' dummy isn't."""
    sent = {**VALID["edit/inpaint"], "none": b"", "width": 512}
    await post(client, standin.url, "edit/inpaint", sent, headers={"Stability-Client-ID": "safelight"})
    call = standin.log[-1]
    assert (call.operation, call.unknown_fields, call.client) == ("edit/inpaint", ("width",), "safelight")
    assert (call.fields["prompt"], call.fields["seed"]) == ("a cat", "7")
    assert call.fields["image"] == f"<{len(SQUARE)} bytes, image/png>"
    assert standin.form(call.number)["mask"].data == SQUARE


async def test_forms_and_logged_texts_are_bounded(client: Client, standin: StabilityV2Beta) -> None:
    """Only the latest forms are kept, and a long text is cut in the log."""
    for _ in range(65):
        await post(client, standin.url, fields={**CORE, "seed": "x", "negative_prompt": "n" * 5000})
    assert len(str(standin.log[-1].fields["negative_prompt"])) == 1000
    assert standin.form(2)["prompt"].data == b"a cat"
    with pytest.raises(KeyError):
        standin.form(1)


async def test_vendors_own_node_is_served(client: Client, standin: StabilityV2Beta) -> None:
    """Its requests have a bare key and fields that other endpoints own, and it polls with an open Accept."""
    extra = {"mode": "image-to-image", "style": "False", "api_key_override": ""}
    bare = {"Authorization": KEY}
    reply = await post(
        client, standin.url, "upscale/creative", {**VALID["upscale/creative"], **extra}, accept="*/*", headers=bare
    )
    done = await poll(client, standin.url, reply.json["id"], accept="*/*")
    assert (reply.status, done.status, done.headers["content-type"]) == (200, 200, "image/png")


# Moderation


@pytest.mark.parametrize("accept", ["image/*", "application/json"])
async def test_filtered_picture_is_blurred_and_charged(client: Client, standin: StabilityV2Beta, accept: str) -> None:
    """It comes with 200, its size and CONTENT_FILTERED in the place of either form."""
    reply = await post(client, standin.url, fields={"prompt": "a STANDIN-filtered cat"}, accept=accept)
    reason = reply.json["finish_reason"] if accept == "application/json" else reply.headers["finish-reason"]
    image = picture(reply)
    assert (reason, image.size, image.getpixel((9, 9))) == ("CONTENT_FILTERED", (1536, 1536), BLUR)
    assert standin.credits == 997.0


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    "word,status,name",
    [("standin-moderated", 403, "content_moderation"), ("standin-foreign", 422, "invalid_language")],
)
async def test_words_can_be_refused(
    client: Client, standin: StabilityV2Beta, word: str, status: int, name: str, field: str
) -> None:
    """Such a request is in the specification's form, names nothing and costs nothing."""
    reply = await post(client, standin.url, fields={**CORE, field: f"a {word} cat"})
    assert (reply.status, reply.json["name"], standin.credits) == (status, name, 1000.0)
    jsonschema.validate(reply.json, ERROR_SHAPE)


async def test_moderation_may_lack_its_id(client: Client) -> None:
    """A live report shows the refusal without `id`."""
    async with StabilityV2Beta(moderation_id=False) as standin:
        reply = await post(client, standin.url, fields={"prompt": "standin-moderated"})
    assert (reply.status, set(reply.json)) == (403, {"errors", "name"})


# Credits


PRICES = {
    "generate/ultra": 8,
    "generate/core": 3,
    "generate/sd3": 6.5,
    "upscale/fast": 2,
    "upscale/conservative": 40,
    "upscale/creative": 60,
    "edit/erase": 5,
    "edit/inpaint": 5,
    "edit/outpaint": 4,
    "edit/search-and-replace": 5,
    "edit/search-and-recolor": 5,
    "edit/remove-background": 5,
    "edit/replace-background-and-relight": 8,
    "control/sketch": 5,
    "control/structure": 5,
    "control/style": 5,
    "control/style-transfer": 8,
}


async def balance(client: Client, standin: StabilityV2Beta) -> float:
    """The account's credits as its path tells them."""
    reply = await send(client, "GET", f"{standin.url}/v1/user/balance", {"Authorization": f"Bearer {KEY}"})
    assert (reply.status, set(reply.json)) == (200, {"credits"})
    return float(reply.json["credits"])


async def test_every_endpoint_has_its_price(client: Client, standin: StabilityV2Beta) -> None:
    """The balance falls by the published price of each."""
    assert set(PRICES) == set(ENDPOINTS)
    for path, price in PRICES.items():
        before = await balance(client, standin)
        assert (await post(client, standin.url, path, VALID[path])).status == 200
        assert await balance(client, standin) == before - price, path


@pytest.mark.parametrize(
    "model,price,served",
    [
        ("sd3.5-large-turbo", 4.0, "sd3.5-large-turbo"),
        ("sd3.5-flash", 2.5, "sd3.5-flash"),
        ("sd3-medium", 3.5, "sd3.5-medium"),
        (None, 6.5, "sd3.5-large"),
    ],
)
async def test_sd3_costs_by_model_and_old_names_are_rerouted(
    client: Client, standin: StabilityV2Beta, model: str | None, price: float, served: str
) -> None:
    """An old name is served by its successor at that price."""
    await post(client, standin.url, "generate/sd3", {**CORE, "model": model})
    assert (standin.credits, standin.log[-1].engine) == (1000.0 - price, served)


async def test_empty_account_must_pay(client: Client) -> None:
    """What the balance covers is served, the next is 402 until a cheaper one fits."""
    async with StabilityV2Beta(credits=8) as standin:
        statuses = [(await post(client, standin.url)).status for _ in range(3)]
        refused = await post(client, standin.url)
        fits = await post(client, standin.url, "upscale/fast", VALID["upscale/fast"])
        assert statuses == [200, 200, 402]
        assert (refused.json["name"], fits.status) == ("payment_required", 200)
        assert (await balance(client, standin), standin.tally.billed) == (0, 3)


async def test_failed_generation_is_not_charged(client: Client) -> None:
    """A 500 may have begun work, so it counts as begun, but no credits go."""
    async with StabilityV2Beta(script=[Rule(Refuse(500))]) as standin:
        reply = await post(client, standin.url)
        assert (reply.status, reply.json["name"]) == (500, "internal_error")
        assert (standin.tally.billed, standin.credits) == (1, 1000.0)


async def test_balance_errors_are_those_of_the_old_paths(client: Client, standin: StabilityV2Beta) -> None:
    """The account belongs to v1, whose errors have one message."""
    reply = await send(client, "GET", f"{standin.url}/v1/user/balance", {})
    assert (reply.status, set(reply.json)) == (401, {"id", "name", "message"})


# Rate limit


async def test_limit_locks_the_key_out_for_a_minute(client: Client) -> None:
    """Arrivals of all kinds count; beyond the limit all are refused until the minute is over."""
    clock = ManualClock()
    async with StabilityV2Beta(key={"sk-test", "sk-b"}, limit=3, clock=clock) as standin:
        statuses = [(await post(client, standin.url)).status for _ in range(2)]
        statuses += [(await poll(client, standin.url, "a" * 64)).status, (await post(client, standin.url)).status]
        other = await post(client, standin.url, key="sk-b")
        clock.now += 59.9
        locked = await post(client, standin.url)
        clock.now += 0.2
        free = await post(client, standin.url)
        assert statuses == [200, 200, 404, 429]
        assert (other.status, locked.status, free.status) == (200, 429, 200)
        assert (locked.json["id"], locked.json["name"]) == ("rate_limit_exceeded", "rate_limit_exceeded")
        assert "Retry-After" not in locked.headers
        jsonschema.validate(locked.json, ERROR_SHAPE)
        assert (standin.tally.counters()["limited"], standin.credits) == (2, 1000.0 - 12)


async def test_limit_is_150_in_ten_seconds(client: Client) -> None:
    """Polls of nothing show the default cheaply."""
    clock = ManualClock()
    async with StabilityV2Beta(clock=clock, retry_after=True) as standin:
        replies = [await poll(client, standin.url, "a") for _ in range(151)]
        assert {reply.status for reply in replies[:150]} == {404}
        assert (replies[150].status, replies[150].headers["Retry-After"]) == (429, "60")
