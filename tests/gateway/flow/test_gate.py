"""The gate in virtual time: order, cancellation, and the vendor's own window as the judge."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Literal

import pytest

from gateway.core.breaker import State
from gateway.core.reports import Outcome, UpstreamFault
from gateway.flow.gate import Gate, GateFacts, Passage
from load.upstreams.window import Window
from tests.depth import deep_count
from tests.virtual_time import LoopClock, run_virtually

Kind = Literal["sliding", "fixed"]


@pytest.fixture
def entered() -> list[str]:
    """The names of those who were let in, in order."""
    return []


async def pass_through(gate: Gate, entered: list[str], name: str, seconds: float = 1.0) -> None:
    """Enter, send at once, work for some time, end well."""
    async with gate.enter() as passage:
        entered.append(name)
        passage.sending()
        passage.sent()
        await asyncio.sleep(seconds)
        passage.succeeded()


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------- the window, the proof


@dataclass
class Vendor:
    """A vendor behind a network: judges each call when it arrives, answers after its service time."""

    window: Window
    service_seconds: float
    chance: random.Random
    refusals: int = 0
    done: int = 0
    last_success: float = 0.0

    async def call(self, passage: Passage, row: "Row | None" = None) -> bool:
        """Make one call; return whether it was taken. It arrives even if we die in between."""
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[bool] = loop.create_future()
        passage.sending()
        loop.call_later(self.chance.uniform(0, 0.05), self._arrive, verdict)
        passage.sent()
        if row is not None:
            row.sent_ms = LoopClock().time_ms()
        is_taken = await verdict
        await asyncio.sleep((self.service_seconds if is_taken else 0) + self.chance.uniform(0, 0.05))
        if row is not None:
            row.answered_ms = LoopClock().time_ms()
        if is_taken:
            passage.succeeded()
            self.done += 1
            self.last_success = loop.time()
        else:
            passage.refused(None, locked_out=True)
        return is_taken

    def _arrive(self, verdict: "asyncio.Future[bool]") -> None:
        is_taken = self.window.arrive(asyncio.get_running_loop().time()).admitted
        self.refusals += not is_taken
        if not verdict.cancelled():
            verdict.set_result(is_taken)


@dataclass
class Row:
    """What the ledger has of a call."""

    sent_ms: int | None = None
    answered_ms: int | None = None


@dataclass
class Ledger:
    rows: list[Row] = field(default_factory=list)

    def add(self) -> Row:
        self.rows.append(Row())
        return self.rows[-1]


async def make_one(gate: Gate, vendor: Vendor, ledger: Ledger | None = None) -> None:
    """Make one call, and again until the vendor takes it."""
    while True:
        async with gate.enter() as passage:
            if await vendor.call(passage, ledger.add() if ledger else None):
                return


async def make_many(gate: Gate, vendor: Vendor, count: int, ledger: Ledger | None = None) -> None:
    """Make many calls at once."""
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(make_one(gate, vendor, ledger))


CASES = [
    pytest.param(kind, service, seed, id=f"{kind}-{service}s-{seed}")
    for kind in ("sliding", "fixed")
    for service in (0.03, 8.0)
    for seed in range(1, deep_count(1, 3) + 1)
]


@pytest.mark.parametrize("kind,service_seconds,seed", CASES)
def test_gate_uses_the_window_up_and_is_never_refused(kind: Kind, service_seconds: float, seed: int) -> None:
    """1,000 calls at once take hardly longer than the window allows, without one refusal."""
    count, limit, period = 1000, 150, 10.0
    vendor = Vendor(Window(limit, period, 60.0, kind), service_seconds, random.Random(seed))
    gate_facts: list[GateFacts] = []

    async def main() -> float:
        gate = Gate(clock=LoopClock(), limit=limit, period_seconds=period)
        await asyncio.sleep(random.Random(seed).uniform(0, period))  # a fixed window's phase is not ours
        began = asyncio.get_running_loop().time()
        await make_many(gate, vendor, count)
        gate_facts.append(gate.snapshot())
        return began

    began = run_virtually(main)
    ideal = period * ((count - 1) // limit) + service_seconds
    utilisation = ideal / (vendor.last_success - began)
    print(f"utilisation {utilisation:.4f}")
    assert (vendor.done, vendor.refusals) == (count, 0)
    assert utilisation >= 0.97
    assert gate_facts[0].running == gate_facts[0].waiting == 0


@pytest.mark.parametrize("kind,service_seconds,seed", CASES)
@pytest.mark.parametrize("dies_after", [0.02, 5.0, 10.1, 12.0])
def test_gate_restored_from_rows_is_never_refused(
    kind: Kind, service_seconds: float, seed: int, dies_after: float
) -> None:
    """A process that dies with calls on their way, and its successor, together stay within the window."""
    vendor = Vendor(Window(150, 10.0, 60.0, kind), service_seconds, random.Random(seed))
    ledger = Ledger()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(dies_after):
                await make_many(Gate(clock=LoopClock(), limit=150, period_seconds=10.0), vendor, 1000, ledger)
        ledger.rows.extend([Row(), Row()])  # written down as about to be sent; nobody knows more
        gate = Gate(clock=LoopClock(), limit=150, period_seconds=10.0)
        gate.restore([(row.sent_ms, row.answered_ms) for row in ledger.rows])
        await make_many(gate, vendor, 400)

    run_virtually(main)
    assert vendor.refusals == 0


def test_gate_that_knows_no_past_waits_for_one_window() -> None:
    """A gate that begins full sends nothing that the vendor could refuse."""
    vendor = Vendor(Window(5, 10.0, 60.0, "sliding"), 0.1, random.Random(1))

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await make_many(Gate(clock=LoopClock(), limit=5, period_seconds=10.0), vendor, 5)
        gate = Gate(clock=LoopClock(), limit=5, period_seconds=10.0)
        gate.begin_full()
        await make_many(gate, vendor, 5)
        assert asyncio.get_running_loop().time() < 10.8

    run_virtually(main)
    assert (vendor.done, vendor.refusals) == (5, 0)


# ------------------------------------------------------------------------------------------------ order, cancellation


def test_gate_lets_callers_in_by_order_of_coming(entered: list[str]) -> None:
    """Who came first goes first, also past a place that falls free while others wait."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), concurrency=2)
        async with asyncio.TaskGroup() as group:
            for number in range(9):
                group.create_task(pass_through(gate, entered, str(number), 1 + number / 10))

    run_virtually(main)
    assert entered == list("012345678")


