"""What settings mean in the words of the parts: limits, promises, times, and an upstream's lines with their gates."""

import math
from collections.abc import Mapping
from typing import Any

from gateway import config
from gateway.core.aliases import Aliases
from gateway.edges.compat.doors import Terms
from gateway.flow.catalog import Way
from gateway.flow.gate import Gate
from gateway.flow.lines import Line, Lines
from gateway.flow.sessions import Promises
from gateway.flow.supervise import Supervisor
from gateway.ledger import SqlLedger
from gateway.ports import Clock, Upstream
from protocol.messages import Limits
from protocol.session import Timing


def limits_of(settings: config.Limits) -> Limits:
    """Return what the settings bound of all clients."""
    return Limits(**{name: getattr(settings, name) for name in Limits.__struct_fields__})


def promises_of(settings: config.Protocol) -> Promises:
    """Return what clients are told that they may rely on."""
    return Promises(
        heartbeat_ms=settings.heartbeat_ms,
        session_ttl_ms=settings.session_ttl_ms,
        event_retention_ms=settings.event_retention_ms,
        asset_retention_ms=settings.asset_retention_ms,
        currency=settings.currency,
    )


def terms_of(settings: config.Config) -> Terms:
    """Return what holds at all doors to other APIs' dialects."""
    engines = (name for name, one in settings.upstreams.items() if isinstance(one, config.Engine))
    return Terms(
        aliases=Aliases(settings.compat.aliases, frozenset(engines)),
        on_disconnect=settings.compat.on_disconnect,
        silence_seconds=settings.compat.silence_ms / 1000,
        picture_wait_seconds=settings.compat.picture_wait_ms / 1000,
        max_body=settings.compat.max_body,
    )


def timing_of(settings: config.Protocol) -> Timing:
    """Return the times of a connection, in seconds."""
    return Timing(
        heartbeat=settings.heartbeat_ms / 1000,
        hello=settings.hello_timeout_ms / 1000,
        ping=settings.ping_interval_ms / 1000,
        silence=settings.silence_ms / 1000,
        slow=settings.slow_consumer_ms / 1000,
        max_age=math.inf if settings.max_connection_age_ms is None else settings.max_connection_age_ms / 1000,
    )


def ways_of(models: Mapping[str, config.Model]) -> dict[str, list[Way]]:
    """Return the configured models' ways to upstreams."""
    return {
        name: [Way(route.upstream, route.model, route.weight, route.group) for route in model.routes]
        for name, model in models.items()
    }


async def lines_of(
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
