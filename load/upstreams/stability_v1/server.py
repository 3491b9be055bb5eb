"""A stand-in of Stability AI REST v1: its paths, answers, errors and rate limit on a real socket.

    async with StabilityV1(key={"sk-test"}, service_time=0.03) as standin:
        ...  # send requests to standin.url, then look at standin.calls and standin.log

From a shell, `python -m load.upstreams.stability_v1 --port 8081` prints one line of JSON with the address
when it is ready and runs until SIGTERM. What is known of the vendor and what is a guess stands in
PROVENANCE.md.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

from aiohttp import web

from load.upstreams import pictures
from load.upstreams.faults import Finish, Garbage, Refuse
from load.upstreams.stability_v1.answers import artifacts_answer, png_answer, spoilt
from load.upstreams.stability_v1.fields import Refusal
from load.upstreams.stability_v1.orders import (
    ENGINES,
    MAX_SEED,
    Engine,
    Limits,
    Operation,
    Order,
    read_order,
)
from load.upstreams.standin import Asked, Exchange, StandIn, json_answer
from load.upstreams.window import Kind, Verdict, Window
from load.upstreams.wire import Answer

OPERATIONS: Mapping[tuple[str, ...], Operation] = MappingProxyType(
    {
        ("text-to-image",): "text-to-image",
        ("image-to-image",): "image-to-image",
        ("image-to-image", "masking"): "masking",
        ("image-to-image", "upscale"): "upscale",
    }
)
READS = frozenset({"engines/list", "user/account", "user/balance"})

NAMES: Mapping[int, str] = MappingProxyType(
    {
        400: "bad_request",
        401: "unauthorized",
        403: "permission_denied",
        404: "not_found",
        429: "rate_limit_exceeded",
        500: "server_error",
        503: "service_unavailable",
    }
)


class StabilityV1(StandIn):
    """The double of `https://api.stability.ai`; `url` goes in that address's place.

    `key` holds the accepted keys. `limit` arrivals per `period` seconds and key are let in, then the key is
    locked out for `lockout` seconds; a `limit` of None takes everything. `retry_after` adds that header to
    the limit's 429, which the vendor isn't known to send. `filtered` holds lower-case words whose pictures
    come back as CONTENT_FILTERED, `limits.banned` those that are refused. `picture_bytes` is the least size
    of a picture's file. `organizations` maps ids to credits, the default one first. The rest is `StandIn`'s.
    """

    def __init__(
        self,
        *,
        key: str | Collection[str] = ("sk-test",),
        limit: int | None = 150,
        period: float = 10.0,
        lockout: float = 60.0,
        window_kind: Kind = "sliding",
        retry_after: bool = False,
        engines: Iterable[Engine] = ENGINES,
        limits: Limits | None = None,
        filtered: Collection[str] = ("standin-filtered",),
        picture_bytes: int = 0,
        organizations: Mapping[str, float] = MappingProxyType({"org-standin": 1000.0}),
        **common: Any,
    ) -> None:
        self._keys = frozenset({key} if isinstance(key, str) else key)
        self._new_window = None if limit is None else functools.partial(Window, limit, period, lockout, window_kind)
        self._retry_after = retry_after
        self._engines = {engine.id: engine for engine in engines}
        self._limits = limits or Limits()
        self._filtered = tuple(filtered)
        self._picture_bytes = picture_bytes
        self._organizations = dict(organizations)
        super().__init__(**common)

    def forget(self) -> None:
        self._windows = {key: self._new_window() for key in self._keys} if self._new_window else {}
        self._seeds, self._ids = self.chance("seeds"), self.chance("ids")

    def route(self, request: web.BaseRequest) -> Asked:
        operation, engine, generation = _parse_path(request.method, request.path)
        key = _bearer(request.headers.get("Authorization", ""))
        client = request.headers.get("Stability-Client-ID")
        return Asked(operation, generation, engine, key if key in self._keys else None, client)

    def limit(self, asked: Asked, arrived: float) -> Verdict:
        window = self._windows.get(asked.key or "")
        return window.arrive(arrived) if window is not None else Verdict(True)

    async def answer(self, exchange: Exchange) -> Answer:
        try:
            self._guard_door(exchange)
            if exchange.asked.generation:
                return await self._generate(exchange)
            answer = self._read(exchange)
        except Refusal as refusal:
            answer = self._refusal_answer(refusal)
        await self.pace(exchange, begun=False)
        return answer

    def _guard_door(self, exchange: Exchange) -> None:
        """Raise the refusal that comes before the body is looked at."""
        fault = exchange.fault
        if isinstance(fault, Refuse) and not (exchange.asked.generation and exchange.begun(fault.status)):
            raise _scripted(fault)
        if exchange.asked.key is None:
            missing = "Authorization" not in exchange.request.headers
            raise Refusal(401, "unauthorized", "missing authorization header" if missing else "invalid api key")
        if not exchange.verdict.admitted:
            exchange.call.limited = True
            wait = math.ceil(exchange.verdict.wait_seconds) if self._retry_after else None
            raise Refusal(429, NAMES[429], "You have exceeded the rate limit of your API key", wait)
        organization = exchange.request.headers.get("Organization")
        if organization is not None and organization not in self._organizations:
            raise Refusal(403, "permission_denied", "you do not belong to this organization")

    async def _generate(self, exchange: Exchange) -> Answer:
        engine = self._engine(exchange.asked)
        operation = cast("Operation", exchange.asked.operation)
        content_type = exchange.request.headers.get("Content-Type", "")
        order = read_order(operation, engine, content_type, exchange.body, self._limits)
        exchange.call.unknown_fields = order.unknown_fields
        as_png = _wants_png(exchange.request.headers.get("Accept", ""), order)
        return await self._work(exchange, order, as_png=as_png)

    def _engine(self, asked: Asked) -> Engine:
        engine = self._engines.get(asked.engine or "")
        if engine is None or (engine.rule == "upscaler") != (asked.operation == "upscale"):
            raise Refusal(404, "not_found", f"no engine {asked.engine} for {asked.operation}")
        return engine

    async def _work(self, exchange: Exchange, order: Order, *, as_png: bool) -> Answer:
        fault = exchange.fault
        self.bill(exchange, fault.status if isinstance(fault, Refuse) else 200, order.samples)
        if isinstance(fault, Refuse):
            await self.pace(exchange, begun=True)
            raise _scripted(fault)
        seeds = self._draw_seeds(order)
        exchange.call.seeds = seeds
        reason = self._finish_reason(exchange, order)
        made = [await self._picture(order, seed, reason) for seed in seeds]
        answer = png_answer(made[0], seeds[0], reason) if as_png else artifacts_answer(made, seeds, reason)
        await self.pace(exchange, begun=True)
        return spoilt(answer, fault) if isinstance(fault, Garbage) else answer

    def _draw_seeds(self, order: Order) -> tuple[int, ...]:
        first = order.seed or self._seeds.randint(1, MAX_SEED)
        # Later samples count on from the first and skip 0, which would mean "random" if it were sent back.
        return tuple((first + index - 1) % MAX_SEED + 1 for index in range(order.samples))

    def _finish_reason(self, exchange: Exchange, order: Order) -> str:
        if isinstance(exchange.fault, Finish):
            return exchange.fault.reason
        caught = any(word in order.prompt.lower() for word in self._filtered)
        return "CONTENT_FILTERED" if caught else "SUCCESS"

    async def _picture(self, order: Order, seed: int, reason: str) -> bytes:
        colour = pictures.BLUR if reason == "CONTENT_FILTERED" else pictures.colour_of(seed, order.prompt)
        if order.operation == "text-to-image" or reason == "CONTENT_FILTERED":
            png = pictures.flat_png(order.width, order.height, colour)
        else:
            try:
                png = await asyncio.to_thread(_from_upload, order, colour)
            except pictures.PictureError as error:
                raise Refusal(400, "bad_request", "the image is damaged") from error
        return pictures.padded(png, self._picture_bytes)

    def _read(self, exchange: Exchange) -> Answer:
        match exchange.asked.operation:
            case "engines/list":
                return json_answer(200, [_describe(engine) for engine in self._engines.values()])
            case "user/account":
                return json_answer(200, self._account())
            case "user/balance":
                default = next(iter(self._organizations))
                organization = exchange.request.headers.get("Organization", default)
                return json_answer(200, {"credits": self._organizations[organization]})
        raise Refusal(404, "not_found", "the requested resource was not found")

    def _account(self) -> dict[str, object]:
        organizations = [
            {"id": name, "name": name, "role": "MEMBER", "is_default": place == 0}
            for place, name in enumerate(self._organizations)
        ]
        picture = "https://example.com/picture.png"
        return {
            "id": "user-standin",
            "email": "standin@example.com",
            "profile_picture": picture,
            "organizations": organizations,
        }

    def _refusal_answer(self, refusal: Refusal) -> Answer:
        body = {"id": f"{self._ids.getrandbits(128):032x}", "name": refusal.name, "message": refusal.message}
        wait = refusal.retry_after
        return json_answer(refusal.status, body, *([("Retry-After", str(wait))] if wait is not None else []))


def _parse_path(method: str, path: str) -> tuple[str, str | None, bool]:
    """Operation, engine and whether it is a generation; an unknown path is the operation "unknown"."""
    parts = tuple(path.strip("/").split("/"))
    if method == "POST" and parts[:2] == ("v1", "generation") and parts[3:] in OPERATIONS:
        return OPERATIONS[parts[3:]], parts[2], True
    read = "/".join(parts[1:])
    return (read if method == "GET" and parts[0] == "v1" and read in READS else "unknown"), None, False


def _bearer(header: str) -> str | None:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _wants_png(accept: str, order: Order) -> bool:
    kinds = [kind.partition(";")[0].strip() for kind in accept.split(",")]
    if "image/png" in kinds:
        if order.samples > 1:
            raise Refusal(400, "bad_request", "accept: image/png carries one sample only")
        return True
    if not set(kinds) & {"", "*/*", "application/*", "application/json"}:
        raise Refusal(400, "bad_request", "accept: must be application/json or image/png")
    return False


def _from_upload(order: Order, colour: pictures.Colour) -> bytes:
    if order.operation == "masking":
        return pictures.repaint(order.image, order.mask, order.mask_source, colour)
    if order.operation == "upscale":
        return pictures.enlarge(order.image, order.width, order.height)
    return pictures.blend(order.image, colour, order.keep)


def _scripted(fault: Refuse) -> Refusal:
    name = fault.name or NAMES.get(fault.status, "server_error" if fault.status >= 500 else "bad_request")
    return Refusal(fault.status, name, fault.message or "scripted by the stand-in", fault.retry_after)


def _describe(engine: Engine) -> dict[str, str]:
    return {
        "id": engine.id,
        "name": engine.name,
        "description": f"{engine.name} (stand-in)",
        "type": "PICTURE",
    }
