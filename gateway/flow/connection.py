"""One client's connection: performs what its session machine asks, and lets out what its delivery may.

Messages are handled one after the other, so that an upload is stored before the submit that names it. What goes out
about jobs does not wait for that: whatever changes a job calls `changed`, and the frames that may go are written within
that call. There is one timer, and no task but the one that reads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from math import inf
from typing import Any, ClassVar, Final, Protocol

import msgspec
from msgspec import UNSET

from gateway.core.records import Identity, JobRecord, SessionRecord
from gateway.flow.feeds import Feed
from gateway.flow.node import Node
from gateway.flow.pictures import told
from gateway.flow.sessions import Reason
from protocol.codec import encode, error_body
from protocol.errors import ClientFault
from protocol.ladder import Rung
from protocol.messages import (
    Bye,
    Cancel,
    Error,
    GoAway,
    Have,
    Ok,
    Prefs,
    Submit,
    Synced,
    Unwatch,
    Watch,
)
from protocol.session import (
    CheckHello,
    Close,
    Effect,
    PauseReading,
    Perform,
    Phase,
    Pump,
    Send,
    ServerSession,
    StoreUpload,
)
from protocol.tail import Tail
from protocol.wire import text_frame

MAX_UPLOADS_KNOWN: Final = 256
Handler = Callable[[Any, Any], Awaitable[None]]
"""A method of `Connection`, and what it takes."""


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


class Connection:
    """See `gateway.ports.Watcher`; the edge calls `receive`, `byte_received`, `drained` and `gone`."""

    def __init__(self, node: Node, socket: Socket, identity: Identity | None) -> None:
        self._node = node
        self._socket = socket
        self.identity = identity
        now = node.clock.now()
        self.machine = ServerSession(node.limits, node.timing, now, authenticated=identity is not None)
        self.session: SessionRecord | None = None
        self._tails: dict[str, Tail] = {}
        self._uploads: dict[str, str] = {}
        self._replay: dict[str, int] = {}
        self._replayed = 0
        self._synced_due = False
        self._old_positions = False
        self._taken = 0
        self._backlog = 0
        self._holding = False
        """Nothing of jobs goes out for now: an answer must go first."""
        self._fetching: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._rearm()

    def __repr__(self) -> str:
        return f"Connection({self.session}, {self.machine!r})"

    # --- what the edge tells ---

    async def receive(self, raw: bytes) -> None:
        """Handle one whole message; returns when everything that it asks for is done."""
        for effect in self.machine.receive(raw, self._node.clock.now()):
            await self._perform(effect)
        self._rearm()

    def byte_received(self) -> None:
        """Something came from the client."""
        self.machine.byte_received(self._node.clock.now())

    def drained(self) -> None:
        """The socket is below its mark again."""
        self._pump()

    async def gone(self) -> None:
        """The socket is closed: leave every feed; the session lives on for a while."""
        self.machine.closed()
        if self._timer is not None:
            self._timer.cancel()
        for job in list(self._tails):
            self._node.feeds.leave(job, self)
        await self._node.sessions.disconnected(self)

    def close(self, name: str) -> None:
        """End the connection with the close code of this name."""
        self._close(Close(name))

    def go_away(self, reason: Reason, retry_after_ms: int, close: str) -> None:
        """Tell the client to come back later, then close."""
        if self.machine.phase is not Phase.CLOSED:
            self._write(text_frame(encode(GoAway(reason=reason, retry_after_ms=retry_after_ms))))
            self.close(close)

    # --- Watcher ---

    def changed(self, job: str) -> None:
        """See `gateway.ports.Watcher`."""
        if self.machine.phase is Phase.LIVE:
            self.machine.delivery.mark(job)
            if self._socket.has_room() and not self._holding:
                self._pump()
            else:
                self._note_wait(job)

    def rung(self, job: str) -> Rung | None:
        """See `gateway.ports.Watcher`."""
        cursor = self.machine.delivery.cursors.get(job)
        return None if cursor is None else cursor.rung

    # --- out ---

    def _write(self, frame: bytes) -> None:
        self._socket.write(frame)
        self.machine.sent(self._node.clock.now())

    def _pump(self) -> None:
        """Let out what may go, until the socket is over its mark."""
        if self.machine.phase is not Phase.LIVE:
            return
        delivery, now = self.machine.delivery, self._node.clock.now()
        if self._socket.has_room():
            for frame in delivery.pump(self._tails, self._node.blobs.blobs, now, self._node.clock.time_ms()):
                self._write(frame)
                if not self._socket.has_room():
                    break
        if self._synced_due:
            self._finish_replay()
        if delivery.missing:
            self._fetch()
        if delivery.stepped_down:
            self._want_smaller()
        if delivery.dirty:
            delivery.held_up(self._tails, now)
            self._rearm()

    def _want_smaller(self) -> None:
        """Have the newest preview made for rungs that jobs were just stepped down to."""
        stepped, self.machine.delivery.stepped_down = self.machine.delivery.stepped_down, set()
        for job in stepped:
            self._want(job)

    def _want(self, job: str) -> None:
        feed, rung = self._node.feeds.get(job), self.rung(job)
        if feed is not None and rung is not None:
            self._node.feeds.want(feed, rung)

    def _note_wait(self, job: str) -> None:
        """A number that comes while the socket takes nothing waits from now on, though nothing is pumped."""
        cursor, tail = self.machine.delivery.cursors.get(job), self._tails.get(job)
        if cursor is not None and tail is not None and cursor.waiting_since is None and not cursor.is_at(tail.head):
            cursor.waiting_since = self._node.clock.now()
            self._rearm()

    def _finish_replay(self) -> None:
        """Send `synced` once every number of the replay went out."""
        cursors = self.machine.delivery.cursors
        if all(job not in cursors or cursors[job].is_at(seq) for job, seq in self._replay.items()):
            self._synced_due = False
            self._replay.clear()
            assert self.session is not None, "a replay belongs to a session"
            resume = self._node.sessions.resume_token(self.session, old_positions=self._old_positions)
            self._write(text_frame(encode(Synced(resume=resume, replayed=self._replayed))))

    def _fetch(self) -> None:
        """Have the bytes of finals fetched, once each."""
        for job, asset in self.machine.delivery.missing.items():
            if asset not in self._fetching:
                self._fetching.add(asset)
                self._node.supervisor.start(self._fetch_one(job, asset), f"final {asset}")
        self.machine.delivery.missing.clear()

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

    # --- time ---

    def _rearm(self) -> None:
        """Set the timer for the machine's deadline, unless one rings before."""
        deadline = self.machine.deadline()
        if deadline >= self._timer_at or self.machine.phase is Phase.CLOSED:
            return
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.001, deadline - self._node.clock.now())
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, inf
        self._note_reading()
        for effect in self.machine.timeout(self._node.clock.now(), self._node.clock.time_ms()):
            match effect:
                case Send(frame):
                    self._socket.write(frame)
                case Pump():
                    self._pump()
                case Close():
                    self._close(effect)
                case _:
                    raise AssertionError(f"{effect} is not an effect of time")
        self._rearm()

    def _note_reading(self) -> None:
        """Take a backlog that moves for life: a slow reader's pong waits behind all that it has yet to read.

        Without a backlog, bytes that leave say nothing: the kernel takes a few also when nobody is there.
        """
        taken, backlog = self._socket.progress()
        if self._backlog and taken > self._taken:
            self.byte_received()
        self._taken, self._backlog = taken, backlog

    # --- effects ---

    async def _perform(self, effect: Effect) -> None:
        await self._EFFECTS[type(effect)](self, effect)

    async def _send(self, effect: Send) -> None:
        self._write(effect.frame)

    async def _pump_now(self, _: Pump) -> None:
        self._pump()

    async def _pause(self, effect: PauseReading) -> None:
        # The edge reads the next message only when this returns, and so does the network behind it.
        await asyncio.sleep(max(0.0, effect.until - self._node.clock.now()))

    async def _close_now(self, effect: Close) -> None:
        self._close(effect)

    def _close(self, effect: Close) -> None:
        if self.machine.phase is not Phase.CLOSED:
            self._node.meter.count("closes", code=str(effect.code))
        self.machine.closed()
        self._socket.close(effect.code, effect.name)

    async def _store_upload(self, effect: StoreUpload) -> None:
        identity = self._known()
        try:
            record = await self._node.pictures.store_input(identity.tenant, effect.upload.content)
        except ClientFault as fault:
            self.machine.upload_referenced(effect.upload.id)
            self._tell(Error(error=error_body(fault), upload=effect.upload.id))
            return
        if len(self._uploads) >= MAX_UPLOADS_KNOWN:
            self._uploads.pop(next(iter(self._uploads)))
        self._uploads[effect.upload.id] = record.id
        self._tell(told(record, self._node.asset_retention_ms, effect.upload.id))

    async def _answer(self, effect: Perform) -> None:
        """Do what a message asks; a refusal is told with its `ref`, and has changed nothing."""
        message = effect.message
        try:
            await self._MESSAGES[type(message)](self, message)
        except ClientFault as fault:
            job = getattr(message, "job", UNSET)
            self._tell(Error(error=error_body(fault), ref=message.ref, job=job))

    def _tell(self, message: msgspec.Struct) -> None:
        self._write(text_frame(encode(message)))

    def _ok(self, message: Cancel | Watch | Unwatch | Prefs | Bye, job: str | None = None) -> None:
        if message.ref is not UNSET:
            self._tell(Ok(ref=message.ref, job=UNSET if job is None else job))

    def _known(self) -> Identity:
        assert self.identity is not None, "nothing but hello is performed before the client is known"
        return self.identity

    # --- hello ---

    async def _open(self, effect: CheckHello) -> None:
        hello, sessions = effect.hello, self._node.sessions
        if self.identity is None:
            self.identity = await sessions.identify(hello)
        if self.identity is None:
            self.close("unauthorized")
            return
        if sessions.draining:
            self.go_away("drain", sessions.retry_after_ms(), "going_away")
            return
        if not sessions.admit(self):
            self.go_away("connection_limit", sessions.retry_after_ms(), "connection_limit")
            return
        opened = await sessions.open(self, hello)
        self.session, self._old_positions = opened.session, opened.old_positions
        if self.machine.phase is Phase.CLOSED:
            return  # another connection resumed the same session meanwhile, or the node began to drain
        self.machine.opened(hello, sessions.auth_ends(self.identity))
        self._socket.allow_messages_of(self._node.largest_message)
        self._tell(sessions.welcome(opened.session, resumed=opened.resumed))
        await self._begin_replay(hello.have if opened.resumed else [], opened.jobs)

    async def _begin_replay(self, have: list[Have], jobs: Iterable[str]) -> None:
        """Watch the session's jobs from what the client has; `synced` follows when all of it went out."""
        positions = {one.job: one.seq for one in have}
        for job in jobs:
            after = positions.get(job, 0)
            feed = await self._feed_of(job)
            if feed is None:
                continue
            # Asked of the feed and not of the row: the end may be committed and not yet told here.
            if feed.has_ended and after == feed.tail.head and not self._old_positions:
                await self._handled(job)
            elif not self._is_full(job):  # else the client watches what it still lacks
                self._replay[job] = feed.tail.head
                self._replayed += max(0, feed.tail.head - after)
                self._follow(feed, after, owner=True)
        self._synced_due = True
        self._pump()

    async def _feed_of(self, job: str) -> Feed | None:
        try:
            return await self._node.feeds.open(job)
        except ClientFault:
            return None

    # --- messages ---

    def _follow(
        self, feed: Feed, after: int, *, owner: bool, message: Watch | Submit | None = None, is_new: bool = False
    ) -> None:
        """Put a cursor on a job; where its log cannot be continued from `after`, a snapshot comes first."""
        job = feed.tail.job
        previews = UNSET if message is None else message.previews
        finals = UNSET if message is None else message.finals
        self._check_room(job)
        cursor = self.machine.delivery.watch(
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

    def _is_full(self, job: str) -> bool:
        return job not in self._tails and len(self._tails) >= self._node.limits.max_watch

    def _check_room(self, job: str) -> None:
        if self._is_full(job):
            raise ClientFault("concurrency_limit", f"at most {self._node.limits.max_watch} jobs are watched at once")

    async def _handled(self, job: str) -> None:
        """The client has handled a job's end, if it has one: the job leaves the session."""
        if self.session is not None:
            await self._node.sessions.handled(job, self.session)

    async def _submit(self, message: Submit) -> None:
        self._check_room("")
        session = None if self.session is None else self.session.id
        made = await self._node.admission.submit(self._known(), message, self._uploads, session)
        for one in message.inputs:
            if one.upload is not UNSET:
                self.machine.upload_referenced(one.upload)
        feed = await self._node.feeds.open(made.job.id)
        # At once, and not as the log's first event: a watch that comes before that went out would put the cursor
        # behind it, two of one ref would share an answer, and a log that was cut has it no more.
        self._write(feed.tail.told(made.accepted, self._node.clock.time_ms()))
        self._follow(feed, made.accepted.seq, owner=True, message=message, is_new=not made.duplicate)
        self._pump()

    async def _cancel(self, message: Cancel) -> None:
        job = await self._job(message.job, message.grant, "cancel")
        self._ok(message, job.id)
        await self._node.admission.cancel(job, "client")

    async def _watch(self, message: Watch) -> None:
        feed = await self._node.feeds.open(message.job)
        owner = self._owns(feed.tenant, feed.subject)
        if not owner:
            self._check_grant(message.job, message.grant, "watch")
        self._follow(feed, message.after, owner=owner, message=message)
        self._ok(message, message.job)
        self._pump()

    async def _unwatch(self, message: Unwatch) -> None:
        self._tails.pop(message.job, None)
        self.machine.delivery.unwatch(message.job)
        self._node.feeds.leave(message.job, self)
        await self._handled(message.job)
        self._ok(message, message.job)

    async def _prefer(self, message: Prefs) -> None:
        job = None if message.job is UNSET else message.job
        if job is not None and job not in self._tails:
            raise ClientFault("job_not_found", "this connection does not watch the job", details={"path": "job"})
        previews = None if message.previews is UNSET else message.previews
        self.machine.delivery.prefer(job, previews, None if message.finals is UNSET else message.finals)
        for one in list(self._tails) if job is None else [job]:
            self._want(one)
        self._ok(message)
        self._pump()

    async def _bye(self, message: Bye) -> None:
        self._ok(message)
        if self.session is not None:
            await self._node.sessions.end(self.session.id)
            self.session = None
        self.close("normal")

    async def _job(self, job: str, grant: str | msgspec.UnsetType, right: Any) -> JobRecord:
        """Return a job that this client may touch. Raises `ClientFault`, the same for unknown and for others'."""
        record = await self._node.jobs.find(job)
        if record is None or not self._owns(record.tenant, record.subject):
            self._check_grant(job, grant, right)
        if record is None:
            raise ClientFault("job_not_found", "there is no such job", details={"path": "job"})
        return record

    def _owns(self, tenant: str, subject: str) -> bool:
        identity = self._known()
        return (identity.tenant, identity.subject) == (tenant, subject)

    def _check_grant(self, job: str, grant: str | msgspec.UnsetType, right: Any) -> None:
        if grant is UNSET:
            raise ClientFault("job_not_found", "there is no such job", details={"path": "job"})
        self._node.access.check_grant(grant, job, right)

    _EFFECTS: ClassVar[dict[type, Handler]] = {
        Send: _send,
        Pump: _pump_now,
        PauseReading: _pause,
        Close: _close_now,
        StoreUpload: _store_upload,
        Perform: _answer,
        CheckHello: _open,
    }
    _MESSAGES: ClassVar[dict[type, Handler]] = {
        Submit: _submit,
        Cancel: _cancel,
        Watch: _watch,
        Unwatch: _unwatch,
        Prefs: _prefer,
        Bye: _bye,
    }
