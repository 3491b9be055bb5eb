"""What is shown while a job runs: a bar, lines, or JSON."""

import io
import json
import sys
from typing import Any

import pytest

from gateway.cli.show import Bar, JsonLines, Lines, to_json
from protocol.messages import ErrorBody, Queued
from protocol.replica_effects import Disconnected, JobLost, Resumed, Unreadable
from tests.gateway.cli.scripted import JOB, course_of, progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step, time left, place in the queue, previews, cost and a lost connection are all in one line."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    course, bar = course_of(), Bar()
    with bar:
        for event in (Queued(job=JOB, position=3), progress(2), Disconnected(1006, "cut", 0.5)):
            course.apply(event)
            bar.show(event, course)
            bar._bars.refresh()
        bar.say("note [bold]")
    shown = terminal.getvalue()
    for part in ("number 3 in the queue", "step 2/4", "0.1 s left", "cost at most 0.009 USD", "note [bold]"):
        assert part in shown
    assert "connection lost, again in 0.5 s" in shown


@pytest.mark.parametrize(
    "event,shown",
    [
        (Resumed("s", True, 2), {"type": "resumed", "session": "s", "is_same": True, "replayed": 2}),
        (
            Disconnected(4001, "going_away", 0.5),
            {"type": "disconnected", "code": 4001, "reason": "going_away", "after_seconds": 0.5},
        ),
        (
            Unreadable(JOB, 3, "image", "why"),
            {"type": "unreadable", "job": JOB, "seq": 3, "of": "image", "reason": "why"},
        ),
        (
            JobLost(JOB, ErrorBody(code="expired", message="m", retryable=False)),
            {"type": "job_lost", "job": JOB, "error": {"code": "expired", "message": "m", "retryable": False}},
        ),
    ],
)
def test_events_of_the_client_itself_are_json_too(event: Any, shown: dict[str, Any]) -> None:
    """Those that no server sends are written as the others are."""
    assert json.loads(to_json(event)) == shown


def test_lines_repeat_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets a line for each change and each quarter, not for each step."""
    course, lines = course_of(), Lines()
    for step in range(1, 101):
        event = progress(step, 100)
        course.apply(event)
        lines.show(event, course)
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_json_lines_say_other_things_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output holds events and nothing else."""
    JsonLines().say("aside")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "aside\n")
