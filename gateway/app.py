"""The composition, written out: from settings to a running gateway, opened and closed in order.

Nothing else wires parts together, and importing any module does nothing. `running` makes the gateway; `serve` puts it
behind a socket and keeps the order of an end: drain first, exit last.
"""

import asyncio
import contextlib
import math
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from gateway import blobs, config
from gateway.builders import ONLY_ACCOUNT, accounts_of, issuer_of
from gateway.clock import SystemClock
from gateway.core.aliases import Aliases
from gateway.core.eta import PastRuns
from gateway.core.routing import Standing
from gateway.edges.compat.doors import Doors, Terms
from gateway.edges.events import Streams
from gateway.edges.links import TenantLinks
from gateway.edges.routes import build_app
from gateway.edges.socket import BoundedHttp, with_high_water
from gateway.edges.stream import Stream
from gateway.flow.access import Access
from gateway.flow.admission import Admission
from gateway.flow.book import Workshop
from gateway.flow.catalog import Catalog, Way
from gateway.flow.dispatch import Dispatch
from gateway.flow.feeds import Feeds
from gateway.flow.gate import Gate, GateFacts
from gateway.flow.issuers import Issuers
from gateway.flow.lines import Line, Lines
from gateway.flow.node import Node
from gateway.flow.pictures import Pictures
from gateway.flow.sessions import Promises, Sessions
from gateway.flow.supervise import Supervisor
from gateway.flow.sweeper import Sweeper
from gateway.flow.teller import kind_of
from gateway.flow.tokens import new_signing_keys
from gateway.imaging import PillowTranscoder
from gateway.keysets import HttpKeySets
from gateway.ledger import SqlLedger, open_ledger
from gateway.ledger.sql import LedgerBusy
from gateway.live.local import LocalTickets
from gateway.observe import logs
from gateway.observe.metrics import PrometheusMeter
from gateway.ports import Clock, KeySets, Upstream
from protocol.messages import Canceler, Limits
from protocol.session import Timing

"""The account's name where there is no key, and where a test gives the upstream."""
RUNS_REMEMBERED: Final = 500
"""How many of an upstream's past runs a start reads, for estimates."""
UNSENT_LOW_WATER: Final = 32_768
"""How much the kernel may hold unsent (TCP_NOTSENT_LOWAT): the deeper it is, the older what a slow client sees."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway without a socket."""

    app: ASGIApp
    node: Node
    streams: Streams
    doors: Doors
    dispatch: Dispatch
    ledger: SqlLedger
    drain_grace_seconds: float

    async def drain(self) -> None:
        """Tell every client to go elsewhere, let what runs end, let the rest go back to the queue."""
        self.node.sessions.drain()
        self.streams.drain()
        await self.dispatch.drain(self.drain_grace_seconds)
        self.doors.drain()  # last: who waits for a job that ended in time gets its pictures