def test_gate_forgets_a_caller_cancelled_in_the_queue(entered: list[str]) -> None:
    """One who gives up leaves the queue, and the one behind him moves up."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), concurrency=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(pass_through(gate, entered, "first"))
            gone = group.create_task(pass_through(gate, entered, "gone"))
            group.create_task(pass_through(gate, entered, "last"))
            await settle()
            assert gate.snapshot().waiting == 2
            gone.cancel()
            await settle()
            assert gate.snapshot().waiting == 1
        assert gate.snapshot() == GateFacts(0, 0, 1, None, None, None, State.CLOSED)

    run_virtually(main)
    assert entered == ["first", "last"]


def test_gate_passes_on_a_slot_granted_to_a_cancelled_caller(entered: list[str]) -> None:
    """A caller that is let in and cancelled in one step of the loop takes no place with him."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), concurrency=1, limit=2, period_seconds=10)
        async with asyncio.TaskGroup() as group:
            async with gate.enter() as passage:
                gone = group.create_task(pass_through(gate, entered, "gone"))
                group.create_task(pass_through(gate, entered, "next"))
                await settle()
                passage.sent()
            gone.cancel()  # it was let in a moment ago and has not run since
        assert gate.snapshot().running == 0

    run_virtually(main)
    assert entered == ["next"]


def test_gate_skips_a_caller_cancelled_but_not_yet_gone(entered: list[str]) -> None:
    """A place that falls free between a caller's cancellation and his going is not lost on him."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), concurrency=1)
        async with asyncio.TaskGroup() as group, gate.enter():
            gone = group.create_task(pass_through(gate, entered, "gone"))
            group.create_task(pass_through(gate, entered, "next"))
            await settle()
            gone.cancel()

    run_virtually(main)
    assert entered == ["next"]


@pytest.mark.parametrize("seed", range(20))
def test_gate_loses_nobody_in_a_crowd_that_is_cancelled_at_random(seed: int) -> None:
    """Whatever is cancelled when, all others come through and every place is free in the end."""
    chance = random.Random(seed)

    async def one(gate: Gate) -> None:
        async with gate.enter() as passage:
            if chance.random() < 0.2:
                return
            passage.sending()
            await asyncio.sleep(chance.uniform(0, 0.1))
            if chance.random() < 0.1:
                passage.not_sent()
                return
            passage.sent()
            await asyncio.sleep(chance.uniform(0, 1))
            passage.succeeded()

    async def main() -> None:
        gate = Gate(clock=LoopClock(), limit=7, period_seconds=1, concurrency=5, failure_threshold=1000)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(gate)) for _ in range(100)]
            while not all(task.done() for task in tasks):
                chance.choice(tasks).cancel()
                await asyncio.sleep(chance.uniform(0, 1))
        await asyncio.sleep(2)
        facts = gate.snapshot()
        assert (facts.waiting, facts.running, facts.free) == (0, 0, 7)

    run_virtually(main)


def test_gate_wakes_when_a_reserved_slot_is_sent(entered: list[str]) -> None:
    """While every slot is reserved and unsent nobody knows when one is free; the first `sent` tells."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), limit=1, period_seconds=10)
        async with asyncio.TaskGroup() as group, gate.enter() as passage:
            group.create_task(pass_through(gate, entered, "next", 0))
            await asyncio.sleep(100)
            assert entered == []
            passage.sent()
            await asyncio.sleep(10.2)
            assert entered == []
            await asyncio.sleep(0.1)
            assert entered == ["next"]

    run_virtually(main)


