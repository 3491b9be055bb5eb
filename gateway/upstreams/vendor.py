"""One account of a vendor's HTTP service: bounded requests that know how far they came, and no secret in what they say.

`ask` makes one request and never repeats it. What goes wrong on the way it raises as `UpstreamFault`, `NOT_SENT` if no
byte can have gone out and `UNKNOWN` if some may have; an answer of any status is returned, whole or cut at its bound.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import aiohttp

from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.upstreams.failures import MOST_ERROR_BYTES
from gateway.upstreams.http import TrackedBody

_Taken = TypeVar("_Taken")
INLINE_BYTES: Final = 1024 * 1024
"""Answers up to this size are decoded on the loop: some 2 ms; above, a thread's hop costs less than the stall."""
_ERROR_BODY_SECONDS: Final = 5.0
_SUCCESS: Final = frozenset({200})


@dataclass(slots=True)
class Progress:
    """How far a request has come."""

    begun: bool = False
    """Its head was written, or is about to be."""
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `is_whole` whether the body is all of it and not cut at its bound."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `path` is under the base address, or an address of its own."""

    method: str
    path: str
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    most: int = 64 * 1024 * 1024
    """Bytes that a successful answer may have."""
    seconds: float | None = None
    """How long it may take; `None` = what the vendor's settings say."""
    whole: Collection[int] = _SUCCESS
    """Statuses whose body counts, and is read up to `most`; of others only so much as explains them."""


class Vendor:
    """The connections to one account; see the module.

    `headers` go with each request, made anew for each, so that a secret is revealed nowhere else. A connection that lay
    idle for `keepalive_seconds` is not used again, 0 = never: the shorter, the rarer that the vendor closes one just as
    a call goes out on it, whose outcome is then unknown. Where `repeats_reads`, a GET whose connection was closed
    before its answer began is sent a second time at once.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        secret: Secret,
        headers: Callable[[], Mapping[str, str]] = dict,
        timeout_seconds: float = 120.0,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float = 2.0,
        repeats_reads: bool = True,
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.secret = secret
        self._headers = headers
        self._timeout_seconds = timeout_seconds
        self._connect_timeout_seconds = connect_timeout_seconds
        self._keepalive_seconds = keepalive_seconds
        self._repeats_reads = repeats_reads
        self._session: aiohttp.ClientSession | None = None
        self._answers: set[aiohttp.ClientResponse] = set()

    def __repr__(self) -> str:
        return f"<Vendor {self.name} at {self.base_url}>"

    async def open(self) -> None:
        """Make the connection pool; no connection is made yet."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_begun)
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The environment's proxies and .netrc are the operator's, not this vendor's.
            trust_env=False,
            trace_configs=[trace],
        )
        # What aiohttp does by itself, with no other switch: its own test client sets the same.
        self._session._retry_connection = self._repeats_reads  # noqa: SLF001

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        if self._session is not None:
            for answer in self._answers:
                # aiohttp tells nobody who reads a body that its connection was closed from this side.
                answer.content.set_exception(aiohttp.ClientConnectionError("closed"))
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool, for what is no plain request: a WebSocket."""
        assert self._session is not None, "open() comes first"
        return self._session

    def own_headers(self) -> dict[str, str]:
        """Return what goes with each request, the credential among it."""
        return dict(self._headers())

    async def ask(self, ask: Ask, gone: Callable[[], None] | None = None) -> Answer:
        """Make a request; `gone` is called when the last byte of its body has left. Raises `UpstreamFault`."""
        return await self.exchange(ask, lambda response: whole_answer(response, ask), gone)

    async def exchange(
        self,
        ask: Ask,
        take: Callable[[aiohttp.ClientResponse], Awaitable[_Taken]],
        gone: Callable[[], None] | None = None,
    ) -> _Taken:
        """Make a request whose answer `take` reads, as one reads a stream; else like `ask`."""
        progress = Progress()
        try:
            return await self._exchange(ask, take, progress, gone)
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.LimitOverrunError) as error:
            kind = type(error).__name__
        # Outside of `except`, so that the foreign exception is not chained: some carry our headers, key and all.
        raise lost(kind, self.name, begun=progress.begun)

    async def _exchange(
        self,
        ask: Ask,
        take: Callable[[aiohttp.ClientResponse], Awaitable[_Taken]],
        progress: Progress,
        gone: Callable[[], None] | None,
    ) -> _Taken:
        data = None
        if ask.body is not None:
            data = TrackedBody(ask.body, ask.content_type, gone or (lambda: None))
        elif gone is not None:
            raise AssertionError("only a body can tell when it is gone")
        url = ask.path if "://" in ask.path else f"{self.base_url}{ask.path}"
        # The answer is compressed pictures, mostly; and what is not compressed can't be a bomb.
        headers = {"Accept-Encoding": "identity", **self._headers(), **ask.headers}
        async with self.session.request(
            ask.method,
            url,
            params=ask.query or None,
            data=data,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_seconds if ask.seconds is None else ask.seconds,
                connect=self._connect_timeout_seconds,
            ),
            trace_request_ctx=progress,
        ) as response:
            self._answers.add(response)
            try:
                return await take(response)
            finally:
                self._answers.discard(response)

    def _connector(self) -> aiohttp.TCPConnector:
        # No limit of its own: how many calls go out at once is the gate's decision, and a call that waits here has
        # been let through there.
        if self._keepalive_seconds == 0:
            return aiohttp.TCPConnector(limit=0, force_close=True)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive_seconds)


async def whole_answer(response: aiohttp.ClientResponse, ask: Ask) -> Answer:
    """Return an answer read up to its bound, or of a status that is no success as much as explains it."""
    if response.status in ask.whole:
        content, is_whole = await bounded(response, ask.most)
        return Answer(response.status, response.headers, content, is_whole)
    # The status says enough: a body that breaks off or never ends takes nothing from it.
    content, is_whole = b"", False
    try:
        async with asyncio.timeout(_ERROR_BODY_SECONDS):
            content, is_whole = await bounded(response, MOST_ERROR_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError):
        response.close()
    return Answer(response.status, response.headers, content, is_whole)


async def bounded(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """Return the body and whether that is all of it; stop reading, and drop the connection, at `most` bytes."""
    pieces: list[bytes] = []
    size = response.content_length or 0
    if size <= most:
        size = 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                break
        else:
            return b"".join(pieces), True
    response.close()
    return b"".join(pieces)[:most], False


def lost(kind: str, upstream: str, *, begun: bool) -> UpstreamFault:
    """Return the fault of a request whose connection broke; `kind` is what the library calls it."""
    details = {"upstream": upstream, "cause": kind}
    if begun:
        message = "the connection to the vendor broke before its answer was whole"
        return UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message, details=details)
    message = "there is no connection to the vendor"
    return UpstreamFault(Outcome.NOT_SENT, "model_unavailable", message, details=details)


async def _note_begun(
    _session: aiohttp.ClientSession, context: object, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    # Called just before the head is written, which is the right side to err on: from here on bytes may be out.
    progress = getattr(context, "trace_request_ctx", None)
    if isinstance(progress, Progress):  # a WebSocket's handshake has none
        progress.begun = True


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: object, params: aiohttp.TraceRequestRedirectParams
) -> None:
    # Plain requests follow none anyway; a WebSocket's handshake can only be stopped here.
    params.response.close()
    raise aiohttp.ClientConnectionError("redirected")
