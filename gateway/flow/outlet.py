"""What goes out on one connection: answers at once, and about jobs what its delivery may let out.

An outlet watches the jobs of its connection and is the one who writes. What changes a job calls `changed`, and the
frames that may go are written within that call. It knows nothing of what the client says: the connection tells it whom
to follow and from where.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec
from msgspec import UNSET

from gateway.core.records import SessionRecord
from gateway.flow.alarm import Alarm
from gateway.flow.feeds import Feed
from gateway.flow.node import Node
from gateway.flow.sessions import Opened
from protocol.codec import encode
from protocol.errors import CLOSES, ClientFault
from protocol.ladder import Rung
from protocol.messages import Finals, Have, Previews, Submit, Synced, Watch
from protocol.session import Phase, ServerSession
from protocol.tail import Tail
from protocol.wire import text_frame


class Socket(Protocol):
    """The transport under a connection."""

    def write(self, frame: bytes) -> None:
        """Write a finished WebSocket frame."""
        ...

    def has_room(self) -> bool:
        """Whether the write buffer is below the high-water mark."""
        ...

    def progress(self) -> tuple[int, int]:
        """Bytes that have left the write buffer so far, and bytes still in it."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        ...

    def allow_messages_of(self, max_bytes: int) -> None:
        """Let the client send messages of up to `max_bytes` from now on."""
        ...


@dataclass(frozen=True, slots=True)
class _Replay:
    """What must have gone out before `synced` does."""

    session: SessionRecord
    heads: dict[str, int]
    """The last number of each job when its replay began."""
    replayed: int
    """How many numbers that is."""


