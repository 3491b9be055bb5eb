"""One client's connection: performs what its session machine asks, when a message comes and when time does.

Messages are handled one after the other, so that an upload is stored before the submit that names it. What goes out
about jobs does not wait for that; it is the outlet's. There is one timer, and no task but the one that reads.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET

from gateway.core.records import Identity, JobRecord, SessionRecord
from gateway.core.scopes import Scope
from gateway.flow.access import Right
from gateway.flow.alarm import Alarm
from gateway.flow.node import Node
from gateway.flow.outlet import Outlet, Socket
from gateway.flow.pictures import told
from gateway.flow.sessions import Reason
from protocol.codec import error_body
from protocol.errors import ClientFault
from protocol.messages import Bye, Cancel, Error, GoAway, Ok, Prefs, Submit, Unwatch, Watch
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

MAX_UPLOADS_KNOWN: Final = 256
Handler = Callable[[Any, Any], Awaitable[None]]
"""A method of `Connection`, and what it takes."""


class Connection:
    """See `gateway.flow.sessions.Holder`; the edge calls `receive`, `byte_received`, `drained` and `gone`."""

    def __init__(self, node: Node, socket: Socket, identity: Identity | None) -> None:
        self._node = node
        self._socket = socket
        self.identity = identity
        now = node.clock.now()
        self.machine = ServerSession(node.limits, node.timing, now, authenticated=identity is not None)
        self.session: SessionRecord | None = None
        self._uploads: dict[str, str] = {}
        self._taken = 0
        self._backlog = 0
        self._alarm = Alarm(node.clock, self.machine.deadline, self._ring)
        self._outlet = Outlet(node, socket, self.machine, self._alarm)
        self._alarm.rearm()

    def __repr__(self) -> str:
        return f"Connection({self.session}, {self.machine!r})"

    # --- what the edge tells ---

    async def receive(self, raw: bytes) -> None:
        """Handle one whole message; returns when everything that it asks for is done."""
        for effect in self.machine.receive(raw, self._node.clock.now()):
            await self._perform(effect)
        self._alarm.rearm()

    def byte_received(self) -> None:
        """Something came from the client."""
        self.machine.byte_received(self._node.clock.now())

    def drained(self) -> None:
        """The socket is below its mark again."""
        self._outlet.pump()

    async def gone(self) -> None:
        """The socket is closed: leave every feed; the session lives on for a while."""
        self.machine.closed()
        self._alarm.cancel()
        self._outlet.leave_all()
        await self._node.sessions.disconnected(self)

    # --- Holder ---

    def close(self, name: str) -> None:
        """See `gateway.flow.sessions.Holder`."""
        self._outlet.close(name)

    def go_away(self, reason: Reason, retry_after_ms: int, close: str) -> None:
        """See `gateway.flow.sessions.Holder`."""
        if self.machine.phase is not Phase.CLOSED:
            self._tell(GoAway(reason=reason, retry_after_ms=retry_after_ms))
            self.close(close)

    # --- time ---

    def _ring(self) -> None:
        self._note_reading()
        for effect in self.machine.timeout(self._node.clock.now(), self._node.clock.time_ms()):
            match effect:
                case Send(frame):
                    self._socket.write(frame)
                case Pump():
                    self._outlet.pump()
                case Close(name):
                    self.close(name)
                case _:
                    raise AssertionError(f"{effect} is not an effect of time")

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
        self._outlet.write(effect.frame)

    async def _pump(self, _: Pump) -> None:
        self._outlet.pump()

    async def _pause(self, effect: PauseReading) -> None:
        # The edge reads the next message only when this returns, and so does the network behind it.
        await asyncio.sleep(max(0.0, effect.until - self._node.clock.now()))

    async def _close_now(self, effect: Close) -> None:
        self.close(effect.name)

    async def _store_upload(self, effect: StoreUpload) -> None:
        identity = self._known()
        try:
            identity.require("assets")
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
        self._outlet.tell(message)

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
            found = await sessions.identify(hello)
            if isinstance(found, str):
                self.close(found)
                return
            self.identity = found
        if sessions.draining:
            self.go_away("drain", sessions.retry_after_ms(), "going_away")
            return
        if not sessions.admit(self):
            self.go_away("connection_limit", sessions.retry_after_ms(), "connection_limit")
            return
        opened = await sessions.open(self, hello)
        self.session = opened.session
        self.identity = self.identity.narrowed(opened.session.restriction)
        if self.machine.phase is Phase.CLOSED:
            return  # another connection resumed the same session meanwhile, or the node began to drain
        self.machine.opened(hello, sessions.auth_ends(self.identity))
        self._socket.allow_messages_of(self._node.largest_message)
        self._tell(sessions.welcome(opened.session, resumed=opened.resumed))
        await self._outlet.replay(opened, hello.have if opened.resumed else [])

    # --- messages ---

    async def _submit(self, message: Submit) -> None:
        self._outlet.check_room("")
        session = None if self.session is None else self.session.id
        made = await self._node.admission.submit(self._known(), message, self._uploads, session)
        for one in message.inputs:
            if one.upload is not UNSET:
                self.machine.upload_referenced(one.upload)
        feed = await self._node.feeds.open(made.job.id)
        # At once, and not as the log's first event: a watch that comes before that went out would put the cursor
        # behind it, two of one ref would share an answer, and a log that was cut has it no more.
        self._outlet.write(feed.tail.told(made.accepted, self._node.clock.time_ms()))
        self._outlet.follow(feed, made.accepted.seq, owner=True, message=message, is_new=not made.duplicate)
        self._outlet.pump()

    async def _cancel(self, message: Cancel) -> None:
        job = await self._job(message)
        self._ok(message, job.id)
        await self._node.admission.cancel(job, "client")

    async def _watch(self, message: Watch) -> None:
        feed = await self._node.feeds.open(message.job)
        owner = self._owns(feed.tenant, feed.subject)
        # What it follows already it may read again: a watch is also how a gap is mended.
        if not (owner and self._outlet.watches(message.job)):
            self._check_right(message, "watch", "read", owner=owner)
        self._outlet.follow(feed, message.after, owner=owner, message=message)
        self._ok(message, message.job)
        self._outlet.pump()

    async def _unwatch(self, message: Unwatch) -> None:
        self._outlet.leave(message.job)
        if self.session is not None:  # the client has handled the job's end, if it has one: the job leaves the session
            await self._node.sessions.handled(message.job, self.session)
        self._ok(message, message.job)

    async def _prefer(self, message: Prefs) -> None:
        job = None if message.job is UNSET else message.job
        if job is not None and not self._outlet.watches(job):
            raise ClientFault("job_not_found", "this connection does not watch the job", details={"path": "job"})
        previews = None if message.previews is UNSET else message.previews
        self._outlet.prefer(job, previews, None if message.finals is UNSET else message.finals)
        self._ok(message)
        self._outlet.pump()

    async def _bye(self, message: Bye) -> None:
        self._ok(message)
        if self.session is not None:
            await self._node.sessions.end(self.session.id)
            self.session = None
        self.close("normal")

    async def _job(self, message: Cancel) -> JobRecord:
        """Return a job that this client may cancel. Raises `ClientFault`, the same for unknown and for others'."""
        record = await self._node.jobs.find(message.job)
        owner = record is not None and self._owns(record.tenant, record.subject)
        self._check_right(message, "cancel", "cancel", owner=owner)
        if record is None:
            raise ClientFault("job_not_found", "there is no such job", details={"path": "job"})
        return record

    def _owns(self, tenant: str, subject: str) -> bool:
        identity = self._known()
        return (identity.tenant, identity.subject) == (tenant, subject)

    def _check_right(self, message: Cancel | Watch, right: Right, scope: Scope, *, owner: bool) -> None:
        """Raise `ClientFault` unless the job is the client's own and its credential has the scope, or a grant does."""
        known = self._known()
        if owner and (scope in known.scopes or message.grant is UNSET):
            known.require(scope)
        elif message.grant is UNSET:
            raise ClientFault("job_not_found", "there is no such job", details={"path": "job"})
        else:
            self._node.access.check_grant(message.grant, message.job, right)

    _EFFECTS: ClassVar[dict[type, Handler]] = {
        Send: _send,
        Pump: _pump,
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
