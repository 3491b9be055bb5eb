"""A node and its connections.

Connections drive `ServerSession` and `Delivery` as those of `gateway/flow` do, but at once and on a clock that stands
still between steps.
"""

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from protocol.codec import encode, error_body
from protocol.delivery import Delivery
from protocol.errors import CLOSES, ClientFault
from protocol.header import Header, Kind, parse
from protocol.messages import (
    Accepted,
    Bye,
    Cancel,
    Error,
    GoAway,
    Have,
    Hello,
    Ok,
    Prefs,
    Previews,
    Submit,
    Synced,
    Unwatch,
    Watch,
    Welcome,
)
from protocol.session import CheckHello, Close, Perform, Phase, Pump, Send, ServerSession, Timing
from protocol.tail import Tail
from protocol.wire import text_frame
from tests.protocol.model.ledger import HELLOS, LIMITS, Link, SessionRow, Unsigned, payload_of

if TYPE_CHECKING:
    from tests.protocol.model.world import World


class _Fields(msgspec.Struct):
    """What order is judged by."""

    type: str
    job: str
    seq: int = 0


class Node:
    """One gateway process: tails and connections, nothing that is needed for a resume."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.tails: dict[str, Tail] = {}
        self.blobs: dict[str, bytes] = {}
        self.connections: list[Connection] = []
        self.is_draining = False

    def tail(self, job: str) -> Tail:
        """Return the job's tail, read from the ledger if nobody had it. Raises `ClientFault`."""
        row = self.world.ledger.jobs.get(job)
        if row is None:
            raise ClientFault("job_not_found", "there is no such job")
        if job not in self.tails:
            tail = self.tails[job] = Tail(job, Unsigned())
            tail.trimmed = row.is_trimmed
            tail.append(row.log[-1:] if row.is_trimmed else row.log)
        return self.tails[job]

    def poll(self) -> None:
        """Read what was appended elsewhere."""
        for job, tail in self.tails.items():
            log = self.world.ledger.jobs[job].log
            if len(log) > tail.head:
                tail.append(log[tail.head :])
                self.tell(job)

    def tell(self, job: str) -> None:
        for connection in list(self.connections):
            connection.changed(job)

    def renew(self) -> None:
        """Close the connections whose session was taken over or is gone."""
        for connection in list(self.connections):
            session = self.world.ledger.sessions.get(connection.session)
            if connection.session and (session is None or session.generation != connection.generation):
                connection.close("replaced")

    def drain(self) -> None:
        self.is_draining = True
        for connection in list(self.connections):
            if connection.machine.phase is not Phase.CLOSED:
                connection.write(text_frame(encode(GoAway(reason="drain", retry_after_ms=100))))
                connection.close("going_away")

    def restart(self) -> None:
        """Lose everything but the place."""
        for connection in list(self.connections):
            connection.gone()
        self.tails.clear()
        self.blobs.clear()
        self.is_draining = False


