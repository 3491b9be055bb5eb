"""Both machines against each other: the rules and invariants of the contract's section 4.2, in the world of `model`.

Two ways through it. Hypothesis looks for a short story that breaks an invariant, and makes it shorter. Since most of
its stories have little work in them, weighted chance tells longer ones: about half work, half trouble.
"""

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Hunt
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import UNSET

from protocol.messages import Finals, Submit
from protocol.replica_states import State
from protocol.session import Phase
from tests.depth import DEEP, deep_count
from tests.protocol.model.ledger import HELLOS, MAX_JOBS, NODES
from tests.protocol.model.world import World

MAX_CALM: Final = 8
"""How much trouble may come at once: work earns it, or nothing would come of anything."""
WORK: Final = ("image", "image", "step", "notice", "lost", "end")
CLIENTS: Final = st.integers(0, 1)
JOBS: Final = st.integers(0, MAX_JOBS - 1)


class Conversation(RuleBasedStateMachine):
    """The rules and the invariants of section 4.2."""

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.calm = 0
        """How much trouble may come now."""
        for client in self.world.clients:
            client.connect(self.world.nodes[client.index])
        self.world.flow()

    # Wishes

    def _ref(self) -> str:
        return f"r-{self.world.ledger.number()}"

    @precondition(lambda self: self.world.is_hungry())
    @rule(client=CLIENTS, finals=st.sampled_from(["url", "inline", UNSET]), cancel=st.booleans())
    def submit(self, client: int, finals: Any, cancel: bool) -> None:
        message = Submit(
            ref=self._ref(), task="txt2img", params=msgspec.Raw(b"{}"), finals=finals,
            on_disconnect="cancel" if cancel else "continue",
        )  # fmt: skip
        self.world.clients[client].submit(message)
        self.world.flow()

    @rule(client=CLIENTS, number=JOBS)
    def submit_again(self, client: int, number: int) -> None:
        """With the same ref, once it was answered."""
        who = self.world.clients[client]
        refs = [ref for ref in who.submits if not who.asked[ref]]
        if refs:
            who.submit(who.submits[refs[number % len(refs)]])
            self.world.flow()

    @rule(client=CLIENTS, number=JOBS)
    def cancel(self, client: int, number: int) -> None:
        row = self.world.row(number)
        if row is not None:
            self.world.clients[client].cancel(row.id, self._ref())
            self.world.flow()

    @rule(client=CLIENTS, number=JOBS, anew=st.booleans(), finals=st.sampled_from(["url", "inline"]))
    def watch(self, client: int, number: int, anew: bool, finals: Finals) -> None:
        """From the start, or from where the client is."""
        row, who = self.world.row(number), self.world.clients[client]
        if row is not None and (anew or row.id not in who.ended):
            after = 0 if anew else len(who.handled.get(row.id, []))
            who.watch(row.id, after, self._ref(), finals)
            self.world.flow()

    @rule(client=CLIENTS, number=JOBS)
    def unwatch(self, client: int, number: int) -> None:
        row, who = self.world.row(number), self.world.clients[client]
        if row is not None and row.id in who.wanted:
            who.unwatch(row.id, self._ref())
            self.world.flow()

    # Work

    @rule(number=JOBS, works=st.lists(st.sampled_from(WORK), min_size=1, max_size=6), size=st.integers(4, 50_000))
    def produce(self, number: int, works: list[str], size: int) -> None:
        """The worker goes on: it starts if it has to, and stops if it was told to."""
        row = self.world.unfinished(number)
        for what in works:
            if row is not None and not row.has_ended:
                self.world.work(row, what, size)
                self.world.flow()
        self.calm = min(MAX_CALM, self.calm + 1 + len(works) // 3)

    @rule(number=JOBS, count=st.integers(1, 4), size=st.sampled_from([0, 3000, 16_320, 60_000]), pause=st.booleans())
    def step(self, number: int, count: int, size: int, pause: bool) -> None:
        """Some steps, with previews, one after the other or far enough apart for any cap."""
        row = self.world.unfinished(number)
        for _ in range(count):
            if row is not None and row.is_running:
                self.calm = min(MAX_CALM, self.calm + 1)
                self.world.step(row, size)
                self.world.flow()
                if pause:
                    self.world.wait(0.6)

    @rule(node=st.sampled_from(NODES))
    def poll(self, node: int) -> None:
        self.world.nodes[node].poll()
        self.world.flow()

    @rule(number=JOBS)
    def trim(self, number: int) -> None:
        """The log of an ended job is past its retention."""
        row = self.world.row(number)
        if row is not None and row.has_ended:
            row.is_trimmed = True

    # Trouble

    @precondition(lambda self: self.calm >= 1)
    @rule(client=CLIENTS, server_notices=st.booleans())
    def cut(self, client: int, server_notices: bool) -> None:
        self.calm -= 1
        self.world.cut(self.world.clients[client], server_notices=server_notices)
        self.world.flow()

    @precondition(lambda self: self.calm >= 1)
    @rule(client=CLIENTS, node=st.sampled_from(NODES), down=st.integers(0, 6))
    def connect(self, client: int, node: int, down: int) -> None:
        """Now, wherever; while the old connection is alive, if it is. After so many messages it may stand still."""
        self.calm -= 1
        who = self.world.clients[client]
        if who.link is not None:
            self.world.cut(who, server_notices=False)
        who.connect(self.world.nodes[node])
        assert who.link is not None
        who.link.pass_down = down if down < 5 else float("inf")
        self.world.flow()

    @precondition(lambda self: self.calm >= 4)
    @rule(client=CLIENTS, node=st.sampled_from(NODES))
    def move_to_another_tab(self, client: int, node: int) -> None:
        """Another machine goes on with the session, while the first is still connected."""
        self.calm -= 4
        who = self.world.clients[client]
        if who.replica.resume is None:
            return
        if who.link is not None:
            self.world.ghosts.append((who.replica, who.link))
        pending = [ref for ref, count in who.asked.items() if count and ref in who.submits]
        # An ended job is not told: a machine that begins with it would take it for one that goes on.
        have = [one for one in who.replica.have() if one.job not in who.ended]
        hello = msgspec.structs.replace(HELLOS[client], resume=who.replica.resume, have=have)
        who.begin_anew(hello)
        who.connect(self.world.nodes[node])
        for ref in pending:
            who.submit(who.submits[ref])
        self.world.flow()

    @precondition(lambda self: self.calm >= 1)
    @rule(client=CLIENTS, up=st.integers(0, 3), down=st.integers(0, 6))
    def stall(self, client: int, up: int, down: int) -> None:
        """Some messages still pass, then none."""
        self.calm -= 1
        link = self.world.clients[client].link
        if link is not None:
            link.pass_up, link.pass_down = up, down

    @rule(client=CLIENTS)
    def go_on(self, client: int) -> None:
        link = self.world.clients[client].link
        if link is not None:
            link.pass_up = link.pass_down = float("inf")
            self.world.flow()

    @precondition(lambda self: self.calm >= 1)
    @rule(client=CLIENTS, count=st.integers(1, 3))
    def lose_silently(self, client: int, count: int) -> None:
        self.calm -= 1
        link = self.world.clients[client].link
        if link is not None:
            link.losses = count

    @precondition(lambda self: self.calm >= 1)
    @rule(client=CLIENTS)
    def stop_acks(self, client: int) -> None:
        self.calm -= 1
        self.world.clients[client].acks = False

    @rule(client=CLIENTS)
    def ack_late(self, client: int) -> None:
        self.world.clients[client].resume_acks()
        self.world.flow()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 35.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)
        for node in self.world.nodes:
            node.renew()
        self.world.flow()

    @precondition(lambda self: self.calm >= 6)
    @rule(back=st.integers(1, 9))
    def lose_log_tail(self, back: int) -> None:
        """The ledger is restored from a backup: what was written last was never there."""
        self.calm -= 6
        self.world.restore_backup(back)
        self.world.flow()

    @precondition(lambda self: self.calm >= 4)
    @rule(client=CLIENTS)
    def expire_session(self, client: int) -> None:
        """Nobody came for too long; what should end with the session does."""
        self.calm -= 4
        world = self.world
        if world.clients[client].link is not None:
            return
        for name, session in list(world.ledger.sessions.items()):
            if session.owner == client:
                del world.ledger.sessions[name]
                for row in [world.ledger.jobs[job] for job in sorted(session.jobs)]:
                    if row.cancel_with_session:
                        world.cancel(row, "session")
        for node in world.nodes:
            node.renew()
        world.flow()

    @precondition(lambda self: self.calm >= 4)
    @rule(node=st.sampled_from(NODES))
    def drain(self, node: int) -> None:
        """And the new process takes its place after the last connection is gone."""
        self.calm -= 4
        self.world.nodes[node].drain()
        self.world.flow()
        self.world.nodes[node].restart()

    # What must hold

    @invariant()
    def connection_is_small(self) -> None:
        """A cursor and a bit for each job that it watches, and nothing else (invariant 5)."""
        for node in self.world.nodes if hasattr(self, "world") else ():
            for connection in node.connections:
                delivery = connection.delivery
                assert delivery.dirty.keys() <= delivery.cursors.keys() == connection.tails.keys()
                assert not delivery.missing
            assert all(len(tail.previews) <= 4 for tail in node.tails.values())

    @invariant()
    def reader_who_keeps_up_has_every_number(self) -> None:
        """However another one stands: nothing that could go out waits (invariant 6)."""
        for node in self.world.nodes if hasattr(self, "world") else ():
            for connection in node.connections:
                delivery = connection.delivery
                if connection.machine.phase is not Phase.LIVE or not connection.link.has_room():
                    continue
                if delivery.window and delivery.window - delivery.sent_bytes + delivery.acked_bytes < 16384:
                    continue
                for job, cursor in delivery.cursors.items():
                    assert (cursor.seq, cursor.snapshot) == (node.tails[job].head, None)

    @invariant()
    def each_request_is_answered_once(self) -> None:
        """By `ok` or `error`, a submit by `accepted` or `error`, on the connection that it came by (invariant 7)."""
        for node in self.world.nodes if hasattr(self, "world") else ():
            for connection in node.connections:
                assert connection.asked == connection.answered + connection.accepted

    def teardown(self) -> None:
        """With a fair schedule every client reaches the end of each job that it follows (invariant 8)."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for client in world.clients:
            client.resume_acks()
            world.cut(client, server_notices=True)
        for _ in range(8):
            world.wait(20)
            for row in list(world.ledger.jobs.values()):
                if not row.has_ended:
                    world.end(row)
            for node in world.nodes:
                node.poll()
                node.renew()
            world.flow()
        for client in world.clients:
            assert client.replica.state is State.LIVE
            assert client.wanted <= client.ended, f"{client.wanted - client.ended} did not end for {client.index}"
            assert not +client.asked, f"{+client.asked} have no answer"


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    derandomize=not DEEP,
    max_examples=deep_count(60, 3000),
    stateful_step_count=deep_count(40, 80),
    deadline=None,
    phases=[Hunt.reuse, Hunt.generate, Hunt.shrink],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


Story = list[tuple[float, Callable[[], object]]]


def story(told: Conversation, chance: random.Random) -> Story:
    """Return what may happen, and how often it does."""

    def client() -> int:
        return chance.randrange(2)

    def node() -> int:
        return chance.randrange(2)

    def job() -> int:
        return chance.randrange(MAX_JOBS)

    def often() -> bool:
        return chance.random() < 0.3

    def finals() -> Finals:
        return chance.choice(("url", "inline"))

    def works() -> list[str]:
        return chance.choices(WORK, k=chance.randint(1, 4))

    return [
        (8, lambda: told.world.is_hungry() and told.submit(client(), chance.choice((finals(), UNSET)), often())),
        (1, lambda: told.submit_again(client(), job())),
        (1, lambda: told.cancel(client(), job())),
        (3, lambda: told.watch(client(), job(), often(), finals())),
        (1, lambda: told.unwatch(client(), job())),
        (14, lambda: told.produce(job(), works(), chance.choice((4, 3000, 20_000, 50_000)))),
        (8, lambda: told.step(job(), chance.randint(1, 4), chance.choice((0, 3000, 16_320, 60_000)), often())),
        (3, lambda: told.poll(node())),
        (1, lambda: told.trim(job())),
        (3, lambda: told.cut(client(), often())),
        (3, lambda: told.connect(client(), node(), chance.randint(0, 8))),
        (1, lambda: told.move_to_another_tab(client(), node())),
        (4, lambda: told.stall(client(), chance.randint(0, 3), chance.randint(0, 6))),
        (4, lambda: told.go_on(client())),
        (2, lambda: told.lose_silently(client(), chance.randint(1, 3))),
        (2, lambda: told.stop_acks(client())),
        (2, lambda: told.ack_late(client())),
        (5, lambda: told.wait(chance.choice((0.1, 1, 10, 35, 70)))),
        (0.5, lambda: told.lose_log_tail(chance.randint(1, 9))),
        (0.5, lambda: told.expire_session(client())),
        (0.5, lambda: told.drain(node())),
    ]


def began() -> Conversation:
    """Return a conversation with both clients connected."""
    told = Conversation()
    told.begin(0)
    return told


@pytest.mark.parametrize("first", range(8))
def test_long_stories_keep_every_promise(first: int) -> None:
    """Whatever the order of work and trouble, each invariant holds after each step, and in the end all is told."""
    for number in range(deep_count(8, 1000)):
        chance = random.Random(first + 8 * number)
        told = began()
        weights, happenings = zip(*story(told, chance), strict=True)
        for happens in chance.choices(happenings, weights, k=100):
            happens()
            told.connection_is_small()
            told.reader_who_keeps_up_has_every_number()
            told.each_request_is_answered_once()
        told.teardown()


def lose_a_log_that_grows_again(told: Conversation) -> None:
    """Cut a client between `synced` and the snapshot after a log was lost; let the new log outgrow the old one."""
    told.submit(0, "url", cancel=False)
    told.produce(0, ["step", "notice", "notice"], 4)
    told.lose_log_tail(2)
    told.connect(0, 0, down=2)
    told.produce(0, ["step", "notice", "notice", "notice"], 4)
    told.cut(0, server_notices=True)
    told.connect(0, 0, down=9)
    told.produce(0, ["notice"], 4)


def test_client_that_missed_its_snapshot_gets_another() -> None:
    """The session's tokens say that its positions may be those of a lost log."""
    told = began()
    lose_a_log_that_grows_again(told)
    told.teardown()


def test_client_would_mix_two_logs_if_tokens_did_not_say_so() -> None:
    """The reason for it, and the proof that this world would notice."""
    told = began()
    told.world.tells_stale_positions = False
    with pytest.raises(AssertionError, match="mixes two logs"):
        lose_a_log_that_grows_again(told)
