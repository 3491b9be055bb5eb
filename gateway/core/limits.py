"""How often something may be done: a token bucket, our mirror of a vendor's window, and a lock-out. All pure.

`TokenBucket` decides by itself, so it is exact: it admits a client's calls, and calls to a vendor that documents a
bucket. `WindowMirror` follows a window that somebody else keeps. We never see the vendor count a call; we know only
that it did so between the moment we sent the call and the earlier of the answer and `sent + delay_bound`. A slot is
therefore taken until that bound lies one period back. Any two calls of one slot are then counted at least one period
apart, so no period holds more than `limit` of them, whether the vendor's window slides or is fixed, and whatever its
phase. Counting from the answer alone would be as safe, and would waste half the quota of a vendor that works for 8 s.

What a restart forgets is rebuilt from the calls of the last period (`restore`); where those are unknown too,
`begin_full` lets nothing through until every call that may have been sent is forgotten by the vendor as well.

`now` is in seconds on any clock that never runs backwards; one object sees one clock only.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

_ROUNDING: Final = 1e-6
"""Seconds. Sums of floats are off by some 1e-10 s on a monotonic clock and 2e-7 s on the calendar's; who waits exactly
as long as he was told must not be turned away for it, nor must a vendor's `now - then >= period` fail for it."""


class TokenBucket:
    """At most `burst` at once and `rate` a second for ever, as GCRA: the whole state is one instant, `tat`.

    `tat` is when the bucket would be full again. A new bucket is full; keep `tat` and hand it in to restore one.
    """

    __slots__ = ("_interval", "_tolerance", "burst", "rate", "tat")

    def __init__(self, rate: float, burst: float, tat: float = -math.inf) -> None:
        if not (rate > 0 and burst >= 1):
            raise ValueError(f"no such bucket: {rate} a second, burst {burst}")
        self.rate = rate
        self.burst = burst
        self.tat = tat
        self._interval = 1 / rate
        self._tolerance = burst / rate

    @classmethod
    def mirroring(cls, rate: float, burst: float, delay_bound_seconds: float) -> Self:
        """Return a bucket that never overdraws a vendor's of `rate` and `burst`, however long the way there is.

        A call counted within some interval was sent within it or up to `delay_bound_seconds` before; what the vendor
        fills in during that time is what we must leave in its bucket. Where the burst is too small to leave so much,
        the calls are spaced: the second one after the first is then the hardest case.
        """
        spare = burst - rate * delay_bound_seconds
        if spare >= 1:
            return cls(rate, spare)
        interval = delay_bound_seconds + (2 - burst) / rate
        return cls(min(rate, 1 / interval), 1)

    def __repr__(self) -> str:
        return f"<TokenBucket {self.rate:g}/s burst {self.burst:g} full at {self.tat:.3f}>"

    def wait(self, now: float) -> float:
        """Return how many seconds from `now` a token will be there; 0 = it is."""
        seconds = max(self.tat, now) + self._interval - self._tolerance - now
        return seconds if seconds > _ROUNDING else 0.0

    def take(self, now: float) -> float:
        """Take a token and return 0, or change nothing and return how many seconds to wait."""
        seconds = self.wait(now)
        if seconds == 0:
            self.spend(now)
        return seconds

    def left(self, now: float) -> int:
        """Return how many tokens are there at once."""
        return max(0, math.floor((now + self._tolerance - max(self.tat, now)) / self._interval + _ROUNDING))

    def spend(self, now: float) -> None:
        """Take a token whether there is one or not: it was taken elsewhere, or before a restart."""
        self.tat = max(self.tat, now) + self._interval

    def give_back(self) -> None:
        """Put back a token that was not used."""
        self.tat -= self._interval

    def begin_empty(self, now: float) -> None:
        """Begin without a token, for a vendor's bucket whose state is not known."""
        self.tat = now + self._tolerance


class LockOut:
    """Until when nothing at all may pass; a later word can prolong it, never shorten it."""

    __slots__ = ("locked_until",)

    def __init__(self) -> None:
        self.locked_until = -math.inf

    def __repr__(self) -> str:
        return f"<LockOut until {self.locked_until:.3f}>"

    def holds(self, now: float) -> bool:
        """Whether it is locked at `now`."""
        return now < self.locked_until

    def prolong(self, until: float) -> bool:
        """Lock until `until`; return whether that is later than before."""
        if until <= self.locked_until:
            return False
        self.locked_until = until
        return True


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that was made before a restart, on the clock of the `now` it is restored with."""

    sent: float | None = None
    """When its last byte was handed to the network; None = it was about to be sent, and nobody knows when it was.
    The time at which the call was only written down won't do: it is earlier, so the slot would be free too early."""
    answered: float | None = None


class SlotState(Enum):
    """What is known of the call that holds a slot."""

    RESERVED = "reserved"
    SENT = "sent"
    ANSWERED = "answered"
    GIVEN_BACK = "given_back"


_R, _S, _A, _G = SlotState.RESERVED, SlotState.SENT, SlotState.ANSWERED, SlotState.GIVEN_BACK
# Keyed by (state, what became known). Absent is illegal: above all, a slot whose call was sent can't be given back.
SLOT_STEPS: Final[dict[tuple[SlotState, SlotState], SlotState]] = {
    (_R, _S): _S,
    (_R, _G): _G,
    (_R, _A): _A,  # a vendor may answer (413, 429) before it has read the whole request
    (_S, _A): _A,
}


