"""A user of the real `Replica`, who keeps account of what it is handed and minds each mistake."""

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from protocol.messages import (
    NUMBERED_TYPES,
    Accepted,
    Cancel,
    Error,
    Finals,
    Hello,
    ImageReady,
    Progress,
    Queued,
    Snapshot,
    Submit,
    Unwatch,
    Watch,
)
from protocol.replica import Replica
from protocol.replica_effects import (
    Answer,
    Deliver,
    Effect,
    ImageBytes,
    JobLost,
    Preview,
    Reconnect,
    Send,
    Stop,
    ends_job,
)
from protocol.wire import PING
from tests.protocol.model.ledger import HELLOS, Link, payload_of
from tests.protocol.model.server import Connection, Node

if TYPE_CHECKING:
    from tests.protocol.model.world import World


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

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(data):
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