@contextlib.asynccontextmanager
async def running(
    settings: config.Config, public_url: str, *, clock: Clock | None = None, upstreams: Sequence[Upstream] | None = None
) -> AsyncIterator[Gateway]:
    """Open every part in order, and close them in the other order when the context ends.

    `clock` and `upstreams` are for tests; else the system's clock, and the upstreams of the settings.
    """
    clock = clock or SystemClock()
    public_url = public_url.rstrip("/")
    chance = random.Random(secrets.randbits(128))
    log = logs.get("gateway")
    meter = PrometheusMeter()
    supervisor = Supervisor(lambda name, error: _tell_failure(log, meter, name, error))
    async with contextlib.AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(settings.data.folder))
        transcoder = PillowTranscoder()
        stack.callback(transcoder.close)
        key_sets = HttpKeySets({name: one.jwks_url for name, one in settings.issuers.items()}, clock)
        stack.push_async_callback(key_sets.close)
        access = await _access(ledger, clock, settings.issuers, key_sets)
        limits = _limits(settings.limits)
        pictures = Pictures(
            ledger.assets,
            blobs.local(settings.data.folder / "blobs"),
            clock,
            limits,
            settings.protocol.asset_retention_ms,
        )
        feeds = Feeds(ledger.jobs, transcoder, lambda tenant: TenantLinks(public_url, access, tenant))
        if upstreams is None:
            accounts = {name: accounts_of(name, one) for name, one in settings.upstreams.items()}
        else:
            accounts = {one.name: {ONLY_ACCOUNT: one} for one in upstreams}
        for instances in accounts.values():
            for upstream in instances.values():
                await upstream.open()
                stack.push_async_callback(upstream.close)
        lines = [
            await _lines(settings.upstreams[name], instances, ledger, clock, supervisor)
            for name, instances in accounts.items()
        ]
        catalog = Catalog([one.upstream for one in lines], _ways(settings.models))
        shop = Workshop(
            ledger=ledger,
            pictures=pictures,
            feeds=feeds,
            clock=clock,
            chance=chance,
            meter=meter,
            lease_ms=settings.work.lease_ms,
            max_tries=settings.work.max_tries,
            backoff_base_seconds=settings.work.backoff_base_ms / 1000,
            backoff_cap_seconds=settings.work.backoff_cap_ms / 1000,
            past=await _past_runs(ledger, list(accounts)),
        )
        dispatch = Dispatch(
            shop, lines, catalog, supervisor, node=_node_name(), poll_seconds=settings.work.poll_ms / 1000
        )
        promises = _promises(settings.protocol)
        node = make_node(
            shop,
            access,
            catalog,
            supervisor,
            limits=limits,
            timing=_timing(settings.protocol),
            promises=promises,
            ref_retention_ms=settings.protocol.ref_retention_ms,
            drain_spread_ms=settings.protocol.drain_spread_ms,
            max_queue=settings.limits.max_queue,
            ring=dispatch.ring,
            stop_work=dispatch.stop_work,
            standings=dispatch.standings,
        )
        stack.push_async_callback(supervisor.stop)
        # The folder is ours alone, so whatever was claimed here before is nobody's now.
        await ledger.work.forget_claims()
        dispatch.start()
        catalog.keep_fresh(supervisor)
        Sweeper(
            node,
            session_ttl_ms=settings.protocol.session_ttl_ms,
            ref_retention_ms=settings.protocol.ref_retention_ms,
        ).start(supervisor)
        streams = Streams()
        doors = Doors(node, _terms(settings), transcoder, chance)
        _watch(meter, node, dispatch, ledger)
        app = build_app(
            node,
            Stream(node),
            public_url=public_url,
            promises=promises,
            streams=streams,
            doors=doors,
            gates=lambda: {name: lines.facts() for name, lines in dispatch.lines.items()},
            metrics=meter.render,
            chance=chance,
            log=log,
            bound_host=settings.server.host,
            allowed_hosts=settings.server.allowed_hosts,
            allowed_origins=settings.server.allowed_origins,
            trust_forwarded=settings.server.trust_forwarded,
            busy=(LedgerBusy,),
        )
        yield Gateway(app, node, streams, doors, dispatch, ledger, settings.protocol.drain_grace_ms / 1000)


def make_node(
    shop: Workshop,
    access: Access,
    catalog: Catalog,
    supervisor: Supervisor,
    *,
    limits: Limits,
    timing: Timing,
    promises: Promises,
    ref_retention_ms: int,
    drain_spread_ms: int,
    max_queue: int,
    ring: Callable[[str], None],
    stop_work: Callable[[str, Canceler], None],
    standings: Callable[[], Mapping[str, Standing]],
) -> Node:
    """Return the side that faces clients, on what the workers share; the functions are their dispatch's."""
    ledger, clock = shop.ledger, shop.clock
    admission = Admission(
        ledger,
        shop.pictures,
        shop.feeds,
        catalog,
        clock,
        shop.chance,
        limits=limits,
        ref_retention_ms=ref_retention_ms,
        max_queue=max_queue,
        ring=ring,
        stop_work=stop_work,
        standings=standings,
    )
    sessions = Sessions(
        ledger,
        access,
        clock,
        shop.chance,
        limits,
        promises,
        drain_spread_ms=drain_spread_ms,
        cancel=admission.cancel,
    )
    return Node(
        access=access,
        admission=admission,
        feeds=shop.feeds,
        pictures=shop.pictures,
        blobs=shop.blobs,
        sessions=sessions,
        jobs=ledger.jobs,
        models=catalog,
        clock=clock,
        meter=shop.meter,
        supervisor=supervisor,
        limits=limits,
        timing=timing,
        asset_retention_ms=promises.asset_retention_ms,
        event_retention_ms=promises.event_retention_ms,
    )


