"""One request, said at every door. A new dialect is a function that says it, and a row of `DIALECTS`.

What a dialect has no words for is left out of it; the tests name the doors that have words for each request.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import aiohttp
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.records import JobRecord
from gateway.edges.compat.dialect import Dialect, Trouble
from protocol.client import Client
from protocol.messages import Input
from protocol.refusals import Closed, Refused
from tests.gateway.edges.compat.conftest import Door
from tests.pictures import flat

Json = dict[str, Any]
INIT: Final = flat((9, 8, 7), (128, 192))
HOLE: Final = flat((0, 0, 0, 0), (128, 192), "RGBA")
"""A mask as OpenAI has it: all of it is transparent, and painted anew."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, in our words."""

    task: str = "txt2img"
    params: Mapping[str, Any] = field(default_factory=lambda: {"prompt": "a lighthouse", "width": 128, "height": 192})
    model: str = "easel"
    sent: Mapping[str, bytes] = field(default_factory=dict)
    """Pictures by role; a mask is white where it counts."""
    ref: str | None = None
    on_disconnect: Literal["continue", "cancel"] = "continue"


@dataclass(frozen=True, slots=True)
class Post:
    """A request in a dialect."""

    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a request: the job, or our code for the refusal."""

    job: str = ""
    code: str = ""


def telling_codes(door: Door) -> Door:
    """Have every refusal of a dialect's tell our code in `X-Code`; returns the door."""
    doors = door.running.gateway.doors
    refuse = doors.refuse

    def telling(request: Request, trouble: Trouble, dialect: Dialect) -> Response:
        response = refuse(request, trouble, dialect)
        response.headers["X-Code"] = trouble.code
        return response

    doors.refuse = telling  # type: ignore[method-assign]
    return door


async def ended(door: Door, job: str) -> JobRecord:
    """Return a job's row once it has ended and the node is at rest."""
    node = door.running.gateway
    while True:
        record = await node.node.jobs.find(job)
        assert record is not None
        if record.has_ended and node.dispatch.working == 0:
            return record
        await asyncio.sleep(0.01)


def b64(content: bytes) -> str:
    """Return a picture as JSON has it."""
    return base64.b64encode(content).decode()


def basic(user: str, password: str) -> str:
    """Return a header of Basic."""
    return "Basic " + b64(f"{user}:{password}".encode())


def form(fields: Mapping[str, Any]) -> aiohttp.FormData:
    """Return a multipart form; bytes are files."""
    made = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, bytes):
            made.add_field(name, value, filename=f"{name}.png", content_type="image/png")
        else:
            made.add_field(name, value if isinstance(value, str) else json.dumps(value))
    return made


# ------------------------------------------------------------------------------------------------------- our own doors


async def over_rest(door: Door, asked: Asked, key: str) -> Told:
    """Submit with `POST /v1/jobs`; pictures are uploaded first."""
    inputs = []
    for role, content in asked.sent.items():
        kept = await door.ask("PUT", "/v1/assets", content, key=key)
        if kept.status != 200:
            return Told(code=kept.code)
        inputs.append({"role": role, "asset": kept.json["asset"], **_OPTIONS.get(role, {})})
    body = {"task": asked.task, "model": asked.model, "params": asked.params, "inputs": inputs}
    body |= {"on_disconnect": asked.on_disconnect} | ({} if asked.ref is None else {"ref": asked.ref})
    answer = await door.ask("POST", "/v1/jobs", body, key=key)
    return Told(answer.json["job"]) if answer.status in {200, 202} else Told(code=answer.code)


async def over_websocket(door: Door, asked: Asked, key: str) -> Told:
    """Submit with the Python client; pictures go up on the same connection."""
    try:
        async with Client(door.running.url, token=key or door.running.key) as client:
            inputs = [
                Input(role=role, upload=client.upload(content), **_OPTIONS.get(role, {}))
                for role, content in asked.sent.items()
            ]
            job = await client.submit(
                asked.task, asked.params, model=asked.model, inputs=inputs, ref=asked.ref,
                on_disconnect=asked.on_disconnect,
            )  # fmt: skip
            if asked.on_disconnect == "cancel":
                async for _ in job:
                    pass
            return Told(job.id)
    except Refused as refused:
        return Told(code=refused.error.code)
    except Closed as closed:
        return Told(code=closed.reason)


_OPTIONS: Final[dict[str, Json]] = {"canny": {"preprocessor": "canny"}}


# -------------------------------------------------------------------------------------------------------- the dialects


def stability_v1(asked: Asked) -> Post:
    """Return what the guide's routes take, or a form where only the vendor has the route; a long prompt is in parts."""
    params, sent = dict(asked.params), asked.sent
    prompt = params.pop("prompt", "")
    prompts: list[Json] = [{"text": prompt[start : start + 2000]} for start in range(0, max(1, len(prompt)), 2000)]
    if negative := params.pop("negative_prompt", None):
        prompts.append({"text": negative, "weight": -1})
    names = {"guidance": "cfg_scale", "n": "samples", "strength": "image_strength"}
    fields: Json = {names.get(name, name): value for name, value in params.items()} | {"text_prompts": prompts}
    if "image_strength" in fields:
        fields["image_strength"] = round(1 - fields["image_strength"], 6)
    if "sampler" in fields:
        fields["sampler"] = "K_" + fields["sampler"].upper()
    path = f"/v1/generation/{asked.model}/"
    match asked.task:
        case "txt2img":
            return Post(path + "text-to-image", fields)
        case "img2img":
            return Post(path + "image-to-image", form(fields | {"init_image": sent["init"]}))
        case "inpaint" if "image_strength" in fields:
            pictures = {"init_image": b64(sent["init"]), "mask_image": b64(sent["mask"])}
            return Post(path + "image-to-image-inpainting", fields | pictures)
        case "inpaint":
            files = {"init_image": sent["init"], "mask_image": sent["mask"], "mask_source": "MASK_IMAGE_WHITE"}
            return Post(path + "image-to-image/masking", form(fields | files))
        case "controlnet":
            picture = {"init_image": b64(sent["canny"]), "controlnet_type": "canny"}
            return Post(path + "text-to-image-controlnet", fields | picture)
    return Post(path + "image-to-image/upscale", form({"image": sent["init"]}))


