"""The client's wishes: requests, their answers, and what is sent again."""

import msgspec
import pytest

from protocol.header import parse, payload
from protocol.messages import (
    Asset,
    AssetStored,
    Cancel,
    Error,
    ErrorBody,
    Input,
    Ok,
    Prefs,
    Submit,
    Unwatch,
    Watch,
)
from protocol.replica import Replica
from protocol.replica_effects import Answer, Deliver, Disconnected, Effect, JobLost, Reconnect, Send
from protocol.unanswered import ClientBusy, Picture
from tests.protocol.playbook import (
    ASSET,
    HELLO,
    JOB,
    OTHER,
    START,
    Dice,
    Gets,
    Loses,
    Playbook,
    Wants,
    accepted,
    completed,
    live,
    notice,
    ref,
    running,
    says,
    started,
    submit,
    synced,
    welcome,
)

REFUSED = ErrorBody(code="invalid_param", message="no", retryable=False)
UPLOAD = "0" * 9 + "1" + "0" * 15 + "2"


def stored(upload: str = UPLOAD) -> AssetStored:
    """Return the answer to an upload."""
    asset: Asset = ASSET
    return AssetStored(asset=asset, format="png", w=1, h=1, bytes=3, expires_in_ms=1, upload=upload)


def picture(data: bytes, max_chunk: int = 262_144) -> list[Send]:
    """Return the chunks of the first upload."""
    return [Send(chunk, binary=True) for chunk in Picture(UPLOAD, "png", data).chunks(max_chunk)]


def cut(play: Playbook) -> Playbook:
    """End the connection and check nothing else."""
    return play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)


def reopened(play: Playbook, *, resume: bool = True) -> list[Effect]:
    """Open a connection and return what is sent at `synced`."""
    play.replica.connected(play.now)
    play.replica.receive(msgspec.json.encode(welcome(resumed=resume)), play.now)
    _, *effects = play.replica.receive(msgspec.json.encode(synced()), play.now)
    return effects


# Submit


def test_submit_is_answered_by_accepted() -> None:
    """The answer comes before the event, so that the job is known when it comes."""
    play = live(Playbook()) >> Wants(lambda replica, _: replica.submit(submit())) << says(submit())
    assert play >> Gets(accepted("shot-1")) << Answer("shot-1", accepted("shot-1")) << Deliver(accepted("shot-1"))
    assert reopened(cut(play)) == []


def test_submit_is_answered_by_error() -> None:
    """A refusal is an answer; the same `ref` may be used again."""
    error = Error(ref="shot-1", error=REFUSED)
    play = live(Playbook()) >> Wants(lambda replica, _: replica.submit(submit())) << says(submit())
    play >> Gets(error) << Answer("shot-1", error) >> Gets(error)
    assert play >> Wants(lambda replica, _: replica.submit(submit())) << says(submit())


def test_submit_while_offline_goes_out_at_synced() -> None:
    """Before that nothing but `hello` may be said."""
    play = Playbook() >> Wants(lambda replica, _: replica.submit(submit()))
    assert play
    assert reopened(play, resume=False) == [says(submit())]


def test_unanswered_submit_goes_out_again_with_the_same_ref() -> None:
    """And finds its job: `duplicate` comes with the log from its start, of which only the unknown is delivered."""
    play = live(Playbook()) >> Wants(lambda replica, _: replica.submit(submit())) << says(submit())
    assert reopened(cut(play)) == [says(submit())]
    again = accepted("shot-1", duplicate=True)
    assert play >> Gets(again) << Answer("shot-1", again) << Deliver(again) >> Gets(started()) << Deliver(started())


def test_accepted_answers_also_where_it_is_a_repeat() -> None:
    """A job that was watched before its submit was answered."""
    play = (
        live(Playbook())
        >> Wants(lambda replica, now: replica.watch(Watch(job=JOB, ref="w"), now))
        << says(Watch(job=JOB, ref="w"))
    )
    (
        play
        >> Gets(accepted())
        << Deliver(accepted())
        >> Wants(lambda replica, _: replica.submit(submit()))
        << says(submit())
    )
    again = accepted("shot-1", duplicate=True)
    assert play >> Gets(again) << Answer("shot-1", again)


def test_accepted_for_another_kind_of_request_is_only_an_event() -> None:
    """A name that belongs to a cancel is answered by `ok`."""
    play = (
        live(Playbook())
        >> Wants(lambda replica, _: replica.cancel(Cancel(job=JOB, ref="c-1")))
        << says(Cancel(job=JOB, ref="c-1"))
    )
    assert (
        play >> Gets(accepted("c-1")) << Deliver(accepted("c-1")) >> Gets(Ok(ref="c-1")) << Answer("c-1", Ok(ref="c-1"))
    )


