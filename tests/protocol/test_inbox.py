"""The client's jobs: repairs, snapshots, passing events, inline images, what cannot be read."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from msgspec import structs

from protocol.header import Flag, Kind
from protocol.messages import (
    Error,
    ErrorBody,
    Have,
    Ok,
    Prefs,
    Previews,
    Unwatch,
    Watch,
)
from protocol.replica_effects import Answer, Deliver, Disconnected, ImageBytes, JobLost, Preview, Reconnect, Unreadable
from tests.protocol.playbook import (
    ASSET,
    HELLO,
    JOB,
    OTHER,
    Gets,
    Loses,
    Opens,
    Playbook,
    Waits,
    Wants,
    accepted,
    chunk,
    completed,
    image,
    live,
    notice,
    preview,
    progress,
    ref,
    resumed,
    running,
    says,
    snapshot,
    started,
    submit,
    synced,
    welcome,
)


def picture(data: bytes, seq: int = 3, **fields: Any) -> Deliver:
    """Return the delivery of an inline image of `chunk`."""
    whole = ImageBytes(
        job=JOB,
        seq=seq,
        index=0,
        count=0,
        format="png",
        width=0,
        height=0,
        is_auxiliary=False,
        data=data,
        metadata={},
    )
    return Deliver(replace(whole, **fields))


def watch(after: int, number: int = 1, **fields: Any) -> Watch:
    """Return the machine's own watch, by the number of its name."""
    return Watch(job=JOB, after=after, ref=ref(number), **fields)


def ok(number: int = 1) -> Gets:
    """Return the answer to the machine's own request."""
    return Gets(Ok(ref=ref(number), job=JOB))


# The rule


def test_client_ignores_repeats() -> None:
    """What was handled comes again without effect."""
    assert running() >> Gets(accepted("shot-1")) >> Gets(started()) >> Gets(notice(3)) << Deliver(notice(3))


def test_client_watches_once_for_a_gap_until_its_ok() -> None:
    """While a repair is under way gaps are ignored and what is next is handled; the next gap makes a new watch."""
    assert (
        running()
        >> Gets(notice(4))
        << says(watch(2))
        >> Gets(notice(5))
        >> Gets(notice(3))
        << Deliver(notice(3))
        >> Gets(notice(5))
        >> ok()
        >> Gets(notice(5))
        << says(watch(3, 2))
    )


def test_first_event_of_an_unknown_job_may_be_a_gap() -> None:
    """A job whose `accepted` was lost is read from its start."""
    assert live(Playbook()) >> Gets(started(job=OTHER)) << says(Watch(job=OTHER, ref=ref(1)))


def test_fruitless_repairs_are_held_apart() -> None:
    """The second repair at the same number goes at once, later ones wait longer and longer, up to 30 s."""
    play = running()
    play >> Gets(notice(9)) << says(watch(2)) >> ok() >> Gets(notice(9)) << says(watch(2, 2)) >> ok(2)
    play >> Gets(notice(9))
    assert play.replica.deadline() == play.now + 0.5
    play >> Waits(0.4) >> Waits(0.1) << says(watch(2, 3)) >> ok(3) >> Gets(notice(9)) << says(watch(2, 4)) >> ok(4)
    assert play >> Gets(notice(9))
    assert play.replica.deadline() == play.now + 1.0
    play >> Gets(notice(3)) << Deliver(notice(3))
    assert play >> Waits(1) << says(watch(3, 5)) >> ok(5) >> Gets(notice(9)) << says(watch(3, 6))


def test_unanswered_repair_is_sent_again_on_the_next_connection() -> None:
    """A watch is a request like any other, but starts at what was handled meanwhile."""
    play = running()
    play >> Gets(notice(4)) << says(watch(2)) >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)
    play >> Opens() << says(structs.replace(HELLO, resume="r1", have=[Have(job=JOB, seq=2)]))
    play >> Gets(welcome(resumed=True)) << Deliver(welcome(resumed=True)) >> Gets(notice(3)) << Deliver(notice(3))
    assert (
        play >> Gets(synced()) << resumed(same=True) << says(watch(3)) >> ok() >> Gets(notice(5)) << says(watch(3, 2))
    )


