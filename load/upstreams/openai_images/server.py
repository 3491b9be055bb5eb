"""The stand-in itself: who may come in, what is made, and how the answer goes out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, cast

from aiohttp import web

from load.upstreams.faults import Cut, Fault, Finish, Garbage, Refuse, Stall
from load.upstreams.openai_images.answers import (
    Event,
    StreamAnswer,
    completed_event,
    error_event,
    inline_item,
    partial_event,
    plain_answer,
    spoilt_event,
    spoilt_plain,
    stream_answer,
    url_item,
)
from load.upstreams.openai_images.artist import draw, partial_colour
from load.upstreams.openai_images.faults import (
    EmptyData,
    ForeignUrl,
    NoFinal,
    NoPartials,
    PlainAnswer,
    RateLimited,
    Redirect,
    StreamCut,
    StreamError,
    StreamStall,
)
from load.upstreams.openai_images.fields import read_fields
from load.upstreams.openai_images.limits import Allowance
from load.upstreams.openai_images.models import Model
from load.upstreams.openai_images.orders import Order, fields_of, read_order
from load.upstreams.openai_images.profiles import PROFILES, Operation, Profile
from load.upstreams.openai_images.refusals import CODES, Refusal, RetryHint, retry_headers, too_many
from load.upstreams.openai_images.results import Result, Results
from load.upstreams.pictures import colour_of
from load.upstreams.standin import Asked, Exchange, StandIn, json_answer
from load.upstreams.tally import Call
from load.upstreams.window import Verdict
from load.upstreams.wire import Answer

_SEEDS = (1, (1 << 32) - 1)
_MODELS_CREATED = 1_745_500_000


class OpenAIImages(StandIn):
    """The double of `https://api.openai.com`, or of a server that speaks its dialect; `url` goes in that place.

    `profile` is one of `PROFILES`. `key` holds the accepted keys: None takes `sk-test` where the profile asks for
    a key, an empty collection lets everybody in. `models` replaces the profile's; models of the profile that are
    left out are refused as shut down. `limit` requests and `image_limit` pictures per `period` seconds and key are
    let in; None takes everything and sends no limit headers. `retry_hint` says how the limit's 429 tells when to
    come back. `organizations` are those a caller may name; an empty collection takes any. `banned` words refuse a
    prompt at once, `filtered` ones after the work. `step_seconds` is work for each step of the profiles that have
    steps, `service_time` for all. `result_host` is the host that URLs of pictures name, None for the one that was
    asked. `picture_bytes` is the least size of a PNG's file. The rest is `StandIn`'s.
    """

    def __init__(
        self,
        *,
        profile: str = "openai",
        key: str | Collection[str] | None = None,
        models: Iterable[Model] | None = None,
        limit: int | None = None,
        image_limit: int | None = None,
        period: float = 60.0,
        retry_hint: RetryHint = "seconds",
        organizations: Collection[str] = (),
        banned: Collection[str] = ("standin-banned",),
        filtered: Collection[str] = ("standin-filtered",),
        step_seconds: float = 0.0,
        result_host: str | None = None,
        picture_bytes: int = 0,
        **common: Any,
    ) -> None:
        self.profile: Profile = PROFILES[profile]
        if key is None:
            key = "sk-test" if self.profile.needs_key else ()
        self._keys = frozenset({key} if isinstance(key, str) else key)
        self._models = {model.id: model for model in (self.profile.models if models is None else models)}
        self._limits = {"requests": limit, "images": image_limit}
        self._period, self._retry_hint = period, retry_hint
        self._organizations = frozenset(organizations)
        self._banned, self._filtered = tuple(banned), tuple(filtered)
        self._step_seconds = step_seconds
        self._result_host = result_host
        self._picture_bytes = picture_bytes
        super().__init__(**common)

    def forget(self) -> None:
        self._allowances: dict[tuple[str, str], Allowance] = {}
        self._seeds, self._ids = self.chance("seeds"), self.chance("ids")
        self._results = Results(self.profile.result_path)

    def route(self, request: web.BaseRequest) -> Asked:
        operation = self._operation(request.method, request.path)
        key = _bearer(request.headers.get("Authorization", ""))
        return Asked(
            operation,
            operation in self.profile.operations,
            key=key if key in self._keys else None,
            client=request.headers.get("User-Agent"),
        )

    def _operation(self, method: str, path: str) -> str:
        if method == "GET" and self._results.owns(path):
            return "result"
        for root in self.profile.roots:
            rest = path.removeprefix(root + "/") if path.startswith(root + "/") else ""
            name = rest.removeprefix("images/")
            if method == "POST" and rest.startswith("images/") and name in self.profile.operations:
                return name
            if method == "GET" and rest == "models":
                return "models"
            if method == "GET" and rest.startswith("models/"):
                return "model"
        return "unknown"

    def _exchange(
        self, request: web.BaseRequest, body: bytes, asked: Asked, verdict: Verdict, arrived: float
    ) -> Exchange:
        # The model stands in the body, and the script's rules may name it.
        fields = None
        with contextlib.suppress(Refusal):
            fields = read_fields(request.headers.get("Content-Type", ""), body) if asked.generation else None
        model = fields.values.get("model") if fields is not None else None
        engine = model if isinstance(model, str) else self.profile.default_model if asked.generation else None
        exchange = super()._exchange(request, body, replace(asked, engine=engine), verdict, arrived)
        exchange.call.fields = fields.logged() if fields is not None else {}
        return exchange

    async def answer(self, exchange: Exchange) -> Answer:
        try:
            self._guard_door(exchange)
            if exchange.asked.generation:
                answer = await self._generate(exchange)
            else:
                answer = self._read(exchange)
        except Refusal as refusal:
            answer = self._refused(refusal)
        if not isinstance(answer, StreamAnswer):
            await self.pace(exchange, begun=False)
        if exchange.asked.operation == "result":
            return answer
        return replace(answer, headers=answer.headers + self._common_headers(exchange))

    def delivery(self, exchange: Exchange, answer: Answer) -> Fault | None:
        fault = exchange.fault
        if isinstance(fault, StreamCut | StreamStall):
            if not isinstance(answer, StreamAnswer):
                return None
            place = -answer.rest(fault.after_events)
            return Cut(place, fault.how) if isinstance(fault, StreamCut) else Stall(place, fault.seconds)
        return fault

    def _guard_door(self, exchange: Exchange) -> None:
        """Raise the refusal that comes before the body is looked at."""
        fault = exchange.fault
        if isinstance(fault, Refuse) and not (exchange.asked.generation and exchange.begun(fault.status)):
            raise _scripted(fault)
        if isinstance(fault, RateLimited):
            raise too_many(fault.seconds, "requests per min (RPM)", fault.how, time.time())
        if exchange.asked.operation == "result":
            return
        if self._keys and exchange.asked.key is None:
            if "Authorization" not in exchange.request.headers:
                raise Refusal(401, None, "You didn't provide an API key.")
            raise Refusal(401, "invalid_api_key")
        organization = exchange.request.headers.get("OpenAI-Organization")
        if self._organizations and organization is not None and organization not in self._organizations:
            raise Refusal(401, "invalid_organization", f"No such organization: {organization}.")

    async def _generate(self, exchange: Exchange) -> Answer:
        self._admit(exchange, "requests", 1)
        operation = cast("Operation", exchange.asked.operation)
        fields = fields_of(operation, exchange.request.headers.get("Content-Type", ""), exchange.body)
        order = read_order(operation, self.profile, self._models, fields)
        exchange.call.unknown_fields = order.unknown_fields
        if _holds(order.prompt, self._banned):
            raise Refusal(400, "moderation_blocked")
        self._admit(exchange, "images", order.n)
        return await self._work(exchange, order)

    def _admit(self, exchange: Exchange, what: str, cost: int) -> None:
        allowance = self._allowance(exchange.call, what)
        if allowance is None:
            return
        wait = allowance.wait(cost, exchange.call.arrived)
        if wait > 0:
            exchange.call.limited = True
            raise too_many(wait, f"{what} per min", self._retry_hint, time.time())
        allowance.spend(cost)

    def _allowance(self, call: Call, what: str) -> Allowance | None:
        limit = self._limits[what]
        if limit is None:
            return None
        fresh = Allowance.full(limit, self._period, call.arrived)
        return self._allowances.setdefault((call.key or "", what), fresh)

    async def _work(self, exchange: Exchange, order: Order) -> Answer:
        fault = exchange.fault
        self.bill(exchange, fault.status if isinstance(fault, Refuse) else 200, order.n)
        seconds = self.service_seconds(exchange, begun=True) + order.steps * self._step_seconds
        seeds = self._draw_seeds(order)
        exchange.call.seeds = seeds
        if order.stream and not isinstance(fault, PlainAnswer | Refuse):
            events = await self._events(order, seeds[0], fault)
            return stream_answer(events, exchange.started, seconds)
        made = [await self._draw(order, seed) for seed in seeds]
        await _sleep_until(exchange.started + seconds)
        if isinstance(fault, Refuse):
            raise _scripted(fault)
        refusal = self._late_refusal(order, fault)
        if refusal is not None:
            raise refusal
        return self._plain(exchange, order, [] if isinstance(fault, EmptyData) else made)

    def _draw_seeds(self, order: Order) -> tuple[int, ...]:
        given = order.seed is not None and order.seed >= 0
        first = order.seed if given and order.seed is not None else self._seeds.randint(*_SEEDS)
        return tuple(first + index for index in range(order.n))

    async def _draw(self, order: Order, seed: int) -> bytes:
        return await draw(order, colour_of(seed, order.wish), self._picture_bytes)

    def _late_refusal(self, order: Order, fault: Fault | None) -> Refusal | None:
        """The refusal of what was made already."""
        if isinstance(fault, Finish) and fault.reason == "ERROR":
            return Refusal(500, "server_error")
        if _holds(order.prompt, self._filtered) or (isinstance(fault, Finish) and fault.reason == "CONTENT_FILTERED"):
            return Refusal(400, "moderation_blocked")
        return None

    async def _events(self, order: Order, seed: int, fault: Fault | None) -> list[Event]:
        colour = colour_of(seed, order.wish)
        shown = min(order.partials, fault.keep) if isinstance(fault, NoPartials) else order.partials
        events = []
        for index in range(shown):
            picture = await draw(order, partial_colour(colour, index, order.partials), self._picture_bytes)
            events.append(partial_event(order, picture, index))
        refusal = self._late_refusal(order, fault)
        if refusal is not None:
            return [*events, error_event(refusal.error, 1.0)]
        last = completed_event(order, await draw(order, colour, self._picture_bytes), shown)
        return _marred(events, last, fault)

    def _plain(self, exchange: Exchange, order: Order, made: list[bytes]) -> Answer:
        if order.form == "file" and made:
            name = ("Content-Disposition", f'attachment; filename="image.{order.output_format}"')
            return Answer(200, (("Content-Type", f"image/{order.output_format}"), name), made[0])
        if order.form == "url":
            items = [url_item(order, self.profile, self._publish(exchange, order, picture)) for picture in made]
        else:
            items = [inline_item(order, self.profile, picture) for picture in made]
        answer = plain_answer(order, self.profile, items, exchange.call.number)
        return spoilt_plain(answer, exchange.fault) if isinstance(exchange.fault, Garbage) else answer

    def _publish(self, exchange: Exchange, order: Order, picture: bytes) -> str:
        """Put a picture where it can be fetched and return its URL."""
        content_type = f"image/{order.output_format}"
        result = Result(picture, content_type, self.clock())
        path = self._results.keep(f"{self._ids.getrandbits(96):024x}", order.output_format, result)
        host = exchange.fault.host if isinstance(exchange.fault, ForeignUrl) else self._result_host
        if host is None and self.profile.relative_urls:
            return path
        port = self.url.rpartition(":")[2]
        return f"http://{f'{host}:{port}' if host is not None else exchange.request.host}{path}"

    def _read(self, exchange: Exchange) -> Answer:
        path = exchange.request.path
        match exchange.asked.operation:
            case "result":
                return self._result(path, exchange.fault)
            case "models":
                return json_answer(
                    200, {"object": "list", "data": [_described(each) for each in self._models.values()]}
                )
            case "model":
                name = path.partition("models/")[2]
                if name in self._models:
                    return json_answer(200, _described(self._models[name]))
                raise Refusal(404, "model_not_found", f"The model '{name}' does not exist.", param="model")
        raise Refusal(404, None, f"Invalid URL ({exchange.request.method} {path})")

    def _result(self, path: str, fault: Fault | None) -> Answer:
        if isinstance(fault, Redirect):
            return Answer(fault.status, (("Location", fault.to),), b"")
        answer = self._results.fetch(path, self.clock())
        if not isinstance(fault, Garbage) or answer.status != 200:
            return answer
        return Answer(200, answer.headers, _spoilt_picture(answer.body, fault))

    def _refused(self, refusal: Refusal) -> Answer:
        status, body = refusal.rendered(self.profile.errors)
        return Answer(status, (("Content-Type", "application/json"), *refusal.headers), body)

    def _common_headers(self, exchange: Exchange) -> tuple[tuple[str, str], ...]:
        if self.profile.errors != "openai":
            return ()
        spent = max(0.0, asyncio.get_running_loop().time() - exchange.started)
        organization = exchange.request.headers.get("OpenAI-Organization")
        return (
            ("x-request-id", f"req_{self._ids.getrandbits(128):032x}"),
            ("openai-processing-ms", str(round(spent * 1000))),
            ("openai-version", "2020-10-01"),
            *((("openai-organization", organization),) if organization else ()),
            *(self._limit_headers(exchange.call) if exchange.asked.generation else ()),
        )

    def _limit_headers(self, call: Call) -> list[tuple[str, str]]:
        named = [(what, self._allowance(call, what)) for what in self._limits]
        return [
            header
            for what, allowance in named
            if allowance is not None
            for header in allowance.headers(what, self.clock())
        ]


def _marred(events: list[Event], last: Event, fault: Fault | None) -> list[Event]:
    """The whole stream as the fault wants it."""
    match fault:
        case NoFinal() | EmptyData():
            return events
        case Garbage():
            return [*events, spoilt_event(last, fault)]
        case StreamError():
            whole = [*events, last]
            error = Refusal(500, fault.code, fault.message).error
            place = min(fault.after_events, len(events))
            return [*whole[:place], error_event(error, whole[place].after)]
        case _:
            return [*events, last]


def _spoilt_picture(picture: bytes, fault: Garbage) -> bytes:
    match fault.what:
        case "truncated_json":
            return picture[: len(picture) // 2]
        case "empty":
            return b""
        case "huge":
            return picture + bytes(max(0, fault.size_bytes - len(picture)))
        case _:
            return b"these bytes are no picture"


async def _sleep_until(moment: float) -> None:
    remaining = moment - asyncio.get_running_loop().time()
    if remaining > 0:
        await asyncio.sleep(remaining)


def _holds(prompt: str, words: Iterable[str]) -> bool:
    return any(word in prompt.lower() for word in words)


def _bearer(header: str) -> str | None:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _scripted(fault: Refuse) -> Refusal:
    default = CODES.get(fault.status, "server_error" if fault.status >= 500 else None)
    seconds = fault.retry_after
    headers = () if seconds is None else retry_headers("seconds", seconds, 0.0)
    return Refusal(fault.status, fault.name or default, fault.message, headers=headers)


def _described(model: Model) -> dict[str, object]:
    owner = "local" if model.family == "local" else "system"
    described: dict[str, object] = {
        "id": model.id,
        "object": "model",
        "created": _MODELS_CREATED,
        "owned_by": owner,
    }
    return described | ({"shutdown_date": model.retired} if model.retired else {})
