"""What goes out on one connection: everything numbered, in order, once; of what passes the newest; within limits."""

import gc
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.delivery import LARGEST_BINARY, Cursor, Delivery
from protocol.header import HEADER_SIZE, Kind, parse, payload
from protocol.ids import ALPHABET
from protocol.ladder import Rung, rung_for
from protocol.messages import Finals, ImageReady, Limits, Numbered, Previews, Queued, Started
from protocol.tail import URL_STEP_MS, PreviewFacts, Tail
from tests.protocol.playbook import JOB, OTHER, accepted, completed, image, notice, progress, started

EVERY_PREVIEW = Previews()
RUNG = rung_for(EVERY_PREVIEW, 1024)
LARGE = bytes(range(256)) * 200
SMALL = b"png" * 300


class Signs:
    """Links that say when they were made."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        return f"https://gw/{asset[-4:]}?t={time_ms // URL_STEP_MS}", 3_600_000

    def events(self, job: str, time_ms: int) -> str:
        return f"https://gw/{job}/events?t={time_ms // URL_STEP_MS}"


def asset(number: int) -> str:
    """Return the name of a picture."""
    return f"sha256:{number:064x}"


def picture(seq: int, job: str = JOB, number: int = 0) -> ImageReady:
    """Return a finished picture whose asset is `number`."""
    return msgspec.structs.replace(image(seq, job), asset=asset(number))


def message_in(wire: bytes) -> bytes:
    """Return the payload of a frame."""
    return wire[{126: 4, 127: 10}.get(wire[1], 2) :]


@dataclass
class Line:
    """A delivery, the tails it reads, and what was written: `pump` says it in short words."""

    delivery: Delivery
    tails: dict[str, Tail] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    now: float = 100.0
    time_ms: int = 0
    wires: list[bytes] = field(default_factory=list)
    binary_bytes: int = 0
    frames: int = 0

    def watch(self, job: str = JOB, after: int = 0, **terms: Any) -> Cursor:
        """Follow a job."""
        self.tails.setdefault(job, Tail(job, Signs()))
        return self.delivery.watch(job, after, **({"owner": True} | terms))

    def append(self, *events: Numbered) -> None:
        """Numbered events are in the log."""
        for event in events:
            self.tails[event.job].append([event])
            self.delivery.mark(event.job)

    def step(self, step: int, job: str = JOB, *, size: int = 0) -> None:
        """A step is done; with a `size`, its preview has as many bytes."""
        self.tails[job].set_progress(progress(step, job))
        if size:
            self.preview(job, size=size)
        self.delivery.mark(job)

    def preview(self, job: str = JOB, *, size: int = 100, rung: Rung | None = None) -> None:
        """The newest frame of the job is encoded."""
        self.frames += 1
        wanted = rung or self.delivery.cursors[job].rung
        if wanted is not None:
            facts = PreviewFacts(self.frames, self.tails[job].head, 1, 30, 0, 1, approximate=False)
            self.tails[job].set_preview(wanted, facts, bytes(size), (8, 8))
        self.delivery.mark(job)

    def pump(self, take: float = inf) -> list[str]:
        """Take at most so many frames, as a socket does that is full then."""
        taken: list[str] = []
        if take:
            for wire in self.delivery.pump(self.tails, self.blobs, self.now, self.time_ms):
                self.wires.append(wire)
                self._check(wire)
                taken.append(say(wire))
                if len(taken) >= take:
                    break
        if self.delivery.dirty:
            self.delivery.held_up(self.tails, self.now)
        return taken

    def _check(self, wire: bytes) -> None:
        """No binary message is too large, none goes beyond the window, and each is counted."""
        message = message_in(wire)
        if message[:1] == b"S":
            self.binary_bytes += len(message)
            assert len(message) <= self.delivery.max_binary
        assert self.delivery.sent_bytes == self.binary_bytes
        if self.delivery.window:
            assert self.delivery.sent_bytes - self.delivery.acked_bytes <= self.delivery.window


def say(wire: bytes) -> str:
    """Return a frame in a word or two; the other job's with a `B` in front."""
    message = message_in(wire)
    if message[:1] == b"S":
        header = parse(message)
        mark = "B " if header.job_id == OTHER else ""
        if header.kind == Kind.PREVIEW:
            return f"{mark}preview {header.frame}"
        return f"{mark}final {header.seq}@{header.chunk_offset}" + ("." if header.is_last_chunk else "")
    told = msgspec.json.decode(message)
    mark = "B " if told["job"] == OTHER else ""
    number = told.get("seq", told.get("step", told.get("position")))
    return f"{mark}{told['type']} {number}"


