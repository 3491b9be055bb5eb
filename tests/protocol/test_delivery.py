"""What goes out on one connection: everything numbered, in order, once, and what is watched."""

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.delivery import LARGEST_BINARY
from protocol.header import HEADER_SIZE, Kind, parse, payload
from protocol.ladder import Rung
from protocol.messages import Finals, ImageReady, Numbered, Previews
from protocol.tail import URL_STEP_MS
from tests.protocol.delivery_line import (
    EVERY_PREVIEW,
    LARGE,
    RUNG,
    SMALL,
    Line,
    asset,
    line,
    message_in,
    picture,
    running,
    told,
)
from tests.protocol.playbook import JOB, OTHER, accepted, completed, notice, started

# Numbers


@dataclass
class Reader:
    """The client's rule: each job's numbers as they came, and pictures from their chunks."""

    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    parts: dict[str, bytes] = field(default_factory=lambda: defaultdict(bytes))
    pictures: dict[tuple[str, int], bytes] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def read(self, wire: bytes) -> None:
        """Take one frame; nothing may repeat, be left out, or come after the end."""
        message = message_in(wire)
        if message[:1] == b"S":
            header = parse(message)
            assert header.job_id not in self.ended
            if header.kind == Kind.FINAL:
                assert header.seq == len(self.numbers[header.job_id]) + 1
                assert header.chunk_offset == len(self.parts[header.job_id])
                self.parts[header.job_id] += payload(message, header)
                if header.is_last_chunk:
                    self.pictures[header.job_id, header.seq] = self.parts.pop(header.job_id)
                    self.numbers[header.job_id].append(header.seq)
            return
        event = msgspec.json.decode(message)
        assert event["job"] not in self.ended
        assert not self.parts.get(event["job"]) or "seq" not in event
        if "seq" in event:
            self.numbers[event["job"]].append(event["seq"])
            assert self.numbers[event["job"]] == [*range(1, event["seq"] + 1)]
        if event["type"] == "completed":
            self.ended.add(event["job"])


def story(job: str, images: int, number: int) -> list[Numbered]:
    """Return a job's whole log; its pictures are `number` and up."""
    events: list[Numbered] = [accepted(job=job), started(job=job)]
    events += [picture(3 + index, job, number + index) for index in range(images)]
    return [*events, notice(3 + images, job), completed(4 + images, job)]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "step"]), st.integers(0, 1)),
        st.tuples(st.just("pump"), st.integers(0, 6)),
        st.tuples(st.sampled_from(["ack", "fetch", "wait", "url", "inline", "capped", "free"]), st.just(0)),
    ),
    max_size=80,
)
POLICIES = {"capped": Previews(max_fps=2, progress_max_hz=2), "free": EVERY_PREVIEW}


