"""Stability AI v2beta stable-image: one form per picture, answered with the picture's bytes, or with an id to poll.

`models` has what the vendor offers, `wire` what the two vocabularies mean to each
other; both are without I/O. `StabilityV2Beta` here does the I/O.

The vendor tells nothing while it works, has no idempotency and cannot be told to stop. Of most services the answer to
the order is all there ever is: if it does not come whole, the outcome is unknown, and the order is never repeated. An
order of an asynchronous service (creative upscale) is answered with an id, charged from then on, and asked for until
its result is there; such a call can be resumed.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Findings
from gateway.upstreams.http import Beside, Departure
from gateway.upstreams.multipart import encode_multipart
from gateway.upstreams.pictures import needs_preparing, prepare, unusable
from gateway.upstreams.stability_v2beta.models import MICROS_PER_CREDIT, MODELS, model_of, prices_of
from gateway.upstreams.stability_v2beta.wire import (
    check,
    from_vendor,
    handle_of,
    refusal,
    result_fault,
    service,
    to_vendor,
    wanted,
)
from gateway.upstreams.vendor import INLINE_BYTES, Answer, Ask, Vendor

__all__ = ["StabilityV2Beta"]

_TAKEN: Final = frozenset({200, 202})
"""Statuses that mean an order was taken: 200 by the documents, 202 by what it is."""
_IN_PROGRESS: Final = 202
_MOST_TROUBLE: Final = 5
"""Polls in a row that may go wrong; after them it is for the caller to ask again or to give up."""
_POLL_TIMEOUT_SECONDS: Final = 60.0


class StabilityV2Beta:
    """One account of the vendor's; see `Upstream`, and `Vendor` for what is not told here.

    `models` are the names of those that are offered, all by default. `prices` (millionths of the currency, by service)
    stand in for the vendor's credit table. `max_n` is for one job. `timeout_seconds` is for an order, from connecting
    to the answer's last byte; an asynchronous one is polled every `poll_seconds` (the vendor wants at least 10) for up
    to `result_timeout_seconds`, and after a 429 that names no time not within `lockout_seconds`.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str,
        models: Collection[str] = MODELS,
        prices: Mapping[str, int] | None = None,
        max_n: int = 4,
        timeout_seconds: float = 180.0,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float = 2.0,
        max_request_bytes: int = 10 * 1024 * 1024,
        max_answer_bytes: int = 64 * 1024 * 1024,
        poll_seconds: float = 10.0,
        result_timeout_seconds: float = 900.0,
        lockout_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self._prices = prices_of(prices or {})
        self.models = tuple(model_of(name, model, self._prices, max_n) for model in models)
        secret = Secret(api_key)
        self._secret = secret
        self._vendor = Vendor(
            name,
            base_url,
            secret=secret,
            headers=lambda: {
                "Accept": "image/*",
                "Authorization": f"Bearer {secret.reveal()}",
                "Stability-Client-ID": "safelight",
            },
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
            # Two polls in a row would be sooner than the vendor wants.
            repeats_reads=False,
        )
        self._max_request_bytes = max_request_bytes
        self._max_answer_bytes = max_answer_bytes
        self._poll_seconds = poll_seconds
        self._poll_timeout_seconds = min(timeout_seconds, _POLL_TIMEOUT_SECONDS)
        self._result_timeout_seconds = result_timeout_seconds
        self._lockout_seconds = lockout_seconds

    def __repr__(self) -> str:
        return f"<StabilityV2Beta {self.name} at {self._vendor.base_url}>"

    async def open(self) -> None:
        """See `Upstream.open`."""
        await self._vendor.open()

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        await self._vendor.close()

    async def refresh(self) -> None:
        """See `Upstream.refresh`: the vendor has no list; what is offered stands in the settings."""

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling drops the connection; what was ordered is made and charged all the same."""
        if needs_preparing(order, wanted(order)):
            order = await asyncio.to_thread(prepare, order, wanted(order))
        check(order)
        ask = self._asked(order)
        gone = Departure(order)

        async with Beside(self._made(order, ask, gone), f"{self.name} call {order.id}") as beside:
            gone.then(beside.move)
            await beside.moved()
            if gone.happened:
                yield WorkBegun(order.request.steps)
            image = await beside.result()
        yield image

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: only what the vendor gave an id, as it does to what takes long."""
        return handle is not None

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: goes on asking for the result. Without an id nobody can know what was made."""
        if handle is None:
            raise UpstreamFault(
                Outcome.UNKNOWN,
                "outcome_unknown",
                "the vendor can only be asked for work that it told an id of",
                details={"upstream": self.name},
            )
        yield WorkBegun(order.request.steps)
        yield await self._result(order, handle)

    async def probe(self) -> Findings:
        """See `Upstream.probe`: asks for the balance, which costs nothing."""
        answer = await self._vendor.ask(Ask("GET", "/v1/user/balance", most=INLINE_BYTES))
        if answer.status != 200:
            raise self._refused(answer)
        credits_left = _credits(answer.body)
        if credits_left is None:
            raise unusable("the account's balance is not the JSON that the vendor documents", charged=False)
        dearest = max(model.price_micros for model in self.models) / MICROS_PER_CREDIT if self.models else 0.0
        facts = (f"{credits_left:g} credits left", f"models: {', '.join(model.id for model in self.models) or 'none'}")
        problems = (
            (f"{credits_left:g} credits do not pay the dearest picture offered here, {dearest:g}: buy credits",)
            if credits_left < dearest
            else ()
        )
        return Findings("Stability AI v2beta stable-image", facts, problems)

    # --- an order ---

    def _asked(self, order: CallOrder) -> Ask:
        path, parts = to_vendor(order)
        body, content_type = encode_multipart(parts, secrets.token_hex(16))
        if len(body) > self._max_request_bytes:
            raise UpstreamFault(
                Outcome.FAILED,
                "payload_too_large",
                f"the vendor takes at most {self._max_request_bytes} bytes in a request, images included",
                details={"path": "inputs", "max_bytes": self._max_request_bytes, "bytes": len(body)},
            )
        whole = _TAKEN if service(order).is_async else frozenset({200})
        return Ask("POST", path, body, content_type, most=self._max_answer_bytes, whole=whole)

    async def _made(self, order: CallOrder, ask: Ask, gone: Callable[[], None]) -> ImageMade:
        answer = await self._vendor.ask(ask, gone)
        if answer.status not in ask.whole:
            raise self._refused(answer)
        if not service(order).is_async:
            return self._image(order, answer)
        handle = handle_of(answer.body)
        await order.noted(handle)
        return await self._result(order, handle)

    def _image(self, order: CallOrder, answer: Answer) -> ImageMade:
        if not answer.is_whole:
            raise unusable(f"the answer has more than {self._max_answer_bytes} bytes")
        return from_vendor(order, answer.headers, answer.body)

    def _refused(self, answer: Answer) -> UpstreamFault:
        return refusal(answer.status, answer.headers, answer.body, self._secret, self.name)

    # --- the result of an asynchronous one ---

    async def _result(self, order: CallOrder, handle: str) -> ImageMade:
        """Ask for a result until it is there; waits before each time, for nobody knows when it was last asked for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._result_timeout_seconds
        wait, trouble = self._poll_seconds, 0
        while True:
            await asyncio.sleep(wait)
            found = await self._poll(order, handle)
            if isinstance(found, ImageMade):
                return found
            trouble = 0 if found is None else trouble + 1
            if found is not None and (trouble >= _MOST_TROUBLE or not _may_pass(found)):
                raise found
            if loop.time() >= until:
                raise found or _still_running(self.name)
            wait = self._wait_after(found)

    def _wait_after(self, fault: UpstreamFault | None) -> float:
        asked = None if fault is None else fault.retry_after_seconds
        if fault is not None and fault.locked_out and asked is None:
            asked = self._lockout_seconds
        return max(self._poll_seconds, min(asked or 0.0, self._result_timeout_seconds))

    async def _poll(self, order: CallOrder, handle: str) -> ImageMade | UpstreamFault | None:
        """Ask once; returns the picture, `None` while there is none, or what went wrong."""
        path = f"/v2beta/results/{quote(handle, safe='')}"
        try:
            answer = await self._vendor.ask(
                Ask("GET", path, most=self._max_answer_bytes, seconds=self._poll_timeout_seconds)
            )
            if answer.status == 200:
                return self._image(order, answer)
        except UpstreamFault as fault:
            if fault.outcome is Outcome.NOT_SENT:
                # What was not sent is the poll; the order was.
                fault.outcome, fault.code = Outcome.UNKNOWN, "outcome_unknown"
            return fault
        if answer.status == _IN_PROGRESS:
            return None
        return result_fault(answer.status, answer.headers, answer.body, self._secret, self.name)


def _may_pass(fault: UpstreamFault) -> bool:
    """Whether the next poll may do better: a broken picture is kept whole at the vendor's, most likely."""
    return fault.outcome is Outcome.UNKNOWN or fault.code == "invalid_output"


def _still_running(upstream: str) -> UpstreamFault:
    message = "the vendor took the order and has no result for too long"
    return UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message, details={"upstream": upstream})


def _credits(body: bytes) -> float | None:
    try:
        return msgspec.json.decode(body, type=_Balance).credits
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Balance(msgspec.Struct, frozen=True):
    credits: float