def test_submit_of_an_ended_job_reads_it_again() -> None:
    """Who submits the same again gets the same job, from its start."""
    play = running() >> Gets(completed(3)) << Deliver(completed(3)) << says(Unwatch(job=JOB))
    play >> Wants(lambda replica, _: replica.submit(submit())) << says(submit())
    again = accepted("shot-1", duplicate=True)
    assert play >> Gets(again) << Answer("shot-1", again) << Deliver(again) >> Gets(started()) << Deliver(started())


# Other requests


def test_requests_are_answered_by_ok() -> None:
    """Cancel, unwatch, prefs and watch; names that are not under way are ignored."""
    cancel, prefs = Cancel(job=JOB, ref="c-1"), Prefs(job=JOB, ref="p-1")
    play = running() >> Wants(lambda replica, _: replica.cancel(cancel)) << says(cancel)
    play >> Gets(Ok(ref="c-1")) << Answer("c-1", Ok(ref="c-1")) >> Gets(Ok(ref="c-1"))
    play >> Wants(lambda replica, _: replica.prefs(prefs)) << says(prefs)
    play >> Gets(Ok(ref="p-1")) << Answer("p-1", Ok(ref="p-1")) >> Gets(Ok(ref="who"))
    elsewhere = Prefs(job=OTHER, ref="p-2")
    play >> Wants(lambda replica, _: replica.prefs(elsewhere)) << says(elsewhere)
    assert play >> Gets(Error(ref="who", error=REFUSED)) >> Gets(Error(upload=UPLOAD, error=REFUSED))


def test_error_without_a_name_answers_nobody() -> None:
    """It is shown as it is."""
    error = Error(error=REFUSED)
    assert live(Playbook()) >> Gets(error) << Deliver(error)


def test_refused_watch_is_answered_and_its_job_lost() -> None:
    """Whoever asked knows both."""
    wish = Watch(job=OTHER, ref="w-1")
    error = Error(ref="w-1", error=REFUSED)
    play = live(Playbook()) >> Wants(lambda replica, now: replica.watch(wish, now)) << says(wish)
    assert play >> Gets(error) << Answer("w-1", error) << Deliver(JobLost(OTHER, REFUSED))


def test_answered_watch_is_not_repeated() -> None:
    """An `ok` is enough."""
    wish = Watch(job=OTHER, ref="w-1")
    play = live(Playbook()) >> Wants(lambda replica, now: replica.watch(wish, now)) << says(wish)
    assert play >> Gets(Ok(ref="w-1")) << Answer("w-1", Ok(ref="w-1"))
    assert reopened(cut(play)) == []


def test_outbox_shows_what_is_unanswered() -> None:
    """In the machine's `repr`."""
    play = (
        running()
        >> Wants(lambda replica, _: replica.cancel(Cancel(job=JOB, ref="c-1")))
        << says(Cancel(job=JOB, ref="c-1"))
    )
    assert play
    assert "<Outbox <Unanswered ['c-1']>>" in repr(play.replica)


def test_requests_without_ref_are_named_and_not_answered() -> None:
    """They are sent again all the same."""
    named = Cancel(job=JOB, ref=ref(1))
    play = running() >> Wants(lambda replica, _: replica.cancel(Cancel(job=JOB))) << says(named)
    assert reopened(cut(play)) == [says(named)]
    assert play >> Gets(Ok(ref=ref(1)))
    assert reopened(cut(play)) == []


def test_unwatched_job_is_silent_at_once() -> None:
    """What is under way of it is ignored; so is a repair, and the user's watch is answered."""
    wish = Unwatch(job=JOB, ref="u-1")
    watch = Watch(job=JOB, after=2, ref="w-1")
    play = running() >> Wants(lambda replica, now: replica.watch(watch, now)) << says(watch)
    play >> Wants(lambda replica, _: replica.unwatch(wish)) << says(wish) << Answer("w-1", Ok(ref="w-1", job=JOB))
    assert play >> Gets(notice(3)) >> Gets(Ok(ref="u-1")) << Answer("u-1", Ok(ref="u-1"))


def test_watch_while_offline_starts_where_it_stands_at_synced() -> None:
    """The newest position counts."""
    play = cut(running()) >> Wants(lambda replica, now: replica.watch(Watch(job=JOB, after=1, ref="w-1"), now))
    assert play
    assert reopened(play) == [says(Watch(job=JOB, after=1, ref="w-1"))]
    play >> Gets(started()) << Deliver(started())
    assert reopened(cut(play)) == [says(Watch(job=JOB, after=2, ref="w-1"))]