def openai_images(asked: Asked) -> Post:
    """Return what generations and edits take: neither knows a seed, nor steps by their number."""
    params = asked.params
    fields = {name: params[name] for name in ("prompt", "n") if name in params} | {"model": asked.model}
    if "width" in params:
        fields["size"] = f"{params['width']}x{params['height']}"
    if asked.task == "txt2img":
        return Post("/v1/images/generations", fields)
    if "strength" in params:
        fields["input_fidelity"] = {0.75: "low", 0.35: "high"}[params["strength"]]
    pictures = {"image": asked.sent["init"]} | ({"mask": HOLE} if "mask" in asked.sent else {})
    return Post("/v1/images/edits", form(fields | pictures))


def a1111(asked: Asked) -> Post:
    """Return what the web UI takes."""
    params = {"override_settings": {"sd_model_checkpoint": asked.model}}
    names = {"guidance": "cfg_scale", "n": "batch_size", "strength": "denoising_strength", "sampler": "sampler_name"}
    fields = {names.get(name, name): value for name, value in asked.params.items()} | params
    if "sampler_name" in fields:
        fields["sampler_name"] = {"dpmpp_2m": "DPM++ 2M", "heun": "Heun"}[fields["sampler_name"]]
    sent = {role: b64(content) for role, content in asked.sent.items()}
    if asked.task == "upscale":
        return Post(f"{_WEB_UI}/extra-single-image", {"image": sent["init"], "upscaler_1": asked.model})
    if "canny" in sent:
        unit = {"image": sent["canny"], "module": "canny", "model": "control_canny"}
        fields["alwayson_scripts"] = {"controlnet": {"args": [unit]}}
    if "init" not in sent:
        return Post(f"{_WEB_UI}/txt2img", fields)
    fields["init_images"] = [sent["init"]]
    return Post(f"{_WEB_UI}/img2img", fields | ({"mask": sent["mask"]} if "mask" in sent else {}))


def stability_v2beta(asked: Asked) -> Post:
    """Return what the services take: they know no sizes but shapes, no model, no steps, and one picture."""
    known = {name: asked.params[name] for name in ("prompt", "negative_prompt", "seed") if name in asked.params}
    fields: Json = {name: str(value) for name, value in known.items()} | {"": b""}  # the file makes it multipart
    if "width" in asked.params:
        fields["aspect_ratio"] = "2:3"
    match asked.task:
        case "txt2img":
            return _service("generate/core", fields)
        case "img2img":
            strength = str(asked.params.get("strength", 0.75))
            return _service("generate/ultra", fields | {"image": asked.sent["init"], "strength": strength})
        case "inpaint":
            return _service("edit/inpaint", fields | {"image": asked.sent["init"], "mask": asked.sent["mask"]})
    return _service("upscale/fast", {"image": asked.sent["init"]})


def _service(path: str, fields: Json) -> Post:
    return Post(f"/v2beta/stable-image/{path}", form(fields), {"Accept": "application/json"})


_WEB_UI: Final = "/sdapi/v1"
DIALECTS: Final[dict[str, Callable[[Asked], Post]]] = {
    "stability_v1": stability_v1,
    "stability_v2beta": stability_v2beta,
    "openai_images": openai_images,
    "a1111": a1111,
}
"""How each dialect says a request."""


Speaker = Callable[[Door, Asked, str], Awaitable[Told]]


async def _post(door: Door, asked: Asked, post: Post, key: str | None) -> Told:
    headers = {"Prefer": "respond-async", "X-On-Disconnect": asked.on_disconnect, **post.headers}
    if asked.ref is not None:
        headers["Idempotency-Key"] = asked.ref
    answer = await door.ask("POST", post.path, post.body, key=key, **headers)
    return Told(answer.headers.get("X-Job-Id", ""), answer.headers.get("X-Code", ""))


def _at_door(say: Callable[[Asked], Post]) -> Speaker:
    return lambda door, asked, key: _post(door, asked, say(asked), key)


async def _by_basic(door: Door, asked: Asked, key: str) -> Told:
    """Ask as the web UI's clients do, without the name of an end user."""
    post = a1111(asked)
    named = Post(post.path, post.body, {"Authorization": basic("", key or door.running.key)})
    return await _post(door, asked, named, None)


SPEAKERS: Final[dict[str, Speaker]] = {
    "rest": over_rest,
    "websocket": over_websocket,
    **{name: _at_door(say) for name, say in DIALECTS.items()},
    "a1111 by basic": _by_basic,
}
"""Every way in."""
