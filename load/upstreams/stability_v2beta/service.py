"""The stand-in itself: who may come in, what is done for them and what it costs."""

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from load.upstreams import pictures
from load.upstreams.faults import Finish, Garbage, Refuse
from load.upstreams.forms import FormError, Part, parse_form
from load.upstreams.stability_v2beta.answers import (
    Made,
    error_answer,
    old_error_answer,
    picture_answer,
    plain_answer,
    spoilt,
    wants_json,
)
from load.upstreams.stability_v2beta.endpoints import ENDPOINTS, FOUR_MEGAPIXELS, Order, read_order
from load.upstreams.stability_v2beta.fields import LARGEST_SEED
from load.upstreams.stability_v2beta.paint import (
    encode,
    filtered,
    flat_size,
    paint,
    picture_key,
    resized,
    with_pixels,
)
from load.upstreams.stability_v2beta.results import Result, Results
from load.upstreams.stability_v2beta.trouble import MESSAGES, Lose, Refusal, bad_request, refusal_of
from load.upstreams.standin import Asked, Exchange, StandIn
from load.upstreams.window import Kind, Verdict, Window
from load.upstreams.wire import Answer

RESULTS = "results"
BALANCE = "user/balance"
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_CLIENT_CHARACTERS = 256
POLL_TOO_SOON = "poll_too_soon"

_PREFIX = "/v2beta/stable-image/"
_RESULT = re.compile(r"/v2beta/(?:results|stable-image/(upscale/creative)/result)/([^/]+)")
_CLIENT_HEADERS = ("stability-client-id", "stability-client-user-id", "stability-client-version")
_FORMS_KEPT = 64
_LOGGED_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Words:
    """Lower-case words in any text of a request that decide its fate; the first list that fits counts."""

    foreign: tuple[str, ...] = ("standin-foreign",)
    """422 invalid_language."""
    moderated: tuple[str, ...] = ("standin-moderated",)
    """403 content_moderation."""
    filtered: tuple[str, ...] = ("standin-filtered",)
    """A picture all the same, but a blurred one: CONTENT_FILTERED."""