def test_silent_job_is_watched_again_under_the_same_name() -> None:
    """A repair whose `ok` never came is repeated by R10, still as one request."""
    play = running()
    play >> Gets(notice(4)) << says(watch(2)) >> Waits(30) >> Gets(b"S") >> Waits(30) << says(watch(2))
    assert play >> ok() >> Gets(notice(4)) << says(watch(2, 2))


# The end


def test_client_unwatches_at_the_end_and_ignores_what_follows() -> None:
    """Neither repeats, nor passing events, nor a snapshot come after the end."""
    play = running() >> Gets(completed(3)) << Deliver(completed(3)) << says(Unwatch(job=JOB))
    play >> Gets(progress(30)) >> Gets(preview(9)) >> Gets(completed(3)) >> Gets(notice(4)) >> Gets(snapshot(1))
    assert play >> Gets(chunk(b"x", total=1, last=True, seq=4)) >> ok()


def test_end_answers_the_users_watch() -> None:
    """A watch whose `ok` was lost has done its work; a repair of the machine's own is void."""
    play = live(Playbook())
    wish = Watch(job=JOB, ref="w-1")
    play >> Wants(lambda replica, now: replica.watch(wish, now)) << says(wish)
    play >> Gets(accepted()) << Deliver(accepted())
    done = completed(2)
    assert play >> Gets(done) << Deliver(done) << Answer("w-1", Ok(ref="w-1", job=JOB)) << says(Unwatch(job=JOB))
    play = running() >> Gets(notice(9)) << says(watch(2))
    assert play >> Gets(completed(3)) << Deliver(completed(3)) << says(Unwatch(job=JOB)) >> ok()


# Snapshots


@pytest.mark.parametrize("seq", [1, 7])
def test_snapshot_sets_the_position(seq: int) -> None:
    """Down as well as up; the next number counts from there."""
    play = running() >> Gets(snapshot(seq)) << Deliver(snapshot(seq)) >> Gets(notice(seq))
    assert play >> Gets(notice(seq + 1)) << Deliver(notice(seq + 1))


def test_snapshot_of_an_ended_job_is_its_end() -> None:
    """After a trimmed log nothing else tells the end."""
    play = running() >> Gets(snapshot(7, "failed")) << Deliver(snapshot(7, "failed")) << says(Unwatch(job=JOB))
    assert play >> Gets(progress(3))


# Passing events


def test_passing_events_need_a_known_job() -> None:
    """Before `accepted` nothing of a job is shown."""
    play = live(Playbook())
    assert play >> Gets(progress(1)) >> Gets(preview(1))


def test_preview_is_delivered_with_its_header() -> None:
    """A missing frame is no gap; the same frame again, as after a resume, is not shown twice."""
    message = preview(9, b"pixels", width=256, height=128, image_index=1, image_count=2)
    event = Preview(
        job=JOB,
        frame=9,
        step=12,
        steps=30,
        format="png",
        width=256,
        height=128,
        image_index=1,
        image_count=2,
        has_alpha=False,
        is_approximate=False,
        data=memoryview(b"pixels"),
        metadata={},
    )
    assert running() >> Gets(preview(7)) << Deliver(_preview(7)) >> Gets(message) << Deliver(event) >> Gets(message)


def _preview(frame: int) -> Preview:
    return Preview(
        job=JOB,
        frame=frame,
        step=12,
        steps=30,
        format="png",
        width=0,
        height=0,
        image_index=0,
        image_count=0,
        has_alpha=False,
        is_approximate=False,
        data=memoryview(b"jpeg"),
        metadata={},
    )


