"""Stability AI REST v1: one blocking request per call, JSON in and out, or multipart in where images go along.

`models` has what the vendor offers, `wire` what the two vocabularies mean to each other; both
are without I/O. `StabilityV1` here does the I/O and decides nothing but how far a call had come when its connection
broke.

The vendor tells nothing while it works, has no idempotency and no way to ask what became of a call. So each call is
billed, and one whose answer did not come whole has an unknown outcome.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping

import msgspec

from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Findings
from gateway.upstreams.http import Beside, Departure
from gateway.upstreams.multipart import encode_multipart
from gateway.upstreams.pictures import needs_preparing, prepare, unusable
from gateway.upstreams.stability_v1.models import Engine, model_of
from gateway.upstreams.stability_v1.wire import WANTED, from_vendor, refusal, to_vendor
from gateway.upstreams.vendor import INLINE_BYTES, Answer, Ask, Vendor

__all__ = ["Engine", "StabilityV1"]


class StabilityV1:
    """One account of the vendor's; see `Upstream`. `engines` maps the vendor's engine ids to how they are offered.

    `timeout_seconds` is for a whole call, from connecting to the answer's last byte; see `Vendor` for the others.
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
        secret = Secret(api_key)
        self._secret = secret
        self._vendor = Vendor(
            name,
            base_url,
            secret=secret,
            headers=lambda: {
                "Accept": "application/json",
                "Authorization": f"Bearer {secret.reveal()}",
                "Stability-Client-ID": "safelight",
            },
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
        )
        self._max_answer_bytes = max_answer_bytes

    def __repr__(self) -> str:
        return f"<StabilityV1 {self.name} at {self._vendor.base_url}>"

    async def open(self) -> None:
        """See `Upstream.open`."""
        await self._vendor.open()

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        await self._vendor.close()

    async def refresh(self) -> None:
        """See `Upstream.refresh`: what is offered stands in the settings, with its prices."""

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling drops the connection."""
        if needs_preparing(order, WANTED):
            order = await asyncio.to_thread(prepare, order, WANTED)
        gone = Departure(order)

        async with Beside(self._vendor.ask(self._asked(order), gone), f"{self.name} call {order.id}") as beside:
            gone.then(beside.move)
            await beside.moved()
            if gone.happened:
                yield WorkBegun(order.request.steps)
            answer = await beside.result()
        for image in await self._images(order, answer):
            yield image

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: the vendor has no way to ask."""
        return False

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: the vendor cannot be asked."""
        raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", "the vendor cannot be asked what became of a call")
        yield  # pragma: no cover - makes this a generator

    async def probe(self) -> Findings:
        """See `Upstream.probe`: asks for the balance and the engines, which costs nothing."""
        balance = await self._read("/v1/user/balance")
        engines = msgspec.json.decode(await self._read("/v1/engines/list"), type=list[dict[str, object]])
        known = {str(engine.get("id")) for engine in engines}
        offered = [model.vendor_model for model in self.models]
        problems = [
            f"the vendor does not list the engine {engine}: take it out of `engines`"
            for engine in offered
            if engine not in known
        ]
        left = msgspec.json.decode(balance, type=dict[str, object]).get("credits")
        facts = (f"{left} credits left", f"engines: {', '.join(sorted(known))}")
        return Findings("Stability AI REST v1", facts, tuple(problems))

    async def _read(self, path: str) -> bytes:
        answer = await self._vendor.ask(Ask("GET", path, most=INLINE_BYTES))
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        return answer.body

    async def _images(self, order: CallOrder, answer: Answer) -> list[ImageMade]:
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        if not answer.is_whole:
            raise unusable(f"the answer has more than {self._max_answer_bytes} bytes")
        if len(answer.body) <= INLINE_BYTES:
            return from_vendor(order, answer.body)
        return await asyncio.to_thread(from_vendor, order, answer.body)

    def _asked(self, order: CallOrder) -> Ask:
        path, content = to_vendor(order)
        body, content_type = (
            encode_multipart(content, secrets.token_hex(16))
            if isinstance(content, list)
            else (msgspec.json.encode(content), "application/json")
        )
        return Ask("POST", path, body, content_type, most=self._max_answer_bytes)
