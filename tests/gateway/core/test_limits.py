import math
import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.limits import LockOut, PastCall, Slot, SlotState, TokenBucket, WindowMirror

# ------------------------------------------------------------------------------------------------------------- bucket


def test_bucket_begins_with_its_burst() -> None:
    """A new bucket gives its burst at once, then says how long to wait, and is right about it."""
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(100) for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]
    assert bucket.take(100.49) == pytest.approx(0.01)
    assert bucket.take(100.5) == 0
    assert repr(bucket) == "<TokenBucket 2/s burst 3 full at 102.000>"


def test_bucket_refused_is_left_as_it_was() -> None:
    """Asking in vain costs nothing, however often."""
    bucket = TokenBucket(rate=1, burst=1)
    bucket.take(0)
    tat = bucket.tat
    assert {bucket.take(0.5) for _ in range(100)} == {0.5}
    assert bucket.tat == tat


def test_bucket_goes_on_from_its_state() -> None:
    """The one instant it keeps is all it needs after a restart."""
    bucket = TokenBucket(rate=1, burst=5)
    for _ in range(4):
        bucket.take(10)
    again = TokenBucket(rate=1, burst=5, tat=bucket.tat)
    assert [again.take(10) for _ in range(2)] == [0, 1]


def test_bucket_says_how_much_is_left() -> None:
    """As much as it would give at once, and never less than nothing."""
    bucket = TokenBucket(rate=2, burst=3)
    assert bucket.left(0) == 3
    for left in (2, 1, 0):
        bucket.take(0)
        assert bucket.left(0) == left
    assert [bucket.left(now) for now in (0.49, 0.5, 1.0, 1.5, 99)] == [0, 1, 2, 3, 3]
    bucket.spend(0)
    assert bucket.left(0) == 0


def test_bucket_takes_back_what_was_not_used() -> None:
    """A token given back can be taken again at once."""
    bucket = TokenBucket(rate=1, burst=1)
    bucket.take(0)
    bucket.give_back()
    assert bucket.take(0) == 0


def test_bucket_can_begin_empty() -> None:
    """Where the past is not known, the first token comes after one interval."""
    bucket = TokenBucket(rate=2, burst=10)
    bucket.begin_empty(50)
    assert bucket.take(50) == 0.5


@pytest.mark.parametrize("rate,burst", [(0, 1), (-1, 1), (1, 0.5), (math.nan, 1)])
def test_bucket_that_gives_nothing_is_refused(rate: float, burst: float) -> None:
    """A rate or burst that lets nothing through is a mistake in a setting."""
    with pytest.raises(ValueError, match="no such bucket"):
        TokenBucket(rate, burst)


@given(
    rate=some.floats(0.01, 1000),
    burst=some.integers(1, 50),
    start=some.sampled_from([0.0, 1e6, 1.8e9]),
    steps=some.lists(some.floats(0, 5), max_size=200),
)
def test_bucket_never_gives_more_than_burst_and_rate(rate: float, burst: int, start: float, steps: list[float]) -> None:
    """In no interval go more than the burst and what the rate fills in; who waits as told is let in."""
    bucket = TokenBucket(rate, burst)
    now = start
    taken: list[float] = []
    for step in steps:
        now += step
        wait = bucket.take(now)
        if wait:
            now += wait
            assert bucket.take(now) == 0
        taken.append(now)
    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - begin + 1e-5) + 1e-6


@given(
    rate=some.floats(0.1, 200),
    burst=some.integers(1, 60),
    delay=some.floats(0, 2),
    seed=some.integers(0, 2**32),
)
def test_mirroring_bucket_never_overdraws_the_vendors(rate: float, burst: int, delay: float, seed: int) -> None:
    """Sent as early as allowed and delayed at will, no call meets an empty bucket at the vendor."""
    ours = TokenBucket.mirroring(rate, burst, delay)
    theirs = TokenBucket(rate, burst)
    chance = random.Random(seed)
    now, arrivals = 0.0, []
    for _ in range(150):
        now += ours.wait(now)
        assert ours.take(now) == 0
        arrivals.append(now + delay * chance.choice((0, 1, chance.random())))
    assert all(theirs.take(at + 1e-5 * number) == 0 for number, at in enumerate(sorted(arrivals)))


# ----------------------------------------------------------------------------------------------------------- lock-out


