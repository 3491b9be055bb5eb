"""The client's session machine: connections, resume, silence, back-off, acknowledgements."""

import pytest
from msgspec import structs

from protocol.codec import encode
from protocol.errors import CLOSES
from protocol.messages import Ack, Bye, Cancel, GoAway, Have, Ok, Pong, Prefs, Previews, ServerPing, Unwatch, Watch
from protocol.replica import IllegalTransition, Replica
from protocol.replica_effects import Answer, Deliver, Disconnected, Event, Reconnect, Send, Stop, close_name
from protocol.replica_states import State
from protocol.unanswered import Picture
from tests.protocol.playbook import (
    HELLO,
    JOB,
    OTHER,
    START,
    Dice,
    Gets,
    Loses,
    Opens,
    Playbook,
    Waits,
    Wants,
    completed,
    delivered,
    live,
    notice,
    preview,
    progress,
    ref,
    resumed,
    running,
    says,
    started,
    submit,
    synced,
    welcome,
)

# Connections


def test_client_says_hello_and_is_live_at_synced() -> None:
    """The first connection has nothing to resume."""
    assert (
        Playbook() >> Opens() << says(HELLO) >> Gets(welcome()) << Deliver(welcome()) >> Gets(synced("r1")) << resumed()
    )


def test_client_puts_a_token_into_hello() -> None:
    """A token that is given at the time takes the place of the hello's."""
    assert Playbook() >> Opens("fresh") << says(structs.replace(HELLO, token="fresh"))


def test_client_resumes_with_the_newest_synced_and_what_it_has() -> None:
    """`hello` carries `resume` and `have`; the answers to the replay come before `synced`."""
    play = running()
    hello = structs.replace(HELLO, resume="r1", have=[Have(job=JOB, seq=2)])
    assert (
        play
        >> Loses(1006)
        << Deliver(Disconnected(1006, "", 0.25))
        << Reconnect(0.25)
        >> Opens()
        << says(hello)
        >> Gets(welcome(resumed=True))
        << Deliver(welcome(resumed=True))
        >> Gets(notice(3))
        << Deliver(notice(3))
        >> Gets(synced("r2", 1))
        << resumed(1, same=True)
    )
    assert play.replica.resume == "r2"
    assert play.replica.have() == [Have(job=JOB, seq=3)]


def test_client_resumes_from_the_old_text_when_synced_was_lost() -> None:
    """Only `synced` brings a new `resume`; what was handled before it is told by `have`."""
    play = running()
    play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)
    play >> Opens() << says(structs.replace(HELLO, resume="r1", have=[Have(job=JOB, seq=2)]))
    play >> Gets(welcome(resumed=True)) << Deliver(welcome(resumed=True)) >> Gets(notice(3)) << Deliver(notice(3))
    assert (
        play
        >> Loses(4000)
        << Deliver(Disconnected(4000, "internal", 0.5))
        << Reconnect(0.5)
        >> Opens()
        << says(structs.replace(HELLO, resume="r1", have=[Have(job=JOB, seq=3)]))
    )


def test_client_continues_a_stored_session() -> None:
    """`resume` and `have` of the first hello come from another process."""
    stored = structs.replace(HELLO, resume="r9", have=[Have(job=JOB, seq=2)])
    assert (
        Playbook(hello=stored)
        >> Opens()
        << says(stored)
        >> Gets(welcome(resumed=True))
        << Deliver(welcome(resumed=True))
        >> Gets(started())
        >> Gets(notice(3))
        << Deliver(notice(3))
    )


def test_client_tells_no_positions_without_a_session() -> None:
    """A job that was asked for before the first `synced` is none that a server could resume."""
    play = Playbook() >> Wants(lambda replica, now: replica.watch(Watch(job=JOB, after=3, ref="w-1"), now))
    assert play >> Opens() << says(HELLO)


