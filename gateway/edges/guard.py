"""The outermost layer of every edge: which host and which page may ask, and what every answer carries.

`Host` must be a name of ours, so that a page cannot reach a gateway on its visitor's machine under a name of its own
(DNS rebinding). `Origin`, where a browser sends it, must be ours or listed. A WebSocket's upgrade is not refused here:
browsers cannot read a refused upgrade, so the verdict is noted and the stream closes with 4503.

What is refused here is said as whoever put the edges together wants it said at the request's path. Whatever fails
further in is told here as `internal`, with a reference that the log has.
"""

import random
import re
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Final, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.edges.http import internal, refusal
from gateway.ports import Clock, Meter
from protocol.errors import ClientFault
from protocol.ids import make_ulid

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Asked by load balancers under whatever address a machine has; they tell nothing that a page could use."""
_HEADERS: Final = (
    "authorization, content-type, idempotency-key, if-none-match, if-range, last-event-id, prefer, range, "
    "x-on-disconnect"
)
PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": _HEADERS,
    "Access-Control-Max-Age": "600",
}
EXPOSED: Final = (
    "accept-ranges, allow, content-range, date, etag, finish-reason, location, preference-applied, preview-frame, "
    "preview-size, preview-step, ratelimit, ratelimit-policy, retry-after, seed, www-authenticate, x-ignored, "
    "x-job-id, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-request-id, x-should-retry"
)
_MOST_ASKED: Final = 2048
"""Letters of the names that a preflight asks for; the vendors' clients have some twenty."""
_NAMES: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+( *, *[!#$%&'*+.^_`|~0-9A-Za-z-]+)*\Z")
_SAFE: Final = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}
_PORTS: Final = {"http": "80", "https": "443"}
Tell = Callable[[Request, ClientFault], Response]
"""Returns the answer that tells a fault, in the words that are spoken at the request's path."""


class Log(Protocol):
    """Where a failure is told with its reason."""

    def error(self, event: str, **facts: Any) -> Any:
        """Write an error with its facts."""
        ...


def in_our_words(_: Request, fault: ClientFault) -> Response:
    """See `Tell`: the gateway's own words at every path."""
    return refusal(fault)


class Guard:
    """ASGI middleware around everything; `hosts` are names without a port, `origins` as browsers send them."""

    def __init__(
        self,
        app: ASGIApp,
        clock: Clock,
        chance: random.Random,
        meter: Meter,
        log: Log,
        *,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        trust_forwarded: bool = False,
        tell: Tell = in_our_words,
    ) -> None:
        self._app = app
        self._clock = clock
        self._chance = chance
        self._meter = meter
        self._log = log
        self._hosts = {_as_in_header(host.lower()) for host in (*hosts, *LOCAL_HOSTS)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._trust_forwarded = trust_forwarded
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
            return
        if scope["type"] == "websocket" and self._refuses(scope):
            scope["safelight.refused"] = "forbidden"
        await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        reference = scope["safelight.request"] = make_ulid(self._clock.time_ms(), self._chance)
        scope["safelight.address"] = self._address(scope)
        origin = Headers(scope=scope).get("origin")
        listed = origin if origin is not None and origin.lower() in self._origins else None
        started = False

        async def send_dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # The route and not the path: what clients make up must not become labels.
                route = getattr(scope.get("route"), "path", "-")
                self._meter.count("http_requests", route=route, status=str(message["status"]))
                self._dress(MutableHeaders(scope=message), scope, reference, listed)
            await send(message)

        try:
            app = self._answer(scope, listed) or self._app
            await app(scope, receive, send_dressed)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the request ends here; it is reported, and told without its reason
            self._log.error(
                "a request failed", request=reference, method=scope["method"], path=scope["path"], exc_info=error
            )
            if not started:
                await internal(reference)(scope, receive, send_dressed)

    def _answer(self, scope: Scope, listed: str | None) -> Response | None:
        """Return what is answered here already, if anything."""
        if scope["path"] not in PROBES and self._refuses(scope):
            return self._tell(Request(scope), ClientFault("forbidden", "this host or origin is not allowed here"))
        if listed and scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope):
            return Response(status_code=204, headers=_preflight(Headers(scope=scope)))
        return None

    def _dress(self, headers: MutableHeaders, scope: Scope, reference: str, listed: str | None) -> None:
        """Add what every answer carries. Credentials are never allowed to pages: there are none but bearers."""
        for name, value in _SAFE.items():
            headers.setdefault(name, value)
        headers["x-request-id"] = reference
        # From the clock that credentials are checked with (RFC 9110, section 6.6.1), so that a wrong one shows.
        headers["date"] = formatdate(self._clock.time_ms() // 1000, usegmt=True)
        if "safelight.close" in scope:
            headers["connection"] = "close"
        if self._origins:
            headers.add_vary_header("Origin")
        if listed is not None:
            headers["access-control-allow-origin"] = listed
            headers["access-control-expose-headers"] = EXPOSED

    def _address(self, scope: Scope) -> str:
        """Return who asks: the other end of the socket, or whom the nearest proxy saw."""
        told = Headers(scope=scope).getlist("x-forwarded-for") if self._trust_forwarded else []
        seen = told[-1].rpartition(",")[2].strip() if told else ""
        return seen or (scope["client"][0] if scope.get("client") else "")

    def _refuses(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if self._trust_forwarded and "x-forwarded-host" in headers:
            # The last is what the nearest proxy wrote; what stands before it came from outside.
            hosts = [headers.getlist("x-forwarded-host")[-1].rpartition(",")[2].strip()]
        if len(hosts) != 1 or _without_port(hosts[0]) not in self._hosts:
            return True
        origins = headers.getlist("origin")
        return not all(one.lower() in self._origins or _is_same(one, hosts[0]) for one in origins)


def _preflight(asked: Headers) -> dict[str, str]:
    """Allow a listed page the headers that it asks for: each vendor's clients send some of their own.

    None of them says who asks but `Authorization`, which pages send by themselves or not at all.
    """
    names = asked.get("access-control-request-headers", "")
    is_list = len(names) <= _MOST_ASKED and _NAMES.match(names) is not None
    return PREFLIGHT | ({"Access-Control-Allow-Headers": names} if is_list else {})


def _as_in_header(host: str) -> str:
    """Return a name or address as `Host` has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _without_port(host: str) -> str:
    host = host.lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]


def _is_same(origin: str, host: str) -> bool:
    """Whether a page's origin is the host that it asks, by name and port.

    The scheme is not compared: a proxy that ends TLS hides it, and no cookie lies here that a page could borrow.
    """
    scheme, _, rest = origin.lower().partition("://")
    if scheme not in _PORTS:
        return False
    usual = f":{_PORTS[scheme]}"
    return rest.removesuffix(usual) == host.lower().removesuffix(usual)
