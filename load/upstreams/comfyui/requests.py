"""Which request means what, and how it is noted."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass
from typing import Any

from aiohttp import web

_OPERATIONS = {
    ("GET", "/prompt"): "prompt_info",
    ("POST", "/prompt"): "prompt",
    ("GET", "/queue"): "queue",
    ("POST", "/queue"): "queue_edit",
    ("POST", "/interrupt"): "interrupt",
    ("GET", "/history"): "history",
    ("POST", "/history"): "history_edit",
    ("GET", "/view"): "view",
    ("POST", "/upload/image"): "upload_image",
    ("POST", "/upload/mask"): "upload_mask",
    ("POST", "/free"): "free",
    ("GET", "/system_stats"): "system_stats",
    ("GET", "/features"): "features",
    ("GET", "/object_info"): "object_info",
    ("GET", "/models"): "models",
    ("GET", "/embeddings"): "embeddings",
    ("GET", "/extensions"): "extensions",
    ("GET", "/ws"): "ws",
}
_OTHER_BYTES = 65_536
_WITH_NAME = ("/history/", "/object_info/", "/models/")


def _allowed(path: str) -> str:
    methods = {method for method, known in _OPERATIONS if known == path}
    return ",".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


KNOWN_PATHS = {path: _allowed(path) for _, path in _OPERATIONS}
"""The methods each path takes, as an Allow header lists them."""


def without_api(path: str) -> str:
    """The path without the prefix under which every route exists a second time."""
    return path.removeprefix("/api") if path.startswith("/api/") else path


def operation_of(method: str, path: str) -> str:
    """What a request asks for; `unknown` and `wrong_method` are operations too."""
    path = without_api(path)
    if method == "GET":
        path = next((prefix[:-1] for prefix in _WITH_NAME if path.startswith(prefix)), path)
    fallback = "wrong_method" if path in KNOWN_PATHS else "unknown"
    return _OPERATIONS.get((method, path), fallback)


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether a request wants to become a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def is_foreign(request: web.BaseRequest) -> bool:
    """Whether a browser on another site sends this to a server on loopback."""
    origin = urllib.parse.urlparse(request.headers.get("Origin", ""))
    host = urllib.parse.urlparse(f"//{request.headers.get('Host', '')}")
    if not origin.netloc or host.hostname not in ("127.0.0.1", "localhost", "::1"):
        return False
    if host.port is None or origin.port is None:
        return origin.hostname != host.hostname
    return origin.netloc.lower() != host.netloc.lower()


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    call: int
    """The number of its call in the log."""
    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    body: Any
    """The JSON value, or the beginning of any other body; None for an empty one."""

    @classmethod
    def of(cls, call: int, request: web.BaseRequest, body: bytes) -> Request:
        return cls(call, request.method, request.path_qs, dict(request.headers), _read(body))


def _read(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body[:_OTHER_BYTES]
