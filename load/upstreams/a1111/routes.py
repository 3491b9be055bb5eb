"""Which paths there are, in which flavour, and what each operation is called in scripts and logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from load.upstreams.a1111.errors import Flavour, Unrouted

Methods = Mapping[str, str]
"""Operations by their methods, the first registered first."""

_EVERYWHERE: Mapping[str, Methods] = {
    # Generations
    "/sdapi/v1/txt2img": {"POST": "txt2img"},
    "/sdapi/v1/img2img": {"POST": "img2img"},
    "/sdapi/v1/extra-single-image": {"POST": "extra-single-image"},
    # What goes on
    "/sdapi/v1/progress": {"GET": "progress"},
    "/sdapi/v1/interrupt": {"POST": "interrupt"},
    "/sdapi/v1/skip": {"POST": "skip"},
    # Options, pictures, models in memory
    "/sdapi/v1/options": {"GET": "options", "POST": "options/set"},
    "/sdapi/v1/png-info": {"POST": "png-info"},
    "/sdapi/v1/refresh-checkpoints": {"POST": "refresh-checkpoints"},
    "/sdapi/v1/refresh-loras": {"POST": "refresh-loras"},
    "/sdapi/v1/unload-checkpoint": {"POST": "unload-checkpoint"},
    "/sdapi/v1/reload-checkpoint": {"POST": "reload-checkpoint"},
    # What there is
    "/sdapi/v1/cmd-flags": {"GET": "cmd-flags"},
    "/sdapi/v1/samplers": {"GET": "samplers"},
    "/sdapi/v1/schedulers": {"GET": "schedulers"},
    "/sdapi/v1/upscalers": {"GET": "upscalers"},
    "/sdapi/v1/latent-upscale-modes": {"GET": "latent-upscale-modes"},
    "/sdapi/v1/sd-models": {"GET": "sd-models"},
    "/sdapi/v1/hypernetworks": {"GET": "hypernetworks"},
    "/sdapi/v1/prompt-styles": {"GET": "prompt-styles"},
    "/sdapi/v1/embeddings": {"GET": "embeddings"},
    "/sdapi/v1/memory": {"GET": "memory"},
    "/sdapi/v1/scripts": {"GET": "scripts"},
    "/sdapi/v1/script-info": {"GET": "script-info"},
    "/sdapi/v1/loras": {"GET": "loras"},
    "/controlnet/version": {"GET": "controlnet/version"},
    "/controlnet/model_list": {"GET": "controlnet/model_list"},
    "/controlnet/module_list": {"GET": "controlnet/module_list"},
    "/controlnet/control_types": {"GET": "controlnet/control_types"},
    "/controlnet/settings": {"GET": "controlnet/settings"},
    "/controlnet/detect": {"POST": "controlnet/detect"},
}
_WEB: Mapping[str, Methods] = {
    "/": {"GET": "page"},
    "/internal/ping": {"GET": "internal/ping"},
    "/internal/pending-tasks": {"GET": "internal/pending-tasks"},
    "/internal/progress": {"POST": "internal/progress"},
}
_SDNEXT: Mapping[str, Methods] = {
    "/sdapi/v2/jobs": {"POST": "jobs", "GET": "jobs/list"},
    "/sdapi/v2/ws-ticket": {"POST": "ws-ticket"},
}
_SDNEXT_JOB: tuple[tuple[re.Pattern[str], Methods], ...] = (
    (re.compile(r"/sdapi/v2/jobs/(?P<id>[^/]+)"), {"GET": "jobs/get", "DELETE": "jobs/cancel"}),
    (re.compile(r"/sdapi/v2/jobs/(?P<id>[^/]+)/(?P<key>images|processed)/(?P<index>[^/]+)"), {"GET": "jobs/file"}),
    (re.compile(r"/sdapi/v2/jobs/(?P<id>[^/]+)/ws"), {"GET": "jobs/ws"}),
)
GENERATIONS = frozenset({"txt2img", "img2img", "extra-single-image", "jobs"})
WITH_BODY = GENERATIONS | {"options/set", "png-info", "internal/progress", "controlnet/detect"}


def table(flavour: Flavour, *, web: bool) -> Mapping[str, Methods]:
    """From a path to the operations of its methods."""
    if flavour == "sdnext":
        return MappingProxyType({**_EVERYWHERE, **_SDNEXT})
    return MappingProxyType({**_EVERYWHERE, **_WEB} if web else dict(_EVERYWHERE))


def operation(routes: Mapping[str, Methods], method: str, path: str, flavour: Flavour) -> str:
    """What a request asks for; "unknown" for a path or method there is not."""
    methods = routes.get(path) or _job_methods(path, flavour)
    return methods.get(method, "unknown")


def refuse(routes: Mapping[str, Methods], path: str, flavour: Flavour) -> Unrouted:
    """What the framework answers for an unknown path, or a known one by the wrong method."""
    methods = routes.get(path) or _job_methods(path, flavour)
    if not methods:
        return Unrouted(404, "Not Found")
    return Unrouted(405, "Method Not Allowed", ("allow", next(iter(methods))))


def job_path(path: str) -> Mapping[str, str]:
    """The parts of a path below a job."""
    for pattern, _ in _SDNEXT_JOB:
        if found := pattern.fullmatch(path):
            return found.groupdict()
    return {}


def _job_methods(path: str, flavour: Flavour) -> Methods:
    if flavour == "sdnext":
        for pattern, methods in _SDNEXT_JOB:
            if pattern.fullmatch(path):
                return methods
    return {}
