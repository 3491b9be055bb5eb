"""What a real server said, read by the adapter: every prompt of every recording is followed to its end."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from gateway.core.reports import PreviewMade, StepDone
from gateway.upstreams.comfyui.events import Ended, Note, Track, parse_frame, parse_text
from gateway.upstreams.comfyui.graph import planned_steps
from gateway.upstreams.comfyui.models import version_of
from gateway.upstreams.comfyui.rest import choices_of
from gateway.upstreams.comfyui.wire import read_accepted, read_history, read_queue, short_message, wrong_inputs
from tests.gateway.upstreams.comfyui.vendor import flat

RECORDINGS = sorted((Path(__file__).parents[3] / "data" / "comfyui").glob("*.jsonl"))
PICTURES = {"image/jpeg": flat("red", format="JPEG"), "image/png": flat("red")}
FORMATS = {1: "image/jpeg", 2: "image/png"}


def lines(path: Path) -> list[dict[str, Any]]:
    """A recording's lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The requests of a recording with their answers."""
    asked = {line["id"]: line for line in lines(path) if line["kind"] == "http_request"}
    return [(asked[line["id"]], line) for line in lines(path) if line["kind"] == "http_response"]


def frame(decoded: dict[str, Any]) -> bytes:
    """A binary message with another picture in it; the recordings leave the bytes out."""
    if decoded["event"] == 4:
        told = json.dumps(decoded["metadata"]).encode()
        return struct.pack(">II", 4, len(told)) + told + PICTURES[decoded["metadata"]["image_type"]]
    if decoded["event"] == 1:
        return struct.pack(">II", 1, decoded["image_type"]) + PICTURES[FORMATS[decoded["image_type"]]]
    return struct.pack(">II", decoded["event"], 1) + b"text"


def follow(path: Path, prompt_id: str, graph: dict[str, Any]) -> list[Note]:
    """What a recording's messages mean for one of its prompts."""
    track, notes, running = Track(graph), list[Note](), None
    for line in lines(path):
        if line["kind"] == "ws_text" and line["dir"] == "s2c":
            event = parse_text(json.dumps(line.get("json")))
            assert event is not None
            if event.kind in ("executing", "progress") and event.prompt_id is not None:
                running = event.prompt_id
            if event.prompt_id == prompt_id:
                notes += track.take(event)
        elif line["kind"] == "ws_binary":
            seen = parse_frame(frame(line["decoded"]))
            if seen is not None and (seen.prompt_id or running) == prompt_id:
                notes += track.take_frame(seen)
    return notes


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_prompt_of_a_recording_is_followed(path: Path) -> None:
    """Steps only go up and never beyond the total; previews belong to steps; nothing comes twice after the end."""
    for asked, answer in answers(path):
        body = asked.get("json")  # two are odd on purpose, and kept as text
        if (asked["method"], asked["path"]) != ("POST", "/prompt") or answer["status"] != 200 or body is None:
            continue
        prompt_id = answer["json"]["prompt_id"]
        assert read_accepted(json.dumps(answer["json"]).encode()).prompt_id == prompt_id
        notes = follow(path, prompt_id, body["prompt"])
        steps = [note for note in notes if isinstance(note, StepDone)]
        assert all(0 < note.step <= note.steps for note in steps)
        if prompt_id.count("-") == 4:  # others were used twice
            assert [note.step for note in steps] == sorted(note.step for note in steps)
        assert all(note.step > 0 for note in notes if isinstance(note, PreviewMade))
        if "client_id" in body and steps and steps[-1].step == steps[-1].steps:
            assert any(isinstance(note, Ended) for note in notes)


def test_long_recording_is_told_step_by_step() -> None:
    """Twenty steps at 512 by 512, each with its preview, and the end."""
    path = next(path for path in RECORDINGS if path.stem == "normal_txt2img_512_20steps")
    asked, answer = next(one for one in answers(path) if one[0]["path"] == "/prompt" and one[0]["method"] == "POST")
    assert planned_steps(asked["json"]["prompt"]) == {"3": 20}
    notes = follow(path, answer["json"]["prompt_id"], asked["json"]["prompt"])
    steps = [(note.step, note.steps) for note in notes if isinstance(note, StepDone)]
    previews = [(note.step, note.steps) for note in notes if isinstance(note, PreviewMade)]
    assert steps == previews == [(number, 20) for number in range(1, 21)]
    assert isinstance(notes[-1], Ended)


def test_every_answer_of_the_recordings_is_read() -> None:
    """Histories, queues, refusals and lists; what they tell of failures holds no path of theirs."""
    read = dict.fromkeys(("history", "queue", "interrupted", "failed", "refused", "choices", "version"), 0)
    for path in RECORDINGS:
        for asked, answer in answers(path):
            told: Any = answer.get("json")
            where = asked["path"].removeprefix("/api")
            body = json.dumps(told).encode()
            if answer["status"] == 200 and asked["method"] == "GET" and where.startswith("/history/") and told:
                entry = read_history(body, where.rpartition("/")[2], "")
                assert entry is not None
                read["history"] += 1
                read["interrupted"] += entry.was_interrupted
                if entry.failure is not None:
                    read["failed"] += 1
                    assert "/" not in short_message(entry.failure["exception_message"])
                else:
                    assert entry.is_good or entry.was_interrupted
            elif where == "/queue" and asked["method"] == "GET":
                items = [*told["queue_running"], *told["queue_pending"]]
                found = [read_queue(body, item[1], "") for item in items]
                assert [one and one.prompt_id for one in found] == [item[1] for item in items]
                read["queue"] += 1
            elif answer["status"] == 400 and isinstance(told, dict) and told.get("node_errors"):
                assert wrong_inputs(told["node_errors"])
                read["refused"] += 1
            elif where == "/object_info/KSampler":
                assert "euler" in choices_of(told, "KSampler", "sampler_name")
                read["choices"] += 1
            elif where == "/system_stats":
                assert version_of(told) == (0, 3, 64)
                read["version"] += 1
    assert all(read.values()), read
