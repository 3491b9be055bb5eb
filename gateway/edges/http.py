"""What the HTTP edges share: who asks, what a body may be, and the one shape of an answer and of an error."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import unquote_plus

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Message, Receive

from gateway.core.records import Identity, JobRecord
from gateway.core.scopes import Scope
from gateway.core.tokens import refused
from gateway.flow.access import Right
from gateway.flow.node import Node
from protocol.codec import decode_fields, error_body
from protocol.errors import ClientFault
from protocol.ids import is_ulid

T = TypeVar("T", bound=msgspec.Struct)

STALLED_SECONDS: Final = 30.0
LEAST_BYTES_PER_SECOND: Final = 1024
"""A body that comes drop by drop makes progress for ever; it must come at this rate besides."""
SMALL: Final = 65_536
"""Bytes of a body that take no room of which others might be in need."""
LARGE_SECONDS: Final = 120.0
"""For how long a body may take that is past `SMALL`: 16 MiB come in it at a little over a megabit a second."""
LARGE_BYTES_PER_SECOND: Final = 32_768
"""The least rate of such a body, once it has had `STALLED_SECONDS`."""
JOINED_HERE: Final = 1_048_576
"""Bytes that are put together on the loop itself, in half a millisecond; more goes to a thread."""
SCOPES: Final[Mapping[Right, Scope]] = {"watch": "read", "cancel": "cancel"}
"""What a credential needs where a grant needs a right."""
_SHOWN: Final = frozenset(
    {"after", "format", "frame", "limit", "max_edge", "max_fps", "progress_max_hz", "quality", "state"}
)
_NAMED: Final = frozenset({"ref", "sig", "ticket", "token"})
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}\Z")
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: Any


def answer(
    body: msgspec.Struct | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return `body` as a JSON answer."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def refusal(fault: ClientFault) -> Response:
    """Return the answer that tells a fault: its code's status, and when to come back."""
    headers = {}
    if fault.retry_after_ms is not None:
        headers["Retry-After"] = str(math.ceil(fault.retry_after_ms / 1000))
    if fault.entry.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answer(ErrorAnswer(error_body(fault)), fault.entry.http, headers)


def internal(reference: str) -> Response:
    """Return the answer to a failure of ours; `reference` is all that is told, and finds it in the log."""
    return refusal(
        ClientFault("internal", "the gateway failed; its log has the reason", details={"reference": reference})
    )


async def refuse_routing(request: Request, fault: Exception) -> Response:
    """Starlette's handler of its own refusals: no such path, or not by this method."""
    assert isinstance(fault, HTTPException), "it is registered for nothing else"
    if fault.status_code == 405:
        told = refusal(ClientFault("method_not_allowed", f"{request.method} is not a method of this path"))
        told.headers["Allow"] = ", ".join(sorted(_methods(request)))
        return told
    if fault.status_code == 404:
        return refusal(ClientFault("not_found", "there is nothing at this path"))
    return refusal(ClientFault("bad_request", fault.detail))


def _methods(request: Request) -> set[str]:
    """Every method of a path: its routes have one each, and Starlette's refusal names those of the first alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in routes for method in route.methods}


# --- who asks ---


async def authenticate(request: Request, node: Node, scope: Scope | None) -> Identity:
    """Return who the request's bearer stands for, if it has the scope (`None`: whatever it has).

    Nothing else counts here: no cookie, so that no page can borrow a login, and no ticket, which opens sockets only.
    Raises `ClientFault` `unauthorized` or `token_expired` (see `Access.identify`) and `forbidden`.
    """
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise refused("missing", node.clock.time_ms())
    identity = await node.access.identify(credential.strip())
    if scope is not None:
        identity.require(scope)
    return identity


@dataclass(frozen=True, slots=True)
class Allowed:
    """A job that the request may touch; `grant` is what allows it to somebody who is not the job's subject."""

    job: JobRecord
    grant: str | None

    @property
    def is_owner(self) -> bool:
        """Whether the job's own subject asks."""
        return self.grant is None


async def own_job(request: Request, node: Node, scope: Scope) -> tuple[Identity, JobRecord]:
    """Return who asks and the job of the path, if it is his own. Raises `ClientFault`, the same if it is another's."""
    identity = await authenticate(request, node, scope)
    record = await _find(request, node)
    if record is None or not _owns(identity, record):
        raise _no_job()
    return identity, record


async def allowed_job(request: Request, node: Node, right: Right) -> Allowed:
    """Return the job of the path if it is the asker's own, or `?sig=` is a grant of `right` to it."""
    grant = request.query_params.get("sig")
    has_bearer = "authorization" in request.headers
    scope = SCOPES[right]
    identity = None
    if has_bearer or grant is None:
        identity = await authenticate(request, node, scope if grant is None else None)
    record = await _find(request, node)
    if record is not None and identity is not None and _owns(identity, record) and scope in identity.scopes:
        return Allowed(record, None)
    if grant is None:
        raise _no_job()
    node.access.check_grant(grant, request.path_params["job"], right)
    if record is None:
        raise _no_job()
    return Allowed(record, grant)


