"""Stability AI REST v1: one blocking request per call, JSON in and out, or multipart in where images go along.

`stability_v1_models` has what the vendor offers, `stability_v1_wire` what the two vocabularies mean to each other; both
are without I/O. `StabilityV1` here does the I/O and decides nothing but how far a call had come when its connection
broke.

The vendor tells nothing while it works, has no idempotency and no way to ask what became of a call. So each call is
billed, and one whose answer did not come whole has an unknown outcome.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.http import Beside, TrackedBody
from gateway.upstreams.stability_v1_models import Engine, model_of
from gateway.upstreams.stability_v1_wire import (
    MOST_ERROR_BYTES,
    check,
    encode_multipart,
    from_vendor,
    needs_preparing,
    prepare,
    refusal,
    to_vendor,
    unusable,
)

__all__ = ["Engine", "StabilityV1"]

_ERROR_BODY_SECONDS: Final = 5.0
_INLINE_BYTES: Final = 1024 * 1024
"""Answers up to this size are decoded on the loop: some 2 ms; above, a thread's hop costs less than the stall."""


@dataclass(slots=True)
class _Progress:
    """How far a request has come."""

    begun: bool = False
    """Its head was written, or is about to be."""
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True


class StabilityV1:
    """One account of the vendor's; see `Upstream`. `engines` maps the vendor's engine ids to how they are offered.

    `timeout_seconds` is for a whole call, from connecting to the answer's last byte. A connection that lay idle for
    `keepalive_seconds` is not used again, 0 = never: the shorter, the rarer that the vendor closes one just as a call
    goes out on it, whose outcome is then unknown.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str,
        engines: Mapping[str, Engine],
        timeout_seconds: float = 120.0,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float = 2.0,
        max_answer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.name = name
        self.models = tuple(model_of(name, engine_id, engine) for engine_id, engine in engines.items())
        self._base_url = base_url.rstrip("/")
        self._secret = Secret(api_key)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=connect_timeout_seconds)
        self._keepalive_seconds = keepalive_seconds
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<StabilityV1 {self.name} at {self._base_url}>"

    async def open(self) -> None:
        """Make the connection pool; no connection is made yet."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_begun)
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The environment's proxies and .netrc are the operator's, not this vendor's.
            trust_env=False,
            trace_configs=[trace],
        )

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling drops the connection."""
        check(order)
        if needs_preparing(order):
            order = await asyncio.to_thread(prepare, order)
        progress = _Progress()

        def gone() -> None:
            # Once only: nothing sends a POST twice, but the port's promise should not rest on that.
            if not progress.sent:
                progress.sent = True
                order.sent()
                beside.move()

        async with Beside(self._ask(order, progress, gone), f"{self.name} call {order.id}") as beside:
            await beside.moved()
            if progress.sent:
                yield WorkBegun(order.request.steps)
            answer = await beside.result()
        for image in await self._images(order, answer):
            yield image

    def _connector(self) -> aiohttp.TCPConnector:
        # No limit of its own: how many calls go out at once is the gate's decision, and a call that waits here has
        # been let through there.
        if self._keepalive_seconds == 0:
            return aiohttp.TCPConnector(limit=0, force_close=True)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive_seconds)

    async def _images(self, order: CallOrder, answer: _Answer) -> list[ImageMade]:
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        if not answer.is_whole:
            raise unusable(f"the answer has more than {self._max_answer_bytes} bytes")
        if len(answer.body) <= _INLINE_BYTES:
            return from_vendor(order, answer.body)
        return await asyncio.to_thread(from_vendor, order, answer.body)

    async def _ask(self, order: CallOrder, progress: _Progress, gone: Callable[[], None]) -> _Answer:
        path, content = to_vendor(order)
        body, content_type = (
            encode_multipart(content, secrets.token_hex(16))
            if isinstance(content, list)
            else (msgspec.json.encode(content), "application/json")
        )
        try:
            return await self._post(path, TrackedBody(body, content_type, gone), progress)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            kind = type(error).__name__
        # Outside of `except`, so that the foreign exception is not chained: some carry our headers, key and all.
        raise _lost(kind, self.name, begun=progress.begun)

    async def _post(self, path: str, body: TrackedBody, progress: _Progress) -> _Answer:
        assert self._session is not None, "open() comes first"
        headers = {
            "Accept": "application/json",
            # The answer is base64 of compressed pictures; and what is not compressed can't be a bomb.
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self._secret.reveal()}",
            "Stability-Client-ID": "safelight",
        }
        async with self._session.post(
            f"{self._base_url}{path}",
            data=body,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=progress,
        ) as response:
            return await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> _Answer:
        if response.status == 200:
            content, is_whole = await _bounded(response, self._max_answer_bytes)
        else:
            # The status says enough: a body that breaks off or never ends takes nothing from it.
            content, is_whole = b"", False
            try:
                async with asyncio.timeout(_ERROR_BODY_SECONDS):
                    content, is_whole = await _bounded(response, MOST_ERROR_BYTES)
            except (aiohttp.ClientError, TimeoutError, OSError):
                response.close()
        return _Answer(response.status, response.headers, content, is_whole)


async def _bounded(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
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


def _lost(kind: str, upstream: str, *, begun: bool) -> UpstreamFault:
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
    assert isinstance(progress, _Progress), "every request of this session has one"
    progress.begun = True
