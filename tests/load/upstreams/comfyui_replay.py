"""Doing to the stand-in what a recording did to a real server, and saying both in a form that can be compared.

Times are the stand-in's own: before each node and step it is held until the client has done all that it had
done by then in the recording.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from load.upstreams.comfyui import OUT_OF_MEMORY, TINY_CLASSES, Checkpoint, ComfyUI, Moment

DATA = Path(__file__).parents[2] / "data" / "comfyui"
CHECKPOINTS = (
    Checkpoint("tiny.safetensors"),
    Checkpoint("tiny-100ms.safetensors"),
    Checkpoint("tiny-300ms.safetensors"),
    Checkpoint("tiny-1000ms.safetensors"),
    Checkpoint("tiny-fail-at-3.safetensors", fail_at_step=3, message="made-up failure"),
    Checkpoint("tiny-oom.safetensors", fail_at_step=1, failure=OUT_OF_MEMORY, message="made-up out of memory"),
)
PATIENCE = 0.5
"""Seconds of an idle server after which the client goes on although it has heard too little."""

FASTER = 0.01
"""What the recordings' slow nodes take here, of their own time."""

_KEPT = {
    *("type", "node", "display_node", "node_id", "display_node_id", "parent_node_id", "real_node_id", "parent_node"),
    *("value", "max", "state", "status_str", "completed", "exception_type", "node_type", "image_type", "subfolder"),
    *("queue_remaining", "supports_preview_metadata", "max_upload_size", "class_type", "message", "input_name"),
    *("received_value", "received_type", "headers", "refused"),
}
_SORTED = ("executed", "current_outputs", "errors", "dependent_outputs")
_IGNORED = ("traceback", "tooltip", "installed_templates_version", "output_tooltips")
_SENT_HEADERS = ("Content-Type", "Origin", "Range")
_HEADERS = ("Content-Disposition", "Allow", "Accept-Ranges", "Content-Type")


@dataclass(slots=True)
class Action:
    """One thing the client did."""

    line: dict[str, Any]
    after: int
    """How many messages, `status` aside, it had heard by then, on all connections."""
    at_step: int | None = None
    """The step that was the next to come, for a connection opened in the middle."""


@dataclass(slots=True)
class Talk:
    """A conversation: what came on each connection, and what was answered to each request."""

    messages: dict[str, list[Any]] = field(default_factory=dict)
    statuses: dict[str, list[Any]] = field(default_factory=dict)
    answers: dict[int, Any] = field(default_factory=dict)
    closes: dict[str, int] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)

    def heard(self, conn: str, message: Any) -> None:
        statuses = message[0] == "text" and message[1]["type"] == "status"
        (self.statuses if statuses else self.messages).setdefault(conn, []).append(message)

    def plain(self) -> dict[str, Any]:
        """The conversation without what differs from run to run."""
        names = {prompt_id: f"prompt {place}" for place, prompt_id in enumerate(dict.fromkeys(self.prompts))}
        whole: dict[str, dict[Any, Any]] = {
            "messages": self.messages,
            "statuses": self.statuses,
            "answers": self.answers,
            "closes": self.closes,
        }
        return {part: {key: shape(value, names) for key, value in told.items()} for part, told in whole.items()}


def shape(value: Any, names: dict[str, str], key: str = "") -> Any:
    """A value reduced to keys, types and what has a meaning beyond the run."""
    if key == "argv":
        return "list"
    if isinstance(value, dict):
        return {names.get(name, name): shape(item, names, name) for name, item in value.items() if name not in _IGNORED}
    if isinstance(value, list | tuple):
        items = [shape(item, names, key) for item in value]
        return sorted(items, key=str) if key in _SORTED else items
    if isinstance(value, str) and value in names:
        return names[value]
    if key == "filename":
        return re.sub(r"temp_[a-z]{5}|\d+", "#", str(value))
    known = key in _KEPT or key in ("", "nodes", "name", *_SORTED)
    if known and isinstance(value, float):
        # Python holds 1 and 1.0 for equal; on the wire they differ.
        return f"float {value}"
    return value if known else type(value).__name__


