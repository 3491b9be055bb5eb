"""What passes on one connection: of progress, places and previews the newest, within limits."""

from math import inf

import pytest

from protocol.header import HEADER_SIZE
from protocol.ladder import Rung
from protocol.messages import Limits, Previews, Queued
from tests.protocol.delivery_line import EVERY_PREVIEW, LARGE, RUNG, asset, line, picture, running
from tests.protocol.playbook import JOB, OTHER, accepted, completed, notice, started


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