class StabilityV2Beta(StandIn):
    """The double of `https://api.stability.ai` as far as v2beta stable-image goes; `url` takes its place.

    `key` holds the accepted keys, all of one account with so many `credits`. `limit` arrivals per `period` seconds
    and key are let in, then the key is locked out for `lockout` seconds; a `limit` of None takes everything.
    `retry_after` adds that header to the limit's 429, which the vendor isn't known to send. A poll that comes
    within `poll_floor` seconds of the one before is counted as `poll_too_soon`, and answered with a 429 if
    `strict_polls`. The operations in `four_megapixels` return pictures of that size whatever came in, as the
    vendor's prose says of some. `words` decide on refusals, `moderation_id` whether such a refusal has an `id`.
    `picture_bytes` is the least size of a PNG. The rest is `StandIn`'s; `service_time` is the time to the answer,
    and for an asynchronous operation, whose answer comes at once, to its result by `clock`.
    """

    def __init__(
        self,
        *,
        key: str | Collection[str] = ("sk-test",),
        credits: float = 1000.0,
        limit: int | None = 150,
        period: float = 10.0,
        lockout: float = 60.0,
        window_kind: Kind = "sliding",
        retry_after: bool = False,
        poll_floor: float = 10.0,
        strict_polls: bool = False,
        four_megapixels: Collection[str] = (),
        words: Words | None = None,
        moderation_id: bool = True,
        picture_bytes: int = 0,
        **common: Any,
    ) -> None:
        self._keys = frozenset({key} if isinstance(key, str) else key)
        self._initial_credits = credits
        self._new_window = None if limit is None else functools.partial(Window, limit, period, lockout, window_kind)
        self._retry_after = retry_after
        self._poll_floor, self._strict_polls = poll_floor, strict_polls
        self._four_megapixels = frozenset(four_megapixels)
        self._words = words or Words()
        self._moderation_id = moderation_id
        self._picture_bytes = picture_bytes
        super().__init__(**common)

    def forget(self) -> None:
        self._windows = {key: self._new_window() for key in self._keys} if self._new_window else {}
        self._seeds, self._ids = self.chance("seeds"), self.chance("ids")
        self._forms: OrderedDict[int, Mapping[str, Part]] = OrderedDict()
        self.results = Results()
        self.credits = self._initial_credits

    def form(self, number: int) -> Mapping[str, Part]:
        """The parts of the form that came with call `number`; only of the latest 64 forms, else `KeyError`."""
        return self._forms[number]

    def route(self, request: web.BaseRequest) -> Asked:
        operation, of, is_generation = _parse_path(request.method, request.path)
        key = _key(request.headers.get("Authorization", ""))
        client = request.headers.get("Stability-Client-ID", "")[:MAX_CLIENT_CHARACTERS] or None
        return Asked(operation, is_generation, of, key if key in self._keys else None, client)

    def limit(self, asked: Asked, arrived: float) -> Verdict:
        window = self._windows.get(asked.key or "")
        return window.arrive(arrived) if window is not None else Verdict(True)

    async def pace(self, exchange: Exchange, *, begun: bool) -> None:
        # The time of an asynchronous operation goes by after its answer.
        if not _is_async(exchange.asked):
            await super().pace(exchange, begun=begun)

    async def answer(self, exchange: Exchange) -> Answer:
        request_id = f"{self._ids.getrandbits(128):032x}"
        try:
            self._guard_door(exchange)
            if exchange.asked.generation:
                return await self._generate(exchange, request_id)
            answer = self._read(exchange, request_id)
        except Refusal as refusal:
            render = old_error_answer if exchange.asked.operation == BALANCE else error_answer
            answer = render(refusal, request_id)
        await self.pace(exchange, begun=False)
        return answer

    def _guard_door(self, exchange: Exchange) -> None:
        """Raise the refusal that comes before the body is looked at."""
        fault = exchange.fault
        if isinstance(fault, Refuse) and not (exchange.asked.generation and exchange.begun(fault.status)):
            raise refusal_of(fault)
        if exchange.asked.key is None:
            raise Refusal(401, "unauthorized", MESSAGES["unauthorized"])
        if not exchange.verdict.admitted:
            exchange.call.limited = True
            wait = math.ceil(exchange.verdict.wait_seconds) if self._retry_after else None
            raise _rate_limited(wait)

    async def _generate(self, exchange: Exchange, request_id: str) -> Answer:
        order, as_json = self._order(exchange)
        self._judge(order)
        fault = exchange.fault
        if self.credits < order.credits:
            raise Refusal(402, "payment_required", MESSAGES["payment_required"])
        self.bill(exchange, fault.status if isinstance(fault, Refuse) else 200, 1)
        if isinstance(fault, Refuse):
            await self.pace(exchange, begun=True)
            raise refusal_of(fault)
        made = await self._make(exchange, order)
        if order.endpoint.is_async:
            answer = self._take(exchange, made, request_id)
        else:
            answer = picture_answer(made, request_id, as_json=as_json)
        await self.pace(exchange, begun=True)
        return spoilt(answer, fault) if isinstance(fault, Garbage) else answer

    def _order(self, exchange: Exchange) -> tuple[Order, bool]:
        endpoint = ENDPOINTS[exchange.asked.operation]
        headers = exchange.request.headers
        self._note_form(exchange)
        if len(exchange.body) > MAX_BODY_BYTES:
            raise Refusal(413, "payload_too_large", MESSAGES["payload_too_large"])
        _check_client(headers)
        # Asynchronous operations have one form of answer and look at no Accept header.
        as_json = endpoint.is_async or wants_json(headers.get("Accept", ""))
        order = read_order(endpoint, headers.get("Content-Type", ""), exchange.body)
        exchange.call.unknown_fields = order.unknown_fields
        exchange.call.engine = order.model
        return order.seeded(order.seed or self._seeds.randint(1, LARGEST_SEED)), as_json

    def _note_form(self, exchange: Exchange) -> None:
        try:
            parts = parse_form(exchange.request.headers.get("Content-Type", ""), exchange.body)
        except FormError:
            return
        self._forms[exchange.call.number] = {part.name: part for part in parts}
        exchange.call.fields = {part.name: _told(part) for part in parts}
        if len(self._forms) > _FORMS_KEPT:
            self._forms.popitem(last=False)

    def _judge(self, order: Order) -> None:
        """Raise the refusal that a request's words earn."""
        if _speaks(order, self._words.foreign):
            raise Refusal(422, "invalid_language", MESSAGES["invalid_language"])
        if _speaks(order, self._words.moderated):
            name = "content_moderation"
            raise Refusal(403, name, MESSAGES[name], with_id=self._moderation_id)

    async def _make(self, exchange: Exchange, order: Order) -> Made:
        exchange.call.seeds = (order.seed,)
        reason = self._finish_reason(exchange, order)
        self._charge(order.credits)
        try:
            data = await self._picture(order, blurred=reason == "CONTENT_FILTERED")
        except pictures.PictureError as error:
            self._charge(-order.credits)
            raise bad_request(str(error)) from error
        return Made(data, order.kind, order.seed, reason)

    def _charge(self, credits: float) -> None:
        # Prices are tenths of credits; rounding keeps binary fractions from piling up.
        self.credits = round(self.credits - credits, 6)

    def _finish_reason(self, exchange: Exchange, order: Order) -> str:
        fault = exchange.fault
        if isinstance(fault, Finish) and not isinstance(fault, Lose):
            return fault.reason
        return "CONTENT_FILTERED" if _speaks(order, self._words.filtered) else "SUCCESS"

    async def _picture(self, order: Order, *, blurred: bool) -> bytes:
        colour = pictures.BLUR if blurred else pictures.colour_of(order.seed, picture_key(order.values.texts))
        size = flat_size(order)
        if size is not None and order.kind == "png":
            data = pictures.flat_png(*size, colour)
        else:
            data = await asyncio.to_thread(self._painted, order, colour, blurred=blurred)
        return pictures.padded(data, self._picture_bytes) if order.kind == "png" else data

    def _painted(self, order: Order, colour: pictures.Colour, *, blurred: bool) -> bytes:
        picture = paint(order, colour)
        if order.endpoint.path in self._four_megapixels:
            picture = resized(picture, with_pixels(picture.size, FOUR_MEGAPIXELS))
        return encode(filtered(picture) if blurred else picture, order.kind)

    def _take(self, exchange: Exchange, made: Made, request_id: str) -> Answer:
        """Keep an asynchronous request's result for later polls and tell its id."""
        seconds = exchange.rule.service_seconds
        if seconds is None:
            seconds = self._service.draw(self._service_chance)
        fault = exchange.fault
        result = Result(
            id=f"{self._ids.getrandbits(256):064x}",
            operation=exchange.asked.operation,
            key=exchange.asked.key,
            ready_at=exchange.call.read + seconds,
            made=made,
            lost_after=fault.after_polls if isinstance(fault, Lose) else math.inf,
        )
        self.results.add(result)
        return plain_answer(200, {"id": result.id}, request_id)

    def _read(self, exchange: Exchange, request_id: str) -> Answer:
        if exchange.asked.operation == RESULTS:
            return self._poll(exchange, request_id)
        if exchange.asked.operation == BALANCE:
            return plain_answer(200, {"credits": self.credits}, request_id)
        raise Refusal(404, "not_found", "the requested resource was not found")

    def _poll(self, exchange: Exchange, request_id: str) -> Answer:
        as_json = wants_json(exchange.request.headers.get("Accept", ""))
        now = exchange.call.arrived
        result = self.results.find(exchange.asked.engine or "", exchange.asked.key, now)
        if result is None or result.operation not in _operations(exchange.request.path):
            raise Refusal(404, "generation_not_found", MESSAGES["generation_not_found"])
        self._mind_floor(result, now)
        if now < result.ready_at:
            answer = plain_answer(202, {"id": result.id, "status": "in-progress"}, request_id)
        else:
            answer = picture_answer(result.made, request_id, as_json=as_json)
        return spoilt(answer, exchange.fault) if isinstance(exchange.fault, Garbage) else answer

    def _mind_floor(self, result: Result, now: float) -> None:
        is_soon = now - result.polled_at < self._poll_floor
        result.polls += 1
        result.polled_at = now
        if is_soon:
            self.tally.note(POLL_TOO_SOON)
            if self._strict_polls:
                raise _rate_limited(None)


