"""The composition, written out: from settings to a running gateway, opened and closed in order.

Nothing else wires parts together, and importing any module does nothing. What settings mean to the parts stands in
`gateway.wiring`; `gateway.serving` puts the gateway behind a socket.
"""

import contextlib
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp

from gateway import blobs, config
from gateway.builders import ONLY_ACCOUNT, accounts_of, issuer_of
from gateway.clock import SystemClock
from gateway.core.eta import PastRuns
from gateway.core.routing import Standing
from gateway.edges.compat.doors import Doors
from gateway.edges.events import Streams
from gateway.edges.links import TenantLinks
from gateway.edges.routes import build_app
from gateway.edges.stream import Stream
from gateway.flow.access import Access
from gateway.flow.admission import Admission
from gateway.flow.book import Workshop
from gateway.flow.catalog import Catalog
from gateway.flow.dispatch import Dispatch
from gateway.flow.feeds import Feeds
from gateway.flow.gate import GateFacts
from gateway.flow.issuers import Issuers
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
from gateway.wiring import limits_of, lines_of, promises_of, terms_of, timing_of, ways_of
from protocol.messages import Canceler, Limits
from protocol.session import Timing

RUNS_REMEMBERED: Final = 500
"""How many of an upstream's past runs a start reads, for estimates."""


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
        transcoder, door_transcoder = PillowTranscoder(), PillowTranscoder()
        stack.callback(transcoder.close)
        stack.callback(door_transcoder.close)
        key_sets = HttpKeySets({name: one.jwks_url for name, one in settings.issuers.items()}, clock)
        stack.push_async_callback(key_sets.close)
        access = await _access(ledger, clock, settings.issuers, key_sets)
        limits = limits_of(settings.limits)
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
            await lines_of(settings.upstreams[name], instances, ledger, clock, supervisor)
            for name, instances in accounts.items()
        ]
        catalog = Catalog([one.upstream for one in lines], ways_of(settings.models))
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
        promises = promises_of(settings.protocol)
        node = make_node(
            shop,
            access,
            catalog,
            supervisor,
            limits=limits,
            timing=timing_of(settings.protocol),
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
        doors = Doors(node, terms_of(settings), door_transcoder, chance)
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


async def _past_runs(ledger: SqlLedger, upstreams: Sequence[str]) -> PastRuns:
    """Return what runs took before this process began."""
    past = PastRuns()
    for name in upstreams:
        for request, images, took_ms in await ledger.work.durations(name, RUNS_REMEMBERED):
            past.note(kind_of(name, request, images), took_ms / 1000)
    return past


async def _access(ledger: SqlLedger, clock: Clock, named: Mapping[str, config.Issuer], key_sets: KeySets) -> Access:
    """Return the access checks on the ledger's own epoch and keys, made with the ledger and never afresh."""
    now = clock.time_ms()
    epoch = await ledger.accounts.found(secrets.token_hex(8), new_signing_keys(now))
    keys = await ledger.accounts.signing_keys(now)
    issuers = Issuers([issuer_of(name, one) for name, one in named.items()], key_sets, ledger.accounts, clock)
    return Access(ledger.accounts, LocalTickets(), keys, clock, epoch, issuers=issuers)


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
