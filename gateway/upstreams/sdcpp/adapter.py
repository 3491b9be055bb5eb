"""stable-diffusion.cpp's `sd-server`, by its job API: an order is put in its queue and asked about until it has ended.

`models` has what the server offers, `inputs` makes images what it takes, `wire` is what the two
vocabularies mean to each other. `SdCpp` here does the I/O.

The server has one worker, tells no steps, lets only queued work be called off, and charges nothing. It keeps jobs in
memory, for ten minutes after their end: one that it does not know any more was lost, and may be begun again.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.core.models import Model
from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Findings
from gateway.upstreams.http import Beside, Departure
from gateway.upstreams.pictures import unusable
from gateway.upstreams.sdcpp.inputs import fitted
from gateway.upstreams.sdcpp.models import (
    Capabilities,
    Offer,
    Terms,
    capabilities_of,
    facts_told,
    offer_of,
    problems_of,
)
from gateway.upstreams.sdcpp.wire import (
    State,
    accepted,
    check,
    failed,
    from_vendor,
    is_job_id,
    refusal,
    state_of,
    to_vendor,
)
from gateway.upstreams.vendor import INLINE_BYTES, Answer, Ask, Vendor

__all__ = ["SdCpp", "Terms"]

SHORTEST_POLL_SECONDS: Final = 0.1
"""The server's answers go out in two packets, which often takes 45 ms: to ask more often only keeps it busy."""
_OLD_SECONDS: Final = 10.0
"""How old our knowledge of the loaded model may be when an order goes out: the server may have been started anew."""
_LAST_WORDS_SECONDS: Final = 0.8
"""How long it may take to call off work; a cancelled iteration ends within a second."""
_KEEPALIVE_SECONDS: Final = 2.0
"""The server closes connections that were idle for 5."""
_CAPABILITIES: Final = "/sdcpp/v1/capabilities"
_ORDERS: Final = "/sdcpp/v1/img_gen"
_JOBS: Final = "/sdcpp/v1/jobs"
_ACCEPTED: Final = frozenset({202})
_OK: Final = frozenset({200})
_NOTHING: Final[Collection[int]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A job as it was seen, and the answer that told it."""

    state: State
    size: int


class SdCpp:
    """One server; see `Upstream`. Its models are known once it was asked (`refresh`), none before.

    `poll_seconds` is how often a job is asked about, at least 0.1. `timeout_seconds` is for a whole job, its wait in
    the server's queue included; `answer_seconds` for each single answer; after `patience_seconds` without any that is
    of use a job's outcome is unknown. `max_answer_bytes` bounds a job's pictures in base64. `api_key` goes along as a
    bearer token for a proxy before the server, which itself knows no keys; empty = none. See `Terms` for the rest.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str = "http://127.0.0.1:1234",
        terms: Terms | None = None,
        api_key: str = "",
        poll_seconds: float = 0.5,
        timeout_seconds: float = 1800.0,
        answer_seconds: float = 30.0,
        patience_seconds: float = 60.0,
        connect_timeout_seconds: float = 10.0,
        max_answer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.name = name
        self.models: tuple[Model, ...] = ()
        self._terms = terms or Terms()
        self._offer = Offer()
        self._asked_at = float("-inf")
        secret = Secret(api_key)
        self._secret = secret
        self._vendor = Vendor(
            name,
            base_url,
            secret=secret,
            headers=lambda: {
                "Accept": "application/json",
                "User-Agent": "safelight",
                **({"Authorization": f"Bearer {secret.reveal()}"} if api_key else {}),
            },
            timeout_seconds=answer_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=_KEEPALIVE_SECONDS,
        )
        self._poll_seconds = max(poll_seconds, SHORTEST_POLL_SECONDS)
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._max_answer_bytes = max_answer_bytes

    def __repr__(self) -> str:
        return f"<SdCpp {self.name} at {self._vendor.base_url}>"

    async def open(self) -> None:
        """See `Upstream.open`."""
        await self._vendor.open()

    async def close(self) -> None:
        """Close all connections; calls under way fail, the server's work goes on."""
        await self._vendor.close()

    # --- what it offers ---

    async def refresh(self) -> None:
        """See `Upstream.refresh`."""
        told = await self._capabilities()
        self._offer = offer_of(self.name, told, self._terms)
        self.models = self._offer.models
        self._asked_at = asyncio.get_running_loop().time()

    async def probe(self) -> Findings:
        """See `Upstream.probe`. The server tells no version of its own."""
        try:
            told = await self._capabilities()
        except UpstreamFault as fault:
            if fault.outcome is not Outcome.FAILED or fault.credential:
                raise
            problem = f"{fault.message}: check the address, or start an sd-server with a job API (/sdcpp/v1) there"
            return Findings("not a stable-diffusion.cpp server that can be used", (), (problem,))
        return Findings(
            "stable-diffusion.cpp sd-server (it tells no version)",
            facts_told(self.name, told, self._terms),
            problems_of(told, self._terms),
        )

    async def _capabilities(self) -> Capabilities:
        answer = await self._vendor.ask(Ask("GET", _CAPABILITIES, most=INLINE_BYTES))
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        return capabilities_of(answer.body)

    async def _check(self, order: CallOrder) -> Offer:
        """Return what the server has now; raises `UpstreamFault` unless it can be asked for this."""
        if asyncio.get_running_loop().time() - self._asked_at > _OLD_SECONDS:
            try:
                await self.refresh()
            except UpstreamFault as fault:
                # Whatever became of this question: nothing of the order went out.
                is_passing = fault.outcome is Outcome.FAILED and fault.details.get("retryable")
                if is_passing or fault.outcome is Outcome.UNKNOWN:
                    fault.outcome, fault.code = Outcome.NOT_SENT, "model_unavailable"
                raise
        offer = self._offer
        if order.model.vendor_model not in [model.vendor_model for model in offer.models]:
            raise UpstreamFault(Outcome.FAILED, "model_not_found", "the server has another model loaded now")
        check(order, offer.loras)
        return offer

    # --- a call ---

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling takes the job out of the server's queue; one that is being made goes on."""
        offer = await self._check(order)
        order = await fitted(order)
        gone = Departure(order)

        async with Beside(self._put(order, offer, gone), f"{self.name} call {order.id}") as beside:
            try:
                job = self._accepted(await beside.result())
            except asyncio.CancelledError:
                if gone.happened:
                    await self._call_off_untold(beside)
                raise
            try:
                await order.noted(job)
            except BaseException:  # nobody will ever ask for this job
                await self._call_off(job)
                raise
            async with aclosing(self._follow(order, job)) as reports:
                async for report in reports:
                    yield report

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: a job is found by the id that the server gave it."""
        return handle is not None

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: without the server's id of it, a job cannot be found."""
        if handle is None or not is_job_id(handle):
            raise _gone("the server was not heard to take the order")
        async with aclosing(self._follow(order, handle, is_resumed=True)) as reports:
            async for report in reports:
                yield report

    async def _put(self, order: CallOrder, offer: Offer, gone: Callable[[], None]) -> Answer:
        # In a function of its own, so that nobody holds the pictures in base64 while the job is waited for.
        fields = to_vendor(order, offer.loras)
        if sum(map(len, order.inputs.values())) <= INLINE_BYTES:
            body = msgspec.json.encode(fields)
        else:
            body = await asyncio.to_thread(msgspec.json.encode, fields)
        return await self._vendor.ask(Ask("POST", _ORDERS, body, most=INLINE_BYTES, whole=_ACCEPTED), gone)

    def _accepted(self, answer: Answer) -> str:
        if answer.status != 202:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        job = accepted(answer.body) if answer.is_whole else None
        if job is None:
            raise unusable("the server took the order and told no id of it", charged=False)
        return job

    # --- a job of the server's ---

    async def _follow(self, order: CallOrder, job: str, *, is_resumed: bool = False) -> AsyncGenerator[Report, None]:
        """Report a job until its end; calls it off where the iteration is ended before."""
        until = asyncio.get_running_loop().time() + self._timeout_seconds
        pause = 0.0 if is_resumed else SHORTEST_POLL_SECONDS
        has_begun = False
        try:
            while True:
                await asyncio.sleep(pause)
                seen = await self._look(job)
                if not has_begun and seen.state.status in ("generating", "completed"):
                    has_begun = True
                    yield WorkBegun(order.request.steps)
                if not seen.state.is_pending:
                    break
                if asyncio.get_running_loop().time() > until:
                    await self._call_off(job)
                    raise self._too_slow()
                pause = self._poll_seconds
        except (GeneratorExit, asyncio.CancelledError):
            await self._call_off(job)
            raise
        for image in await self._ended(order, seen, is_resumed=is_resumed):
            yield image

    async def _look(self, job: str) -> _Seen:
        """Return the job as it is now. Raises `GONE`, and `UNKNOWN` when nothing useful came for too long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_seconds
        while True:
            try:
                seen, cause = await self._glance(job), "no answer that can be read"
            except UpstreamFault as fault:
                if fault.outcome in (Outcome.GONE, Outcome.FAILED):
                    raise
                seen, cause = None, str(fault.details.get("cause", fault.message))
            if seen is not None:
                return seen
            if loop.time() > until:
                message = "the server took the order and cannot be asked about it any more"
                details = {"upstream": self.name, "cause": cause}
                raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message, details=details)
            await asyncio.sleep(self._poll_seconds)

    async def _glance(self, job: str) -> _Seen | None:
        """Ask once; `None` if the answer says nothing, and another may. Raises `UpstreamFault`."""
        answer = await self._vendor.ask(Ask("GET", f"{_JOBS}/{job}", most=self._max_answer_bytes, whole=_OK))
        if answer.status in (404, 410):
            raise _gone("the server does not know the job any more")
        if answer.status != 200:
            return None
        if not answer.is_whole:
            raise unusable(f"the pictures have more than {self._max_answer_bytes} bytes", charged=False)
        size = len(answer.body)
        state = state_of(answer.body) if size <= INLINE_BYTES else await asyncio.to_thread(state_of, answer.body)
        return None if state is None else _Seen(state, size)

    async def _ended(self, order: CallOrder, seen: _Seen, *, is_resumed: bool) -> list[ImageMade]:
        match seen.state.status:
            case "failed":
                raise failed(seen.state, self._secret, self.name)
            case "cancelled" if is_resumed:
                # By us, most likely, when the call was let go.
                raise _gone("the job was taken out of the server's queue")
            case "cancelled":
                message = "somebody took the job out of the server's queue"
                raise UpstreamFault(Outcome.FAILED, "upstream_error", message, details={"upstream": self.name})
        if seen.size <= INLINE_BYTES:
            return from_vendor(order, seen.state)
        return await asyncio.to_thread(from_vendor, order, seen.state)

    def _too_slow(self) -> UpstreamFault:
        message = f"the server did not make the picture within {self._timeout_seconds:g} seconds"
        return UpstreamFault(Outcome.FAILED, "upstream_error", message, details={"upstream": self.name})

    # --- calling off ---

    async def _call_off(self, job: str) -> None:
        """Take a job out of the server's queue; no matter if it is not there any more, or the server does not hear."""
        with suppress(UpstreamFault, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                # Of an ended job the answer is the whole result: it is not read.
                await self._vendor.ask(Ask("POST", f"{_JOBS}/{job}/cancel", b"{}", whole=_NOTHING))

    async def _call_off_untold(self, beside: Beside[Answer]) -> None:
        """Call off a job whose id is still under way: the server answers an order at once."""
        with suppress(UpstreamFault, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._call_off(self._accepted(await beside.result()))


def _gone(message: str) -> UpstreamFault:
    return UpstreamFault(Outcome.GONE, "worker_lost", message)
