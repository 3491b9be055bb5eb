"""Everything that stands before one credential of one upstream: who may call now, and who waits.

A gate lets a call through when all of these allow it: the vendor's lock-out is over, the breaker is not open, a place
of the concurrency cap is free, the window's mirror has a slot, the bucket has a token. Callers are let in strictly in
the order of their coming; those that wait are futures in one queue, and one timer stands for the first instant at which
time alone may open the gate. Whatever else can open it (a call is sent, answered, ends) looks at the queue at once. So
there is no task a caller, no polling, and nobody to be woken but those who can go.

One function decides, `_opens_at`: it is asked whether the first caller may go, and how long the timer runs. What it
says and what `_let_in` takes happens without an await in between.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.core.breaker import Breaker, State
from gateway.core.limits import LockOut, PastCall, Slot, SlotState, TokenBucket, WindowMirror
from gateway.core.reports import Outcome, UpstreamFault
from gateway.ports import Clock

_SHORTEST_TIMER_SECONDS: Final = 0.001
"""uvloop counts in whole milliseconds and may wake us a fraction too early; a timer for the rest, rounded down to
nothing, would spin until it is over."""


@dataclass(frozen=True, slots=True)
class GateFacts:
    """How a gate stands, for `GET /v1/limits` and metrics."""

    waiting: int
    running: int
    concurrency: int | None
    """`None` = no cap."""
    limit: int | None
    """Calls per period; `None` = no window."""
    free: int | None
    """How many of them are free now."""
    locked_until_ms: int | None
    """`None` = not locked out."""
    breaker: State


class Gate:
    """The gate of one credential. `async with gate.enter() as passage` around each call; see `Passage` for its duties.

    `limit` per `period_seconds` mirrors the vendor's window, `rate` and `burst` its bucket; `None` = it has none.
    `delay_bound_seconds` is the longest way from us to the vendor's count. A refusal that locks out without saying for
    how long does so for `lockout_seconds`; one that names a time is believed up to `max_lockout_seconds`.
    `on_lockout` gets the calendar's instant (milliseconds) of each new or longer lock-out, for the ledger.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        limit: int | None = None,
        period_seconds: float = 10.0,
        rate: float | None = None,
        burst: float = 1.0,
        delay_bound_seconds: float = 0.25,
        concurrency: int | None = None,
        failure_threshold: int = 5,
        cooldown_seconds: float = 30.0,
        lockout_seconds: float = 60.0,
        max_lockout_seconds: float = 3600.0,
        max_waiting: int = 10_000,
        on_lockout: Callable[[int], None] | None = None,
    ) -> None:
        self._clock = clock
        self._mirror = None if limit is None else WindowMirror(limit, period_seconds, delay_bound_seconds)
        self._bucket = None if rate is None else TokenBucket.mirroring(rate, burst, delay_bound_seconds)
        self._breaker = Breaker(failure_threshold, cooldown_seconds)
        self._lock = LockOut()
        self._concurrency = math.inf if concurrency is None else concurrency
        self._delay_bound_seconds = delay_bound_seconds
        self._lockout_seconds = lockout_seconds
        self._max_lockout_seconds = max_lockout_seconds
        self._max_waiting = max_waiting
        self._on_lockout = on_lockout
        self._running = 0
        # Ordered, as a deque; keyed, so that one who gives up leaves in O(1).
        self._waiting: OrderedDict[asyncio.Future[Passage], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __repr__(self) -> str:
        return f"<Gate {self._running} running, {len(self._waiting)} waiting, {self._mirror!r}, {self._breaker!r}>"

    @property
    def horizon_seconds(self) -> float:
        """How far back the calls must go that `restore` is given."""
        window = 0.0 if self._mirror is None else self._mirror.period_seconds
        refill = 0.0 if self._bucket is None else self._bucket.burst / self._bucket.rate
        return max(window, refill) + self._delay_bound_seconds

    def restore(self, calls: Iterable[tuple[int | None, int | None]], locked_until_ms: int | None = None) -> None:
        """Take up where an earlier process ended; call it before anybody enters.

        Each call is `(sent, answered)` in milliseconds of the calendar, for every call of the last `horizon_seconds`
        that may have gone out: `sent` is None where it was only written down as about to be sent, `answered` is None
        where no answer came.
        """
        now = self._clock.now()
        past = [PastCall(self._from_ms(sent), self._from_ms(answered)) for sent, answered in calls]
        if self._mirror is not None:
            self._mirror.restore(past, now)
        if self._bucket is not None:
            for spent in sorted(self._latest_count(call, now) for call in past):
                self._bucket.spend(spent)
        if locked_until_ms is not None:
            self._lock.prolong(now + (locked_until_ms - self._clock.time_ms()) / 1000)

    def begin_full(self) -> None:
        """Begin as if everything had been used up just now: the past is not known. Before anybody enters."""
        now = self._clock.now()
        if self._mirror is not None:
            self._mirror.begin_full(now)
        if self._bucket is not None:
            self._bucket.begin_empty(now + self._delay_bound_seconds)

    def snapshot(self) -> GateFacts:
        """Return how the gate stands."""
        now = self._clock.now()
        return GateFacts(
            waiting=len(self._waiting),
            running=self._running,
            concurrency=None if math.isinf(self._concurrency) else int(self._concurrency),
            limit=None if self._mirror is None else self._mirror.limit,
            free=None if self._mirror is None else self._mirror.free(now),
            locked_until_ms=self._to_ms(self._lock.locked_until) if self._lock.holds(now) else None,
            breaker=self._breaker.state,
        )

    @asynccontextmanager
    async def enter(self) -> AsyncIterator["Passage"]:
        """Wait for the way to be free, and hold it until the block ends.

        Raises `UpstreamFault` `queue_full` (not sent) when more than `max_waiting` wait already. Cancelling gives the
        place in the queue, or the slot just granted, to the next.
        """
        passage = await self._wait()
        try:
            yield passage
        finally:
            self._leave(passage)

    async def _wait(self) -> "Passage":
        now = self._clock.now()
        if not self._waiting and self._opens_at(now) <= now:
            return self._let_in(now)
        if len(self._waiting) >= self._max_waiting:
            raise UpstreamFault(Outcome.NOT_SENT, "queue_full", "too many calls wait for this upstream")
        turn: asyncio.Future[Passage] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        self._look()
        try:
            return await turn
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def _give_up(self, turn: "asyncio.Future[Passage]") -> None:
        if turn.done() and not turn.cancelled():
            # Let in and cancelled between the same two steps of the loop.
            self._leave(turn.result())
            return
        self._waiting.pop(turn, None)
        self._look()

    def _look(self) -> None:
        """Let in all who may go now, and set the timer for the next."""
        now = self._clock.now()
        while self._waiting and self._opens_at(now) <= now:
            turn, _ = self._waiting.popitem(last=False)
            # One who was cancelled is in the queue until his task runs; he must not take a slot with him.
            if not turn.cancelled():
                turn.set_result(self._let_in(now))
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        at = self._opens_at(now) if self._waiting else math.inf
        if at == self._timer_at and at > now:
            return  # most looks find nothing new
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, at
        if at < math.inf:
            delay = max(at - now, _SHORTEST_TIMER_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._look()

    def _opens_at(self, now: float) -> float:
        """When the first in the queue can go: `now`, a later instant, or infinity while only an event can tell."""
        if self._running >= self._concurrency:
            return math.inf
        return max(
            now,
            self._lock.locked_until,
            self._breaker_opens_at(now),
            now if self._mirror is None else self._mirror.next_free(now),
            now if self._bucket is None else now + self._bucket.wait(now),
        )

    def _breaker_opens_at(self, now: float) -> float:
        if self._breaker.allows(now):
            return now
        deadline = self._breaker.deadline()
        return math.inf if deadline is None else deadline

    def _let_in(self, now: float) -> "Passage":
        slot = None if self._mirror is None else self._mirror.try_reserve(now)
        assert self._mirror is None or slot is not None, "`_opens_at` has just seen a free slot"
        if self._bucket is not None:
            self._bucket.spend(now)
        self._running += 1
        return Passage(
            clock=self._clock,
            slot=slot,
            bucket=self._bucket,
            breaker=self._breaker,
            look=self._look,
            lock_out=self._lock_out,
        )

    def _leave(self, passage: "Passage") -> None:
        passage.end()
        self._running -= 1
        self._look()

    def _lock_out(self, retry_after_seconds: float | None) -> None:
        seconds = self._lockout_seconds if retry_after_seconds is None else retry_after_seconds
        until = self._clock.now() + min(max(seconds, 0.0), self._max_lockout_seconds)
        if self._lock.prolong(until) and self._on_lockout is not None:
            self._on_lockout(self._to_ms(until))

    def _latest_count(self, call: PastCall, now: float) -> float:
        sent = now if call.sent is None else call.sent
        return min(now if call.answered is None else call.answered, sent + self._delay_bound_seconds, now)

    def _from_ms(self, instant: int | None) -> float | None:
        # One more: whoever wrote it down cut off the fraction, and a slot must not be free for that much too early.
        return None if instant is None else self._clock.now() + (instant + 1 - self._clock.time_ms()) / 1000

    def _to_ms(self, instant: float) -> int:
        return self._clock.time_ms() + math.ceil((instant - self._clock.now()) * 1000)


class _Phase(Enum):
    """How far a call has gone, as the gate was told."""

    ENTERED = "entered"
    """No byte can have gone out."""
    SENDING = "sending"
    """Bytes may have gone out."""
    SENT = "sent"
    ANSWERED = "answered"
    NOT_SENT = "not_sent"
    """It is known that no byte went out."""


_E, _B, _S, _A, _N = _Phase.ENTERED, _Phase.SENDING, _Phase.SENT, _Phase.ANSWERED, _Phase.NOT_SENT
# Keyed by (phase, what is told). Words that come late or twice change nothing, as two parts may know the same; what
# would take a call back that went out is absent.
_STEPS: Final[dict[tuple[_Phase, _Phase], _Phase]] = {
    (_E, _B): _B,
    (_E, _S): _S,
    (_E, _A): _A,
    (_E, _N): _N,
    (_B, _B): _B,
    (_B, _S): _S,
    (_B, _A): _A,
    (_B, _N): _N,
    (_S, _S): _S,
    (_S, _A): _A,
    (_A, _S): _A,
    (_A, _A): _A,
    (_N, _N): _N,
}


class Passage:
    """One call's way through the gate; the caller tells it what becomes of the call.

    Say `sending` before the adapter gets the order, `sent` from `CallOrder.sent`, `answered` with the first sign of an
    answer, and then one of `succeeded`, `failed`, `refused`, `not_sent`. A block that ends before `sending` gives its
    slot back at once. One that ends after it without `sent`, be it by cancellation, keeps the slot as if the call had
    been sent at that moment, as the vendor may have counted it.
    """

    __slots__ = ("_breaker", "_bucket", "_clock", "_era", "_is_judged", "_lock_out", "_look", "_phase", "_slot")

    def __init__(
        self,
        *,
        clock: Clock,
        slot: Slot | None,
        bucket: TokenBucket | None,
        breaker: Breaker,
        look: Callable[[], None],
        lock_out: Callable[[float | None], None],
    ) -> None:
        self._clock = clock
        self._slot = slot
        self._bucket = bucket
        self._breaker = breaker
        self._look = look
        self._lock_out = lock_out
        self._era = breaker.admit(clock.now())
        self._phase = _Phase.ENTERED
        self._is_judged = False

    def __repr__(self) -> str:
        return f"<Passage {self._phase.value}, {self._slot!r}>"

    def sending(self) -> None:
        """From now on bytes may go out."""
        self._step(_Phase.SENDING)

    def sent(self) -> None:
        """The last byte was handed to the network."""
        self._step(_Phase.SENT)
        if self._slot is not None and self._slot.state is SlotState.RESERVED:
            self._slot.sent(self._clock.now())
            # A slot that was sent is the first to have an instant at which it is free again.
            self._look()

    def answered(self) -> None:
        """The first sign of an answer is here."""
        self._step(_Phase.ANSWERED)
        if self._slot is not None and self._slot.state is not SlotState.ANSWERED:
            self._slot.answered(self._clock.now())
            self._look()

    def succeeded(self) -> None:
        """The call ended well, or in a way that the upstream is not to blame for."""
        self.answered()
        self._judge(self._breaker.succeeded)

    def failed(self) -> None:
        """The upstream failed, or was silent; whether it got the call is as was told before."""
        self._judge(self._breaker.failed)

    def not_sent(self) -> None:
        """There was no way to the upstream, and no byte went out: the slot is free at once."""
        self._step(_Phase.NOT_SENT)
        self._judge(self._breaker.failed)

    def refused(self, retry_after_seconds: float | None = None, *, locked_out: bool) -> None:
        """The vendor said no before it worked. With `locked_out` (429) the gate is closed for everybody."""
        self.answered()
        if locked_out:
            # Before the verdict, after which the gate may let somebody in. The upstream is alive and well, only too
            # busy with us: nothing that the breaker should know.
            self._lock_out(retry_after_seconds)
            self._judge(self._breaker.abandoned)
        else:
            self._judge(self._breaker.failed)

    def end(self) -> None:
        """The block has ended: settle what was left open. For the gate, which looks at its queue right after."""
        if self._phase is _Phase.SENDING:
            self.sent()
        elif self._phase in (_Phase.ENTERED, _Phase.NOT_SENT):
            self._take_back()
        self._judge(self._breaker.abandoned)

    def _take_back(self) -> None:
        if self._slot is not None:
            self._slot.give_back()
        if self._bucket is not None:
            self._bucket.give_back()

    def _judge(self, verdict: Callable[[float, int], None]) -> None:
        if self._is_judged:
            return
        self._is_judged = True
        verdict(self._clock.now(), self._era)
        self._look()

    def _step(self, told: _Phase) -> None:
        step = _STEPS.get((self._phase, told))
        if step is None:
            raise ValueError(f"a call that is {self._phase.value} can't become {told.value}")
        self._phase = step
