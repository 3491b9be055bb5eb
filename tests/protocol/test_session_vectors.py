"""The recorded conversations that every client has to pass, run against ours. Their format: `vectors/README.md`."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.errors import CLOSES
from protocol.header import parse, payload
from protocol.messages import Cancel, Error, GoAway, Hello, Prefs, Submit, Unwatch, Watch, Welcome
from protocol.replica import Replica
from protocol.replica_effects import (
    Answer,
    Deliver,
    Disconnected,
    Effect,
    ImageBytes,
    JobLost,
    Preview,
    Reconnect,
    Resumed,
    Send,
    Stop,
)
from tests.protocol.playbook import START, Dice

FOLDER = Path(__file__).parent.parent.parent / "protocol" / "vectors" / "sessions"
Line = dict[str, Any]
WISHES: dict[str, Any] = {
    "submit": (Submit, "submit"),
    "cancel": (Cancel, "cancel"),
    "watch": (Watch, "watch"),
    "unwatch": (Unwatch, "unwatch"),
    "prefs": (Prefs, "prefs"),
}
# What passes between client and server without the application: no action of the vectors.
UNSEEN = (Welcome, Resumed, GoAway, Disconnected)


def conversations() -> Iterator[Any]:
    """Yield the conversations of all files, each with a name."""
    for path in sorted(FOLDER.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        starts = [number for number, line in enumerate(lines) if "about" in line]
        assert starts[0] == 0, f"{path.name} begins with what it is about"
        for count, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines)], strict=True), 1):
            yield pytest.param(lines[start:end], id=f"{path.name}-{count}")


@pytest.mark.parametrize("lines", list(conversations()))
def test_conversation_goes_as_recorded(lines: list[Line]) -> None:
    """Each line has exactly the actions that it expects."""
    run = Run(Replica(msgspec.convert(lines[0]["hello"], Hello), Dice()))
    for number, line in enumerate(lines[1:], 2):
        try:
            run.play(line)
        except AssertionError as error:
            raise AssertionError(f"{lines[0]['about']}\nline {number}: {line}\n{error}") from None


def test_vectors_cover_what_the_plan_asks_for() -> None:
    """Section 4.4: at least twenty files, and every close code of the registry."""
    files = {path.stem for path in FOLDER.glob("*.jsonl")}
    assert len(files) >= 20
    closes = {
        json.loads(line)["close"]
        for path in FOLDER.glob("*.jsonl")
        for line in path.read_text().splitlines()
        if "close" in json.loads(line)
    }
    assert {close.number for close in CLOSES.values()} | {1006, 1009} <= closes


@dataclass
class Run:
    """One conversation under way."""

    replica: Replica
    now: float = START
    names: dict[str, str] = field(default_factory=dict)
    """What the `$names` stand for, once the client has made it up."""

    def play(self, line: Line) -> None:
        """Feed one line and compare what the client does."""
        before = self.replica.have()
        actions = list(filter(None, map(action_of, self.feed(line))))
        expected = [one for one in line["expect"] if one["do"] != "ignore"]
        for one in expected:
            if actions and self.matches(one, actions[0]):
                actions.pop(0)
            else:
                assert one.get("optional"), f"expected {one}, got {actions}"
        assert not actions, f"unexpected {actions}"
        if line["expect"] and not expected:
            assert self.replica.have() == before
        for job, seq in line.get("last", {}).items():
            assert self.replica._positions.last(job) == seq

    def feed(self, line: Line) -> list[Effect]:
        """Tell the client what happens."""
        if "open" in line:
            return self.replica.connected(self.now)
        if "recv" in line:
            return self.replica.receive(json.dumps(self.named(line["recv"])), self.now)
        if "recv_hex" in line:
            return self.replica.receive(bytes.fromhex(line["recv_hex"]) + bytes(line.get("zeros", 0)), self.now)
        if "close" in line:
            return self.replica.disconnected(line["close"], self.now)
        if "wait_ms" in line:
            self.now += line["wait_ms"] / 1000
            return self.replica.timeout(self.now)
        if "upload" in line:
            upload = line["upload"]
            self.names[upload["as"]], effects = self.replica.upload(bytes.fromhex(upload["hex"]), upload["format"])
            return effects
        return self.wish(line["wish"])

    def wish(self, message: Line) -> list[Effect]:
        if message["type"] == "bye":
            return self.replica.bye(self.now)
        kind, name = WISHES[message["type"]]
        wish = msgspec.json.decode(json.dumps(self.named(message)), type=kind)
        return list(self.replica.watch(wish, self.now) if name == "watch" else getattr(self.replica, name)(wish))

    def named(self, value: Any) -> Any:
        """Return the value with what its `$names` stand for."""
        if isinstance(value, dict):
            return {key: self.named(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.named(one) for one in value]
        return self.names.get(value, value) if isinstance(value, str) else value

    def matches(self, expected: Line, action: Line) -> bool:
        """Whether the action is the expected one; it may have more fields."""
        if expected["do"] == "watch":
            message = {key: value for key, value in expected.items() if key not in ("do", "after")}
            same = action["do"] == "send" and action["message"].get("after", 0) == expected["after"]
            return same and self.fits({"type": "watch"} | message, action["message"])
        if expected["do"] == "reconnect":
            return bool(expected["min_ms"] <= action.get("after_ms", -1) <= expected["max_ms"])
        absent = set(expected.get("absent", ())) & set(action.get("message", ()))
        wanted = {key: value for key, value in expected.items() if key not in ("absent", "optional")}
        return not absent and self.fits(wanted, action)

    def fits(self, expected: Any, got: Any) -> bool:
        """Whether `got` has everything expected; a new `$name` fits any text, and means it from now on."""
        if isinstance(expected, dict):
            return isinstance(got, dict) and all(key in got and self.fits(expected[key], got[key]) for key in expected)
        if isinstance(expected, list):
            same_length = isinstance(got, list) and len(got) == len(expected)
            return same_length and all(map(self.fits, expected, got))
        if isinstance(expected, str) and expected.startswith("$"):
            return bool(self.names.setdefault(expected, got) == got)
        return bool(expected == got)


def action_of(effect: Effect) -> Line | None:
    """Return an effect as the vectors write it."""
    match effect:
        case Send(data, binary=True):
            header = parse(data)
            digest = hashlib.sha256(payload(data, header)).hexdigest()
            return {"do": "upload", "upload": header.job_id, "bytes": header.total_size, "sha256": digest}
        case Send(data):
            return {"do": "send", "message": json.loads(data)}
        case Deliver(event):
            return None if isinstance(event, UNSEEN) else handled(event)
        case Answer(ref, Error(error=error)):
            return {"do": "answer", "ref": ref, "ok": False, "code": error.code}
        case Answer(ref):
            return {"do": "answer", "ref": ref, "ok": True}
        case Reconnect(after_seconds):
            return {"do": "reconnect", "after_ms": after_seconds * 1000}
        case Stop():
            return {"do": "stop"}


def handled(event: Any) -> Line:
    """Return what the application is given, as the vectors write it."""
    if isinstance(event, JobLost):
        return {"do": "lost", "job": event.job, "code": event.error.code}
    if isinstance(event, ImageBytes):
        kind, facts = "image_bytes", {"seq": event.seq, "index": event.index, "auxiliary": event.is_auxiliary}
    elif isinstance(event, Preview):
        kind, facts = "preview_bytes", {"frame": event.frame, "step": event.step}
    else:
        builtins: Line = msgspec.to_builtins(event)
        return {"do": "handle"} | builtins
    digest = hashlib.sha256(event.data).hexdigest()
    common = {"job": event.job, "bytes": len(event.data), "sha256": digest, "metadata": event.metadata}
    return {"do": "handle", "type": kind} | facts | common