def test_gate_refuses_more_waiting_than_allowed() -> None:
    """The queue is bounded, and says so as a call that was not sent."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), concurrency=1, max_waiting=0)
        async with gate.enter():
            with pytest.raises(UpstreamFault) as caught:
                async with gate.enter():
                    raise AssertionError("nobody may enter")
        assert (caught.value.outcome, caught.value.code) == (Outcome.NOT_SENT, "queue_full")

    run_virtually(main)


# ---------------------------------------------------------------------------------------- slots, lock-out, the breaker


@pytest.mark.parametrize(
    "told,free",
    [([], 1), (["sending"], 0), (["sending", "not_sent"], 1), (["sent"], 0), (["answered"], 0), (["failed"], 1)],
)
def test_gate_keeps_the_slot_of_a_call_that_may_have_gone_out(told: list[str], free: int) -> None:
    """A block that ends gives back what was surely not used, and nothing else."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), limit=1, period_seconds=10)
        async with gate.enter() as passage:
            for word in told:
                getattr(passage, word)()
        assert gate.snapshot().free == free
        await asyncio.sleep(10.3)
        assert gate.snapshot().free == 1

    run_virtually(main)


def test_passage_takes_words_twice_but_none_back() -> None:
    """Two parts may tell the same; that a call that was sent was not is refused."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), limit=1, period_seconds=10)
        async with gate.enter() as passage:
            for word in ("sending", "sending", "sent", "sent", "answered", "answered", "sent", "succeeded"):
                getattr(passage, word)()
            with pytest.raises(ValueError, match="answered can't become not_sent"):
                passage.not_sent()
            passage.failed()  # the first verdict stands
            assert repr(passage) == "<Passage answered, <Slot answered>>"
        assert gate.snapshot().breaker is State.CLOSED
        assert "0 running, 0 waiting" in repr(gate)

    run_virtually(main)


@pytest.mark.parametrize("retry_after,seconds", [(None, 60), (7.5, 7.5), (1e9, 3600), (-3, 0)])
def test_gate_closes_for_everybody_on_a_lockout(entered: list[str], retry_after: float | None, seconds: float) -> None:
    """A 429 closes the gate for as long as the vendor says, else 60 s, at most an hour; the ledger hears of it."""
    told: list[int] = []

    async def main() -> None:
        clock = LoopClock(epoch_ms=1000)
        gate = Gate(clock=clock, limit=5, period_seconds=1, on_lockout=told.append)
        async with asyncio.TaskGroup() as group:
            async with gate.enter() as passage:
                passage.sent()
                passage.refused(retry_after, locked_out=True)
            group.create_task(pass_through(gate, entered, "next", 0))
            await settle()
            assert gate.snapshot().locked_until_ms == (1000 + seconds * 1000 if seconds else None)
        assert asyncio.get_running_loop().time() == pytest.approx(seconds, abs=0.01)
        assert told == [1000 + seconds * 1000]

    run_virtually(main)


def test_gate_heeds_the_longest_of_several_lockouts() -> None:
    """A shorter word that comes later neither shortens a lock-out nor is written down."""
    told: list[int] = []

    async def together() -> None:
        gate = Gate(clock=LoopClock(epoch_ms=0), on_lockout=told.append)
        async with gate.enter() as first, gate.enter() as second, gate.enter() as third:
            first.refused(20, locked_out=True)
            second.refused(10, locked_out=True)
            third.refused(30, locked_out=True)
        async with gate.enter():
            assert asyncio.get_running_loop().time() == 30

    run_virtually(together)
    assert told == [20_000, 30_000]


def test_gate_restores_a_lockout() -> None:
    """The instant that the ledger kept holds in the next process too."""

    async def main() -> None:
        clock = LoopClock()
        gate = Gate(clock=clock)
        gate.restore([], locked_until_ms=clock.time_ms() + 5000)
        async with gate.enter():
            assert asyncio.get_running_loop().time() == pytest.approx(5)

    run_virtually(main)


def test_gate_opens_its_breaker_and_lets_one_probe_through(entered: list[str]) -> None:
    """After failures in a row nobody enters for the cool-down, then one, then all if it went well."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), failure_threshold=3, cooldown_seconds=30)
        for _ in range(3):
            async with gate.enter() as passage:
                passage.sent()
                passage.failed()
        assert gate.snapshot().breaker is State.OPEN
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(pass_through(gate, entered, name, 4))
            await asyncio.sleep(30.01)
            assert (entered, gate.snapshot().breaker) == (["a"], State.HALF_OPEN)
            await asyncio.sleep(4)
            assert (entered, gate.snapshot().breaker) == (["a", "b", "c"], State.CLOSED)

    run_virtually(main)


