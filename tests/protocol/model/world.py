"""A small world for the state machine of section 4.2: a ledger, two nodes, two clients, and the wires between them.

The ledger and the nodes are models; the clients are the real `Replica`. A `Link` can be cut at any message, stand
still, or lose one silently.
"""

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

from protocol.errors import CLOSES
from protocol.messages import (
    Accepted,
    Canceled,
    Canceler,
    Completed,
    ErrorBody,
    Failed,
    Image,
    ImageReady,
    Notice,
    Numbered,
    Progress,
    Queued,
    Started,
    Submit,
    Timings,
)
from protocol.replica import Replica
from protocol.replica_effects import Stop
from protocol.replica_states import State
from protocol.tail import PreviewFacts
from protocol.wire import PING
from tests.protocol.model.client import Client
from tests.protocol.model.ledger import HELLOS, MAX_JOBS, MAX_UNFINISHED, NODES, Ledger, Link, Row, payload_of
from tests.protocol.model.server import Connection, Node


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