class Slot:
    """One place in a `WindowMirror`; say `sent` and `answered`, or `give_back` if the call was not sent at all."""

    __slots__ = ("_mirror", "state")

    def __init__(self, mirror: "WindowMirror") -> None:
        self._mirror = mirror
        self.state = SlotState.RESERVED

    def __repr__(self) -> str:
        return f"<Slot {self.state.value}>"

    def sent(self, now: float) -> None:
        """The request's last byte was handed to the network, or may have been."""
        self._step(SlotState.SENT)
        self._mirror._slot_sent(self, now)  # noqa: SLF001 - a slot is the mirror's own handle

    def answered(self, now: float) -> None:
        """The answer's first byte is there, so the vendor has counted the call."""
        was_reserved = self.state is SlotState.RESERVED
        self._step(SlotState.ANSWERED)
        if was_reserved:
            self._mirror._slot_sent(self, now)  # noqa: SLF001
        self._mirror._slot_answered(self, now)  # noqa: SLF001

    def give_back(self) -> None:
        """No byte went out: the slot is free at once."""
        self._step(SlotState.GIVEN_BACK)
        self._mirror._slot_given_back()  # noqa: SLF001

    def _step(self, to: SlotState) -> None:
        step = SLOT_STEPS.get((self.state, to))
        if step is None:
            raise ValueError(f"a slot that is {self.state.value} can't become {to.value}")
        self.state = step


class WindowMirror:
    """Our mirror of a vendor's window of `limit` calls per `period_seconds`, sliding or fixed.

    `delay_bound_seconds` is the longest time from our last byte to the vendor's count: half a round trip, and what its
    front door may take. A bound that is too small earns refusals; one that is too large costs that much per period.
    """

    # Both queues are in order of release without sorting: sends and answers come in order of time, and each adds a
    # constant. So a call costs O(1), and what is held is at most one entry a slot.

    def __init__(self, limit: int, period_seconds: float, delay_bound_seconds: float = 0.25) -> None:
        if limit < 1 or not period_seconds > 0 or not delay_bound_seconds >= 0:
            raise ValueError(f"no such window: {limit} per {period_seconds} s, delay {delay_bound_seconds} s")
        self.limit = limit
        self.period_seconds = period_seconds
        self.delay_bound_seconds = delay_bound_seconds
        self._kept = period_seconds + _ROUNDING
        self._unsent = 0
        # An OrderedDict: `next(iter(...))` of a plain dict crawls over what was deleted at its head.
        self._sent: OrderedDict[Slot, float] = OrderedDict()
        self._answered: deque[float] = deque()

    def __repr__(self) -> str:
        taken = f"{self._unsent} unsent, {len(self._sent)} sent, {len(self._answered)} answered"
        return f"<WindowMirror {self.limit}/{self.period_seconds:g}s: {taken}>"

    def try_reserve(self, now: float) -> Slot | None:
        """Return a slot, or None if all are taken; `next_free` says when to ask again."""
        if self.free(now) == 0:
            return None
        self._unsent += 1
        return Slot(self)

    def free(self, now: float) -> int:
        """How many slots are free."""
        self._forget(now)
        return max(0, self.limit - self._unsent - len(self._sent) - len(self._answered))

    def next_free(self, now: float) -> float:
        """Return when to ask for a slot: `now` if one is free, infinity while only a `sent` or `give_back` can tell."""
        if self.free(now):
            return now
        return min((*self._answered_head(), *self._sent_head()), default=math.inf)

    def restore(self, calls: Iterable[PastCall], now: float) -> None:
        """Begin as if `calls` had been made here; call it before the first slot is reserved.

        `calls` must hold every call of the last `period_seconds + delay_bound_seconds`; older ones do no harm.
        """
        assert self._unsent == 0, "a slot that is out would be forgotten"
        releases = sorted(release for call in calls if (release := self._release(call, now)) > now)
        self._answered.clear()
        # More than `limit` can be there after the limit was lowered: the latest ones are what we wait for.
        self._sent = OrderedDict((Slot(self), release) for release in releases[-self.limit :])

    def begin_full(self, now: float) -> None:
        """Let nothing through until the vendor has forgotten all that may have been sent up to `now`."""
        self.restore([PastCall()] * self.limit, now)

    def _release(self, call: PastCall, now: float) -> float:
        # A call with no time of its own may have left just before we died. Nothing restored lies in the future, even
        # if the calendar was set back in between: that keeps the queue in order.
        sent = now if call.sent is None else min(call.sent, now)
        answered = math.inf if call.answered is None else min(call.answered, now)
        return min(answered, sent + self.delay_bound_seconds) + self._kept

    def _slot_sent(self, slot: Slot, now: float) -> None:
        self._unsent -= 1
        self._sent[slot] = now + self.delay_bound_seconds + self._kept

    def _slot_answered(self, slot: Slot, now: float) -> None:
        release = now + self._kept
        # A late answer tells nothing new; the slot may even be somebody else's by now.
        if release < self._sent.get(slot, -math.inf):
            del self._sent[slot]
            self._answered.append(release)

    def _slot_given_back(self) -> None:
        self._unsent -= 1

    def _answered_head(self) -> tuple[float, ...]:
        return (self._answered[0],) if self._answered else ()

    def _sent_head(self) -> tuple[float, ...]:
        return (next(iter(self._sent.values())),) if self._sent else ()

    def _forget(self, now: float) -> None:
        while self._answered and self._answered[0] <= now:
            self._answered.popleft()
        while self._sent and next(iter(self._sent.values())) <= now:
            self._sent.popitem(last=False)