async def serve(settings: config.Config, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is told the address once requests are answered."""
    logs.configure(settings.log.level, settings.log.format)
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end.set)
    with listen(settings.server) as listener:
        url = settings.server.public_url or address_of(settings.server.host, listener)
        async with running(settings, url) as gateway, serving(gateway, listener, settings) as server:
            announce(url)
            await asked_to_end.wait()
            server.stop_accepting()
            await gateway.drain()


@contextlib.asynccontextmanager
async def serving(gateway: Gateway, listener: socket.socket, settings: config.Config) -> AsyncIterator["Server"]:
    """Answer requests on a bound socket while the context lasts."""
    high_water = settings.protocol.high_water
    server = Server(uvicorn_config(gateway.app, backlog=settings.server.backlog, high_water=high_water))
    # A task group would wrap whatever goes wrong inside the context; this one task is held here to its end.
    task = asyncio.create_task(server.serve(sockets=[listener]), name="server")  # noqa: TID251
    try:
        await server.settled.wait()
        yield server
    finally:
        server.should_exit = True
        await task


class Server(uvicorn.Server):
    """uvicorn's server without its signal handling: the gateway drains first and lets it exit last."""

    def __init__(self, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self.settled = asyncio.Event()
        """Requests are answered, or it could not begin."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.settled.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        for server in self.servers:
            server.close()


def uvicorn_config(app: ASGIApp, *, backlog: int, high_water: int) -> uvicorn.Config:
    """Return how uvicorn runs the gateway: our protocols, no deflate, no clocks (the guard's is ours), no logs."""
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws=with_high_water(high_water),
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=backlog,
        timeout_graceful_shutdown=5,
    )


# --- parts ---


def _ways(models: Mapping[str, config.Model]) -> dict[str, list[Way]]:
    return {
        name: [Way(route.upstream, route.model, route.weight, route.group) for route in model.routes]
        for name, model in models.items()
    }


async def _past_runs(ledger: SqlLedger, upstreams: Sequence[str]) -> PastRuns:
    """Return what runs took before this process began."""
    past = PastRuns()
    for name in upstreams:
        for request, images, took_ms in await ledger.work.durations(name, RUNS_REMEMBERED):
            past.note(kind_of(name, request, images), took_ms / 1000)
    return past


async def _lines(
    settings: config.Upstream,
    accounts: Mapping[str, Upstream],
    ledger: SqlLedger,
    clock: Clock,
    supervisor: Supervisor,
) -> Lines:
    """Return an upstream's lines, one for each account."""
    if isinstance(settings, config.Embedded):
        gated = [Line(one, account, Gate(clock=clock), settings.processes) for account, one in accounts.items()]
    else:
        gated = [
            Line(
                one, account, await _gate(one.name, account, settings, ledger, clock, supervisor), settings.concurrency
            )
            for account, one in accounts.items()
        ]
    return Lines(gated, clock)


async def _gate(
    upstream: str,
    credential: str,
    settings: config.HttpUpstream,
    ledger: SqlLedger,
    clock: Clock,
    supervisor: Supervisor,
) -> Gate:
    """Return an account's gate, rebuilt from the calls of the last window and the kept lock-out."""

    def keep_lockout(until_ms: int) -> None:
        supervisor.start(ledger.accounts.lock_out(upstream, credential, until_ms), f"lock-out of {upstream}")

    gate = Gate(
        clock=clock,
        **_limit_of(settings.limit),
        concurrency=settings.concurrency,
        failure_threshold=settings.breaker.failures,
        cooldown_seconds=settings.breaker.open_ms / 1000,
        on_lockout=keep_lockout,
    )
    since_ms = clock.time_ms() - int(gate.horizon_seconds * 1000)
    past = await ledger.work.sent_since(upstream, credential, since_ms)
    locked_until_ms = await ledger.accounts.locked_until(upstream, credential)
    # What the ledger has is when a call was about to be sent, so only its answer bounds when the vendor counted it.
    gate.restore([(None, call.answered_ms) for call in past], locked_until_ms or None)
    return gate


def _limit_of(limit: config.Window | config.Bucket | None) -> dict[str, Any]:
    if limit is None:
        return {}
    shared = {"delay_bound_seconds": limit.delay_bound_ms / 1000, "lockout_seconds": limit.lockout_ms / 1000}
    if isinstance(limit, config.Window):
        return {"limit": limit.window, "period_seconds": limit.period_ms / 1000, **shared}
    return {"rate": limit.bucket_per_s, "burst": limit.burst, **shared}


async def _access(ledger: SqlLedger, clock: Clock, named: Mapping[str, config.Issuer], key_sets: KeySets) -> Access:
    """Return the access checks on the ledger's own epoch and keys, made with the ledger and never afresh."""
    now = clock.time_ms()
    epoch = await ledger.accounts.found(secrets.token_hex(8), new_signing_keys(now))
    keys = await ledger.accounts.signing_keys(now)
    issuers = Issuers([issuer_of(name, one) for name, one in named.items()], key_sets, ledger.accounts, clock)
    return Access(ledger.accounts, LocalTickets(), keys, clock, epoch, issuers=issuers)


def _limits(settings: config.Limits) -> Limits:
    return Limits(**{name: getattr(settings, name) for name in Limits.__struct_fields__})


def _promises(settings: config.Protocol) -> Promises:
    return Promises(
        heartbeat_ms=settings.heartbeat_ms,
        session_ttl_ms=settings.session_ttl_ms,
        event_retention_ms=settings.event_retention_ms,
        asset_retention_ms=settings.asset_retention_ms,
        currency=settings.currency,
    )


def _terms(settings: config.Config) -> Terms:
    """Return what holds at all doors to other APIs' dialects."""
    engines = (name for name, one in settings.upstreams.items() if isinstance(one, config.Engine))
    return Terms(
        aliases=Aliases(settings.compat.aliases, frozenset(engines)),
        on_disconnect=settings.compat.on_disconnect,
        silence_seconds=settings.compat.silence_ms / 1000,
        picture_wait_seconds=settings.compat.picture_wait_ms / 1000,
        max_body=settings.compat.max_body,
    )


def _timing(settings: config.Protocol) -> Timing:
    return Timing(
        heartbeat=settings.heartbeat_ms / 1000,
        hello=settings.hello_timeout_ms / 1000,
        ping=settings.ping_interval_ms / 1000,
        silence=settings.silence_ms / 1000,
        slow=settings.slow_consumer_ms / 1000,
        max_age=math.inf if settings.max_connection_age_ms is None else settings.max_connection_age_ms / 1000,
    )


def _watch(meter: PrometheusMeter, node: Node, dispatch: Dispatch, ledger: SqlLedger) -> None:
    """Have the gauges read where their numbers are kept."""

    def of_gates(read: Callable[[GateFacts], int | None]) -> Callable[[], dict[tuple[str, ...], float]]:
        gates = {(name, line.credential): line.gate for name, lines in dispatch.lines.items() for line in lines}
        return lambda: {labels: float(read(gate.snapshot()) or 0) for labels, gate in gates.items()}

    meter.watch("connections", lambda: len(node.sessions))
    meter.watch("sessions", lambda: node.sessions.held)
    meter.watch("feeds", lambda: len(node.feeds))
    meter.watch("jobs_working", lambda: dispatch.working)
    meter.watch("jobs", lambda: dispatch.live)
    meter.watch("gate_waiting", of_gates(lambda facts: facts.waiting))
    meter.watch("gate_running", of_gates(lambda facts: facts.running))
    meter.watch("gate_free", of_gates(lambda facts: facts.free))
    meter.watch("previews_encoded", lambda: node.feeds.encoded)
    meter.watch("previews_dropped", lambda: node.feeds.dropped)
    meter.watch("ledger_reads", lambda: ledger.store.reads)


def _node_name() -> str:
    return f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"


def _tell_failure(log: Any, meter: PrometheusMeter, name: str, error: BaseException) -> None:
    meter.count("task_failures", task=name.split(" ", maxsplit=1)[0])
    log.error("a task failed", task=name, exc_info=error)


# --- the socket ---


def listen(settings: config.Server) -> socket.socket:
    """Return the bound socket; what it sets is inherited by every connection."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((settings.host, settings.port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """Return the address that a client on this machine uses."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - only named
    return f"http://{name}:{port}"
