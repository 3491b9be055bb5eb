import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as some

from gateway.observe import logs

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """Give the process its logging back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(params=["json", "console"])
def out(request: pytest.FixtureRequest) -> io.StringIO:
    """Configure each format in turn; return what is written."""
    stream = io.StringIO()
    logs.configure("debug", request.param, stream)
    return stream


def test_event_is_one_json_object_a_line() -> None:
    """A machine finds level, logger, time, event and every field."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logs.get("gateway").info("job ended", job="01J", seconds=1.5, ok=True, nothing=None)
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "job ended",
        "job": "01J",
        "seconds": 1.5,
        "ok": True,
        "nothing": None,
        "level": "info",
        "logger": "gateway",
    }


def test_level_keeps_lesser_events_out() -> None:
    """Below the level nothing is written, ours and others'."""
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    logs.get("gateway").info("quiet")
    logging.getLogger("uvicorn.error").info("quiet")
    logs.get("gateway").warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


@pytest.mark.parametrize("name", ["uvicorn.error", "alembic.runtime.migration", "asyncio"])
def test_records_of_the_standard_library_take_the_same_way(name: str) -> None:
    """What uvicorn, Alembic and asyncio log has the same form."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger(name).warning("it is %s", "so")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("it is so", name, "warning")


def test_auto_is_for_people_on_a_terminal_and_for_machines_elsewhere() -> None:
    """Only a terminal gets colours and columns."""
    terminal, pipe = Terminal(), io.StringIO()
    logs.configure("info", "auto", terminal)
    logs.get("gateway").info("hello")
    logs.configure("info", "auto", pipe)
    logs.get("gateway").info("hello")
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "hello"


def test_configuring_twice_writes_once() -> None:
    """The newest set-up is the only one."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "json", first)
    logs.configure("info", "json", second)
    logs.get("gateway").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_exception_is_told_with_its_traceback(out: io.StringIO) -> None:
    """Who reads the log sees what was raised and where."""
    try:
        raise RuntimeError("something broke")
    except RuntimeError as error:
        logs.get("gateway").error("a task failed", task="leases", exc_info=error)
        logging.getLogger("asyncio").exception("also here")
    assert out.getvalue().count("RuntimeError: something broke") == 2
    assert "test_logs.py" in out.getvalue()


class Shows:
    """Something whose `repr` tells too much."""

    def __repr__(self) -> str:
        return f"<Credential token={SECRET}>"


SECRET_FIELDS: list[dict[str, Any]] = [
    {"authorization": f"Basic {SECRET}"},
    {"Authorization": [SECRET]},
    {"token": SECRET},
    {"session_token": {"deep": SECRET}},
    {"ticket": SECRET},
    {"sig": SECRET},
    {"api_key": SECRET},
    {"apiKey": SECRET.encode()},
    {"x-api-key": SECRET},
    {"headers": {"Authorization": SECRET, "accept": "*/*"}},
    {"headers": [("Authorization", f"Bearer {SECRET}")]},
    {"headers": [(b"authorization", f"Bearer {SECRET}".encode())]},
    {"object": Shows()},
    {"objects": {"deep": (Shows(),)}},
]
SECRET_TEXTS = [
    f"GET /v1/stream?ticket={SECRET} HTTP/1.1",
    f"GET /v1/assets/sha256:00?a=1&sig={SECRET}&b=2",
    f"GET /v1/stream?access_token={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"Authorization: Basic {SECRET}",
    f"authorization={SECRET}",
    f"Bearer {SECRET}",
    f"the key sk-sl-{SECRET} was revoked",
    f"the key sk-{SECRET} was refused",
    f'{{"token": "{SECRET}", "v": 1}}',
    f"{{'api_key': '{SECRET}'}}",
    f'"{{\\"token\\":\\"{SECRET}\\"}}"',
    f"api-key: {SECRET}",
    f"token t1.0a1b2c3d.{SECRET}.{SECRET[:22]}",
    f"see t1.0a1b2c3d.{SECRET}.{SECRET[:22]}, or not",
    f"redirect=%2Fv1%3Fticket%3D{SECRET}",
]


@pytest.mark.parametrize("fields", SECRET_FIELDS, ids=[", ".join(fields) for fields in SECRET_FIELDS])
def test_no_secret_passes_in_a_field(fields: dict[str, Any], out: io.StringIO) -> None:
    """A value is hidden by its key, at any depth and of any type."""
    logs.get("gateway").info("something", **fields)
    assert "something" in out.getvalue()
    assert SECRET not in out.getvalue()
    assert logs.HIDDEN in out.getvalue()


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_no_secret_passes_in_a_text(text: str, out: io.StringIO) -> None:
    """It is hidden in the event, in any field, in others' records, in exceptions and in notes to them."""
    log = logs.get("gateway")
    log.info(text)
    log.info("something", path=text, deep={"list": [text]}, raw=text.encode())
    logging.getLogger("uvicorn.access").info('"%s" 200', text)
    try:
        raise ValueError(text) from RuntimeError(text)
    except ValueError as error:
        error.add_note(text)
        log.exception("failed")
        logging.getLogger("asyncio").exception("failed")
    assert out.getvalue().count("ValueError: ") == 2
    assert SECRET[:22] not in out.getvalue()


def test_no_secret_passes_before_logs_are_configured(caplog: pytest.LogCaptureFixture) -> None:
    """Redaction belongs to the logger and not to the set-up."""
    logs.get("gateway").error(f"Bearer {SECRET}", token=SECRET)
    assert SECRET not in caplog.text
    assert logs.HIDDEN in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "a task-force at risk, the ticket counter and a token of thanks",
        "job 01J9Z3NDEKTSV4RRFFQ69G5FAV ended after 12 steps",
        "GET /v1/models?limit=10&after=abc",
        "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "listening on http://127.0.0.1:8080",
        "version 0.1.0 of python 3.11.7",
    ],
)
def test_ordinary_text_passes_whole(text: str) -> None:
    """What is no secret stays readable."""
    assert logs.redact_text(text) == text


@given(some.sampled_from(["ticket", "sig", "token", "access_token"]), some.from_regex(r"\AQ7[\w.~+/=%!*()-]{6,60}\Z"))
def test_no_value_of_a_secret_query_passes(name: str, value: str) -> None:
    """Whatever characters a value has that may stand in a query."""
    assert "Q7" not in logs.redact_text(f"GET /v1/stream?{name}={value}&v=1 HTTP/1.1")


@given(
    some.recursive(
        some.text() | some.integers() | some.none() | some.binary(),
        lambda deep: some.lists(deep) | some.dictionaries(some.text(), deep),
        max_leaves=8,
    )
)
def test_redaction_takes_anything(value: Any) -> None:
    """No event is lost because of what it holds."""
    event: structlog.typing.EventDict = {"event": "x", "value": value}
    json.dumps(logs.redact(None, "info", event))