def test_lockout_is_prolonged_and_never_shortened() -> None:
    """The longest word counts."""
    lock = LockOut()
    assert (lock.holds(0), lock.locked_until) == (False, -math.inf)
    assert lock.prolong(60)
    assert not lock.prolong(50)
    assert (lock.holds(59.9), lock.holds(60), repr(lock)) == (True, False, "<LockOut until 60.000>")


# ------------------------------------------------------------------------------------------------------------- window


def reserve(mirror: WindowMirror, now: float) -> Slot:
    """Take a slot that must be free."""
    slot = mirror.try_reserve(now)
    assert slot is not None
    return slot


@pytest.mark.parametrize("answered,free_at", [(0.1, 10.1), (8.0, 10.25), (None, 10.25)])
def test_mirror_frees_a_slot_one_period_after_the_earlier_bound(answered: float | None, free_at: float) -> None:
    """The vendor counted the call at the answer, or at the delay bound, at the latest."""
    mirror = WindowMirror(1, 10, 0.25)
    slot = reserve(mirror, 0)
    slot.sent(0)
    if answered is not None:
        slot.answered(answered)
    assert mirror.next_free(9) == pytest.approx(free_at)
    assert mirror.try_reserve(free_at - 0.001) is None
    assert mirror.try_reserve(mirror.next_free(9)) is not None


def test_mirror_keeps_a_slot_that_was_not_sent() -> None:
    """Nobody knows when it is free, however long it takes; given back, it is free at once."""
    mirror = WindowMirror(1, 10)
    slot = reserve(mirror, 0)
    assert (mirror.next_free(1000), mirror.try_reserve(1000)) == (math.inf, None)
    slot.give_back()
    assert (mirror.next_free(1000), mirror.free(1000)) == (1000, 1)


def test_mirror_counts_an_answer_that_comes_before_the_end_of_sending() -> None:
    """A vendor may refuse a request before it has read it all."""
    mirror = WindowMirror(1, 10)
    slot = reserve(mirror, 0)
    slot.answered(3)
    assert mirror.next_free(5) == pytest.approx(13)
    assert repr(mirror) == "<WindowMirror 1/10s: 0 unsent, 0 sent, 1 answered>"


def test_mirror_is_not_moved_by_an_answer_after_the_slot_was_freed() -> None:
    """The slot of a call that takes longer than a period may long be somebody else's."""
    mirror = WindowMirror(1, 10)
    slow = reserve(mirror, 0)
    slow.sent(0)
    reserve(mirror, 11).sent(11)
    slow.answered(12)
    assert mirror.next_free(12) == pytest.approx(21.25)


ALLOWED = {"sent": {"answered"}, "answered": set(), "give_back": set(), "": {"sent", "answered", "give_back"}}


@pytest.mark.parametrize("first", ALLOWED)
@pytest.mark.parametrize("second", ["sent", "answered", "give_back"])
def test_slot_refuses_what_cannot_be(first: str, second: str) -> None:
    """Above all a slot that was sent can't be given back; a refused word changes nothing."""
    mirror = WindowMirror(2, 10)
    slot = reserve(mirror, 0)
    if first:
        _tell(slot, first)
    before = repr(mirror)
    if second in ALLOWED[first]:
        _tell(slot, second)
        return
    with pytest.raises(ValueError, match=r"a slot that is \w+ can't become \w+"):
        _tell(slot, second)
    assert repr(mirror) == before


def _tell(slot: Slot, word: str) -> None:
    getattr(slot, word)(*([] if word == "give_back" else [1.0]))


def test_slot_shows_its_state() -> None:
    """A slot in a log says what is known of it."""
    slot = reserve(WindowMirror(1, 1), 0)
    assert (repr(slot), slot.state) == ("<Slot reserved>", SlotState.RESERVED)


@pytest.mark.parametrize("limit,period,delay", [(0, 10, 0), (1, 0, 0), (1, 10, -1), (1, math.nan, 0)])
def test_mirror_of_nothing_is_refused(limit: int, period: float, delay: float) -> None:
    """A window that can't be is a mistake in a setting."""
    with pytest.raises(ValueError, match="no such window"):
        WindowMirror(limit, period, delay)


def test_mirror_is_restored_from_past_calls() -> None:
    """Each past call holds a slot as if it had been made here; one with unknown time, as if it had just gone out."""
    mirror = WindowMirror(4, 10, 0.25)
    mirror.restore(
        [
            PastCall(sent=95, answered=103),
            PastCall(sent=98, answered=98.1),
            PastCall(),
            PastCall(sent=80, answered=81),
        ],
        now=100,
    )
    assert mirror.free(100) == 1
    assert mirror.next_free(100) == 100
    reserve(mirror, 100).sent(100)
    free_at = []
    now = 100.0
    for _ in range(4):
        now = mirror.next_free(now)
        free_at.append(now)
        reserve(mirror, now).sent(now)
    assert free_at == pytest.approx([105.25, 108.1, 110.25, 110.25])


