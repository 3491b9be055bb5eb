"""A small world for the state machine of section 4.2: a ledger, two nodes, two clients, and the wires between them.

The ledger and the nodes are models: dicts in place of a store, and connections that drive `ServerSession` and
`Delivery` as `gateway/flow/connection.py` does, but at once and on a clock that stands still between steps. The
clients are the real `Replica`, with a user who keeps account of what it is handed and minds each mistake. A `Link` can
be cut at any message, stand still, or lose one silently.
"""

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import UNSET

from protocol.codec import encode, error_body
from protocol.delivery import Delivery
from protocol.errors import CLOSES, ClientFault
from protocol.header import Header, Kind, parse
from protocol.messages import (
    NUMBERED_TYPES,
    Accepted,
    Bye,
    Cancel,
    Canceled,
    Canceler,
    Completed,
    Error,
    ErrorBody,
    Failed,
    Finals,
    GoAway,
    Have,
    Hello,
    Image,
    ImageReady,
    Limits,
    Notice,
    Numbered,
    Ok,
    Prefs,
    Previews,
    Progress,
    Queued,
    Snapshot,
    Started,
    Submit,
    Synced,
    Timings,
    Unwatch,
    Watch,
    Welcome,
)
from protocol.replica import Replica
from protocol.replica_effects import (
    Answer,
    Deliver,
    ImageBytes,
    JobLost,
    Preview,
    Reconnect,
    Stop,
    ends_job,
)
from protocol.replica_effects import Effect as ClientEffect
from protocol.replica_effects import Send as ClientSend
from protocol.replica_states import State
from protocol.session import CheckHello, Close, Perform, Phase, Pump, Send, ServerSession, Timing
from protocol.tail import PreviewFacts, Tail
from protocol.wire import PING, text_frame

MAX_JOBS: Final = 12
MAX_UNFINISHED: Final = 3
HIGH_WATER: Final = 40_000
LIMITS: Final = Limits(msgs_per_s=100_000)
NODES: Final = (0, 1)
HELLOS: Final = (
    Hello(v=1, max_message=16384, window=40_000, finals="inline", previews=Previews(max_fps=2, max_edge=64)),
    Hello(v=1, max_message=65535, window=0, finals="url", previews=Previews()),
)


class Unsigned:
    """Links that nobody follows."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        return f"https://gw/{asset}", 1

    def events(self, job: str, time_ms: int) -> str:
        return f"https://gw/{job}"


class _Fields(msgspec.Struct):
    """What order is judged by."""

    type: str
    job: str
    seq: int = 0


def payload_of(frame: bytes) -> bytes:
    """Return the message in a frame."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


# The ledger


@dataclass
class Row:
    """A job: its log and what its worker knows."""

    id: str
    ref: str
    owner: int
    node: int
    images: int
    session: str | None
    cancel_with_session: bool
    log: list[Numbered] = field(default_factory=list)
    is_running: bool = False
    canceled_by: Canceler | None = None
    frames: int = 0
    steps: int = 0
    is_trimmed: bool = False

    @property
    def has_ended(self) -> bool:
        return isinstance(self.log[-1], Completed | Failed | Canceled)

    def fingerprints(self, upto: int) -> list[int]:
        """Return what tells the events up to a number from those of any other log: no two have the same time."""
        return [event.time_ms for event in self.log[:upto]]

    def pictures(self, upto: int) -> list[ImageReady]:
        return [event for event in self.log[:upto] if isinstance(event, ImageReady)]


@dataclass
class SessionRow:
    """A session: who has it, and how often it was taken over."""

    owner: int
    made: int
    generation: int = 0
    jobs: set[str] = field(default_factory=set)


@dataclass
class Ledger:
    """Everything that outlives a node."""

    epoch: int = 1
    jobs: dict[str, Row] = field(default_factory=dict)
    refs: dict[tuple[int, str], str] = field(default_factory=dict)
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    count: int = 0

    def number(self) -> int:
        """Return a number that was never used."""
        self.count += 1
        return self.count

    def name(self) -> str:
        """Return a new ULID, or what looks like one."""
        return f"{self.number():026d}"


# The wire


@dataclass(eq=False)
class Link:
    """One connection's network, both directions; `pass_up` and `pass_down` are how many messages still get through."""

    up: deque[bytes] = field(default_factory=deque)
    down: deque[bytes | int] = field(default_factory=deque)
    """Frames, or the code of the close."""
    pass_up: float = float("inf")
    pass_down: float = float("inf")
    losses: int = 0
    """How many of the next messages to the client vanish."""
    is_closed: bool = False
    """The server writes nothing more."""

    def has_room(self) -> bool:
        return sum(len(one) for one in self.down if isinstance(one, bytes)) <= HIGH_WATER and not self.is_closed

    def write(self, frame: bytes) -> None:
        if not self.is_closed:
            self.down.append(frame)

    def close(self, code: int) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.down.append(code)


