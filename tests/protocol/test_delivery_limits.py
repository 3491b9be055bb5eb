"""What bounds one connection: the window, the clock of slow consumers, and memory."""

import gc
from math import inf

import pytest

from protocol.ids import ALPHABET
from protocol.messages import Started
from tests.protocol.delivery_line import EVERY_PREVIEW, LARGE, SMALL, asset, line, picture, running
from tests.protocol.playbook import JOB, OTHER, accepted, notice, started

# The window and the clock of slow consumers


def test_ack_is_the_highest_total_up_to_what_was_sent() -> None:
    """Lower ones are old, higher ones invented."""
    one = running(previews=EVERY_PREVIEW, max_message=16384, window=16384)
    one.preview(size=10_000)
    one.pump()
    sent = one.delivery.sent_bytes
    for total, acked in ((5000, 5000), (4000, 5000), (10**9, sent)):
        one.delivery.ack(total)
        assert one.delivery.acked_bytes == acked


def test_closed_window_lets_json_through_and_then_the_newest_preview() -> None:
    """It counts pictures only."""
    one = running(previews=EVERY_PREVIEW, max_message=16384, window=16384)
    for step in range(1, 6):
        one.step(step, size=10_000)
        assert one.pump() == [f"progress {step}", *(["preview 1"] if step == 1 else [])]
    one.append(notice(3))
    assert one.pump() == ["notice 3"]
    assert one.delivery.oldest_wait() is None
    one.delivery.ack(one.delivery.sent_bytes)
    assert one.pump() == ["preview 5"]


def test_clock_of_a_slow_consumer_runs_for_numbers_only() -> None:
    """A preview may wait for ever."""
    one = running(previews=EVERY_PREVIEW)
    one.step(1, size=50)
    one.pump(take=0)
    assert one.delivery.oldest_wait() is None
    one.now = 110
    one.append(notice(3))
    one.pump(take=0)
    one.now = 120
    one.pump(take=0)
    assert one.delivery.oldest_wait() == 110


def test_clock_of_a_slow_consumer_begins_anew_with_each_number() -> None:
    """Whoever takes something is not dead, and what comes next has its own time."""
    one = running()
    one.append(notice(3), notice(4), notice(5))
    one.pump(take=0)
    one.now = 120
    assert one.pump(take=1) == ["notice 3"]
    assert one.delivery.oldest_wait() == 120
    one.now = 125
    assert one.pump() == ["notice 4", "notice 5"]
    assert one.delivery.oldest_wait() is None


def test_clock_of_a_slow_consumer_begins_anew_with_each_chunk() -> None:
    """A large picture on a thin line is progress."""
    one = running(finals="inline", max_message=16384, window=16384)
    one.blobs[asset(0)] = LARGE
    one.append(picture(3))
    for now in (100, 120, 140):
        one.now = now
        assert len(one.pump()) == 1
        assert one.delivery.oldest_wait() == now
        one.delivery.ack(one.delivery.sent_bytes)
    one.now = 160
    assert one.pump()[-1].endswith(".")
    assert one.delivery.oldest_wait() is None


def test_longest_wait_of_all_jobs_counts() -> None:
    """Each job has its own clock."""
    one = running()
    one.watch(OTHER)
    one.pump()
    one.append(notice(3))
    one.pump(take=0)
    one.now = 105
    one.append(accepted(job=OTHER))
    one.pump(take=0)
    assert one.delivery.oldest_wait() == 100
    assert one.pump(take=1) == ["notice 3"]
    assert one.delivery.oldest_wait() == 105


# Memory


def reachable(root: object) -> list[object]:
    """Return everything that an object holds, but for classes and what they hold."""
    found: dict[int, object] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) not in found and not isinstance(one, type):
            found[id(one)] = one
            waiting += gc.get_referents(one)
    return list(found.values())


@pytest.mark.parametrize("take", [0, inf], ids=["full socket", "closed window"])
def test_stalled_reader_of_a_thousand_jobs_keeps_a_cursor_and_a_bit_each(take: float) -> None:
    """Whatever happens meanwhile, its connection holds no message, no bytes, no queue, and no more than before."""
    jobs = [f"01JD9Z6Q8M4T7V2XK3B5N0{a}{b}00" for a in ALPHABET for b in ALPHABET][:1000]
    one = line(previews=EVERY_PREVIEW, finals="inline", window=65535)
    for job in jobs:
        one.watch(job)
        one.append(accepted(job=job), started(job=job), picture(3, job))
    one.blobs[asset(0)] = SMALL
    one.pump(take)

    def containers() -> int:
        held = reachable(one.delivery)
        assert not [each for each in held if isinstance(each, bytes | bytearray | memoryview)]
        return sum(map(gc.is_tracked, held))

    before = containers()
    for step in range(1, 6):
        for job in jobs:
            one.step(step, job, size=2000)
        one.pump(take)
    for job in jobs:
        one.append(notice(4, job))
    one.pump(take)
    assert containers() <= before
    assert len(one.delivery.cursors) == len(jobs)
    assert len(one.delivery.dirty) > 900
    assert all(len(tail.previews) == 1 for tail in one.tails.values())


def test_start_of_another_attempt_reaches_a_stalled_reader_alone() -> None:
    """The steps of the lost attempt are over."""
    one = running(previews=EVERY_PREVIEW)
    one.step(20, size=50)
    one.pump(take=0)
    one.append(Started(job=JOB, seq=3, time_ms=1, attempt=2, model="sdxl", steps=30))
    assert one.pump() == ["started 3"]
    one.step(1, size=50)
    assert one.pump() == ["progress 1", "preview 2"]