@dataclass
class Schedule:
    """A line with two jobs' whole stories, the reader at its end, and what may happen between."""

    one: Line
    blobs: dict[str, bytes]
    stories: dict[str, list[Numbered]]
    reader: Reader = field(default_factory=Reader)

    def act(self, action: str, what: int) -> None:
        job = (JOB, OTHER)[what % 2]
        if action in POLICIES:
            self.one.delivery.prefer(None, POLICIES[action], None)
            return
        match action:
            case "append":
                self.one.append(*self.rest(job)[:1])
            case "step":
                self.one.step(self.one.frames + 1, job, size=3000)
            case "pump":
                self.pump(what)
            case "ack":
                self.one.delivery.ack(self.one.delivery.sent_bytes * 2 // 3)
            case "fetch":
                self.one.blobs |= {name: self.blobs[name] for name in self.one.delivery.missing.values()}
                self.one.delivery.missing.clear()
            case "wait":
                self.one.now += 0.3
            case "url":
                self.one.delivery.prefer(None, None, "url")
            case "inline":
                self.one.delivery.prefer(None, None, "inline")

    def rest(self, job: str) -> list[Numbered]:
        return self.stories[job][self.one.tails[job].head :]

    def pump(self, take: float) -> None:
        before = len(self.one.wires)
        self.one.pump(take)
        for wire in self.one.wires[before:]:
            self.reader.read(wire)

    def settle(self) -> None:
        """Let everything happen that has to, with a client that takes three frames at a time."""
        self.one.blobs = self.blobs
        for job in self.stories:
            self.one.append(*self.rest(job))
        while not self.reader.ended.issuperset(self.stories):
            before = len(self.one.wires)
            self.one.delivery.ack(self.one.delivery.sent_bytes)
            self.pump(3)
            assert len(self.one.wires) > before
        self.one.now += 10
        self.pump(inf)


@given(
    ACTIONS,
    st.lists(st.binary(min_size=1, max_size=40_000), min_size=4, max_size=4),
    st.sampled_from([(16384, 16384), (16384, 0), (65535, 100_000)]),
    st.sampled_from(["url", "inline"]),
)
def test_every_number_goes_out_once_wherever_the_caller_stops(
    actions: list[tuple[str, int]], pictures: list[bytes], sizes: tuple[int, int], finals: Finals
) -> None:
    """Stops at any frame, late acks, changed policies and late bytes change when it goes out, never what."""
    one = line(max_message=sizes[0], window=sizes[1], previews=EVERY_PREVIEW, finals=finals)
    stories = {JOB: story(JOB, 2, 0), OTHER: story(OTHER, 2, 2)}
    schedule = Schedule(one, {asset(number): content for number, content in enumerate(pictures)}, stories)
    for job in stories:
        one.watch(job)
    for action, what in actions:
        schedule.act(action, what)
    schedule.settle()
    assert not one.delivery.dirty
    assert schedule.reader.numbers == {job: [*range(1, 7)] for job in stories}
    for (job, seq), content in schedule.reader.pictures.items():
        event = stories[job][seq - 1]
        assert isinstance(event, ImageReady)
        assert content == schedule.blobs[event.asset]


def test_numbers_come_before_finals_and_finals_before_what_passes() -> None:
    """Of all jobs: a picture of one does not delay the events of another."""
    one = line(previews=EVERY_PREVIEW, finals="inline", max_message=16384)
    for job in (JOB, OTHER):
        one.watch(job)
        one.append(accepted(job=job), started(job=job))
    one.blobs[asset(0)] = SMALL
    one.append(picture(3), notice(4), notice(3, OTHER))
    one.step(1, size=50)
    one.step(2, OTHER, size=50)
    assert one.pump() == [
        *("accepted 1", "started 2", "B accepted 1", "B started 2", "B notice 3"),
        *("final 3@0.", "notice 4"),
        *("progress 1", "preview 1", "B progress 2", "B preview 2"),
    ]


def test_final_is_cut_to_the_message_limit_and_never_to_what_the_window_leaves() -> None:
    """A chunk is as large as it may be, or the rest; it waits until there is room for that."""
    one = running(finals="inline", max_message=16384, window=20_000)
    one.blobs[asset(0)] = LARGE[:20_000]
    one.append(picture(3), notice(4))
    first = 16384 - HEADER_SIZE - 160
    assert one.pump() == ["final 3@0"]
    one.delivery.ack(100)
    assert one.pump() == []
    one.delivery.ack(one.delivery.sent_bytes)
    assert one.pump() == [f"final 3@{first}.", "notice 4"]
    assert not one.delivery.dirty


@pytest.mark.parametrize("max_message", [16384, 65535, 1 << 30])
def test_binary_messages_are_within_every_limit(max_message: int) -> None:
    """The client's, the server's, and our own."""
    one = running(finals="inline", max_message=max_message, previews=EVERY_PREVIEW)
    assert one.delivery.max_binary == min(max_message, LARGEST_BINARY)
    one.blobs[asset(0)] = bytes(600_000)
    one.append(picture(3))
    assert len(one.pump()) == -(-600_000 // (one.delivery.max_binary - HEADER_SIZE - 160))


def test_small_previews_do_not_take_the_room_that_a_final_waits_for() -> None:
    """Each ack frees less than a chunk; without a turn the final would starve and the client be cut as too slow."""
    one = line(previews=EVERY_PREVIEW, finals="inline", max_message=16384, window=16384)
    for job in (JOB, OTHER):
        one.watch(job)
        one.append(accepted(job=job), started(job=job))
    one.pump()
    one.step(1, OTHER, size=4000)
    one.pump()
    one.blobs[asset(0)] = LARGE[:16_000]
    one.append(picture(3))
    written = []
    for step in range(2, 12):
        one.step(step, OTHER, size=4000)
        written += [word for word in one.pump() if "progress" not in word]
        one.delivery.ack(one.delivery.acked_bytes + 2500)
    assert written[0] == "final 3@0."
    assert one.binary_bytes > 0


def test_missing_bytes_are_asked_for_and_the_rest_goes_on() -> None:
    """Another job's events do not wait for a picture that is still fetched."""
    one = running(finals="inline")
    one.watch(OTHER)
    one.append(picture(3), accepted(job=OTHER))
    assert one.pump() == ["B accepted 1"]
    assert one.delivery.missing == {JOB: asset(0)}
    one.delivery.missing.clear()
    one.blobs[asset(0)] = SMALL
    one.delivery.mark(JOB)
    assert one.pump() == ["final 3@0."]


def test_final_that_has_begun_goes_on_when_the_client_wants_addresses() -> None:
    """And the next one is an address; the other way round as well."""
    one = running(finals="inline", max_message=16384)
    one.blobs |= {asset(0): LARGE[:20_000], asset(1): SMALL, asset(2): SMALL}
    one.append(picture(3, number=0), picture(4, number=1))
    assert one.pump(take=1) == ["final 3@0"]
    one.delivery.prefer(JOB, None, "url")
    assert one.pump() == ["final 3@16160.", "image 4"]
    one.delivery.prefer(None, None, "inline")
    one.append(picture(5, number=2))
    assert one.pump() == ["final 5@0."]


def test_bytes_that_left_the_cache_are_fetched_again_in_the_middle() -> None:
    """The picture goes on where it stood."""
    one = running(finals="inline", max_message=16384)
    one.blobs[asset(0)] = LARGE[:20_000]
    one.append(picture(3))
    assert one.pump(take=1) == ["final 3@0"]
    kept = one.blobs.pop(asset(0))
    assert one.pump() == []
    assert one.delivery.missing == {JOB: asset(0)}
    one.blobs[asset(0)] = kept
    assert one.pump() == ["final 3@16160."]


def test_event_that_the_tail_does_not_hold_stops_the_job() -> None:
    """What cannot be read is never skipped; whoever watches asks for a snapshot then."""
    one = line()
    one.watch(after=1)
    one.tails[JOB].trimmed = True
    one.append(completed(5))
    assert one.pump() == []
    assert one.delivery.oldest_wait() == 100


# Watching


def test_watch_reads_on_after_a_number_and_may_begin_again() -> None:
    """The repair of a gap is the same message."""
    one = running()
    one.append(notice(3))
    one.pump(take=0)
    one.watch(after=1)
    assert one.pump() == ["started 2", "notice 3"]
    one.watch(after=0)
    assert one.pump() == ["accepted 1", "started 2", "notice 3"]


def test_watch_in_the_middle_of_a_final_begins_it_again() -> None:
    """The client has thrown its part away."""
    one = running(finals="inline", max_message=16384)
    one.blobs[asset(0)] = LARGE[:20_000]
    one.append(picture(3))
    assert one.pump(take=1) == ["final 3@0"]
    one.watch(after=2)
    assert one.pump() == ["final 3@0", "final 3@16160."]


def test_terms_of_a_watch_are_its_own() -> None:
    """What it leaves out is the connection's."""
    one = line(previews=EVERY_PREVIEW, finals="url")
    assert one.watch().rung == RUNG
    own = one.watch(OTHER, previews=Previews(max_edge=512, format="png"), finals="inline")
    assert (own.inline, own.rung) == (True, Rung(512, "png", 90))


def test_preferences_of_the_connection_reach_every_job_and_later_ones() -> None:
    """Those of one job only that one; what is left out stays."""
    one = line(previews=EVERY_PREVIEW)
    first, second = one.watch(), one.watch(OTHER)
    one.delivery.prefer(JOB, Previews(max_edge=512), None)
    assert (first.rung, second.rung) == (Rung(512, "jpeg", 70), RUNG)
    one.delivery.prefer(None, Previews(max_fps=0), "inline")
    assert (first.rung, second.rung, first.inline, second.inline) == (None, None, True, True)
    third = one.watch("01JD9Z6Q8M4T7V2XK3B5N0RCEZ")
    assert (third.rung, third.inline) == (None, True)
    one.delivery.prefer(None, None, "url")
    assert (third.rung, third.inline) == (None, False)


def test_unwatched_job_is_silent_at_once() -> None:
    """Also while it is dirty, waits for bytes or for room; an unknown one is no harm."""
    one = running(finals="inline")
    one.append(picture(3))
    one.pump()
    one.delivery.unwatch(JOB)
    one.delivery.unwatch(OTHER)
    one.delivery.mark(JOB)
    assert one.pump() == []
    assert (one.delivery.dirty, one.delivery.missing, one.delivery.oldest_wait()) == ({}, {}, None)
    assert repr(one.delivery) == "Delivery(jobs=0, dirty=0, in_flight=0)"


def test_snapshot_comes_before_anything_else() -> None:
    """It stands for the log up to its head, and what comes then follows it."""
    one = line(finals="inline")
    cursor = one.watch(after=9)
    cursor.snapshot = "store_reset"
    one.append(accepted(), started())
    assert one.pump(take=0) == []
    assert one.delivery.oldest_wait() == 100
    assert not cursor.is_at(2)
    assert one.pump() == ["snapshot 2"]
    assert cursor.is_at(2)
    assert not cursor.is_at(3)
    assert told(one.wires[-1])["state"] == "running"
    one.append(notice(3))
    one.step(1)
    assert one.pump() == ["notice 3", "progress 1"]


def test_snapshot_of_a_trimmed_log_is_its_end() -> None:
    """The client sets its position to it and is done."""
    one = line()
    one.watch(after=2).snapshot = "trimmed"
    one.tails[JOB].trimmed = True
    one.append(completed(5))
    assert one.pump() == ["snapshot 5"]
    assert (told(one.wires[-1])["state"], told(one.wires[-1])["reason"]) == ("completed", "trimmed")
    assert not one.delivery.dirty


def test_guest_sees_neither_ref_nor_costs() -> None:
    """Through the same delivery as an owner."""
    one = line()
    one.watch(owner=False)
    one.append(accepted("shot-1", cost_max_micros=5), started(), msgspec.structs.replace(completed(3), cost_micros=4))
    one.pump()
    assert not any({"ref", "cost_max_micros", "cost_micros"} & told(wire).keys() for wire in one.wires)


def test_addresses_are_as_new_as_the_frame() -> None:
    """A picture that is read an hour later has an address of that time."""
    one = running()
    one.append(picture(3))
    one.pump()
    one.time_ms = 7 * URL_STEP_MS
    one.watch(after=2)
    one.pump()
    assert [told(wire)["url"][-4:] for wire in one.wires[-2:]] == ["?t=0", "?t=7"]