# The server


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
    """What `gateway/flow/connection.py` does, without waiting for anything."""

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


# The client


class Client:
    """A user of the real machine, who keeps account of what it is handed."""

    def __init__(self, world: "World", index: int, chance: random.Random) -> None:
        self.world = world
        self.index = index
        self.chance = chance
        self.replica = Replica(HELLOS[index], chance)
        self.link: Link | None = None
        self.reconnect_at = 0.0
        self.acks = True
        self.held_acks: list[bytes] = []
        self.asked: Counter[str] = Counter()
        self.submits: dict[str, Submit] = {}
        self.handled: dict[str, list[int]] = {}
        self.indexes: dict[str, list[int]] = {}
        self.frames: dict[str, int] = {}
        self.ended: set[str] = set()
        """Jobs of which nothing more may be delivered."""
        self.wanted: set[str] = set()

    def begin_anew(self, hello: Hello) -> None:
        """Go on in another process, which knows what the hello says and nothing else."""
        self.replica = Replica(hello, self.chance)
        self.asked.clear()
        self.frames.clear()
        followed = {one.job: one.seq for one in hello.have}
        self.wanted = (self.wanted - self.ended) & followed.keys()
        self.ended.clear()
        self.handled = {job: self.handled[job][:seq] for job, seq in followed.items()}
        self.indexes = {job: self.indexes.get(job, []) for job in followed}

    # The driver

    def connect(self, node: Node) -> None:
        link = self.link = Link()
        self.world.links[link] = Connection(node, link, self.index)
        self.held_acks.clear()
        self.perform(self.replica.connected(self.world.now))

    def hang_up(self, code: int = 1006) -> None:
        """The connection ends as the client sees it; the server may not know."""
        self.link = None
        self.perform(self.replica.disconnected(code, self.world.now))

    def read(self, frame: bytes | int) -> None:
        """Take one thing from the wire."""
        if isinstance(frame, int):
            self.hang_up(frame)
        elif frame == PING:
            assert self.link is not None
            self.world.links[self.link].machine.byte_received(self.world.now)
        else:
            self.perform(self.replica.receive(payload_of(frame), self.world.now))

    def perform(self, effects: list[ClientEffect]) -> None:
        for effect in effects:
            match effect:
                case ClientSend(data):
                    self.send(data)
                case Deliver(event):
                    self.note(event)
                case Answer(ref, message):
                    self.take_answer(ref, message)
                case Reconnect(after_seconds):
                    self.link = None
                    self.reconnect_at = self.world.now + after_seconds
                case Stop():
                    raise AssertionError(f"nobody wanted {effect}")

    def send(self, data: bytes) -> None:
        if self.link is None:
            return
        if b'"type":"ack"' in data and not self.acks:
            self.held_acks.append(data)
        else:
            self.link.up.append(data)

    def resume_acks(self) -> None:
        self.acks = True
        for data in self.held_acks:
            self.send(data)
        self.held_acks.clear()

    # The user

    def submit(self, message: Submit) -> None:
        self.asked[message.ref] += 1
        self.submits[message.ref] = message
        self.perform(self.replica.submit(message))

    def cancel(self, job: str, ref: str) -> None:
        self.asked[ref] += 1
        self.perform(self.replica.cancel(Cancel(job=job, ref=ref)))

    def watch(self, job: str, after: int, ref: str, finals: Finals) -> None:
        self.asked[ref] += 1
        self.handled[job] = self.handled.get(job, [])[:after]
        self.indexes[job] = []
        self.ended.discard(job)
        self.wanted.add(job)
        watch = Watch(job=job, after=after, ref=ref, finals=finals)
        self.perform(self.replica.watch(watch, self.world.now))

    def unwatch(self, job: str, ref: str) -> None:
        self.asked[ref] += 1
        self.wanted.discard(job)
        self.ended.add(job)
        self.frames.pop(job, None)
        self.perform(self.replica.unwatch(Unwatch(job=job, ref=ref)))

    def take_answer(self, ref: str, message: msgspec.Struct) -> None:
        """Each request has one answer for each time that it was asked (invariant 7)."""
        assert self.asked[ref] > 0, f"{ref} was answered twice"
        self.asked[ref] -= 1
        if isinstance(message, Accepted):
            assert message.ref == ref
            self.want(message.job)
            assert self.world.one_job(self.index, ref, message.job)

    def want(self, job: str) -> None:
        """An accepted job is followed; one that ended here is read once more."""
        self.wanted.add(job)
        if job in self.ended:
            self.ended.discard(job)
            self.handled[job] = []
            self.indexes[job] = []

    def note(self, event: object) -> None:
        """Take account of an event (invariants 1 and 2)."""
        job = getattr(event, "job", None)
        if isinstance(event, JobLost):
            assert event.error.code == "job_not_found"
            self.wanted.discard(job)
            self.ended.add(event.job)
            return
        assert not isinstance(event, Error), event
        if not isinstance(job, str):
            return
        assert job not in self.ended, f"{event} came after the end"
        if isinstance(event, Snapshot):
            self.note_snapshot(event)
        elif isinstance(event, (ImageBytes, *NUMBERED_TYPES)):
            self.note_numbered(job, event)
        elif isinstance(event, Preview):
            assert event.frame > self.frames.get(job, 0)
            self.frames[job] = event.frame
        else:
            assert isinstance(event, Queued | Progress), event
        if ends_job(event):
            self.ended.add(job)

    def note_numbered(self, job: str, event: Any) -> None:
        handled = self.handled.setdefault(job, [])
        row = self.world.ledger.jobs[job]
        written = row.log[len(handled)]
        assert event.seq == written.seq == len(handled) + 1
        if isinstance(event, ImageBytes):
            assert isinstance(written, ImageReady)
            assert event.data == self.world.ledger.blobs[written.asset]
            assert (event.index, event.metadata["asset"]) == (written.index, written.asset)
        else:
            assert type(event) is type(written)
            assert event.time_ms == written.time_ms
        if isinstance(written, ImageReady):
            self.note_index(job, written.index)
        if row.owner != self.index:
            assert getattr(event, "ref", UNSET) is UNSET
        handled.append(written.time_ms)
        assert handled == row.fingerprints(event.seq), "the client mixes two logs"

    def note_index(self, job: str, index: int) -> None:
        seen = self.indexes.setdefault(job, [])
        assert index not in seen
        seen.append(index)

    def note_snapshot(self, event: Snapshot) -> None:
        row = self.world.ledger.jobs[event.job]
        self.handled[event.job] = row.fingerprints(event.seq)
        shown = [one.asset for one in event.images]
        assert shown == [one.asset for one in row.pictures(event.seq)]
        self.indexes[event.job] = [one.index for one in event.images]


