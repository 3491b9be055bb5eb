"""The one WebSocket to a ComfyUI server, for all its prompts: always read, and never waiting for a reader of ours.

The server sends to all its clients one after the other, so a client that stops reading silences everybody. What comes
is therefore sorted at once into a bounded `Mailbox` for each prompt, where the newest preview takes the place of the
one before and steps give way to later ones.

Each connection has a new client id: a second socket under an id whose first is not wholly closed would in the end hear
nothing. A prompt's events go to the id it was sent with, so after a reconnect those already sent must be asked for;
a mailbox wakes its reader then, and at every change of the server's queue.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Final

import aiohttp

from gateway.core.reports import Outcome, PreviewMade, StepDone, UpstreamFault
from gateway.upstreams.comfyui.events import Ended, Event, Frame, Note, Track, parse_frame, parse_text

FLAGS: Final = '{"type":"feature_flags","data":{"supports_preview_metadata":true}}'
"""Must be the first thing said on a connection; after anything else the server passes over it."""
_MOST_NOTES: Final = 64
"""What waits in a mailbox for a slow reader: some ten seconds of steps."""
_LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to connect."""

Connect = Callable[[str], AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]]
"""Opens a socket under a client id."""


class Mailbox:
    """What was heard of one prompt and not read yet."""

    def __init__(self, prompt_id: str, track: Track) -> None:
        self.prompt_id = prompt_id
        self.track = track
        self.client_id: str | None = None
        """Whom the server tells of this prompt."""
        self.was_found = False
        """Whether it was not sent here now, but looked up."""
        self.heard_before = -1
        """How much had been heard when the prompt was sent; each prompt that is taken makes the server speak."""
        self._notes: deque[Note] = deque()
        self._news = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether the last word on the prompt is here."""
        return any(isinstance(note, Ended) for note in self._notes)

    def put(self, notes: Sequence[Note]) -> None:
        """Keep what was heard, and let go what it makes worthless."""
        for note in notes:
            if isinstance(note, PreviewMade):
                self._drop(PreviewMade)
            elif len(self._notes) >= _MOST_NOTES:
                self._drop(StepDone)
            self._notes.append(note)
        if notes:
            self._news.set()

    def nudge(self) -> None:
        """Wake the reader although nothing was heard."""
        self._news.set()

    async def next(self, seconds: float) -> Note | None:
        """Return the next note; `None` if for so long there is none, or the reader should look for itself."""
        if not self._notes:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return None
        self._news.clear()
        if not self._notes:
            return None
        note = self._notes.popleft()
        if self._notes:
            self._news.set()
        return note

    def _drop(self, kind: type[PreviewMade | StepDone]) -> None:
        """Let the oldest note of a kind go."""
        for note in self._notes:
            if isinstance(note, kind):
                self._notes.remove(note)
                return


class Ear:
    """Keeps the socket open while somebody listens, reads it without end, and sorts what comes."""

    def __init__(self, connect: Connect, *, patience_seconds: float) -> None:
        self._connect = connect
        self._patience_seconds = patience_seconds
        self._boxes: dict[str, Mailbox] = {}
        self._wanted = asyncio.Event()
        self._attempt: asyncio.Future[None] | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._running: str | None = None
        """The prompt that was last told to be at work: what a picture without a name belongs to."""
        self.client_id: str | None = None
        """The id of the connection that is open now."""
        self.heard = 0
        """Messages so far, whoever's."""
        self.previews = 0
        """Previews of ours so far."""

    @contextmanager
    def listening(self, box: Mailbox) -> Iterator[None]:
        """Sort what comes for a prompt into its mailbox; registered before the prompt is sent, none of it is missed."""
        self._boxes[box.prompt_id] = box
        self._wanted.set()
        try:
            yield
        finally:
            self._boxes.pop(box.prompt_id, None)
            if not self._boxes:
                self._wanted.clear()

    def rename(self, box: Mailbox, prompt_id: str) -> None:
        """The server calls a prompt by another id than ours: an old one makes them itself."""
        if prompt_id != box.prompt_id:
            self._boxes.pop(box.prompt_id, None)
            box.prompt_id = prompt_id
            self._boxes[prompt_id] = box

    async def ready(self) -> str:
        """Return the id of an open connection, after waiting for one attempt; raises `UpstreamFault` `NOT_SENT`."""
        if self.client_id is None:
            if self._attempt is None:
                self._attempt = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_seconds):
                    await asyncio.shield(self._attempt)
        if self.client_id is None:
            message = "there is no connection to the vendor's socket"
            raise UpstreamFault(Outcome.NOT_SENT, "model_unavailable", message)
        return self.client_id

    async def renew(self, client_id: str | None) -> None:
        """Give a connection up that hears nothing; who listens opens another."""
        if self._socket is not None and client_id == self.client_id:
            await self._socket.close()

    async def listen(self) -> None:
        """Read the socket, and open it again when it breaks, for ever."""
        pause = 0.0
        while True:
            await self._wanted.wait()
            heard = self.heard
            try:
                await self._listen_once(uuid.uuid4().hex)
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # `ready` tells those who need it; all others look for themselves
            finally:
                self._lose()
            pause = 0.05 if self.heard > heard else min(max(0.05, pause * 2), _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _listen_once(self, client_id: str) -> None:
        async with self._connect(client_id) as socket:
            await socket.send_str(FLAGS)
            self._socket, self.client_id = socket, client_id
            self._settle()
            async for message in socket:
                self.heard += 1
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._take(parse_text(message.data))
                elif message.type is aiohttp.WSMsgType.BINARY:
                    self._take_frame(parse_frame(message.data))

    def _lose(self) -> None:
        self._socket = self.client_id = self._running = None
        self._settle()
        for box in self._boxes.values():
            box.nudge()

    def _settle(self) -> None:
        """Let those go on who wait for the attempt to connect."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done():
            attempt.set_result(None)

    def _take(self, event: Event | None) -> None:
        if event is None:
            return
        if event.kind == "status":
            self._nudge_strays()
        if event.prompt_id is None:
            return
        if event.kind in ("executing", "progress"):
            self._running = None if event.node is None else event.prompt_id
        box = self._boxes.get(event.prompt_id)
        if box is not None:
            box.put(box.track.take(event))

    def _take_frame(self, frame: Frame | None) -> None:
        # Without a name, a picture is the running prompt's, and that may be a stranger's.
        name = None if frame is None else frame.prompt_id or self._running
        box = self._boxes.get(name) if name is not None else None
        if box is not None and frame is not None:
            self.previews += 1
            box.put(box.track.take_frame(frame))

    def _nudge_strays(self) -> None:
        """The queue has changed: the prompts of earlier connections may have ended, and nobody will tell."""
        for box in self._boxes.values():
            if box.client_id not in (None, self.client_id):
                box.nudge()


def connector(
    session: Callable[[], aiohttp.ClientSession],
    url: str,
    headers: Callable[[], dict[str, str]],
    *,
    connect_seconds: float,
    most_bytes: int,
    heartbeat_seconds: float,
) -> Connect:
    """Return what opens a socket: without compression, which JPEG gains nothing from, and without an `Origin`."""

    @asynccontextmanager
    async def connect(client_id: str) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
        async with asyncio.timeout(connect_seconds):
            socket = await session().ws_connect(
                f"{url}/ws",
                params={"clientId": client_id},
                headers=headers(),
                timeout=aiohttp.ClientWSTimeout(ws_close=0.3),
                heartbeat=heartbeat_seconds,
                max_msg_size=most_bytes,
                compress=0,
            )
        try:
            yield socket
        finally:
            await socket.close()

    return connect