def test_client_watches_and_repeats_in_a_new_session() -> None:
    """With `resumed` false each open job is watched after what was handled, and unanswered submits go again (R8)."""
    play = running()
    play >> Wants(lambda replica, _: replica.submit(submit("shot-2"))) << says(submit("shot-2"))
    play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)
    play >> Opens() << says(structs.replace(HELLO, resume="r1", have=[Have(job=JOB, seq=2)]))
    assert (
        play
        >> Gets(welcome())
        << Deliver(welcome())
        >> Gets(synced("r2"))
        << resumed()
        << says(Watch(job=JOB, after=2, ref=ref(1)))
        << says(submit("shot-2"))
    )


def test_client_tells_ends_that_the_server_may_not_know() -> None:
    """An end whose `unwatch` may be lost stands in `have` until a `synced` has followed."""
    play = running()
    play >> Gets(completed(3)) << Deliver(completed(3)) << says(Unwatch(job=JOB))
    play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)
    play >> Opens() << says(structs.replace(HELLO, resume="r1", have=[Have(job=JOB, seq=3)]))
    play >> Gets(welcome(resumed=True)) << Deliver(welcome(resumed=True))
    assert play >> Gets(completed(3)) >> Gets(synced()) << resumed(same=True)
    assert play.replica.have() == []


@pytest.mark.parametrize("code", sorted({close.number for close in CLOSES.values()} | {1001, 1006, 1009, 1011, 4999}))
def test_client_reconnects_or_stops_by_the_close_code(code: int) -> None:
    """1009 and 4500-4999 forbid to come back, everything else does not; 1000 without `bye` is a proxy's."""
    play = live(Playbook())
    if code == 1009 or 4500 <= code <= 4999:
        assert play >> Loses(code) << Stop(code, close_name(code)) >> Loses(code)
        assert play.replica.state is State.STOPPED
    else:
        assert play >> Loses(code) << Deliver(Disconnected(code, close_name(code), 0.25)) << Reconnect(0.25)
        assert play.replica.state is State.OFFLINE


def test_back_off_doubles_up_to_thirty_seconds_and_begins_anew_after_synced() -> None:
    """The wait is chance times min(30, 0.5 * 2**n)."""
    replica = Replica(HELLO, Dice())
    waits = [_wait(replica) for _ in range(9)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    live(Playbook(replica))
    assert _wait(replica) == 0.25


def _wait(replica: Replica) -> float:
    *_, reconnect = replica.disconnected(1006, START)
    assert isinstance(reconnect, Reconnect)
    return reconnect.after_seconds


def test_client_honours_goaway_once() -> None:
    """`retry_after_ms` takes the place of the back-off, for one attempt."""
    goaway = GoAway(reason="drain", retry_after_ms=3170)
    assert (
        live(Playbook())
        >> Gets(goaway)
        << Deliver(goaway)
        >> Loses(4001)
        << Deliver(Disconnected(4001, "going_away", 3.17))
        << Reconnect(3.17)
        >> Loses(1006, "ConnectionRefusedError")
        << Deliver(Disconnected(1006, "ConnectionRefusedError", 0.25))
        << Reconnect(0.25)
    )


# Silence


def test_client_reconnects_after_two_and_a_half_heartbeats_of_silence() -> None:
    """Anything that comes is life, also what is not understood; a frame before the time changes nothing."""
    play = Playbook()
    assert play.replica.deadline() is None
    assert (
        play
        >> Opens()
        << says(HELLO)
        >> Gets(welcome(heartbeat_ms=10_000))
        << Deliver(welcome(heartbeat_ms=10_000))
        >> Gets(synced())
        << resumed()
    )
    assert play.replica.deadline() == START + 25
    assert play >> Waits(20) >> Gets(b"S") >> Waits(24) >> Gets(ServerPing(time_ms=1)) >> Gets(Pong(t=1)) >> Waits(24.5)
    assert play >> Waits(0.5) << Deliver(Disconnected(1006, "silence", 0.25)) << Reconnect(0.25)
    assert play >> Waits(100)
    assert play.replica.deadline() is None


def test_client_does_not_wait_for_ever_for_a_welcome() -> None:
    """Before a `welcome` the heartbeat is taken to be 15 s."""
    play = Playbook()
    assert (
        play
        >> Opens()
        << says(HELLO)
        >> Waits(37.4)
        >> Waits(0.1)
        << Deliver(Disconnected(1006, "silence", 0.25))
        << Reconnect(0.25)
    )


def test_silent_job_is_watched_again_after_a_minute() -> None:
    """R10: heartbeats keep the connection, but not the job, alive; progress does."""
    play = running()
    play >> Waits(30) >> Gets(progress(1)) << Deliver(progress(1)) >> Waits(30) >> Gets(ServerPing(time_ms=1))
    assert play >> Waits(29.9) >> Gets(ServerPing(time_ms=1))
    assert play.replica.deadline() == pytest.approx(START + 90)
    assert play >> Waits(0.2) << says(Watch(job=JOB, after=2, ref=ref(1)))
    assert play.replica.deadline() == pytest.approx(START + 89.9 + 37.5)


# Out of turn


def test_server_messages_out_of_turn_are_ignored() -> None:
    """A second `welcome` or `synced`, and anything while offline, change nothing."""
    play = live(Playbook())
    assert play >> Gets(welcome()) >> Gets(synced("r2"))
    assert play.replica.resume == "r1"
    assert play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25) >> Gets(started(1))
    assert Playbook() >> Opens() << says(HELLO) >> Gets(synced())