def line(
    *,
    max_message: int = 65535,
    window: int = 0,
    previews: Previews | None = None,
    finals: Finals = "url",
    limits: Limits | None = None,
) -> Line:
    """Return a line with nothing on it."""
    return Line(Delivery(limits or Limits(), max_message, window, previews, finals))


def running(**terms: Any) -> Line:
    """Return a line that watches a job which has started, with all that written."""
    one = line(**terms)
    one.watch()
    one.append(accepted(), started())
    assert one.pump() == ["accepted 1", "started 2"]
    return one


def told(wire: bytes) -> dict[str, Any]:
    """Return a JSON frame's object."""
    found = msgspec.json.decode(message_in(wire))
    assert isinstance(found, dict)
    return found


# What passes


def test_every_step_goes_out_while_the_connection_keeps_up() -> None:
    """No step and no preview is merged when each can be written at once."""
    one = running(previews=EVERY_PREVIEW)
    for step in range(1, 31):
        one.step(step, size=50)
        assert one.pump() == [f"progress {step}", f"preview {step}"]
    assert not one.delivery.dirty


def test_newest_wins_while_the_socket_is_full() -> None:
    """What was not taken is not kept: one of each kind comes when there is room again."""
    one = running(previews=EVERY_PREVIEW)
    for step in range(1, 31):
        one.step(step, size=50)
        assert one.pump(take=0) == []
    assert one.pump() == ["progress 30", "preview 30"]
    assert one.pump() == []


def test_queue_place_goes_out_until_the_job_starts() -> None:
    """Each place once, and none after `started`."""
    one = line()
    one.watch()
    one.append(accepted())
    one.tails[JOB].set_queue(Queued(job=JOB, position=3))
    assert one.pump() == ["accepted 1", "queue 3"]
    one.tails[JOB].set_queue(Queued(job=JOB, position=2))
    one.append(started())
    assert one.pump() == ["started 2"]


def test_nothing_passing_goes_out_while_a_number_waits_nor_after_the_end() -> None:
    """A passing event never overtakes a number that came before it."""
    one = running(previews=EVERY_PREVIEW)
    one.step(1, size=50)
    one.append(notice(3))
    assert one.pump(take=1) == ["notice 3"]
    assert one.pump(take=1) == ["progress 1"]
    one.append(completed(4))
    one.step(2, size=50)
    assert one.pump() == ["completed 4"]
    assert one.pump() == []


def test_progress_is_capped_where_the_client_says_so() -> None:
    """The newest waits for its time; `next_allowed` says when, and the caller need not ask before."""
    one = running(previews=Previews(max_fps=0, progress_max_hz=2))
    one.step(1)
    assert one.pump() == ["progress 1"]
    one.now += 0.1
    for step in (2, 3, 4):
        one.step(step)
        assert one.pump() == []
    assert one.delivery.next_allowed() == 100.5
    one.now = 100.5
    assert one.pump() == ["progress 4"]
    assert one.delivery.next_allowed() == inf


def test_preview_rate_is_the_smaller_of_client_and_server() -> None:
    """A preview that is held goes out at its time, if no newer one came."""
    one = running(previews=Previews(max_fps=200), limits=Limits(max_preview_fps=4))
    one.preview()
    assert one.pump() == ["preview 1"]
    one.preview()
    one.preview()
    assert one.pump() == []
    assert one.delivery.next_allowed() == 100.25
    one.now = 100.25
    assert one.pump() == ["preview 3"]


