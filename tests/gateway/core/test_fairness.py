import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.fairness import charge, enter


class Queue:
    """One upstream with lanes that claim by the rule; what the ledger does, without the ledger."""

    def __init__(self) -> None:
        self.lanes: dict[str, float] = {}
        self.newest_start = 0.0

    def enter(self, tenant: str) -> None:
        """A tenant that had nothing waiting submits."""
        self.lanes[tenant] = enter(self.lanes.get(tenant, 0.0), self.newest_start)

    def claim(self, weights: dict[str, float], price: int = 1000) -> str:
        """Serve the lane that has received least, of those named."""
        tenant = min(weights, key=lambda tenant: (self.lanes[tenant], tenant))
        self.newest_start = max(self.newest_start, self.lanes[tenant])
        self.lanes[tenant] = charge(self.lanes[tenant], price, weights[tenant])
        return tenant


@given(
    some.dictionaries(some.sampled_from("abcdef"), some.floats(0.1, 10), min_size=2),
    some.integers(1, 1_000_000),
)
def test_busy_lanes_get_shares_like_their_weights(weights: dict[str, float], price: int) -> None:
    """At any time no lane is more than one job away from its share."""
    queue = Queue()
    for tenant in weights:
        queue.enter(tenant)
    served = dict.fromkeys(weights, 0)
    for _ in range(300):
        served[queue.claim(weights, price)] += 1
        least = min(served[tenant] / weight for tenant, weight in weights.items())
        for tenant, weight in weights.items():
            assert served[tenant] / weight - least <= 1 / weight + 1e-6


@given(some.lists(some.integers(1, 10_000), min_size=50, max_size=50), some.randoms(use_true_random=False))
def test_busy_lanes_share_money_and_not_jobs(prices: list[int], chance: object) -> None:
    """Who asks for dear jobs gets fewer of them."""
    queue = Queue()
    weights = {"a": 1.0, "b": 1.0}
    for tenant in weights:
        queue.enter(tenant)
    spent = dict.fromkeys(weights, 0)
    for price in prices:
        spent[queue.claim(weights, price)] += price
    assert abs(spent["a"] - spent["b"]) <= max(prices)


def test_idle_lane_saves_nothing_up() -> None:
    """After a thousand jobs of others it gets its turn, and not a thousand turns."""
    queue = Queue()
    queue.enter("busy")
    for _ in range(1000):
        queue.claim({"busy": 1.0})
    queue.enter("idle")
    both = {"busy": 1.0, "idle": 1.0}
    assert sorted(queue.claim(both) for _ in range(20)) == ["busy"] * 10 + ["idle"] * 10


def test_idle_lane_is_not_punished_for_what_it_received() -> None:
    """Work that it got while nobody else wanted any does not count against it when others come."""
    queue = Queue()
    queue.enter("first")
    for _ in range(1000):
        queue.claim({"first": 1.0})
    queue.enter("second")
    both = {"first": 1.0, "second": 1.0}
    assert {queue.claim(both) for _ in range(3)} == {"first", "second"}


def test_entering_again_with_work_waiting_changes_nothing() -> None:
    """A lane with waiting work is never behind the newest claim, so a needless lift is none."""
    queue = Queue()
    weights = {"a": 1.0, "b": 3.0, "c": 0.5}
    for tenant in weights:
        queue.enter(tenant)
    for _ in range(200):
        queue.claim(weights)
        before = dict(queue.lanes)
        for tenant in weights:
            queue.enter(tenant)
        assert queue.lanes == before


@given(some.floats(0, 1e12), some.floats(0, 1e12))
def test_entering_never_moves_a_lane_back(vtime: float, newest_start: float) -> None:
    """It only catches up."""
    assert enter(vtime, newest_start) == max(vtime, newest_start)


@pytest.mark.parametrize("price,weight,moved", [(1000, 1.0, 1000), (1000, 4.0, 250), (0, 1.0, 1), (0, 2.0, 0.5)])
def test_charge_is_price_by_weight(price: int, weight: float, moved: float) -> None:
    """Free work counts as 1, or a free tier would never be out of turn."""
    assert charge(10.0, price, weight) == 10.0 + moved