def test_driver_out_of_turn_is_refused() -> None:
    """A refused call leaves the machine as it was."""
    replica = live(Playbook()).replica
    with pytest.raises(IllegalTransition, match="connected while live"):
        replica.connected(START)
    assert replica.state is State.LIVE
    assert "<Replica live" in repr(replica)


def test_nothing_can_be_asked_after_the_end() -> None:
    """A stopped machine refuses every wish."""
    replica = Replica(HELLO, Dice())
    replica.bye(START)
    for wish in (
        lambda: replica.submit(submit()),
        lambda: replica.cancel(Cancel(job=JOB)),
        lambda: replica.watch(Watch(job=JOB), START),
        lambda: replica.unwatch(Unwatch(job=JOB)),
        lambda: replica.prefs(Prefs()),
        lambda: replica.upload(b"x", "png"),
        lambda: replica.bye(START),
    ):
        with pytest.raises(IllegalTransition, match="stopped"):
            wish()


def test_window_must_hold_a_message() -> None:
    """A window below `max_message` could never be used."""
    with pytest.raises(ValueError, match="window"):
        Replica(structs.replace(HELLO, window=1000), Dice())


def test_messages_that_cannot_be_read_are_ignored() -> None:
    """What is no JSON, or binary without a header, is life and nothing else; text may come as text or bytes."""
    assert (
        live(Playbook())
        >> Gets(b"{")
        >> Gets("{oops")
        >> Gets("")
        >> Gets(b"SFL1")
        >> Gets(encode(ServerPing(time_ms=1)).decode())
    )


def test_refs_are_made_up_anew() -> None:
    """32 characters that no server minds."""
    replica = Replica(HELLO, Dice())
    assert [replica.make_ref(), replica.make_ref()] == [ref(1), ref(2)]


# Acknowledgements


def test_client_acknowledges_at_half_the_window_with_whole_message_sizes() -> None:
    """The transcript's preview: 64 + 18,342 bytes; the total is told, for this connection only."""
    play = running(Playbook(hello=structs.replace(HELLO, max_message=16_384, window=36_812)))
    big = preview(7, bytes(18_342))
    assert play >> Gets(big) << Deliver(_event(big)) << says(Ack(bytes=18_406))
    small = preview(8, bytes(100))
    assert (
        play
        >> Gets(small)
        << Deliver(_event(small))
        >> Gets(b"SFL1")
        >> Gets(b"S" * 20_000)
        << says(Ack(bytes=18_406 + 164 + 4 + 20_000))
    )
    play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)
    live(play, resume=True)
    assert play >> Gets(b"S" * 18_406) << says(Ack(bytes=18_406))


def test_client_acknowledges_early_when_a_whole_message_would_not_fit() -> None:
    """With a window of one message and a bit, half of it would be too late: that message could never be sent."""
    play = live(Playbook(hello=structs.replace(HELLO, max_message=16_384, window=17_000)))
    assert play >> Gets(b"S" * 600) >> Gets(b"S" * 16) << says(Ack(bytes=616))