def test_cap_that_is_over_does_not_ask_again_until_it_is_pumped() -> None:
    """A full socket must not make the timer spin: room will come by itself."""
    one = running(previews=Previews(progress_max_hz=2))
    one.step(1)
    one.pump()
    one.step(2)
    one.pump()
    assert not one.delivery.allow(100.4)
    assert one.delivery.allow(100.5)
    assert one.delivery.next_allowed() == inf
    assert not one.delivery.allow(100.6)
    one.now = 101
    assert one.pump() == ["progress 2"]


def test_cap_is_forgotten_while_a_final_waits_for_the_window() -> None:
    """The job goes on when the window opens, not when the cap ends."""
    one = running(previews=Previews(progress_max_hz=2), finals="inline", max_message=16384, window=16384)
    one.step(1)
    one.pump()
    one.step(2)
    one.pump()
    one.blobs[asset(0)] = LARGE
    one.append(picture(3))
    assert one.pump() == ["final 3@0"]
    assert one.delivery.next_allowed() == inf


def test_watching_again_is_no_way_round_a_cap() -> None:
    """The newest is told again, at the rate that was asked for."""
    one = running(previews=Previews(max_fps=2, progress_max_hz=2))
    one.step(1, size=50)
    assert one.pump() == ["progress 1", "preview 1"]
    one.watch(after=2)
    assert one.pump() == []
    one.now += 0.5
    assert one.pump() == ["progress 1", "preview 1"]


@pytest.mark.parametrize(
    "previews,limits",
    [(None, Limits()), (Previews(max_fps=0), Limits()), (EVERY_PREVIEW, Limits(max_preview_fps=0))],
)
def test_no_preview_where_none_is_wanted_or_given(previews: Previews | None, limits: Limits) -> None:
    """No policy, a rate of 0, or a server that gives none; progress goes on."""
    one = running(previews=previews, limits=limits)
    assert one.delivery.cursors[JOB].rung is None
    one.preview(rung=RUNG)
    one.step(1)
    assert one.pump() == ["progress 1"]


def test_preview_steps_down_the_ladder_until_it_fits() -> None:
    """The caller makes the next one for the rung that the cursor then has, and there is no way back up."""
    one = running(previews=Previews(max_edge=128, quality=90), max_message=16384)
    rungs = []
    while (rung := one.delivery.cursors[JOB].rung) is not None:
        rungs.append((rung.edge, rung.quality))
        one.preview(size=16384 - HEADER_SIZE + 1)
        assert one.pump() == []
    assert rungs == [(128, 90), (128, 70), (128, 40), (64, 40)]
    assert not one.delivery.dirty


def test_smaller_preview_that_others_have_made_is_taken_at_once() -> None:
    """Its frame is the same, so nothing is lost."""
    one = running(previews=Previews(max_edge=128, quality=70), max_message=16384)
    one.preview(size=20_000)
    one.frames -= 1
    one.preview(size=16384 - HEADER_SIZE, rung=Rung(128, "jpeg", 40))
    assert one.pump() == ["preview 1"]
    one.delivery.prefer(None, None, "inline")
    assert one.delivery.cursors[JOB].rung == Rung(128, "jpeg", 40)


def test_jobs_take_turns_when_the_window_has_room_for_one_preview() -> None:
    """A job that a cap keeps waiting does not keep its place in front."""
    one = line(previews=Previews(progress_max_hz=1), max_message=16384, window=16384)
    for job in (JOB, OTHER):
        one.watch(job)
        one.append(accepted(job=job), started(job=job))
    one.pump()
    written = []
    for step in range(1, 9):
        for job in (JOB, OTHER):
            one.step(step, job, size=10_000)
        written += [word for word in one.pump() if "preview" in word]
        one.delivery.ack(one.delivery.sent_bytes)
        one.now += 0.01
    assert len(written) == 8
    assert [word.startswith("B") for word in written] == [False, True] * 4


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
