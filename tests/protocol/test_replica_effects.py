"""Effects and events of the client's machine."""

import pytest

from protocol.messages import ErrorBody
from protocol.replica_effects import JobLost, Unreadable, close_name, ends_job
from tests.protocol.playbook import JOB, completed, notice, snapshot


@pytest.mark.parametrize(
    "event,ends",
    [
        (completed(3), True),
        (notice(3), False),
        (snapshot(3, "running"), False),
        (snapshot(3, "canceled"), True),
        (Unreadable(JOB, 3, "failed", ""), True),
        (Unreadable(JOB, 3, "notice", ""), False),
        (JobLost(JOB, ErrorBody(code="job_not_found", message="", retryable=False)), True),
    ],
)
def test_end_of_a_job_is_known(event: object, ends: bool) -> None:
    """Whatever tells it."""
    assert ends_job(event) is ends


def test_close_codes_have_names() -> None:
    """Foreign ones have none."""
    assert (close_name(4505), close_name(1006)) == ("replaced", "")
