"""A client written from PROTOCOL.md alone, no code shared; `guess:` marks what the document left open."""

from __future__ import annotations

import asyncio
import json
import random
import struct
import urllib.request
import uuid
from collections import Counter, namedtuple
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

Json = dict[str, Any]
HEADER = struct.Struct("<4sBBHIIIIHHHHHHH26s")
ID_CHARACTERS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
Header = namedtuple(  # noqa: PYI024  (all integers, but job)
    "Header",
    "kind format data_offset seq frame total_size chunk_offset width height step steps"
    " image_index image_count flags job",
)
OPTIONS: Json = {"subprotocols": ["safelight.v1"], "compression": None, "proxy": None, "close_timeout": 2}
ENDS = ("completed", "failed", "canceled")
MAX_TRIES = 8  # guess: the document never says when to give up


class Stopped(Exception):
    """(code, text): the server refused a request, closed with a code that says stop, or cannot be reached."""


@dataclass(frozen=True)
class Preview:
    header: Header
    data: bytes


@dataclass
class Story:
    ref: str = ""
    job: str = ""
    messages: list[Json] = field(default_factory=list)  # every JSON message, repeats too, over all connections
    progress: list[int] = field(default_factory=list)  # `step` of every progress
    previews: list[Preview] = field(default_factory=list)
    images: dict[int, bytes] = field(default_factory=dict)  # inline finals by image index
    auxiliary: list[bytes] = field(default_factory=list)  # kind 3
    metadata: dict[int, Json] = field(default_factory=dict)  # of inline finals, by seq
    image_seqs: list[int] = field(default_factory=list)  # of `image` events and binary finals, as handled
    handled: list[int] = field(default_factory=list)  # every seq of the job, as handled
    end: Json = field(default_factory=dict)  # the end event, or the snapshot that stands for it
    urls: dict[int, str] = field(default_factory=dict)  # newest signed url by image index
    counts: Counter[str] = field(default_factory=Counter)  # gaps, repeats, unreadable, connections
    acked: list[int] = field(default_factory=list)
    closes: list[int | None] = field(default_factory=list)


def parse(message: bytes) -> Header | None:
    """Give the header, or None for a message that section 9 refuses."""
    if len(message) < HEADER.size:
        return None
    magic, *numbers, job = HEADER.unpack_from(message)
    h = Header._make([*numbers, job.decode("latin-1")])
    fits = h.chunk_offset + len(message) - h.data_offset <= h.total_size and ID_CHARACTERS.issuperset(job)
    return h if fits and magic == b"SFL1" and 64 <= h.data_offset <= len(message) and not h.data_offset % 4 else None