class Connection:
    """What `gateway/flow/connection.py` and `outlet.py` do, without waiting for anything."""

    def __init__(self, node: Node, link: Link, owner: int) -> None:
        self.node, self.link, self.owner = node, link, owner
        self.world = node.world
        self.machine = ServerSession(LIMITS, Timing(), self.world.now, authenticated=True)
        self.session = ""
        self.generation = 0
        self.tails: dict[str, Tail] = {}
        self.replay: dict[str, int] = {}
        self.replayed = 0
        self.is_synced_due = False
        self.is_epoch_old = False
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.preview_at: dict[str, float] = {}
        self.told_ends: set[str] = set()
        node.connections.append(self)

    @property
    def delivery(self) -> Delivery:
        return self.machine.delivery

    # In

    def receive(self, raw: bytes) -> None:
        self.machine.byte_received(self.world.now)
        for effect in self.machine.receive(raw, self.world.now):
            self.perform(effect)

    def ring(self) -> None:
        """The machine's time has come."""
        for effect in self.machine.timeout(self.world.now, self.world.time_ms):
            self.perform(effect)

    def gone(self) -> None:
        self.machine.closed()
        if self in self.node.connections:
            self.node.connections.remove(self)

    def perform(self, effect: object) -> None:
        match effect:
            case Send(frame):
                self.link.write(frame)
            case Pump():
                self.pump()
            case Close():
                self.close(effect.name)
            case CheckHello(hello):
                self.open(hello)
            case Perform(message):
                self.answer(message)
            case _:
                raise AssertionError(f"{effect} was not expected")

    # Out

    def write(self, frame: bytes) -> None:
        self.link.write(frame)
        self.machine.sent(self.world.now)

    def tell(self, message: msgspec.Struct) -> None:
        if isinstance(message, Ok | Error) and isinstance(message.ref, str):
            self.answered[message.ref] += 1
        self.write(text_frame(encode(message)))

    def close(self, name: str) -> None:
        self.link.close(CLOSES[name].number)
        self.gone()

    def changed(self, job: str) -> None:
        if self.machine.phase is Phase.LIVE:
            self.delivery.mark(job)
            self.pump()

    def pump(self) -> None:
        if self.machine.phase is not Phase.LIVE:
            return
        if self.link.has_room():
            for frame in self.delivery.pump(self.tails, self.node.blobs, self.world.now, self.world.time_ms):
                self.check(frame)
                self.write(frame)
                if not self.link.has_room():
                    break
        if self.is_synced_due:
            self.finish_replay()
        self.delivery.held_up(self.tails, self.world.now)
        missing = dict(self.delivery.missing)
        self.delivery.missing.clear()
        for job, asset in missing.items():
            self.node.blobs[asset] = self.world.ledger.blobs[asset]
            self.changed(job)

    def check(self, frame: bytes) -> None:
        """What goes out is in order, within the client's policy and its window (invariants 2 and 4)."""
        self.check_order(frame)
        message, delivery, hello = payload_of(frame), self.delivery, HELLOS[self.owner]
        if message[:1] == b"S":
            assert len(message) <= hello.max_message
            assert not delivery.window or delivery.sent_bytes - delivery.acked_bytes <= delivery.window
            header = parse(message)
            if header.kind == Kind.PREVIEW and isinstance(hello.previews, Previews):
                assert max(header.width, header.height) <= hello.previews.max_edge
                if isinstance(hello.previews.max_fps, float | int):
                    allowed = self.preview_at.get(header.job_id, -1) + 1 / hello.previews.max_fps
                    assert self.world.now >= allowed - 1e-9
                self.preview_at[header.job_id] = self.world.now

    def check_order(self, frame: bytes) -> None:
        """Nothing of a job follows its end, and nothing that passes is sent while a number waits."""
        message = payload_of(frame)
        fields = parse(message) if message[:1] == b"S" else msgspec.json.decode(message, type=_Fields)
        job = fields.job_id if isinstance(fields, Header) else fields.job
        passes = fields.kind == Kind.PREVIEW if isinstance(fields, Header) else fields.seq == 0
        assert job not in self.told_ends
        if isinstance(fields, _Fields) and fields.type in ("completed", "failed", "canceled"):
            self.told_ends.add(job)
        elif passes:
            assert self.delivery.cursors[job].is_at(self.tails[job].head)

    # Hello

    def open(self, hello: Hello) -> None:
        ledger = self.world.ledger
        if self.node.is_draining:
            self.write(text_frame(encode(GoAway(reason="connection_limit", retry_after_ms=100))))
            self.close("connection_limit")
            return
        session, epoch, is_stale = hello.resume.split(".") if isinstance(hello.resume, str) else ("", "", "")
        is_foreign = bool(epoch) and int(epoch) != ledger.epoch
        resumed = not is_foreign and session in ledger.sessions
        self.is_epoch_old = is_foreign or (self.world.tells_stale_positions and is_stale == "stale")
        if not resumed:
            session = ledger.name()
            ledger.sessions[session] = SessionRow(self.owner, ledger.number())
        row = ledger.sessions[session]
        assert row.owner == self.owner, "a session belongs to its subject"
        row.generation += 1
        self.session, self.generation = session, row.generation
        for older in self.node.connections:
            if older is not self and older.session == session:
                older.close("replaced")
                break
        self.machine.opened(hello)
        self.tell(
            Welcome(
                v=1, session=session, resumed=resumed, time_ms=self.world.time_ms, heartbeat_ms=15_000,
                session_ttl_ms=300_000, event_retention_ms=1, asset_retention_ms=1, currency="USD", features=[],
                limits=LIMITS,
            )
        )  # fmt: skip
        self.begin_replay(hello.have if resumed else [], row)

    def begin_replay(self, have: list[Have], session: SessionRow) -> None:
        positions = {one.job: one.seq for one in have}
        owned = {job for job in positions if (row := self.world.ledger.jobs.get(job)) and row.owner == self.owner}
        for job in sorted(session.jobs | owned):
            after = positions.get(job, 0)
            tail = self.node.tail(job)
            if tail.has_ended and after == tail.head and not self.is_epoch_old:
                session.jobs.discard(job)
                continue
            self.replay[job] = tail.head
            self.replayed += max(0, tail.head - after)
            self.follow(job, after, owner=True)
        self.is_synced_due = True
        self.pump()

    def finish_replay(self) -> None:
        cursors = self.delivery.cursors
        if all(job not in cursors or cursors[job].is_at(seq) for job, seq in self.replay.items()):
            self.is_synced_due = False
            kind = "stale" if self.is_epoch_old else "fresh"
            resume = f"{self.session}.{self.world.ledger.epoch}.{kind}"
            self.tell(Synced(resume=resume, replayed=self.replayed))

    # Messages

    def answer(self, message: Submit | Cancel | Watch | Unwatch | Prefs | Bye) -> None:
        if isinstance(message.ref, str):
            self.asked[message.ref] += 1
        try:
            match message:
                case Submit():
                    self.submit(message)
                case Cancel():
                    self.cancel(message)
                case Watch():
                    self.watch(message)
                case Unwatch():
                    self.unwatch(message)
                case _:
                    raise AssertionError(f"{message} was not expected")
        except ClientFault as fault:
            self.tell(Error(error=error_body(fault), ref=message.ref, job=getattr(message, "job", UNSET)))

    def follow(
        self, job: str, after: int, *, owner: bool, terms: Watch | Submit | None = None, is_new: bool = False
    ) -> None:
        tail = self.node.tail(job)
        self.told_ends.discard(job)
        previews = UNSET if terms is None else terms.previews
        finals = UNSET if terms is None else terms.finals
        cursor = self.delivery.watch(
            job, after, owner=owner, previews=None if previews is UNSET else previews,
            finals=None if finals is UNSET else finals,
        )  # fmt: skip
        # A client may have positions in a job that it asks for again, so that is a first watch as well.
        if after > tail.head or (self.is_epoch_old and after > 0 and job not in self.tails and not is_new):
            cursor.snapshot = "store_reset"
        elif tail.trimmed and after < tail.head:
            cursor.snapshot = "trimmed"
        self.tails[job] = tail

    def submit(self, message: Submit) -> None:
        row, is_duplicate = self.world.accept(message, self)
        first = row.log[0]
        assert isinstance(first, Accepted)
        self.follow(row.id, 1, owner=True, terms=message, is_new=not is_duplicate)
        # At once, and not as the log's first event: a watch that comes before that went out would put the cursor
        # behind it, and two of the same ref would share one answer.
        self.accepted[row.ref] += 1
        self.tell(msgspec.structs.replace(first, duplicate=is_duplicate))
        self.pump()

    def cancel(self, message: Cancel) -> None:
        row = self.world.ledger.jobs.get(message.job)
        if row is None or row.owner != self.owner:
            raise ClientFault("job_not_found", "there is no such job")
        self.ok(message)
        self.world.cancel(row, "client")

    def watch(self, message: Watch) -> None:
        self.node.tail(message.job)
        owner = self.world.ledger.jobs[message.job].owner == self.owner
        self.follow(message.job, message.after, owner=owner, terms=message)
        self.ok(message)
        self.pump()

    def unwatch(self, message: Unwatch) -> None:
        tail = self.tails.pop(message.job, None)
        self.preview_at.pop(message.job, None)
        self.delivery.unwatch(message.job)
        session = self.world.ledger.sessions.get(self.session)
        if session is not None and tail is not None and tail.has_ended:
            session.jobs.discard(message.job)
        self.ok(message)

    def ok(self, message: Cancel | Watch | Unwatch) -> None:
        if isinstance(message.ref, str):
            self.tell(Ok(ref=message.ref, job=message.job))