def test_preview_that_is_not_whole_is_ignored() -> None:
    """A preview is one message."""
    assert running() >> Gets(chunk(b"half", total=8, kind=Kind.PREVIEW))


@pytest.mark.parametrize("kind", [0, 4, 16, 200])
def test_unknown_kinds_are_ignored(kind: int) -> None:
    """Version 1 may grow kinds."""
    assert running() >> Gets(chunk(b"x", total=1, last=True, kind=kind))


def test_unknown_flags_and_formats_are_ignored() -> None:
    """A flag that is not known changes nothing; an unknown format is told by metadata."""
    message = bytearray(chunk(b"x", total=1, last=True, metadata={"mime": "image/avif"}))
    message[5], message[37] = 99, 0x80
    assert running() >> Gets(bytes(message)) << picture(b"x", format="other", metadata={"mime": "image/avif"})


# Inline images


def test_inline_image_is_handled_with_its_last_chunk() -> None:
    """Other messages may come between; metadata may stand in any chunk."""
    play = running() >> Gets(chunk(b"abc", total=5)) >> Gets(progress(30)) << Deliver(progress(30))
    last = chunk(b"de", total=5, offset=3, last=True, metadata={"asset": ASSET, "seed": 7})
    play >> Gets(last) << picture(b"abcde", metadata={"asset": ASSET, "seed": 7})
    assert play >> Gets(last) >> Gets(completed(4)) << Deliver(completed(4)) << says(Unwatch(job=JOB))


def test_auxiliary_image_is_numbered_as_well() -> None:
    """Kind 3 is a control map or a mask."""
    assert running() >> Gets(chunk(b"m", total=1, last=True, kind=Kind.AUXILIARY)) << picture(b"m", is_auxiliary=True)


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_chunk_at_another_offset_is_a_gap(offset: int) -> None:
    """Too early as well as too late: the part is discarded, and the image begins anew after the `ok`."""
    play = running() >> Gets(chunk(b"abc", total=6)) >> Gets(chunk(b"d", total=6, offset=offset)) << says(watch(2))
    play >> Gets(chunk(b"def", total=6, offset=3, last=True)) >> ok()
    assert play >> Gets(chunk(b"abcdef", total=6, last=True)) << picture(b"abcdef")


def test_image_behind_a_missing_event_is_a_gap() -> None:
    """A chunk has the number of its image."""
    assert running() >> Gets(chunk(b"x", total=1, last=True, seq=4)) << says(watch(2))


def test_image_as_url_takes_the_place_of_a_part() -> None:
    """The same number may come as JSON after all."""
    play = running() >> Gets(chunk(b"abc", total=6)) >> Gets(image()) << Deliver(image())
    assert (
        play
        >> Gets(chunk(b"abc", total=6, seq=4))
        >> Gets(chunk(b"def", total=6, offset=3, last=True, seq=4))
        << picture(b"abcdef", seq=4)
    )


def test_repair_and_snapshot_discard_the_part() -> None:
    """Both make the server begin the image anew, so what is held must not stand in its way."""
    play = running() >> Gets(chunk(b"abc", total=6)) >> Gets(notice(4)) << says(watch(2)) >> ok()
    assert play >> Gets(chunk(b"abcdef", total=6, last=True)) << picture(b"abcdef")
    play = running() >> Gets(chunk(b"abc", total=6)) >> Gets(snapshot(2)) << Deliver(snapshot(2))
    assert play >> Gets(chunk(b"abcdef", total=6, last=True)) << picture(b"abcdef")


def test_parts_do_not_outlive_their_connection() -> None:
    """An image begins anew on the next connection."""
    play = (
        running()
        >> Gets(chunk(b"abc", total=6))
        >> Loses(1006)
        << Deliver(Disconnected(1006, "", 0.25))
        << Reconnect(0.25)
    )
    live(play, resume=True)
    assert (
        play >> Gets(chunk(b"abc", total=6)) >> Gets(chunk(b"def", total=6, offset=3, last=True)) << picture(b"abcdef")
    )