def test_client_without_window_never_acknowledges() -> None:
    """`window` 0 means none."""
    assert live(Playbook()) >> Gets(b"S" * 60_000)


def _event(message: bytes) -> Event:
    """Return the preview that a machine makes of a message."""
    (event,) = delivered(running().replica.receive(message, START))
    return event


# Leaving


def test_client_leaves_with_bye_and_stops_when_the_server_closes() -> None:
    """After `bye` events still come, but nothing more is sent; the close is the end whatever its code."""
    play = running()
    assert (
        play
        >> Wants(lambda replica, now: replica.bye(now))
        << says(Bye())
        >> Gets(completed(3))
        << Deliver(completed(3))
        >> Loses(1000)
        << Stop(1000, "normal")
    )


def test_client_stops_when_nobody_answers_bye() -> None:
    """The server has five seconds."""
    play = live(Playbook())
    play >> Wants(lambda replica, now: replica.bye(now)) << says(Bye()) >> Waits(4.9)
    assert play.replica.deadline() == START + 5
    assert play >> Waits(0.1) << Stop(1006, "silence")


def test_client_that_is_not_connected_leaves_at_once() -> None:
    """Nobody is there to say `bye` to, and before the welcome nothing but `hello` may be said."""
    assert Playbook() >> Wants(lambda replica, now: replica.bye(now)) << Stop(1000, "normal")
    assert Playbook() >> Opens() << says(HELLO) >> Wants(lambda replica, now: replica.bye(now)) << Stop(1000, "normal")


# Wishes


def test_every_wish_goes_out_at_once_while_live_and_at_synced_else() -> None:
    """In the order in which they were wished."""
    wishes = [
        Wants(lambda replica, now: replica.watch(Watch(job=JOB, ref="w-1"), now)),
        Wants(lambda replica, _: replica.cancel(Cancel(job=JOB, ref="c-1"))),
        Wants(lambda replica, _: replica.prefs(Prefs(job=JOB, finals="inline", ref="p-1"))),
        Wants(lambda replica, _: replica.unwatch(Unwatch(job=OTHER, ref="u-1"))),
        Wants(lambda replica, _: replica.upload(b"png", "png")[1]),
    ]
    picture = Picture("0" * 9 + "1" + "0" * 15 + "2", "png", b"png")
    sent = [
        says(Watch(job=JOB, ref="w-1")),
        says(Cancel(job=JOB, ref="c-1")),
        says(Prefs(job=JOB, finals="inline", ref="p-1")),
        says(Unwatch(job=OTHER, ref="u-1")),
        *(Send(chunk, binary=True) for chunk in picture.chunks(262_144)),
    ]
    play = live(Playbook())
    for wish, send in zip(wishes, sent, strict=True):
        play >> wish << send
    play = Playbook() >> Opens() << says(HELLO) >> Gets(welcome()) << Deliver(welcome())
    for wish in wishes:
        play >> wish
    play >> Gets(synced()) << resumed() << says(Watch(job=JOB, finals="inline", ref="w-1"))
    for send in sent[1:]:
        play << send
    assert play


def test_unreadable_messages_do_not_stop_the_machine() -> None:
    """An unknown type and a known one with wrong fields."""
    assert (
        running()
        >> Gets({"type": "weather"})
        >> Gets({"type": "queue", "job": JOB})
        >> Gets(notice(3))
        << Deliver(notice(3))
    )


# Preferences of the connection


def test_connection_preferences_go_into_every_later_hello() -> None:
    """What `prefs` changed holds on the next connection too; fields left out stay."""
    play = live(Playbook(hello=structs.replace(HELLO, previews=Previews(max_fps=4))))
    wish = Prefs(finals="inline", ref="p-1")
    play >> Wants(lambda replica, _: replica.prefs(wish)) << says(wish)
    play >> Gets({"type": "ok", "ref": "p-1"}) << Answer("p-1", Ok(ref="p-1"))
    play >> Loses(1006) << Deliver(Disconnected(1006, "", 0.25)) << Reconnect(0.25)
    assert play >> Opens() << says(structs.replace(HELLO, previews=Previews(max_fps=4), finals="inline", resume="r1"))
