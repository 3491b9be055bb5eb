"""A job's tail: events as shared frames, the newest of what passes, and the state that stands for a lost log."""

from typing import Any

import msgspec
import pytest

from protocol.header import HEADER_SIZE, Flag, Header, Kind, metadata, parse, payload
from protocol.ladder import Rung
from protocol.messages import Canceled, ErrorBody, Failed, ImageReady, Numbered, Queued, Started
from protocol.tail import LARGEST_METADATA, URL_STEP_MS, PreviewFacts, Tail, has_alpha
from tests.protocol.playbook import ASSET, JOB, accepted, completed, image, notice, progress, started

RUNG = Rung(256, "jpeg", 70)
FULL: list[Numbered] = [accepted("shot-1", cost_max_micros=9), started(), image(), notice(4), completed(5)]
FAILURE = ErrorBody(code="worker_lost", message="gone", retryable=True)
PNG_HEAD = b"\x89PNG\r\n\x1a\n" + bytes(17)


class Signs:
    """Links that say what they were made for."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        return f"https://gw/{asset[-4:]}?t={time_ms // URL_STEP_MS}", 3_600_000

    def events(self, job: str, time_ms: int) -> str:
        return f"https://gw/{job}/events?t={time_ms // URL_STEP_MS}"


def tail_of(*events: Numbered) -> Tail:
    """Return a tail that holds these events."""
    tail = Tail(JOB, Signs())
    tail.append(events)
    return tail


def facts(frame: int, seq: int = 2, step: int = 3) -> PreviewFacts:
    """Return what is known of a preview."""
    return PreviewFacts(frame, seq, step, 30, image_index=1, image_count=2, approximate=True)


def told(wire: bytes) -> dict[str, Any]:
    """Return the JSON in a text frame."""
    message = msgspec.json.decode(wire[wire.index(b"{") :])
    assert isinstance(message, dict)
    return message


def binary(wire: bytes) -> bytes:
    """Return the message in a binary frame."""
    return wire[{126: 4, 127: 10}.get(wire[1], 2) :]


# The log


def test_tail_takes_events_in_order_and_ignores_those_it_holds() -> None:
    """An append and a read of the same log may cross."""
    tail = tail_of(*FULL[:2])
    tail.append(FULL[:4])
    assert tail.head == 4
    assert tail.event(3) == FULL[2]
    assert tail.event(5) is None
    assert repr(tail) == f"Tail({JOB}, head=4, held=4, previews=0)"


def test_hole_in_the_log_is_our_own_mistake() -> None:
    """Whoever fills a tail reads what lies between."""
    tail = tail_of(FULL[0])
    with pytest.raises(AssertionError, match="3 after 1"):
        tail.append([FULL[2]])


def test_trimmed_log_is_its_end_alone() -> None:
    """What came before was cut after its retention."""
    tail = Tail(JOB, Signs())
    tail.trimmed = True
    tail.append([FULL[4]])
    assert (tail.head, tail.has_ended, tail.event(1)) == (5, True, None)


def test_tail_has_ended_with_its_end_event() -> None:
    """An empty one has not."""
    assert not Tail(JOB, Signs()).has_ended
    assert not tail_of(*FULL[:4]).has_ended
    assert tail_of(*FULL).has_ended


# Frames


def test_event_is_rendered_once_for_all_owners_and_once_for_all_guests() -> None:
    """The same bytes go to everybody of one kind."""
    tail = tail_of(*FULL)
    owners = [tail.numbered(FULL[0], owner=True, time_ms=time_ms) for time_ms in (0, URL_STEP_MS - 1)]
    guests = [tail.numbered(FULL[0], owner=False, time_ms=time_ms) for time_ms in (0, URL_STEP_MS - 1)]
    assert owners[0] is owners[1]
    assert guests[0] is guests[1]
    assert owners[0] != guests[0]


@pytest.mark.parametrize("seq", [1, 3, 5])
def test_addresses_are_made_anew_each_five_minutes(seq: int) -> None:
    """They stand in the log nowhere, so a late reader gets good ones."""
    tail = tail_of(*FULL)
    first, second = (
        tail.numbered(FULL[seq - 1], owner=True, time_ms=time_ms) for time_ms in (URL_STEP_MS - 1, URL_STEP_MS)
    )
    assert b"?t=0" in first
    assert b"?t=1" in second
    assert b"?t=0" not in second


def test_guests_see_neither_ref_nor_costs_nor_a_longer_grant() -> None:
    """Everything else is theirs too; the address of events would be a grant that outlives their own."""
    costly: list[Numbered] = [
        FULL[0],
        msgspec.structs.replace(completed(5), cost_micros=7),
        Failed(job=JOB, seq=5, time_ms=1, error=FAILURE, images=[], cost_micros=7),
        Canceled(job=JOB, seq=5, time_ms=1, by="client", step=3, images=[], cost_micros=7),
        FULL[1],
    ]
    for event in costly:
        tail = Tail(JOB, Signs())
        own, shown = (told(tail.numbered(event, owner=owner, time_ms=1)) for owner in (True, False))
        secret = own.keys() - shown.keys()
        assert secret == {"ref", "cost_max_micros", "cost_micros", "events_url"} & own.keys()
        assert shown == {key: value for key, value in own.items() if key not in secret}


def test_answer_to_a_repeated_submit_is_for_the_one_who_asked_again() -> None:
    """With the address of its stream like any `accepted`; others who watch get the event as it is."""
    tail = tail_of(*FULL)
    again = told(tail.told(msgspec.structs.replace(FULL[0], duplicate=True), 1))
    first = told(tail.numbered(FULL[0], owner=True, time_ms=1))
    assert (again["duplicate"], first["duplicate"]) == (True, False)
    assert again["events_url"] == first["events_url"]


# What passes


def test_queue_place_is_told_until_the_job_moves_on() -> None:
    """The newest wins; with the next event it is history."""
    tail = tail_of(FULL[0])
    assert tail.set_queue(Queued(job=JOB, position=3))
    first = tail.queue
    assert tail.set_queue(Queued(job=JOB, position=2))
    assert first is not None
    assert tail.queue is not None
    assert tail.queue[0] > first[0]
    assert told(tail.queue[1])["position"] == 2
    tail.append([FULL[1]])
    assert tail.queue is None
    assert not tail.set_queue(Queued(job=JOB, position=1))


def test_progress_is_the_newest_one_until_the_end() -> None:
    """Nothing passes after the end."""
    tail = tail_of(*FULL[:2])
    assert tail.set_progress(progress(1))
    assert tail.set_progress(progress(2))
    assert tail.progress is not None
    assert told(tail.progress[1])["step"] == 2
    tail.append(FULL[2:])
    assert tail.progress is None
    assert not tail.set_progress(progress(3))


def test_preview_is_the_newest_one_of_each_rung_until_the_end() -> None:
    """A late encode does not take the place of a newer frame."""
    tail = tail_of(*FULL[:2])
    small = Rung(128, "jpeg", 70)
    assert tail.set_preview(RUNG, facts(7), b"jpeg7", (256, 128))
    assert tail.set_preview(small, facts(6), b"jpeg6", (128, 64))
    assert not tail.set_preview(RUNG, facts(7), b"again", (256, 128))
    assert not tail.set_preview(RUNG, facts(5), b"older", (256, 128))
    assert {rung: one.frame for rung, one in tail.previews.items()} == {RUNG: 7, small: 6}
    tail.append(FULL[2:])
    assert tail.previews == {}
    assert not tail.set_preview(RUNG, facts(8, seq=5), b"late", (256, 128))


def test_new_attempt_leaves_nothing_of_the_old_one() -> None:
    """Steps restart, so what a slow reader has not seen of the lost attempt must not follow the second `started`."""
    tail = tail_of(*FULL[:2])
    tail.set_progress(progress(20))
    tail.set_preview(RUNG, facts(7), b"jpeg7", (256, 256))
    tail.append([Started(job=JOB, seq=3, time_ms=1, attempt=2, model="sdxl", steps=30)])
    assert (tail.progress, tail.previews) == (None, {})
    assert not tail.set_preview(RUNG, facts(8, seq=2), b"jpeg8", (256, 256))
    assert tail.set_preview(RUNG, facts(9, seq=3), b"jpeg9", (256, 256))


def test_preview_says_in_its_header_what_it_shows() -> None:
    """One message, with everything that a client needs to draw it."""
    tail = tail_of(*FULL[:2])
    tail.set_preview(RUNG, facts(7, step=99_999), b"jpeg", (256, 128))
    tail.set_preview(Rung(64, "raw", 90), PreviewFacts(7, 2, 3, 30, 0, 1, approximate=False), bytes(16), (2, 2))
    preview, raw = tail.previews.values()
    message = binary(preview.wire)
    assert preview.size == len(message)
    assert parse(message) == Header(
        kind=Kind.PREVIEW, format=1, job_id=JOB, total_size=4, seq=2, frame=7, width=256, height=128, step=65535,
        steps=30, image_index=1, image_count=2, flags=Flag.LAST_CHUNK | Flag.APPROXIMATE,
    )  # fmt: skip
    assert bytes(payload(message, parse(message))) == b"jpeg"
    assert (parse(binary(raw.wire)).format, parse(binary(raw.wire)).flags) == (4, Flag.LAST_CHUNK)


# Finals


@pytest.mark.parametrize("size", [1, 775, 776, 777, 5000])
def test_chunks_of_a_final_are_the_picture(size: int) -> None:
    """Cut to the message limit, in order, the last one marked; the metadata is in each."""
    content = bytes(range(256)) * 20
    content = content[:size]
    event = ImageReady(
        job=JOB, seq=3, time_ms=1, index=1, count=2, format="png", w=8, h=4, bytes=size, asset=ASSET, seed=2**53 - 1
    )
    tail = tail_of(*FULL[:2], event)
    offset, found, largest = 0, b"", 1000
    chunks = 0
    while offset < size:
        chunk = tail.chunk(event, content, offset, largest)
        message = binary(chunk.wire)
        header = parse(message)
        assert chunk.size == len(message) <= largest
        assert header.data_offset <= HEADER_SIZE + LARGEST_METADATA
        assert (header.kind, header.chunk_offset, header.total_size) == (Kind.FINAL, offset, size)
        assert (header.seq, header.image_index, header.image_count) == (3, 1, 2)
        assert (header.width, header.height, header.step, header.steps) == (8, 4, 30, 30)
        assert metadata(message, header) == {"asset": ASSET, "seed": 2**53 - 1}
        assert chunk.last == header.is_last_chunk
        found += payload(message, header)
        offset += chunk.data
        chunks += 1
        assert chunk.last == (offset == size)
    assert found == content
    assert chunks == -(-size // (largest - HEADER_SIZE - LARGEST_METADATA))


def test_final_without_seed_has_no_seed() -> None:
    """Absent, not null."""
    tail = tail_of(*FULL[:3])
    event = image()
    message = binary(tail.chunk(event, b"png", 0, 1000).wire)
    assert metadata(message, parse(message)) == {"asset": ASSET}


@pytest.mark.parametrize(
    "content,alpha",
    [
        (PNG_HEAD + b"\x06", True),
        (PNG_HEAD + b"\x04", True),
        (PNG_HEAD + b"\x02", False),
        (PNG_HEAD, False),
        (b"\xff\xd8" + bytes(30), False),
    ],
)
def test_alpha_is_read_from_the_png_header(content: bytes, alpha: bool) -> None:
    """The colour types 4 and 6 have it."""
    assert has_alpha(content) is alpha
    message = binary(tail_of(*FULL[:3]).chunk(image(), content, 0, 1000).wire)
    assert bool(parse(message).flags & Flag.ALPHA) is alpha


# Snapshots


@pytest.mark.parametrize(
    "events,state,attempt,images",
    [
        ([], "queued", 0, 0),
        (FULL[:1], "queued", 0, 0),
        (FULL[:2], "running", 1, 0),
        (FULL[:4], "running", 1, 1),
        (FULL, "completed", 1, 1),
        ([*FULL[:3], Canceled(job=JOB, seq=4, time_ms=1, by="session", step=2, images=[])], "canceled", 1, 0),
        ([*FULL[:3], Failed(job=JOB, seq=4, time_ms=1, error=FAILURE, images=[])], "failed", 1, 0),
    ],
)
def test_snapshot_is_the_fold_of_the_log(events: list[Numbered], state: str, attempt: int, images: int) -> None:
    """State, attempt and pictures with good addresses; the number is the log's head."""
    tail = tail_of(*events)
    message = told(tail.snapshot("store_reset", owner=True, time_ms=URL_STEP_MS))
    assert (message["state"], message["attempt"], len(message["images"])) == (state, attempt, images)
    assert (message["seq"], message["reset"], message["reason"]) == (len(events), True, "store_reset")
    assert all(one["url"].endswith("?t=1") and one["seq"] == 3 for one in message["images"])
    assert ("error" in message) == (state == "failed")
