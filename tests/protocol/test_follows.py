"""What is known of one followed job."""

import math

from protocol.follows import Follow
from protocol.messages import Previews, Watch
from tests.protocol.playbook import JOB, submit


def test_repairs_at_one_number_wait_longer_and_longer() -> None:
    """At once, at once, then 0.5, 1, 2 ... 30 seconds apart; another number begins anew."""
    follow = Follow(terms=Watch(job=JOB), heard=0.0)
    holds = []
    for _ in range(10):
        now = max(follow.ready_at, 0.0)
        assert follow.begin_repair(3, now)
        holds.append(follow.ready_at - now)
    assert holds == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    now = follow.ready_at
    assert follow.begin_repair(4, now)
    assert follow.ready_at == now


def test_held_back_repair_is_due_when_it_may_go() -> None:
    """It does not wait for the next gap; a watch settles it."""
    follow = Follow(terms=Watch(job=JOB), heard=0.0, ready_at=5.0)
    assert not follow.begin_repair(3, 4.0)
    assert follow.due(60.0) == 5.0
    watch = follow.watch("w", 3, 5.0)
    assert watch == Watch(job=JOB, ref="w", after=3)
    assert follow.again_at == math.inf
    assert follow.due(60.0) == 65.0
    assert not follow.begin_repair(3, 6.0)


def test_terms_keep_what_a_wish_leaves_out() -> None:
    """Only what is given changes."""
    follow = Follow(terms=Watch(job=JOB, finals="inline", grant="g"), heard=0.0)
    follow.take_terms(submit(previews=Previews(max_fps=1)))
    assert follow.terms == Watch(job=JOB, finals="inline", grant="g", previews=Previews(max_fps=1))


def test_hearing_confirms() -> None:
    """Whoever sends something of the job serves it."""
    follow = Follow(terms=Watch(job=JOB), heard=0.0)
    assert not follow.is_confirmed
    follow.hear(7.0)
    assert follow.is_confirmed
    assert follow.due(60.0) == 67.0
