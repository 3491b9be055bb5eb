"""What goes wrong with `generate`: one sentence and a status for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from gateway.cli.keys import DEV_KEY
from gateway.cli.trouble import Trouble, check_end
from protocol.messages import Error, ErrorBody, Failed, Snapshot
from protocol.replica_effects import JobLost, Unreadable
from tests.gateway.cli.scripted import (
    JOB,
    OUT_OF_MEMORY,
    PNG,
    Peer,
    Script,
    ScriptedGateway,
    canceled,
    course_of,
    final,
    generate,
    image,
    paint,
    run,
)


def ending(*messages: Struct) -> Script:
    """Return a script that accepts the job and says these."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(*messages)
        await peer.until_gone()

    return script


def refusing(code: str, message: str, **details: Any) -> Script:
    """Return a script that refuses the submit."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        submit = await peer.read()
        error = ErrorBody(code=code, message=message, retryable=False, details=details)
        await peer.say(Error(ref=submit.ref, error=error))
        await peer.until_gone()

    return script


def closing(code: int, reason: str) -> Script:
    """Return a script that reads the hello and closes."""

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.socket.close(code, reason)

    return script


WRONG_KEY = (
    "the gateway does not accept the key from SAFELIGHT_API_KEY; set SAFELIGHT_API_KEY to a key of this gateway, or "
    "name its data folder with --data"
)
TRIMMED: Any = {"job": JOB, "seq": 5, "time_ms": 9, "attempt": 1, "images": [], "reset": True, "reason": "trimmed"}


@pytest.mark.parametrize(
    "script,status,told",
    [
        (
            refusing("invalid_param", "steps must be 1 to 50", path="params.steps", allowed=["1", "50"]),
            2,
            "refused (invalid_param at params.steps): steps must be 1 to 50; allowed: 1, 50",
        ),
        (
            refusing("model_not_found", "there is no model of that name."),
            2,
            "refused (model_not_found): there is no model of that name; See GET /v1/models.",
        ),
        (
            refusing("unauthorized", "no"),
            2,
            WRONG_KEY,
        ),
        (
            closing(4502, "unauthorized"),
            2,
            WRONG_KEY,
        ),
        (closing(4501, "unsupported_version"), 1, "the session ended: 4501 unsupported_version"),
        (
            ending(Failed(job=JOB, seq=2, time_ms=2, error=OUT_OF_MEMORY, images=[], cost_micros=0)),
            1,
            "failed (out_of_memory): too large; suggest: 512x512; cost 0 USD",
        ),
        (ending(canceled(2, "operator")), 130, "canceled by operator; cost 0.0004 USD"),
        (ending(Snapshot(state="failed", error=OUT_OF_MEMORY, **TRIMMED)), 1, "failed (out_of_memory): too large"),
        (ending(Snapshot(state="canceled", **TRIMMED)), 130, "canceled"),
        (ending(Snapshot(state="completed", **TRIMMED)), 1, "no picture came"),
    ],
)
def test_bad_end_is_one_sentence_and_a_status(script: Script, status: int, told: str) -> None:
    """Whatever goes wrong: what it was, what to do, and no traceback."""
    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == status, done.output
    assert done.stderr.splitlines()[-1].startswith(f"safelight: {told}")
    assert done.stdout == ""


def test_failed_job_keeps_what_it_delivered() -> None:
    """One picture of two came, and is paid for."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        failed = Failed(job=JOB, seq=3, time_ms=2, error=OUT_OF_MEMORY, images=[image(seq=2)], cost_micros=5)
        await peer.say(final(2, 0, 2), failed)
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 1
    assert Path("a-cat-at-dawn-0.png").read_bytes() == PNG


def test_missing_gateway_is_told_with_how_to_start_one() -> None:
    """Nobody waits for what was never there."""
    with ScriptedGateway() as scripted:
        pass
    done = generate(scripted)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        f"safelight: no gateway answers at {scripted.url}; start one with: make run"
    )


def test_wrong_address_is_told() -> None:
    """An address that can't be one is refused before anything is sent."""
    done = run("generate", "x", env={"SAFELIGHT_API_KEY": "k", "SAFELIGHT_URL": "gateway.example"})
    assert done.exit_code == 2
    assert "a gateway's address begins with http" in done.stderr


def test_key_is_taken_from_the_data_folder() -> None:
    """Beside a gateway on the same machine no set-up is needed."""
    Path("var").mkdir()
    (Path("var") / DEV_KEY).write_text("sk-sl-from-folder\n")
    with ScriptedGateway(paint) as scripted:
        assert run("generate", "x", "--url", scripted.url).exit_code == 0
    assert scripted.keys == ["Bearer sk-sl-from-folder"]


def test_missing_key_is_told_with_where_it_was_sought() -> None:
    """Neither the variable nor the folder has one."""
    done = run("generate", "x", "--data", "d")
    assert done.exit_code == 2
    assert f"SAFELIGHT_API_KEY is not set, and there is no {Path('d') / DEV_KEY}" in done.stderr


@pytest.mark.parametrize(
    "arguments,told",
    [
        (("--size", "big"), "'big' is no size; write it as 512x768"),
        (("--mask", "m.png"), "--mask needs the picture to repaint"),
        (("--init", "nowhere.png"), "does not exist"),
        (("-o", "nowhere/x.png"), "there is no folder nowhere"),
        (("--steps", "many"), "not a valid integer"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_asked(arguments: Sequence[str], told: str) -> None:
    """What the command line can see to be wrong costs nothing."""
    Path("m.png").write_bytes(PNG)
    done = run("generate", "x", "--url", "http://127.0.0.1:1", *arguments, env={"SAFELIGHT_API_KEY": "k"})
    assert done.exit_code == 2
    assert told in done.stderr


def test_input_that_is_no_picture_is_refused() -> None:
    """The format is seen before the gateway has to."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.until_gone()

    Path("i.txt").write_text("words")
    with ScriptedGateway(script) as scripted:
        done = generate(scripted, "--init", "i.txt")
    assert done.exit_code == 2
    assert "neither PNG, JPEG nor WebP" in done.stderr


@pytest.mark.parametrize("event", [Unreadable(JOB, 3, "completed", "new field"), JobLost(JOB, OUT_OF_MEMORY)])
def test_end_that_tells_nothing_is_a_failure(event: Unreadable | JobLost) -> None:
    """The job ended, but nobody knows how."""
    course = course_of()
    course.apply(event)
    with pytest.raises(Trouble, match="could not be read"):
        check_end(course)
