"""The course of a job, from its events."""

from protocol.messages import Completed, Started
from protocol.replica_effects import Preview
from tests.gateway.cli.scripted import JOB, TIMINGS, course_of, progress


def test_course_begins_its_steps_anew_with_a_second_attempt() -> None:
    """Steps of a worker that was lost do not count; previews that were seen do."""
    course = course_of()
    for event in (
        Started(job=JOB, seq=2, time_ms=2, attempt=1, model="m", steps=4),
        progress(1),
        Started(job=JOB, seq=3, time_ms=3, attempt=2, model="m", steps=4),
        progress(2),
    ):
        course.apply(event)
    assert course.steps_text() == "1 of 4 steps, 0 previews"


def test_estimated_steps_are_told_as_such() -> None:
    """What the gateway guesses is not told as seen."""
    course = course_of()
    course.apply(progress(1, 4, estimated=True))
    assert course.steps_text() == "about 1 of 4 steps, 0 previews"


def test_end_of_unknown_cost_is_told_as_such() -> None:
    """A watcher is not told the cost."""
    course = course_of()
    course.apply(Completed(job=JOB, seq=2, time_ms=2, images=[], timings=TIMINGS))
    assert course.cost_text() == "cost unknown"


def preview_event() -> Preview:
    """Return a preview as the client delivers it."""
    return Preview(
        job=JOB, frame=1, step=1, steps=4, format="jpeg", width=8, height=8, image_index=0, image_count=1,
        has_alpha=False, is_approximate=False, data=memoryview(b"jpg"), metadata={},
    )  # fmt: skip


def test_preview_is_counted_and_moves_the_step() -> None:
    """An upstream that sends previews and no progress is still seen to move."""
    course = course_of()
    course.apply(preview_event())
    assert (course.previews, course.step, course.steps) == (1, 1, 4)
