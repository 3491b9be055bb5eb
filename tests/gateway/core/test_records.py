import msgspec
import pytest

from gateway.core.jobs import ENDED, State
from gateway.core.normal import Request
from gateway.core.records import Claimed, JobRecord, Plan, images_of
from protocol.messages import Accepted, ImageReady, Notice, Numbered, Started

JOB = "0" * 26
ASSET = "sha256:" + "0" * 64
REQUEST = Request("txt2img", "m", "a fox", "", 512, 512, 20, 7.0, 1, 4)
LOG: list[Numbered] = [
    Accepted(job=JOB, seq=1, time_ms=0, task="txt2img", model="m", duplicate=False),
    Started(job=JOB, seq=2, time_ms=0, attempt=1, model="m", steps=20),
    ImageReady(job=JOB, seq=3, time_ms=0, index=2, count=4, format="png", w=8, h=9, bytes=7, asset=ASSET, seed=5),
    Notice(job=JOB, seq=4, time_ms=0, code="image_filtered", message="held back", index=0),
    Notice(job=JOB, seq=5, time_ms=0, code="size_changed", message="of no one image"),
]


def record(state: State) -> JobRecord:
    """Return a job in that state."""
    return JobRecord(
        id=JOB, run="r", tenant="t", subject="", session=None, ref="a", task="txt2img", model="m", upstream="up",
        state=state, seq=5, attempt=1, step=0, claim=1, price_micros=0, cost_micros=0, deadline_ms=None,
        cancel_by=None, created_ms=0, started_ms=None, ended_ms=None, trimmed=False,
    )  # fmt: skip


@pytest.mark.parametrize("state", State)
def test_job_has_ended_in_an_end_state(state: State) -> None:
    """And in no other."""
    assert record(state).has_ended == (state in ENDED)


def test_claim_knows_what_was_delivered() -> None:
    """A picture, and a notice that stands for one; a notice about nothing in particular delivers nothing."""
    assert Claimed(record(State.CLAIMED), REQUEST, LOG, []).delivered == {0, 2}


def test_claim_lists_pictures_as_an_end_event_would() -> None:
    """With the number of the event that brought each."""
    (image,) = Claimed(record(State.CLAIMED), REQUEST, LOG, []).images
    assert (image.index, image.w, image.h, image.bytes, image.asset, image.seed, image.seq) == (2, 8, 9, 7, ASSET, 5, 3)
    assert images_of(LOG[:2]) == []


def test_plan_is_kept_without_what_nobody_said() -> None:
    """A default stays a default when it changes."""
    assert msgspec.json.encode(Plan()) == b"{}"
    plan = Plan(weight=2.5, max_jobs=3, submits_per_second=0.5)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