async def _find(request: Request, node: Node) -> JobRecord | None:
    job = request.path_params["job"]
    return await node.jobs.find(job) if is_ulid(job) else None


def _owns(identity: Identity, record: JobRecord) -> bool:
    return (identity.tenant, identity.subject) == (record.tenant, record.subject)


def _no_job() -> ClientFault:
    return ClientFault("job_not_found", "there is no such job", details={"path": "job"})


# --- what was sent ---


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast a body must come, from when it had so many bytes; seconds, and bytes a second."""

    stalled: float
    rate: int
    began: float
    had: int = 0
    longest: float = math.inf

    def latest(self, size: int, now: float) -> float:
        """Return until when the next byte must come."""
        by_rate = self.began + self.stalled + (size - self.had) / self.rate
        return min(now + self.stalled, by_rate, self.began + self.longest)


async def read_body(
    request: Request,
    max_bytes: int,
    stalled_seconds: float = STALLED_SECONDS,
    enter: Callable[[], Awaitable[None]] | None = None,
) -> bytes:
    """Return the request's body of at most `max_bytes`. Raises `ClientFault`; nothing over the limit is kept.

    `enter` is awaited before more than `SMALL` bytes are read: it takes room for a large body, which must then come at
    the pace of one.
    """
    declared = request.headers.get("content-length", "0")
    if int(declared) > max_bytes:
        # Who sends a little too much may end and read why; reading on and on from who sends far more helps nobody.
        if int(declared) > 4 * max_bytes:
            _close_after(request)
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size, more = 0, True
    clock = asyncio.get_running_loop()
    pace = _Pace(stalled_seconds, LEAST_BYTES_PER_SECOND, clock.time())
    while more:
        message = await _next(request, pace.latest(size, clock.time()))
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > max_bytes:
            _close_after(request)
            raise _too_large(max_bytes)
        parts.append(part)
        if enter is not None and size > SMALL:
            await enter()
            enter = None
            pace = _Pace(stalled_seconds, LARGE_BYTES_PER_SECOND, clock.time(), size, LARGE_SECONDS)
    # The interpreter is let go while so many bytes are put together, so a thread leaves the loop free.
    return b"".join(parts) if size <= JOINED_HERE else await asyncio.to_thread(b"".join, parts)


async def _next(request: Request, latest: float) -> Message:
    """Return what comes next of a body. Raises `ClientFault` if nothing does until `latest`."""
    try:
        async with asyncio.timeout_at(latest):
            message = await request.receive()
    except TimeoutError:
        _close_after(request)
        raise ClientFault("bad_request", "the body came too slowly", details={"path": "body"}) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


async def read_fields(request: Request, kind: type[T], max_bytes: int) -> T:
    """Return the request's JSON body as a struct of `kind`; no body at all is an empty object."""
    return decode_fields(await read_body(request, max_bytes) or b"{}", kind, "")


def read_query(request: Request, kind: type[T]) -> T:
    """Return the query as a struct of `kind`; names that it does not have are ignored."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        details = {"path": found.group(1) if found else "query"}
        message = _PATH.sub("", str(error)).replace("`", "")
        raise ClientFault("invalid_param", message, details=details) from error


async def until_gone(receive: Receive) -> None:
    """Return when the reader has closed the connection; call it once the body is read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def matches(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` has the tag, so that the client knows the answer already."""
    told = request.headers.get("if-none-match", "")
    return told.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in told.split(","))


def redact(path: str) -> str:
    """Return a path with its query as it may stand in a log: all but a few harmless values are left out.

    What is shown is listed, not what is hidden: a credential under a name that nobody thought of stays out too.
    """
    path, mark, query = path.partition("?")
    shown = "&".join(_redacted(pair) for pair in query.split("&")) if query else ""
    return "".join(one if one.isprintable() else "?" for one in path + mark + shown)


def _redacted(pair: str) -> str:
    name, mark, value = pair.partition("=")
    if name in _SHOWN and _HARMLESS.match(value):
        return pair
    name = unquote_plus(name).lower()
    return f"{name}=-" if mark and name in _SHOWN | _NAMED else "-"


def _close_after(request: Request) -> None:
    """Have the connection closed after the answer: what is still to come on it is not worth reading."""
    request.scope["safelight.close"] = True


def _too_large(max_bytes: int) -> ClientFault:
    return ClientFault(
        "payload_too_large", f"the body has at most {max_bytes} bytes", details={"path": "body", "max_bytes": max_bytes}
    )
