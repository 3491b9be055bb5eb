"""Whatever the network does, the client hands over each job's log once, in order, and nothing after its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.messages import Ok, Watch
from protocol.replica import Replica
from protocol.replica_effects import Deliver, Effect, ImageBytes, Reconnect, Send, ends_job
from protocol.replica_states import State
from tests.protocol.playbook import (
    HELLO,
    JOB,
    OTHER,
    START,
    Dice,
    accepted,
    chunk,
    completed,
    notice,
    preview,
    progress,
    started,
    synced,
    welcome,
)

PICTURE = bytes(range(30))
JOBS = (JOB, OTHER)
Action = tuple[str, int]

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["send", "lose", "repeat", "passing"]), st.integers(0, 1)),
        st.tuples(st.sampled_from(["cut", "cut in a new session"]), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=80,
)


def log(job: str, images: int) -> list[bytes]:
    """Return a job's log as messages; an image is three of them."""
    messages = [encode(accepted(job=job)), encode(started(job=job))]
    for seq in range(3, 3 + images):
        messages += [
            chunk(PICTURE[at : at + 10], total=30, offset=at, last=at == 20, seq=seq, job=job) for at in (0, 10, 20)
        ]
    return [*messages, encode(notice(3 + images, job)), encode(completed(4 + images, job))]


def seq_of(message: bytes) -> int:
    """Return the number that a message of a log belongs to."""
    if message[:1] == b"{":
        seq = msgspec.json.decode(message)["seq"]
        assert isinstance(seq, int)
        return seq
    return int.from_bytes(message[8:12], "little")


@dataclass
class World:
    """A fair server with one log a job, a wire, and the client's machine."""

    logs: dict[str, list[bytes]]
    replica: Replica = field(default_factory=lambda: Replica(HELLO, Dice()))
    now: float = START
    cursors: dict[str, int | None] = field(default_factory=dict)
    """Where the server stands in each log's messages; `None` if its session does not follow the job."""
    session: set[str] = field(default_factory=set)
    handled: dict[str, list[int]] = field(default_factory=lambda: {job: [] for job in JOBS})
    ended: set[str] = field(default_factory=set)

    def follow(self, job: str, after: int) -> None:
        """Go on in the job's log behind event `after`."""
        messages = self.logs[job]
        self.session.add(job)
        self.cursors[job] = next((n for n, one in enumerate(messages) if seq_of(one) > after), len(messages))

    def connect(self, *, is_same: bool) -> None:
        """Open a connection, in the session that was or in a new one."""
        have = {one.job: one.seq for one in self.replica.have()}
        self.perform(self.replica.connected(self.now))
        if not is_same:
            self.session.clear()
        self.cursors = dict.fromkeys(JOBS)
        for job in list(self.session):
            self.follow(job, have.get(job, 0))
        self.arrive(encode(welcome(resumed=is_same)))
        self.arrive(encode(synced()))

    def arrive(self, message: bytes) -> None:
        self.perform(self.replica.receive(message, self.now))

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Deliver):
                self.note(effect)
            if isinstance(effect, Send):
                self.answer(effect)
            if isinstance(effect, Reconnect):
                self.now += effect.after_seconds
                self.connect(is_same=True)

    def note(self, deliver: Deliver) -> None:
        event = deliver.event
        job = getattr(event, "job", None)
        if job is None:
            return
        assert job not in self.ended
        if hasattr(event, "seq"):
            self.handled[job].append(event.seq)
        if isinstance(event, ImageBytes):
            assert event.data == PICTURE
        if ends_job(event):
            self.ended.add(job)

    def answer(self, send: Send) -> None:
        message = msgspec.json.decode(send.data)
        if message["type"] == "watch":
            self.follow(message["job"], message.get("after", 0))
            self.arrive(encode(Ok(ref=message["ref"], job=message["job"])))
        if message["type"] == "unwatch":
            self.session.discard(message["job"])

    def next_message(self, job: str) -> bytes | None:
        cursor = self.cursors[job]
        if cursor is None or cursor >= len(self.logs[job]):
            return None
        self.cursors[job] = cursor + 1
        return self.logs[job][cursor]

    def cut(self, *, is_same: bool) -> None:
        *_, reconnect = self.replica.disconnected(1006, self.now)
        assert isinstance(reconnect, Reconnect)
        self.now += reconnect.after_seconds
        self.connect(is_same=is_same)

    def act(self, action: str, what: int) -> None:
        if action.startswith("cut"):
            self.cut(is_same=action == "cut")
        elif action == "wait":
            self.now += what
            self.perform(self.replica.timeout(self.now))
        elif action == "passing":
            self.arrive(encode(progress(1, JOBS[what])))
            self.arrive(preview(what, job=JOBS[what]))
        else:
            self.transmit(action, self.next_message(JOBS[what]))

    def transmit(self, action: str, message: bytes | None) -> None:
        if message is None or action == "lose":
            return
        for _ in range(2 if action == "repeat" else 1):
            self.arrive(message)

    def settle(self) -> None:
        """Bring everything over an honest wire."""
        self.cut(is_same=True)
        for job in JOBS:
            while (message := self.next_message(job)) is not None:
                self.arrive(message)


@given(ACTIONS, st.integers(0, 3), st.integers(0, 3))
def test_every_schedule_delivers_each_number_once_in_order(actions: list[Action], first: int, second: int) -> None:
    """Cuts, losses, repeats, lost sessions and silence change nothing in what is handed over."""
    world = World({JOB: log(JOB, first), OTHER: log(OTHER, second)})
    world.connect(is_same=False)
    for job in JOBS:
        world.perform(world.replica.watch(Watch(job=job), world.now))
    for action, what in actions:
        world.act(action, what)
    world.settle()
    assert world.replica.state is State.LIVE
    assert world.handled == {JOB: [*range(1, 5 + first)], OTHER: [*range(1, 5 + second)]}