def test_image_over_the_limit_is_asked_for_as_url() -> None:
    """What cannot be held inline is not lost, and stays a URL in later watches."""
    play = running(Playbook(max_assembly_bytes=10)) >> Gets(chunk(b"abc", total=11)) << says(watch(2, finals="url"))
    play >> ok() >> Gets(image()) << Deliver(image())
    assert play >> Gets(notice(5)) << says(watch(3, 2, finals="url"))


# What cannot be read


def test_unknown_numbered_type_counts_as_handled() -> None:
    """It is ignored, but not missing: the event after it is next."""
    play = running() >> Gets({"type": "rescaled", "job": JOB, "seq": 3}) >> Gets(notice(4)) << Deliver(notice(4))
    assert play >> Gets({"type": "rescaled", "job": JOB, "seq": 9}) << says(watch(4))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "weather", "sky": "blue"},
        {"type": "weather", "job": JOB},
        {"type": "weather", "job": JOB, "seq": 0},
        {"type": "weather", "job": JOB, "seq": "three"},
        {"type": "ok"},
        b'{"type":"weather","job":"\xff"}',
    ],
)
def test_messages_without_a_number_are_ignored(message: bytes | dict[str, object]) -> None:
    """Unknown types, and known ones with wrong fields, change nothing without `job` and `seq`."""
    assert running() >> Gets(message)


def test_unknown_fields_are_ignored() -> None:
    """A known type may grow fields."""
    grown = msgspec.to_builtins(notice(3)) | {"mood": {"deep": [1]}}
    assert running() >> Gets(grown) << Deliver(notice(3))


def test_event_with_wrong_fields_is_told_and_counted() -> None:
    """Or the client would ask for it for ever; an unreadable end is an end."""
    play = running()
    (
        play
        >> Gets({"type": "notice", "job": JOB, "seq": 3})
        << Deliver(Unreadable(JOB, 3, "notice", "Object missing required field `code`"))
    )
    assert (
        play
        >> Gets({"type": "failed", "job": JOB, "seq": 4, "time_ms": 1})
        << Deliver(Unreadable(JOB, 4, "failed", "Object missing required field `error`"))
        << says(Unwatch(job=JOB))
    )


# Refusals

GONE = ErrorBody(code="job_not_found", message="gone", retryable=False)
BUSY = ErrorBody(code="rate_limited", message="slow down", retryable=True, retry_after_ms=1500)


def test_job_that_is_gone_is_lost() -> None:
    """A refused repair ends the job here; late events of it are ignored."""
    play = (
        running()
        >> Gets(notice(9))
        << says(watch(2))
        >> Gets(Error(ref=ref(1), error=GONE))
        << Deliver(JobLost(JOB, GONE))
    )
    assert play >> Gets(notice(3))


def test_job_that_is_gone_is_lost_without_a_ref_too() -> None:
    """As at a resume; an error of another kind, or of another job, is only shown."""
    other = Error(job=OTHER, error=GONE)
    busy = Error(job=JOB, error=BUSY)
    plain = Error(error=BUSY)
    play = running() >> Gets(other) << Deliver(other) >> Gets(busy) << Deliver(busy) >> Gets(plain) << Deliver(plain)
    assert play >> Gets(Error(job=JOB, error=GONE)) << Deliver(JobLost(JOB, GONE))


@pytest.mark.parametrize("error,seconds", [(BUSY, 1.5), (structs.replace(BUSY, retry_after_ms=msgspec.UNSET), 1)])
def test_repair_refused_for_now_is_tried_again(error: ErrorBody, seconds: float) -> None:
    """After the time that the server names, or a second."""
    play = running() >> Gets(notice(9)) << says(watch(2)) >> Gets(Error(ref=ref(1), error=error))
    assert play.replica.deadline() == play.now + seconds
    assert play >> Waits(seconds) << says(watch(2, 2))


