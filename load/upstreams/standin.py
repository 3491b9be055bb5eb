"""What all stand-ins share: the server, the count of calls, the script of faults and the control paths.

A vendor is a subclass that says what a request asks for (`route`), whether its rate limit lets it in
(`limit`) and what is answered (`answer`). The base reads requests wholly, counts them, meets them with the
script's rule and delivers the answer as the rule says.

The control paths lie outside every vendor's: `GET /__standin/` gives counters and the log (`?since=N` for
later calls only), `GET /__standin/counters` the counters alone, `POST /__standin/script` sets a script in its
JSON form, and `POST /__standin/reset` forgets counts, limits and the script and starts the seeded draws anew.
"""

from __future__ import annotations

import abc
import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from load.upstreams.faults import Fault, Rule, Rules, Script, ScriptError, Stall, rules_from_json
from load.upstreams.service_time import ServiceTime
from load.upstreams.tally import Call, Tally
from load.upstreams.window import Verdict
from load.upstreams.wire import Answer, deliver

CONTROL = "/__standin/"
_MAX_BODY_BYTES = 256 * 1024 * 1024
_WITHOUT_RULE = Rule()
_ADMITTED = Verdict(True)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request's head asks for."""

    operation: str
    generation: bool
    engine: str | None = None
    key: str | None = None
    """The accepted key it carries; None when it carries none or another."""
    client: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was read wholly, on its way to an answer."""

    request: web.BaseRequest
    body: bytes
    asked: Asked
    verdict: Verdict
    rule: Rule
    call: Call
    started: float
    """Event loop time when the body had been read."""

    @property
    def fault(self) -> Fault | None:
        return self.rule.do

    def begun(self, status: int) -> bool:
        """Whether work is begun, so billed, before an answer of this status."""
        if self.rule.begun is not None:
            return self.rule.begun
        # 503 says that the service took no work; after any other 5xx nobody can know, so the vendor may bill.
        return status < 400 or (status >= 500 and status != 503)


class StandIn(abc.ABC):
    """An upstream's double on a real socket: `async with` it, then use `url`.

    `seed` governs all chance. `service_time` is seconds, a distribution as text, or a `ServiceTime`. `clock`
    times arrivals and the rate limit, in seconds; give another one to pass a lock-out without waiting. `tally`
    is for a vendor that counts more than `Tally` does.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        service_time: ServiceTime | str | float = 0.0,
        script: Rules = (),
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.monotonic,
        log_limit: int = 100_000,
        tally: Tally | None = None,
    ) -> None:
        self._seed = seed
        self._service = service_time if isinstance(service_time, ServiceTime) else ServiceTime.parse(service_time)
        self._initial_rules = tuple(script)
        self._host, self._port = host, port
        self.clock = clock
        self.tally = Tally(log_limit) if tally is None else tally
        self._runner: web.AppRunner | None = None
        self._closing = asyncio.Event()
        self.reset()
        self.script(*self._initial_rules)

    @property
    def url(self) -> str:
        """The address to use in place of the vendor's, without a slash at its end; only while it runs."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the stand-in is not running")
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    @property
    def calls(self) -> int:
        """Generation requests read wholly since the start or the last reset, whatever was answered."""
        return self.tally.called

    @property
    def log(self) -> list[Call]:
        """The latest calls in order of their reading."""
        return list(self.tally.log)

    def script(self, *rules: Rule | Mapping[str, object]) -> None:
        """Put these rules in force in place of all before; request numbers count from 1 again."""
        self._script = Script(rules, self._seed)

    def reset(self) -> None:
        """Forget counts, limits and the script, and start the seeded draws anew; calls in flight go on."""
        self.tally.reset()
        self.script()
        self._service_chance = self.chance("service")
        self.forget()

    def chance(self, purpose: str) -> random.Random:
        """A generator of its own for one purpose, so that draws for another do not shift it."""
        return random.Random(f"{self._seed}/{purpose}")

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Cancelling the handler is how a client that drops its socket shows up here.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @abc.abstractmethod
    def forget(self) -> None:
        """Drop the vendor's own state (limits, draws); called by the constructor and by `reset`."""

    @abc.abstractmethod
    def route(self, request: web.BaseRequest) -> Asked:
        """What the head asks for; never raises, an unknown path is an operation too."""

    @abc.abstractmethod
    async def answer(self, exchange: Exchange) -> Answer:
        """The answer to a request; call `bill` when work begins and `pace` before returning."""

    def limit(self, asked: Asked, arrived: float) -> Verdict:
        """The rate limit's verdict on an arrival; a vendor without limits keeps this one."""
        return _ADMITTED

    def bill(self, exchange: Exchange, status: int, images: int) -> None:
        """Count the work as begun unless the script says otherwise."""
        if exchange.begun(status):
            self.tally.bill(exchange.call, images)

    async def pace(self, exchange: Exchange, *, begun: bool) -> None:
        """Wait until the request took its time: the rule's, else a drawn one if work was begun, else none."""
        remaining = exchange.started + self.service_seconds(exchange, begun=begun) - asyncio.get_running_loop().time()
        if remaining > 0:
            await asyncio.sleep(remaining)

    def service_seconds(self, exchange: Exchange, *, begun: bool) -> float:
        """How long a request takes in all: the rule's time, else a drawn one if work was begun, else none.

        Each call draws anew.
        """
        if exchange.rule.service_seconds is not None:
            return exchange.rule.service_seconds
        return self.drawn_seconds() if begun else 0.0

    def drawn_seconds(self) -> float:
        """The next service time of the distribution."""
        return self._service.draw(self._service_chance)

    def delivery(self, exchange: Exchange, answer: Answer) -> Fault | None:
        """The fault that the answer meets on its way out; a vendor with faults of its own translates them here."""
        return exchange.fault

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(CONTROL):
            answer = _control(self, request, await request.read())
            return (await deliver(request, answer, None, self._closing))[1]
        arrived = self.clock()
        asked = self.route(request)
        # Judged at the head, so that a slow upload neither delays its place in the window nor upsets the
        # order.
        verdict = self.limit(asked, arrived)
        body = await request.read()
        return await self._converse(self._exchange(request, body, asked, verdict, arrived))

    def _exchange(
        self, request: web.BaseRequest, body: bytes, asked: Asked, verdict: Verdict, arrived: float
    ) -> Exchange:
        rule = self._script.match(asked.operation, generation=asked.generation, engine=asked.engine, key=asked.key)
        call = Call(
            number=0,
            operation=asked.operation,
            generation=asked.generation,
            engine=asked.engine,
            key=asked.key,
            arrived=arrived,
            read=self.clock(),
            body_bytes=len(body),
            fault=type(rule.do).__name__.lower() if rule is not None and rule.do is not None else None,
            client=asked.client,
        )
        started = asyncio.get_running_loop().time()
        return Exchange(request, body, asked, verdict, rule or _WITHOUT_RULE, call, started)

    async def _converse(self, exchange: Exchange) -> web.StreamResponse:
        call = exchange.call
        self.tally.begin(call)
        fault = exchange.fault
        try:
            answer = await self.answer(exchange)
            call.status = answer.status
            fault = self.delivery(exchange, answer)
            call.outcome, sent = await deliver(exchange.request, answer, fault, self._closing)
            return sent
        except (ConnectionError, asyncio.CancelledError):
            # A client that gives up on a stall has met the stall; any other left of its own accord.
            call.outcome = "stalled" if isinstance(fault, Stall) else "dropped"
            raise
        finally:
            self.tally.end(call, self.clock())


def json_answer(status: int, value: object, *headers: tuple[str, str]) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, (("Content-Type", "application/json"), *headers), json.dumps(value).encode())


def _control(standin: StandIn, request: web.BaseRequest, body: bytes) -> Answer:
    match request.method, request.path.removeprefix(CONTROL):
        case "GET", "":
            since = request.query.get("since", "0")
            if not since.isdecimal():
                return json_answer(400, {"message": "since: must be the number of a call"})
            return json_answer(200, {"counters": standin.tally.counters(), "log": standin.tally.records(int(since))})
        case "GET", "counters":
            return json_answer(200, standin.tally.counters())
        case "POST", "script":
            return _set_script(standin, body)
        case "POST", "reset":
            standin.reset()
            return json_answer(200, {})
    return json_answer(404, {"message": "no such control path"})


def _set_script(standin: StandIn, body: bytes) -> Answer:
    try:
        rules = rules_from_json(json.loads(body))
        standin.script(*rules)
    except (ScriptError, ValueError) as error:
        return json_answer(400, {"message": str(error)})
    return json_answer(200, {"rules": len(rules)})