def _parse_path(method: str, path: str) -> tuple[str, str | None, bool]:
    """Operation, the result's id if it is about one, and whether it is a generation."""
    operation = path.removeprefix(_PREFIX)
    if method == "POST" and path.startswith(_PREFIX) and operation in ENDPOINTS:
        return operation, None, True
    result = _RESULT.fullmatch(path)
    if method == "GET" and result is not None:
        return RESULTS, result[2], False
    return (BALANCE if (method, path) == ("GET", "/v1/user/balance") else "unknown"), None, False


def _operations(path: str) -> Collection[str]:
    """Whose results a polling path knows: the older one those of the creative upscaler alone."""
    result = _RESULT.fullmatch(path)
    return ENDPOINTS if result is None or result[1] is None else (result[1],)


def _told(part: Part) -> str:
    """A field for the log, which must not grow with the pictures in it."""
    if part.filename is not None:
        return f"<{len(part.data)} bytes, {part.content_type}>"
    return part.data.decode("utf-8", "replace")[:_LOGGED_CHARACTERS]


def _is_async(asked: Asked) -> bool:
    return asked.generation and ENDPOINTS[asked.operation].is_async


def _key(header: str) -> str:
    scheme, _, key = header.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else header.strip()


def _check_client(headers: Mapping[str, str]) -> None:
    wrong = [name for name in _CLIENT_HEADERS if len(headers.get(name, "")) > MAX_CLIENT_CHARACTERS]
    if wrong:
        raise bad_request(*(f"{name}: must have at most {MAX_CLIENT_CHARACTERS} characters" for name in wrong))


def _speaks(order: Order, words: tuple[str, ...]) -> bool:
    said = "\n".join(order.values.texts.values()).lower()
    return any(word in said for word in words)


def _rate_limited(wait: int | None) -> Refusal:
    name = "rate_limit_exceeded"
    return Refusal(429, name, MESSAGES[name], retry_after=wait)