class _Run:
    def __init__(self, url: str, hello: Json, submit: Json, cut_after: int | None) -> None:
        self.url, self.hello, self.cut_after = url, hello, cut_after
        self.story = Story(ref=submit["ref"])
        self.pending: dict[str, Json] = {submit["ref"]: submit}  # requests not answered yet
        self.last: dict[str, int] = {}
        self.held: dict[str, tuple[int, bytes]] = {}  # job: (seq, image bytes so far)
        self.resume, self.resumed, self.ready = "", False, False
        self.silence, self.wait = 37.5, -1.0  # guess: the default until `welcome`; wait: from goaway, or -1
        self.received = self.count = self.tries = 0

    async def follow(self) -> Story:
        while True:
            code: int | None = None
            try:
                await self.connection()
            except ConnectionClosed as e:
                code = getattr(e.rcvd or e.sent, "code", None)
            except InvalidStatus as e:
                if 400 <= e.response.status_code < 500 and e.response.status_code != 429:  # guess
                    raise Stopped(None, f"upgrade refused with HTTP {e.response.status_code}") from e
            except (OSError, TimeoutError, InvalidHandshake):
                pass
            self.story.closes.append(code)
            if self.story.end:
                return self.story
            if self.tries >= MAX_TRIES or code == 1009 or 4500 <= (code or 0) <= 4999:
                raise Stopped(code, "the server says stop, or too many tries")
            wait = random.random() * min(30.0, 0.5 * 2**self.tries) if self.wait < 0 else self.wait
            self.wait, self.tries = -1.0, self.tries + 1
            await asyncio.sleep(wait)

    async def connection(self) -> None:
        async with connect(self.url, max_size=self.hello["max_message"], **OPTIONS) as ws:
            self.story.counts["connections"] += 1
            self.received, self.ready = 0, False
            self.held.clear()  # guess: a replay sends a final from its first chunk
            have = [{"job": job, "seq": seq} for job, seq in self.last.items()]
            await self.send(ws, self.hello | ({"resume": self.resume, "have": have} if self.resume else {}))
            while True:
                message = await asyncio.wait_for(ws.recv(), self.silence)
                self.count += 1
                message = message.encode() if isinstance(message, str) else message
                if message[:1] == b"{":
                    await self.event(ws, json.loads(message))
                elif message[:1] == b"S":
                    await self.binary(ws, message)
                if self.count == self.cut_after:
                    ws.transport.abort()
                    raise ConnectionAbortedError

    async def send(self, ws: ClientConnection, message: Json) -> None:
        await ws.send(json.dumps(message, separators=(",", ":")))

    async def event(self, ws: ClientConnection, e: Json) -> None:
        self.story.messages.append(e)
        kind, job, seq = e.get("type"), e.get("job"), e.get("seq")
        if kind in ("accepted", "ok", "error", "pong") and e.get("ref") in self.pending:
            self.answer(e, self.pending.pop(e["ref"]))
        if kind == "snapshot" and isinstance(job, str):
            self.last[job] = e["seq"]
            self.held.pop(job, None)
            if e["reset"]:  # guess: after `trimmed` the pictures that I hold stay good
                self.story.images.clear()
            await self.view(ws, e, e["state"] in ENDS)
        elif isinstance(job, str) and isinstance(seq, int):
            if self.expected(job, seq):
                self.handle(job, seq, kind == "image")
                await self.view(ws, e, kind in ENDS)
            elif seq > self.last.get(job, 0):
                await self.watch_gap(ws, job)
        elif kind == "welcome":
            self.resumed, self.silence = e["resumed"], 2.5 * e["heartbeat_ms"] / 1000
        elif kind == "synced":
            self.resume, self.ready, self.tries = e["resume"], True, 0
            await self.repeat(ws)
        elif kind == "progress":
            self.story.progress.append(e["step"])
        elif kind == "goaway":  # guess: read on until the server closes, then wait
            self.wait = e["retry_after_ms"] / 1000

    def expected(self, job: str, seq: int) -> bool:
        last = self.last.get(job, 0)
        self.story.counts["repeats"] += seq <= last
        return seq == last + 1

    def handle(self, job: str, seq: int, image: bool) -> None:
        self.last[job] = seq
        self.story.handled.append(seq)
        self.story.image_seqs += [seq] if image else []

    def answer(self, e: Json, request: Json) -> None:
        if e["type"] == "accepted":
            self.story.job = e["job"]
        elif e["type"] == "error" and (request["type"] == "submit" or e["error"]["code"] == "job_not_found"):
            raise Stopped(e["error"]["code"], e["error"]["message"])

    async def repeat(self, ws: ClientConnection) -> None:
        if self.story.job and not self.resumed and not self.story.end:
            self.add_watch(self.story.job)
        for request in self.pending.values():
            if request["type"] == "watch":
                request["after"] = self.last.get(request["job"], 0)  # guess: not the stale number
            await self.send(ws, request)

    def add_watch(self, job: str) -> Json | None:
        if any(r["type"] == "watch" and r["job"] == job for r in self.pending.values()):
            return None
        ref = str(uuid.uuid4())
        self.pending[ref] = {"type": "watch", "ref": ref, "job": job, "after": self.last.get(job, 0)}
        return self.pending[ref]

    async def watch_gap(self, ws: ClientConnection, job: str) -> None:
        self.story.counts["gaps"] += 1
        request = self.add_watch(job)
        if request and self.ready:  # guess: a gap before `synced` is repaired right after it
            await self.send(ws, request)

    async def view(self, ws: ClientConnection, e: Json, end: bool) -> None:
        for image in [e, *e.get("images", ())]:
            if "url" in image and "index" in image:
                self.story.urls[image["index"]] = image["url"]
        if end:
            self.story.end = e
            await self.send(ws, {"type": "unwatch", "job": e["job"]})
            await self.send(ws, {"type": "bye"})

    async def binary(self, ws: ClientConnection, message: bytes) -> None:
        self.received += len(message)
        if (h := parse(message)) is None:
            self.story.counts["unreadable"] += 1  # guess: to refuse is to ignore, and it counts for the ack
        elif h.kind == 1:
            self.story.previews.append(Preview(h, message[h.data_offset :]))
        elif h.kind in (2, 3) and h.seq > self.last.get(h.job, 0):
            await self.chunk(ws, h, message)
        if self.hello["window"] > 0:  # guess: also before `synced`, else a long replay would stand still
            self.story.acked.append(self.received)
            await self.send(ws, {"type": "ack", "bytes": self.received})

    async def chunk(self, ws: ClientConnection, h: Header, message: bytes) -> None:
        seq, held = self.held.pop(h.job, (h.seq, b""))
        if seq != h.seq or h.chunk_offset == 0:
            held = b""  # a new picture, or the same one from its beginning
        whole, fits = bool(h.flags & 1), self.expected(h.job, h.seq) and h.chunk_offset == len(held)
        held += message[h.data_offset :]
        if not fits or (whole and len(held) != h.total_size):
            await self.watch_gap(ws, h.job)
            return
        if metadata := message[HEADER.size : h.data_offset].strip():
            self.story.metadata.setdefault(h.seq, {}).update(json.loads(metadata))
        if not whole:
            self.held[h.job] = (h.seq, held)
            return
        self.handle(h.job, h.seq, True)
        if h.kind == 2:
            self.story.images[h.image_index] = held
        else:
            self.story.auxiliary.append(held)


class Newcomer:
    """`url` is the whole address of the stream, with `/v1/stream`."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    async def picture(
        self, prompt: str, *, steps: int, width: int = 64, height: int = 64, previews: Json | None = None,
        finals: str = "inline", window: int = 0, max_message: int = 65535, params: Json | None = None,
        cut_after: int | None = None,
    ) -> Story:  # fmt: skip
        """Draw one picture; `cut_after` drops the connection once, after that many received messages."""
        hello: Json = {"type": "hello", "v": 1, "token": self.key, "agent": "newcomer/1"}
        hello |= {"finals": finals, "max_message": max_message, "window": window}
        hello |= {} if previews is None else {"previews": previews}
        drawing = {"prompt": prompt, "width": width, "height": height, "steps": steps, **(params or {})}
        submit: Json = {"type": "submit", "ref": str(uuid.uuid4()), "task": "txt2img", "params": drawing}
        return await _Run(self.url, hello, submit, cut_after).follow()

    async def fetch(self, url: str) -> bytes:
        return await asyncio.to_thread(lambda: bytes(urllib.request.urlopen(url, timeout=30).read()))