class Outlet:
    """See `gateway.ports.Watcher`. Whoever changes what the machine's delivery wants calls `pump` afterwards."""

    def __init__(self, node: Node, socket: Socket, machine: ServerSession, alarm: Alarm) -> None:
        self._node = node
        self._socket = socket
        self._machine = machine
        self._alarm = alarm
        self._tails: dict[str, Tail] = {}
        self._replay: _Replay | None = None
        self._old_positions = False
        self._holding = False
        """Nothing of jobs goes out for now: an answer must go first."""
        self._fetching: set[str] = set()
        self._is_over = False
        """A close was sent, or the client is gone."""

    # --- at once ---

    def write(self, frame: bytes) -> None:
        """Write a frame whatever the socket's state; it counts as a sign of life to the client."""
        self._socket.write(frame)
        self._machine.sent(self._node.clock.now())

    def tell(self, message: msgspec.Struct) -> None:
        """Write a message of ours."""
        self.write(text_frame(encode(message)))

    def close(self, name: str) -> None:
        """End the connection with the close code of this name."""
        code = CLOSES[name].number
        if not self._is_over:  # the machine is closed already where it was the one that said so
            self._is_over = True
            self._node.meter.count("closes", code=str(code))
        self._machine.closed()
        self._socket.close(code, name)

    # --- Watcher ---

    def changed(self, job: str) -> None:
        """See `gateway.ports.Watcher`."""
        if self._machine.phase is Phase.LIVE:
            self._machine.delivery.mark(job)
            if self._socket.has_room() and not self._holding:
                self.pump()
            else:
                self._note_wait(job)

    def rung(self, job: str) -> Rung | None:
        """See `gateway.ports.Watcher`."""
        cursor = self._machine.delivery.cursors.get(job)
        return None if cursor is None else cursor.rung

    # --- which jobs ---

    def watches(self, job: str) -> bool:
        """Whether the connection follows the job."""
        return job in self._tails

    def is_full(self, job: str) -> bool:
        """Whether the job is one too many to follow."""
        return job not in self._tails and len(self._tails) >= self._node.limits.max_watch

    def check_room(self, job: str) -> None:
        """Raise `ClientFault` `concurrency_limit` if the job is one too many to follow."""
        if self.is_full(job):
            raise ClientFault("concurrency_limit", f"at most {self._node.limits.max_watch} jobs are watched at once")

    def follow(
        self, feed: Feed, after: int, *, owner: bool, message: Watch | Submit | None = None, is_new: bool = False
    ) -> None:
        """Put a cursor on a job; where its log cannot be continued from `after`, a snapshot comes first.

        Nothing goes out within this call: the caller answers, then calls `pump`. Raises `ClientFault`
        `concurrency_limit`.
        """
        job = feed.tail.job
        previews = UNSET if message is None else message.previews
        finals = UNSET if message is None else message.finals
        self.check_room(job)
        cursor = self._machine.delivery.watch(
            job, after, owner=owner, previews=None if previews is UNSET else previews,
            finals=None if finals is UNSET else finals,
        )  # fmt: skip
        if after > feed.tail.head or (self._old_positions and after > 0 and job not in self._tails and not is_new):
            cursor.snapshot = "store_reset"
        elif feed.tail.trimmed and after < feed.tail.head:
            cursor.snapshot = "trimmed"
        self._tails[job] = feed.tail
        self._holding = True  # a preview that is at hand would go out within `follow`, before the answer
        self._node.feeds.follow(feed, self)
        self._holding = False

    def prefer(self, job: str | None, previews: Previews | None, finals: Finals | None) -> None:
        """Change what is wanted of a job that is followed, or of all and of those to come; `None` leaves as it is."""
        self._machine.delivery.prefer(job, previews, finals)
        for one in list(self._tails) if job is None else [job]:
            self._want(one)

    def leave(self, job: str) -> None:
        """Follow a job no more."""
        self._tails.pop(job, None)
        self._machine.delivery.unwatch(job)
        self._node.feeds.leave(job, self)

    def leave_all(self) -> None:
        """Leave every feed: the connection is gone."""
        self._is_over = True
        for job in list(self._tails):
            self._node.feeds.leave(job, self)

    # --- replay ---

    async def replay(self, opened: Opened, have: list[Have]) -> None:
        """Follow the session's jobs from what the client has; `synced` goes out when all of it went out."""
        self._old_positions = opened.old_positions
        positions = {one.job: one.seq for one in have}
        heads: dict[str, int] = {}
        replayed = 0
        for job in opened.jobs:
            after = positions.get(job, 0)
            feed = await self._feed_of(job)
            if feed is None:
                continue
            # Asked of the feed and not of the row: the end may be committed and not yet told here.
            if feed.has_ended and after == feed.tail.head and not self._old_positions:
                await self._node.sessions.handled(job, opened.session)
            elif not self.is_full(job):  # else the client watches what it still lacks
                heads[job] = feed.tail.head
                replayed += max(0, feed.tail.head - after)
                self.follow(feed, after, owner=True)
        self._replay = _Replay(opened.session, heads, replayed)
        self.pump()

    async def _feed_of(self, job: str) -> Feed | None:
        try:
            return await self._node.feeds.open(job)
        except ClientFault:
            return None

    def _finish(self, replay: _Replay) -> None:
        """Send `synced` once every number of the replay went out."""
        cursors = self._machine.delivery.cursors
        if all(job not in cursors or cursors[job].is_at(head) for job, head in replay.heads.items()):
            self._replay = None
            resume = self._node.sessions.resume_token(replay.session, old_positions=self._old_positions)
            self.tell(Synced(resume=resume, replayed=replay.replayed))

    # --- as there is room ---

    def pump(self) -> None:
        """Let out what may go, until the socket is over its mark."""
        if self._machine.phase is not Phase.LIVE:
            return
        delivery, now = self._machine.delivery, self._node.clock.now()
        if self._socket.has_room():
            for frame in delivery.pump(self._tails, self._node.blobs.blobs, now, self._node.clock.time_ms()):
                self.write(frame)
                if not self._socket.has_room():
                    break
        if self._replay is not None:
            self._finish(self._replay)
        if delivery.missing:
            self._fetch()
        if delivery.stepped_down:
            self._want_smaller()
        if delivery.dirty:
            delivery.held_up(self._tails, now)
            self._alarm.rearm()

    def _note_wait(self, job: str) -> None:
        """A number that comes while the socket takes nothing waits from now on, though nothing is pumped."""
        cursor, tail = self._machine.delivery.cursors.get(job), self._tails.get(job)
        if cursor is not None and tail is not None and cursor.waiting_since is None and not cursor.is_at(tail.head):
            cursor.waiting_since = self._node.clock.now()
            self._alarm.rearm()

    def _want_smaller(self) -> None:
        """Have the newest preview made for rungs that jobs were just stepped down to."""
        stepped, self._machine.delivery.stepped_down = self._machine.delivery.stepped_down, set()
        for job in stepped:
            self._want(job)

    def _want(self, job: str) -> None:
        feed, rung = self._node.feeds.get(job), self.rung(job)
        if feed is not None and rung is not None:
            self._node.feeds.want(feed, rung)

    def _fetch(self) -> None:
        """Have the bytes of finals fetched, once each."""
        for job, asset in self._machine.delivery.missing.items():
            if asset not in self._fetching:
                self._fetching.add(asset)
                self._node.supervisor.start(self._fetch_one(job, asset), f"final {asset}")
        self._machine.delivery.missing.clear()

    async def _fetch_one(self, job: str, asset: str) -> None:
        feed = self._node.feeds.get(job)
        try:
            if feed is not None:
                await self._node.blobs.fetch(asset, partial(self._node.pictures.content, feed.tenant, asset))
        except ClientFault:
            self.close("internal")  # a final that was promised is gone; nothing that follows it may be sent
        finally:
            self._fetching.discard(asset)
        self.changed(job)