def test_mirror_restored_with_more_calls_than_slots_waits_for_the_latest() -> None:
    """After the limit was lowered, a call goes out only when fewer than the new limit are counted."""
    mirror = WindowMirror(2, 10, 0)
    mirror.restore([PastCall(sent=at) for at in (91, 95, 93, 97, 99)], now=100)
    assert mirror.next_free(100) == pytest.approx(107)


def test_mirror_restored_after_the_calendar_was_set_back_holds_no_slot_for_longer_than_a_period() -> None:
    """A call that seems to lie in the future is taken for one of just now."""
    mirror = WindowMirror(1, 10, 0.25)
    mirror.restore([PastCall(sent=5000, answered=5001)], now=100)
    assert mirror.next_free(100) == pytest.approx(110)


def test_mirror_that_begins_full_lets_nothing_through_for_one_period() -> None:
    """All that may have been sent before is forgotten by the vendor before the first call goes out."""
    mirror = WindowMirror(150, 10, 0.25)
    mirror.begin_full(1000)
    assert mirror.try_reserve(1010.24) is None
    assert mirror.free(1010.26) == 150


def test_mirror_is_not_restored_under_calls_on_their_way() -> None:
    """Restoring comes first."""
    mirror = WindowMirror(2, 10)
    reserve(mirror, 0)
    with pytest.raises(AssertionError):
        mirror.begin_full(0)


Calls = some.lists(
    some.tuples(
        some.floats(0, 3),  # between one try and the next
        some.floats(0, 1),  # until sent
        some.floats(0, 0.25),  # until counted
        some.floats(0, 12),  # until answered
        some.sampled_from(["answered", "lost", "given back"]),
    ),
    min_size=1,
    max_size=120,
)


@given(Calls, some.integers(1, 6), some.sampled_from([0.0, 1e5, 1.8e9]))
def test_mirror_never_lets_a_vendor_count_more_than_its_limit(
    calls: list[tuple[float, float, float, float, str]], limit: int, start: float
) -> None:
    """Whenever the vendor counts within the bound: `limit` calls further on, one period has gone by."""
    mirror = WindowMirror(limit, 10, 0.25)
    now = start
    events: list[tuple[float, int, str, Slot]] = []
    counted: list[float] = []
    for number, (pause, to_send, to_count, to_answer, end) in enumerate(calls):
        now += pause
        events = _play(events, now)
        while (slot := mirror.try_reserve(now)) is None:
            # Only an event can tell, or time alone will.
            now = min([mirror.next_free(now), *(at for at, *_ in events)])
            events = _play(events, now)
        sent = now + to_send
        if end == "given back":
            events.append((sent, number, "give_back", slot))
            continue
        events.append((sent, number, "sent", slot))
        counted.append(sent + min(to_count, to_answer))
        if end == "answered":
            events.append((sent + to_answer, number, "answered", slot))
    counted.sort()
    assert all(later - earlier >= 10 for earlier, later in zip(counted, counted[limit:], strict=False))
    assert mirror.free(now + 1000) + mirror._unsent == limit


def _play(events: list[tuple[float, int, str, Slot]], until: float) -> list[tuple[float, int, str, Slot]]:
    """Tell the slots what happened up to `until`; return what is still to come."""
    for at, _, word, slot in sorted(events, key=lambda event: event[0]):
        if at <= until:
            getattr(slot, word)(*([] if word == "give_back" else [at]))
    return [event for event in events if event[0] > until]


def test_mirror_holds_no_more_than_its_slots() -> None:
    """After a hundred thousand calls it is as large as after the first window."""
    mirror = WindowMirror(150, 10, 0.25)
    now = 0.0
    sizes = []
    for number in range(100_000):
        now = mirror.next_free(now)
        slot = reserve(mirror, now)
        slot.sent(now)
        if number % 3:
            slot.answered(now + (0.03 if number % 2 else 0.2))
            now += 0.03 if number % 2 else 0.2
        sizes.append(len(mirror._sent) + len(mirror._answered))
    assert max(sizes) <= 150
    assert all(earlier <= later for earlier, later in pairwise(mirror._answered))
    assert sys.getsizeof(mirror._answered) < 10_000