def test_new_session_is_told_each_job_once() -> None:
    """A watch that is under way is not doubled by R8."""
    play = running()
    (
        play
        >> Wants(lambda replica, now: replica.watch(Watch(job=OTHER, ref="w-1"), now))
        << says(Watch(job=OTHER, ref="w-1"))
    )
    assert reopened(cut(play), resume=False) == [
        says(Watch(job=JOB, after=2, ref=ref(1))),
        says(Watch(job=OTHER, ref="w-1")),
    ]


# Uploads


def test_upload_goes_out_in_chunks() -> None:
    """As large as `welcome.limits` allows, whole messages counted; the last one is marked."""
    play = Playbook()
    play.replica.connected(START)
    play.replica.receive(msgspec.json.encode(welcome(max_chunk=66)), START)
    play.replica.receive(msgspec.json.encode(synced()), START)
    upload, effects = play.replica.upload(b"abcde", "png")
    assert upload == UPLOAD
    assert effects == picture(b"abcde", 66)
    headers = [parse(effect.data) for effect in picture(b"abcde", 66)]
    assert [(one.kind, one.format, one.total_size, one.chunk_offset, one.is_last_chunk) for one in headers] == [
        (16, 2, 5, 0, False),
        (16, 2, 5, 2, False),
        (16, 2, 5, 4, True),
    ]
    assert b"".join(payload(one.data, parse(one.data)) for one in picture(b"abcde", 66)) == b"abcde"


def test_upload_is_repeated_before_its_submit() -> None:
    """Until its asset is known an upload belongs to its connection."""
    play = live(Playbook())
    wish = submit(inputs=[Input(role="init", upload=UPLOAD)])
    play >> Wants(lambda replica, _: replica.upload(b"png", "png")[1]) << picture(b"png")[0]
    play >> Wants(lambda replica, _: replica.submit(wish)) << says(wish)
    assert reopened(cut(play)) == [*picture(b"png"), says(wish)]


def test_stored_upload_is_named_by_its_asset() -> None:
    """It is the same body, and the bytes need not be sent, or kept, any more."""
    play = live(Playbook(max_upload_bytes=3))
    wish = submit(inputs=[Input(role="init", upload=UPLOAD), Input(role="mask", asset=ASSET)])
    play >> Wants(lambda replica, _: replica.upload(b"png", "png")[1]) << picture(b"png")[0]
    play >> Wants(lambda replica, _: replica.submit(wish)) << says(wish)
    play >> Gets(stored()) << Answer(UPLOAD, stored()) >> Gets(stored())
    by_asset = submit(inputs=[Input(role="init", asset=ASSET), Input(role="mask", asset=ASSET)])
    assert reopened(cut(play)) == [says(by_asset)]
    assert play.replica.upload(b"new", "png")


def test_upload_is_not_answered_by_ok_nor_by_a_nameless_asset() -> None:
    """Only `asset` and `error` with its id answer it."""
    error = Error(upload=UPLOAD, error=REFUSED)
    nameless = msgspec.structs.replace(stored(), upload=msgspec.UNSET)
    play = live(Playbook()) >> Wants(lambda replica, _: replica.upload(b"png", "png")[1]) << picture(b"png")[0]
    assert play >> Gets(Ok(ref=UPLOAD)) >> Gets(nameless) >> Gets(error) << Answer(UPLOAD, error)


def test_empty_upload_is_refused() -> None:
    """It could not be sent: a chunk has at least one byte."""
    with pytest.raises(ValueError, match="at least one byte"):
        Replica(HELLO, Dice()).upload(b"", "png")


# Bounds


def test_requests_are_bounded() -> None:
    """Over the limit the client says so and changes nothing; the machine's own requests do not count."""
    play = running(Playbook(max_unanswered=1, max_upload_bytes=4))
    play >> Gets(notice(9)) << says(Watch(job=JOB, after=2, ref=ref(1)))
    play >> Wants(lambda replica, _: replica.submit(submit("a"))) << says(submit("a"))
    with pytest.raises(ClientBusy, match="over 1 requests are unanswered"):
        play.replica.submit(submit("b"))
    play >> Gets(Error(ref="a", error=REFUSED)) << Answer("a", Error(ref="a", error=REFUSED))
    with pytest.raises(ClientBusy, match="bytes of uploads"):
        play.replica.upload(b"large", "png")
    assert play >> Wants(lambda replica, _: replica.submit(submit("b"))) << says(submit("b"))


def test_refs_are_not_used_twice_at_a_time() -> None:
    """Two requests of one name could not be told apart."""
    replica = Replica(HELLO, Dice())
    replica.submit(submit())
    wish: Submit = submit()
    with pytest.raises(ValueError, match="ref shot-1 is under way"):
        replica.submit(wish)
