"""Which paths there are, in which flavour, and what each operation is called in scripts and logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from load.upstreams.a1111.errors import Flavour, Unrouted

_V1 = "/sdapi/v1/"
_POSTS = (
    *("txt2img", "img2img", "extra-single-image", "png-info", "interrupt", "skip", "options"),
    *("refresh-checkpoints", "refresh-loras", "unload-checkpoint", "reload-checkpoint"),
)
_GETS = (
    *("progress", "options", "cmd-flags", "samplers", "schedulers", "upscalers", "latent-upscale-modes"),
    *("sd-models", "hypernetworks", "prompt-styles", "embeddings", "memory", "scripts", "script-info", "loras"),
)
_CONTROLNET = ("version", "model_list", "module_list", "control_types", "settings")
GENERATIONS = frozenset({"txt2img", "img2img", "extra-single-image", "jobs"})

_JOB_PATHS = (
    (re.compile(r"/sdapi/v2/jobs/(?P<id>[^/]+)"), {"GET": "jobs/get", "DELETE": "jobs/cancel"}),
    (re.compile(r"/sdapi/v2/jobs/(?P<id>[^/]+)/(?P<key>images|processed)/(?P<index>[^/]+)"), {"GET": "jobs/file"}),
    (re.compile(r"/sdapi/v2/jobs/(?P<id>[^/]+)/ws"), {"GET": "jobs/ws"}),
)


def table(flavour: Flavour, *, web: bool) -> Mapping[str, Mapping[str, str]]:
    """From a path to the operations of its methods, the first registered first."""
    routes: dict[str, dict[str, str]] = {}
    for name in _GETS:
        routes.setdefault(_V1 + name, {})["GET"] = name
    for name in _POSTS:
        routes.setdefault(_V1 + name, {})["POST"] = name if name != "options" else "options/set"
    for name in _CONTROLNET:
        routes[f"/controlnet/{name}"] = {"GET": f"controlnet/{name}"}
    routes["/controlnet/detect"] = {"POST": "controlnet/detect"}
    if flavour == "sdnext":
        routes["/sdapi/v2/jobs"] = {"POST": "jobs", "GET": "jobs/list"}
        routes["/sdapi/v2/ws-ticket"] = {"POST": "ws-ticket"}
    elif web:
        routes |= _web()
    return MappingProxyType(routes)


def _web() -> dict[str, dict[str, str]]:
    return {
        "/": {"GET": "page"},
        "/internal/ping": {"GET": "internal/ping"},
        "/internal/pending-tasks": {"GET": "internal/pending-tasks"},
        "/internal/progress": {"POST": "internal/progress"},
    }


def operation(routes: Mapping[str, Mapping[str, str]], method: str, path: str, flavour: Flavour) -> str:
    """What a request asks for; "unknown" for a path or method there is not."""
    methods = routes.get(path) or _job_methods(path, flavour)
    return methods.get(method, "unknown")


def refuse(routes: Mapping[str, Mapping[str, str]], path: str, flavour: Flavour) -> Unrouted:
    """What the framework answers for an unknown path, or a known one by the wrong method."""
    methods = routes.get(path) or _job_methods(path, flavour)
    if not methods:
        return Unrouted(404, "Not Found")
    return Unrouted(405, "Method Not Allowed", ("allow", next(iter(methods))))


def job_path(path: str) -> Mapping[str, str]:
    """The parts of a path below a job."""
    for pattern, _ in _JOB_PATHS:
        if found := pattern.fullmatch(path):
            return found.groupdict()
    return {}


def _job_methods(path: str, flavour: Flavour) -> Mapping[str, str]:
    if flavour == "sdnext":
        for pattern, methods in _JOB_PATHS:
            if pattern.fullmatch(path):
                return methods
    return {}