def test_users_watch_that_is_refused_is_answered_and_lost() -> None:
    """A job that was never served is not asked for again, even if the refusal may pass."""
    wish = Watch(job=OTHER, ref="w-1")
    refused = Error(ref="w-1", error=BUSY)
    play = live(Playbook()) >> Wants(lambda replica, now: replica.watch(wish, now)) << says(wish)
    assert play >> Gets(refused) << Answer("w-1", refused) << Deliver(JobLost(OTHER, BUSY))
    assert play.replica.deadline() == play.now + 37.5


# What the user wants of a job


def test_user_reads_a_job_again_from_where_he_likes() -> None:
    """Also downwards, also after the end; a repair under way is superseded."""
    again = Watch(job=JOB, after=1, ref="w-1", finals="inline")
    play = running() >> Gets(notice(9)) << says(watch(2))
    play >> Wants(lambda replica, now: replica.watch(again, now)) << says(again) >> ok() >> Gets(notice(9))
    (
        play
        >> Gets(Ok(ref="w-1", job=JOB))
        << Answer("w-1", Ok(ref="w-1", job=JOB))
        >> Gets(started())
        << Deliver(started())
    )
    play >> Gets(completed(3)) << Deliver(completed(3)) << says(Unwatch(job=JOB))
    once_more = Watch(job=JOB, ref="w-2")
    play >> Wants(lambda replica, now: replica.watch(once_more, now)) << says(once_more)
    assert play >> Gets(accepted()) << Deliver(accepted())


def test_superseded_watch_may_be_refused_without_harm() -> None:
    """Only the newest watch speaks for the job."""
    again = Watch(job=JOB, after=1, ref="w-1")
    play = running() >> Gets(notice(9)) << says(watch(2))
    play >> Wants(lambda replica, now: replica.watch(again, now)) << says(again)
    assert play >> Gets(Error(ref=ref(1), error=GONE)) >> Gets(started()) << Deliver(started())


def test_terms_of_a_job_are_kept_for_the_machines_own_watches() -> None:
    """What submit, watch or prefs said of a job's events holds in repairs too, the grant as well."""
    previews = Previews(max_fps=2)
    play = live(Playbook())
    first = submit("shot-1", previews=previews)
    play >> Wants(lambda replica, _: replica.submit(first)) << says(first)
    play >> Gets(accepted("shot-1")) << Answer("shot-1", accepted("shot-1")) << Deliver(accepted("shot-1"))
    wish = Prefs(finals="inline", job=JOB, ref="p-1")
    play >> Wants(lambda replica, _: replica.prefs(wish)) << says(wish)
    (
        play
        >> Wants(lambda replica, _: replica.prefs(structs.replace(wish, job=OTHER, ref="p-2")))
        << says(structs.replace(wish, job=OTHER, ref="p-2"))
    )
    assert play >> Gets(notice(3)) << says(watch(1, previews=previews, finals="inline"))
    granted = Watch(job=OTHER, grant="signed", ref="w-1")
    play >> Wants(lambda replica, now: replica.watch(granted, now)) << says(granted)
    play >> Gets(Ok(ref="w-1")) << Answer("w-1", Ok(ref="w-1"))
    assert play >> Gets(notice(5, OTHER)) << says(Watch(job=OTHER, grant="signed", ref=ref(2)))


def test_flags_of_a_preview_are_told() -> None:
    """Alpha and approximate are facts about the picture."""
    message = bytearray(preview(7))
    message[36] = Flag.LAST_CHUNK | Flag.ALPHA | Flag.APPROXIMATE
    event = replace(_preview(7), has_alpha=True, is_approximate=True)
    assert running() >> Gets(bytes(message)) << Deliver(event)


def test_inbox_shows_itself() -> None:
    """`repr` tells what is open and what is held."""
    assert f"{{'{JOB}': 2}}" in repr(running().replica)
