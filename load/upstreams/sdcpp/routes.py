"""Which request asks for what."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from load.upstreams.sdcpp import catalogue
from load.upstreams.sdcpp.catalogue import Shop

_POSTS: Mapping[str, str] = {
    "/sdcpp/v1/img_gen": "img_gen",
    "/sdcpp/v1/vid_gen": "vid_gen",
    "/sdapi/v1/txt2img": "txt2img",
    "/sdapi/v1/img2img": "img2img",
    "/v1/images/generations": "generations",
    "/v1/images/edits": "edits",
}
_GETS: Mapping[str, str] = {
    "/": "index",
    "/sdcpp/v1/capabilities": "capabilities",
    "/v1/models": "models",
    "/sdapi/v1/options": "options",
    "/sdapi/v1/samplers": "samplers",
    "/sdapi/v1/schedulers": "schedulers",
    "/sdapi/v1/sd-models": "sd-models",
    "/sdapi/v1/loras": "loras",
    "/sdapi/v1/upscalers": "upscalers",
    "/sdapi/v1/latent-upscale-modes": "latent-upscale-modes",
}
LISTINGS: Mapping[str, Callable[[Shop], object]] = {
    "capabilities": catalogue.capabilities,
    "models": lambda _: catalogue.openai_models(),
    "options": catalogue.webui_options,
    "samplers": lambda _: catalogue.webui_samplers(),
    "schedulers": lambda _: catalogue.webui_schedulers(),
    "sd-models": catalogue.webui_models,
    "loras": catalogue.loras,
    "upscalers": lambda _: catalogue.webui_upscalers(),
    "latent-upscale-modes": lambda _: catalogue.webui_latent_modes(),
}
"""What the operations that only tell something answer."""
GENERATIONS = frozenset(_POSTS.values()) - {"vid_gen"}
_JOB = re.compile(r"/sdcpp/v1/jobs/([A-Za-z0-9_\-]+)(/cancel)?")


def operation_of(method: str, path: str) -> str:
    """What a request asks for; "unknown" for a path or method there is not."""
    if method == "OPTIONS":
        return "preflight"
    job = _JOB.fullmatch(path)
    if job is not None and method == ("POST" if job[2] else "GET"):
        return "cancel" if job[2] else "job"
    table: Mapping[str, str] = {"GET": _GETS, "POST": _POSTS}.get(method, {})
    return table.get(path, "unknown")


def job_id(path: str) -> str:
    """The id in a path that asks for a job."""
    match = _JOB.fullmatch(path)
    assert match is not None, "the route has matched the path"
    return match[1]