def read(name: str) -> list[dict[str, Any]]:
    """The lines of a recording."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def recorded(lines: list[dict[str, Any]]) -> Talk:
    """What the real server said."""
    talk = Talk()
    for line in lines:
        match line["kind"], line["dir"]:
            case "ws_text", "s2c":
                talk.heard(line["conn"], ("text", line["json"]))
            case "ws_binary", _:
                talk.heard(line["conn"], ("binary", binary_facts(line["decoded"])))
            case "http_response", _:
                talk.answers[line["id"]] = _told_answer(line)
                _note_prompt(talk, line.get("json"))
            case "http_error", _:
                talk.answers[line["id"]] = {"refused": True}
            case "ws_close", "s2c" if "code" in line:
                talk.closes[line["conn"]] = line["code"]
    return talk


def binary_facts(decoded: dict[str, Any]) -> dict[str, Any]:
    """What matters of a binary message: event, kind of image, whose it is."""
    kept = ("event", "image_type", "metadata", "node_id", "text", "magic")
    return {name: decoded[name] for name in kept if name in decoded}


def decode(data: bytes) -> dict[str, Any]:
    """A binary message as the recordings tell it."""
    event, first = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    match event:
        case 1:
            return {"event": 1, "image_type": first, "magic": data[8:12].hex()}
        case 3:
            return {"event": 3, "node_id": data[8 : 8 + first].decode(), "text": data[8 + first :].decode()}
        case 4:
            rest = data[8 + first :]
            return {"event": 4, "metadata": json.loads(data[8 : 8 + first]), "magic": rest[:4].hex()}
    raise AssertionError(f"no such event: {event}")


def _told_answer(line: dict[str, Any]) -> dict[str, Any]:
    headers = {str(name): value for name, value in line["headers"] if name in _HEADERS}
    told: dict[str, Any] = {"type": headers.get("Content-Type"), "value": line["status"]}
    if "Content-Disposition" in headers:
        told["filename"] = headers["Content-Disposition"]
    if "json" in line:
        told["json"] = line["json"]
    elif "text" in line:
        told["message"] = line["text"]
    return told | {"headers": sorted(headers)}


def _note_prompt(talk: Talk, answer: Any) -> None:
    if isinstance(answer, dict) and "node_errors" in answer and "prompt_id" in answer:
        talk.prompts.append(answer["prompt_id"])


def actions_of(lines: list[dict[str, Any]]) -> list[Action]:
    """What the client did, with the place of each among what it heard."""
    actions, heard = [], 0
    for place, line in enumerate(lines):
        if line["kind"] == "ws_binary" or (line["kind"] == "ws_text" and line["dir"] == "s2c"):
            heard += line["kind"] == "ws_binary" or line["json"]["type"] != "status"
        elif line["dir"] == "c2s" and (line["kind"] != "note" or line["text"].startswith("SIG")):
            actions.append(Action(line, heard, _next_step(lines[place:], line)))
    return actions


def _next_step(rest: list[dict[str, Any]], line: dict[str, Any]) -> int | None:
    if line["kind"] != "ws_open":
        return None
    told = [
        one["json"] for one in rest if one["kind"] == "ws_text" and one["dir"] == "s2c" and one["conn"] == line["conn"]
    ]
    if told[0]["data"]["status"]["exec_info"]["queue_remaining"] == 0:
        return None
    return next((int(one["data"]["value"]) for one in told if one["type"] == "progress"), None)


def prelude(lines: list[dict[str, Any]], cached: list[str] | None = None) -> dict[str, Any] | None:
    """A prompt that leaves the cache as it was before the recording: the first prompt, changed where it ran."""
    good = {line["id"] for line in lines if line["kind"] == "http_response" and line["status"] == 200}
    asked = (line for line in lines if line["kind"] == "http_request" and line["id"] in good)
    first = next(line["json"] for line in asked if line["path"] == "/prompt" and "json" in line)
    if cached is None:
        told = (line["json"] for line in lines if line["kind"] == "ws_text" and line["dir"] == "s2c")
        cached = next(one["data"]["nodes"] for one in told if one["type"] == "execution_cached")
    graph = copy.deepcopy(first["prompt"])
    for name in set(graph) - set(cached):
        _change(graph[name]["inputs"])
    graph = {name: node for name, node in graph.items() if not node["class_type"].startswith("Tiny")}
    graph["8"]["inputs"]["samples"] = ["3", 0]
    if graph["3"]["inputs"]["latent_image"] != ["5", 0]:
        # What the recording is about to upload is not there yet.
        graph["0"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
        graph = {name: node for name, node in graph.items() if name not in ("10", "11")}
        graph["3"]["inputs"]["latent_image"] = ["0", 0]
    return {"prompt": graph} if cached else None


def _change(inputs: dict[str, Any]) -> None:
    changes = {"seed": 7, "text": "before", "width": 64, "filename_prefix": "before"}
    inputs.update({name: value for name, value in changes.items() if name in inputs})
    if "ckpt_name" in inputs:
        inputs["ckpt_name"] = "tiny-300ms.safetensors"


class Replay:
    """The client of a recording, speaking to the stand-in."""

    def __init__(self, lines: list[dict[str, Any]], *, cached: list[str] | None = None, **settings: Any) -> None:
        self.actions = actions_of(lines)
        self._wanted = {line["id"]: line for line in lines if line["kind"] == "http_response"}
        self._theirs = recorded(lines)
        self._prelude = prelude(lines, cached) if cached != [] else None
        self.talk = Talk()
        self._heard = 0
        self._received: Counter[str] = Counter()
        self._lost = 0
        self._free = True
        self._moment: Moment | None = None
        self._changed = asyncio.Condition()
        self._left: set[str] = set()
        self._sockets: dict[str, aiohttp.ClientWebSocketResponse] = {}
        self._readers: list[asyncio.Task[None]] = []
        self.standin = ComfyUI(
            checkpoints=CHECKPOINTS, extra_classes=TINY_CLASSES, preview_size=96, hold=self._hold, **settings
        )

    async def run(self) -> Talk:
        """Do all of it; gives what was heard."""
        async with asyncio.timeout(20), self.standin, aiohttp.ClientSession(self.standin.url) as self._client:
            if self._prelude is not None:
                await self._client.post("/prompt", json=self._prelude)
                while not self.standin.idle:
                    await asyncio.sleep(0.001)
            self._free = False
            while self.actions:
                await self._until_due(self.actions[0])
                await self._do(self.actions[0])
                self.actions.pop(0)
                await self._wake()
            await asyncio.gather(*self._readers)
        return self.talk

    # Holding the work

    async def _hold(self, moment: Moment) -> None:
        async with self._changed:
            self._moment = moment
            self._changed.notify_all()
            while not (self._free or self._may_go_on(moment)):
                await self._changed.wait()
            self._moment = None

    def _may_go_on(self, moment: Moment) -> bool:
        return self._in_step() and not (self.actions and self._is_due(self.actions[0]))

    def _in_step(self) -> bool:
        return self.standin.hub.idle and sum(self._received.values()) + self._lost >= self.standin.frames_sent

    def _is_due(self, action: Action) -> bool:
        if self._heard < action.after:
            return False
        if action.at_step is None:
            return True
        return self._moment is not None and (self._moment.step or 0) >= action.at_step

    async def _until_due(self, action: Action) -> None:
        """Wait until the client had got so far; not for ever, because then the comparison says what is missing."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        while not (self._is_due(action) and self._in_step()):
            if not self.standin.idle:
                quiet_since = loop.time()
            elif loop.time() - quiet_since > PATIENCE:
                return
            await self._wake()
            await asyncio.sleep(0.001)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # What the client does

    async def _do(self, action: Action) -> None:
        line = action.line
        match line["kind"]:
            case "ws_open":
                socket = await self._client.ws_connect(line["path"], max_msg_size=0)
                self._sockets[line["conn"]] = socket
                self._readers.append(asyncio.create_task(self._read(line["conn"], socket)))
            case "ws_text":
                await self._sockets[line["conn"]].send_str(line["text"] if "text" in line else json.dumps(line["json"]))
            case "ws_close":
                await self._leave(self._sockets[line["conn"]].close(), 1)
            case "ws_tcp_abort":
                await self._leave(self._abort(line["conn"]), 1)
            case "note":
                await self.standin.kill()
            case "http_request":
                await self._ask(line)

    async def _abort(self, conn: str) -> None:
        self._left.add(conn)
        connection = self._sockets[conn]._conn
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()

    async def _leave(self, leaving: Any, count: int) -> None:
        left = self.standin.open_sockets - count
        await leaving
        while self.standin.open_sockets > left:
            await asyncio.sleep(0.001)
        self._lost = self.standin.frames_sent - sum(self._received.values())

    async def _ask(self, line: dict[str, Any]) -> None:
        wanted = self._wanted.get(line["id"], {})
        if line["path"].startswith("/history/") and wanted.get("json"):
            await self._until_written(self._own(line["path"]).rpartition("/")[2])
        headers = {name: value for name, value in line.get("headers", ()) if name in _SENT_HEADERS}
        path, body = self._own(line["path"]), _body_of(line)
        if isinstance(body, str):
            body = self._own(body)
        try:
            async with self._client.request(line["method"], path, data=body, headers=headers) as response:
                data = await response.read()
        except aiohttp.ClientConnectorError:
            self.talk.answers[line["id"]] = {"refused": True}
            return
        told: dict[str, Any] = {"status": response.status, "headers": list(response.headers.items())}
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("application/json"):
            told["json"] = json.loads(data)
        elif kind.startswith("text/"):
            told["text"] = data.decode()
        self.talk.answers[line["id"]] = _told_answer(told)
        _note_prompt(self.talk, told.get("json"))

    async def _until_written(self, prompt_id: str) -> None:
        job = next((job for job in self.standin.jobs if job.prompt_id == prompt_id), None)
        self._free = True
        await self._wake()
        while job is not None and job.state in ("pending", "running"):
            await asyncio.sleep(0.001)
        self._free = False

    def _own(self, text: str) -> str:
        """The text with the recording's prompt ids and file names in the stand-in's words."""
        known = zip(self._theirs.prompts, self.talk.prompts, strict=False)
        sids = ((_sid(self._theirs, conn), _sid(self.talk, conn)) for conn in self.talk.statuses)
        for theirs, ours in (*known, *sids):
            text = text.replace(theirs, ours)
        match = re.search(r"filename=(\w+_)?\d{5}_\.png", text)
        return text if match is None else text.replace(match[0], f"filename={self._latest_file()}")

    def _latest_file(self) -> str:
        shown = [
            one[1]["data"]["output"]
            for told in self.talk.messages.values()
            for one in told
            if one[0] == "text" and one[1]["type"] == "executed"
        ]
        return str(shown[-1]["images"][-1]["filename"])

    async def _read(self, conn: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                told: Any = ("text", json.loads(message.data))
            else:
                told = ("binary", decode(message.data))
            self.talk.heard(conn, told)
            self._received[conn] += 1
            self._heard += told[0] == "binary" or told[1]["type"] != "status"
            await self._wake()
        if socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE and conn not in self._left:
            self.talk.closes[conn] = int(socket.close_code)


def _sid(talk: Talk, conn: str) -> str:
    return str(talk.statuses[conn][0][1]["data"]["sid"])


def _body_of(line: dict[str, Any]) -> str | bytes | None:
    if "body_b64" in line:
        return base64.b64decode(line["body_b64"])
    if "json" not in line:
        return line.get("text")
    return re.sub(r'"seconds": ([\d.]+)', lambda m: f'"seconds": {float(m[1]) * FASTER}', json.dumps(line["json"]))