# The world


class World:
    """Everything, and the time."""

    tells_stale_positions = True
    """Whether the tokens of a session that began with positions of another epoch say so for its whole life.

    Without that a client that is cut between `synced` and the snapshot of a job comes back with a good token and a
    position of the lost log; once the new log has grown past it, it goes on in the middle of another story.
    """

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.now = 1000.0
        self.ledger = Ledger()
        self.nodes = [Node(self) for _ in NODES]
        self.links: dict[Link, Connection] = {}
        self.clients = [Client(self, index, chance) for index in range(len(HELLOS))]
        self.ghosts: list[tuple[Replica, Link]] = []
        self.made: dict[tuple[int, str], str] = {}

    @property
    def time_ms(self) -> int:
        return int(self.now * 1000)

    def one_job(self, owner: int, ref: str, job: str) -> bool:
        """Whether a ref stands for this job and no other (invariant 3)."""
        return self.made.setdefault((owner, ref), job) == job

    def row(self, number: int) -> Row | None:
        """Return the job that a rule's number means."""
        rows = list(self.ledger.jobs.values())
        return rows[number % len(rows)] if rows else None

    def unfinished(self, number: int) -> Row | None:
        """Return the unfinished job that a rule's number means."""
        rows = [row for row in self.ledger.jobs.values() if not row.has_ended]
        return rows[number % len(rows)] if rows else None

    def is_hungry(self) -> bool:
        """Whether another job may be asked for."""
        unfinished = sum(not row.has_ended for row in self.ledger.jobs.values())
        return len(self.ledger.jobs) < MAX_JOBS and unfinished < MAX_UNFINISHED

    # Jobs

    def accept(self, message: Submit, connection: Connection) -> tuple[Row, bool]:
        ledger, key = self.ledger, (connection.owner, message.ref)
        if key in ledger.refs:
            return ledger.jobs[ledger.refs[key]], True
        job = ledger.name()
        row = Row(
            job, message.ref, connection.owner, self.nodes.index(connection.node), 1 + len(ledger.jobs) % 3,
            connection.session, message.on_disconnect == "cancel",
        )  # fmt: skip
        ledger.jobs[job], ledger.refs[key] = row, job
        ledger.sessions[connection.session].jobs.add(job)
        self.append(
            row,
            Accepted(
                job=job, seq=1, time_ms=ledger.number(), task="txt2img", model="sdxl", duplicate=False,
                ref=message.ref, cost_max_micros=7,
            ),
        )  # fmt: skip
        return row, False

    def append(self, row: Row, event: Numbered) -> None:
        """Write an event, then tell the worker's node (R1)."""
        row.log.append(msgspec.structs.replace(event, seq=len(row.log) + 1, time_ms=self.ledger.number()))
        node = self.nodes[row.node]
        if row.id in node.tails:
            node.poll()
        elif len(row.log) == 1:
            node.tail(row.id)

    def cancel(self, row: Row, by: Canceler) -> None:
        if row.has_ended:
            return
        row.canceled_by = row.canceled_by or by
        if not row.is_running:
            self.end(row)

    def end(self, row: Row) -> None:
        row.is_running = False
        head: dict[str, Any] = {"job": row.id, "seq": 0, "time_ms": 0}
        images = [
            Image(index=one.index, format="png", w=one.w, h=one.h, bytes=one.bytes, asset=one.asset, seq=one.seq)
            for one in row.pictures(len(row.log))
        ]
        if row.canceled_by is not None:
            self.append(row, Canceled(**head, by=row.canceled_by, step=row.steps, images=images, cost_micros=3))
        elif len(images) == row.images:
            self.append(row, Completed(**head, images=images, timings=Timings(1, 0, 1, 2), cost_micros=3))
        else:
            error = ErrorBody(code="upstream_error", message="broken", retryable=True)
            self.append(row, Failed(**head, error=error, images=images, cost_micros=3))

    def start(self, row: Row) -> None:
        row.is_running, row.steps = True, 0
        attempt = 1 + sum(isinstance(event, Started) for event in row.log)
        self.append(row, Started(job=row.id, seq=0, time_ms=0, attempt=attempt, model="sdxl", steps=30))

    def work(self, row: Row, what: str, size: int) -> None:
        """Do one piece of work of a job, whatever has to come first."""
        if row.canceled_by is not None:
            self.end(row)
        elif not row.is_running:
            self.nodes[row.node].tail(row.id).set_queue(Queued(job=row.id, position=1))
            self.nodes[row.node].tell(row.id)
            self.start(row)
        elif what == "image" and len(row.pictures(len(row.log))) < row.images:
            self.picture(row, size)
        elif what == "notice":
            self.append(row, Notice(job=row.id, seq=0, time_ms=0, code="param_clamped", message="steps"))
        elif what == "lost":
            row.is_running = False
        elif what == "end":
            self.end(row)
        else:
            self.step(row, 0)

    def picture(self, row: Row, size: int) -> None:
        number = self.ledger.number()
        asset = f"sha256:{number:064x}"
        self.ledger.blobs[asset] = number.to_bytes(4, "big") * (size // 4)
        done = {one.index for one in row.pictures(len(row.log))}
        index = min({*range(row.images)} - done)
        self.append(
            row,
            ImageReady(
                job=row.id, seq=0, time_ms=0, index=index, count=row.images, format="png", w=8, h=8,
                bytes=len(self.ledger.blobs[asset]), asset=asset,
            ),
        )  # fmt: skip

    def step(self, row: Row, size: int) -> None:
        """A step is done; with a `size` there is a preview of it, made for every rung that somebody wants."""
        node = self.nodes[row.node]
        tail = node.tail(row.id)
        row.steps = min(30, row.steps + 1)
        step = Progress(job=row.id, phase="denoising", step=row.steps, steps=30, ratio=row.steps / 30)
        tail.set_progress(step)
        node.tell(row.id)
        if size:
            row.frames += 1
            facts = PreviewFacts(row.frames, tail.head, row.steps, 30, 0, row.images, approximate=True)
            cursors = [one.delivery.cursors.get(row.id) for one in node.connections]
            for rung in {cursor.rung for cursor in cursors if cursor is not None and cursor.rung is not None}:
                tail.set_preview(rung, facts, bytes(size), (rung.edge, rung.edge))
            node.tell(row.id)

    def restore_backup(self, back: int) -> None:
        """Go back by so many events; every node begins anew."""
        for client in self.clients:
            self.cut(client, server_notices=True)
            client.frames.clear()
        for node in self.nodes:
            node.restart()
        self.ghosts.clear()
        ledger = self.ledger
        ledger.epoch += 1
        stamps = sorted(stamp for row in ledger.jobs.values() for stamp in row.fingerprints(len(row.log)))
        cutoff = stamps[-back - 1] if len(stamps) > back else 0
        ledger.sessions = {name: one for name, one in ledger.sessions.items() if one.made < cutoff}
        for row in list(ledger.jobs.values()):
            row.is_running = row.is_trimmed = False
            row.canceled_by = None
            row.log = [event for event in row.log if event.time_ms <= cutoff]
            if not row.log:
                del ledger.jobs[row.id], ledger.refs[row.owner, row.ref]
                self.made.pop((row.owner, row.ref), None)
        for session in ledger.sessions.values():
            session.jobs &= ledger.jobs.keys()

    # Time and wire

    def flow(self) -> None:
        """Let everything arrive that is not held."""
        for _ in range(1000):
            moved = [
                self.flow_up(link, connection) or self.flow_down(link) for link, connection in list(self.links.items())
            ]
            if not any(moved):
                break
        else:
            raise AssertionError("client and server never come to rest")
        self.links = {link: one for link, one in self.links.items() if not link.is_closed or self.reader(link)}

    def reader(self, link: Link) -> Callable[[bytes | int], None] | None:
        """Return who reads a link, if anybody still does."""
        for client in self.clients:
            if client.link is link:
                return client.read
        for replica, ghostly in self.ghosts:
            if ghostly is link:
                return lambda frame: self.haunt(replica, link, frame)
        return None

    def haunt(self, replica: Replica, link: Link, frame: bytes | int) -> None:
        """Let another tab, whose session was taken over, read on: it must stop and not come back."""
        if not isinstance(frame, int):
            if frame != PING:
                replica.receive(payload_of(frame), self.now)
            return
        self.ghosts.remove((replica, link))
        if frame == CLOSES["replaced"].number:
            assert isinstance(replica.disconnected(frame, self.now)[-1], Stop)

    def flow_up(self, link: Link, connection: Connection) -> bool:
        moved = False
        while link.up and link.pass_up > 0:
            link.pass_up -= 1
            raw = link.up.popleft()
            moved = True
            if not link.is_closed:
                connection.receive(raw)
        return moved

    def flow_down(self, link: Link) -> bool:
        moved = False
        while link.down and link.pass_down > 0 and (read := self.reader(link)) is not None:
            link.pass_down -= 1
            frame = link.down.popleft()
            moved = True
            if link.losses and isinstance(frame, bytes) and is_job_event(frame):
                link.losses -= 1
            else:
                read(frame)
            if link.has_room():
                self.links[link].pump()
        return moved

    def cut(self, client: Client, *, server_notices: bool) -> None:
        """End a client's connection where it stands: what did not arrive never will."""
        link = client.link
        if link is None:
            return
        connection = self.links[link]
        client.hang_up()
        link.up.clear()
        if server_notices:
            connection.gone()
            link.is_closed = True

    def wait(self, seconds: float) -> None:
        """Let time pass from one deadline to the next."""
        end = self.now + seconds
        for _ in range(20_000):
            due = self.next_due()
            if due > end:
                break
            self.now = max(self.now, due)
            self.ring()
            self.flow()
        else:
            raise AssertionError("a timer spins")
        self.now = end
        self.flow()

    def next_due(self) -> float:
        servers = [one.machine.deadline() for node in self.nodes for one in node.connections]
        clients = [at for one in self.clients if (at := one.replica.deadline()) is not None]
        offline = [one.reconnect_at for one in self.clients if one.replica.state is State.OFFLINE]
        return min([*servers, *clients, *offline], default=float("inf"))

    def ring(self) -> None:
        for node in self.nodes:
            for connection in list(node.connections):
                if connection.machine.deadline() <= self.now:
                    connection.ring()
        for client in self.clients:
            if client.replica.state is State.OFFLINE and client.reconnect_at <= self.now:
                client.connect(self.nodes[(client.index + int(self.now)) % 2])
                client.reconnect_at = self.now + 10
            elif (at := client.replica.deadline()) is not None and at <= self.now:
                client.perform(client.replica.timeout(self.now))


SAFE: Final = ("welcome", "synced", "ok", "error", "goaway", "ping", "snapshot")
"""What is never lost alone: nothing repairs a lost snapshot, for its successor may happen to fit the old position."""


def is_job_event(frame: bytes) -> bool:
    """Whether a frame is of the kind that a client with small buffers loses: an event of a job, a picture."""
    message = payload_of(frame)
    if message[:1] != b"{":
        return message[:1] == b"S"
    return msgspec.json.decode(message)["type"] not in SAFE