def test_gate_sends_the_next_probe_when_one_is_abandoned(entered: list[str]) -> None:
    """A probe that is cancelled before it was sent leaves its task to the next caller at once."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), failure_threshold=1, cooldown_seconds=30)
        async with gate.enter() as passage:
            passage.refused(locked_out=False)
        async with gate.enter():
            assert gate.snapshot().breaker is State.HALF_OPEN
        assert gate.snapshot().breaker is State.OPEN
        await pass_through(gate, entered, "probe", 0)
        assert gate.snapshot().breaker is State.CLOSED
        assert asyncio.get_running_loop().time() == 30

    run_virtually(main)


# -------------------------------------------------------------------------------------------------- a vendor's bucket


@dataclass
class BucketVendor:
    """A vendor that keeps a token bucket and judges each call when it arrives."""

    rate: float
    burst: float
    tokens: float = 0.0
    at: float = 0.0
    refusals: int = 0

    def arrive(self) -> None:
        now = asyncio.get_running_loop().time()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - 1e-6:
            self.refusals += 1
        else:
            self.tokens -= 1


@pytest.mark.parametrize("rate,burst", [(15.0, 50.0), (15.0, 1.0), (2.0, 2.0), (100.0, 26.0)])
@pytest.mark.parametrize("restart", ["rows", "full", "none"])
def test_gate_never_overdraws_a_bucket(rate: float, burst: float, restart: str) -> None:
    """Whatever the network's delays, a vendor's bucket always has a token when a call arrives."""
    vendor = BucketVendor(rate, burst, tokens=burst)
    chance = random.Random(1)
    rows: list[tuple[int | None, int | None]] = []

    async def one(gate: Gate) -> None:
        async with gate.enter() as passage:
            loop = asyncio.get_running_loop()
            delay = chance.choice((0, 0.25)) if chance.random() < 0.5 else chance.uniform(0, 0.25)
            loop.call_later(delay, vendor.arrive)
            passage.sent()
            rows.append((LoopClock().time_ms(), None))

    async def many(gate: Gate, count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one(gate))

    async def main() -> None:
        gate = Gate(clock=LoopClock(), rate=rate, burst=burst)
        await many(gate, 60)
        if restart != "none":
            gate = Gate(clock=LoopClock(), rate=rate, burst=burst)
            since = LoopClock().time_ms() - gate.horizon_seconds * 1000
            if restart == "rows":
                gate.restore([row for row in rows if (row[0] or 0) >= since])
            else:
                gate.begin_full()
        await many(gate, 60)
        await asyncio.sleep(1)

    run_virtually(main)
    assert vendor.refusals == 0


def test_gate_gives_back_a_token_that_was_not_used() -> None:
    """A call that was not sent costs nothing of the vendor's bucket."""

    async def main() -> None:
        gate = Gate(clock=LoopClock(), rate=0.1, burst=1, delay_bound_seconds=0)
        for _ in range(3):
            async with gate.enter():
                pass
        assert asyncio.get_running_loop().time() == 0

    run_virtually(main)


def test_gate_asks_for_rows_of_a_window_and_its_delay() -> None:
    """The horizon covers what may still be counted by the vendor."""
    assert Gate(clock=LoopClock(), limit=1, period_seconds=10, delay_bound_seconds=0.5).horizon_seconds == 10.5
