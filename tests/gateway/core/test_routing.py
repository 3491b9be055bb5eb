import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.models import Model
from gateway.core.routing import USABLE, Health, Route, Standing, ranked

DRAWS = 4000
OK = Standing()


def route(upstream: str, *, weight: float = 1.0, group: int = 1, price: int = 0, **task_prices: int) -> Route:
    """Return a way to the model through an upstream."""
    model = Model("m", upstream, "v", {}, price_micros=price, task_prices=task_prices)
    return Route(model, weight, group)


def order(routes: list[Route], standings: dict[str, Standing], task: str = "txt2img", seed: int = 1) -> list[str]:
    """Return the upstreams, best first."""
    return [one.model.upstream for one in ranked(routes, standings, task, random.Random(seed))]


def shares(routes: list[Route], standings: dict[str, Standing]) -> dict[str, float]:
    """Return how often each upstream is the best."""
    chance = random.Random(5)
    firsts = Counter(ranked(routes, standings, "txt2img", chance)[0].model.upstream for _ in range(DRAWS))
    return {upstream: count / DRAWS for upstream, count in firsts.items()}


def near(share: float) -> object:
    """Within four standard deviations of so many draws."""
    return pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWS))


STANDINGS = some.builds(Standing, some.sampled_from(Health), some.floats(0, 10))
ROUTES = some.lists(
    some.builds(
        route,
        some.sampled_from("abcdef"),
        weight=some.floats(0, 5),
        group=some.integers(1, 3),
        price=some.integers(0, 2),
    ),
    max_size=8,
)


@given(ROUTES, some.dictionaries(some.sampled_from("abcdef"), STANDINGS), some.integers())
def test_routes_come_by_use_then_group_then_health_then_price(
    routes: list[Route], standings: dict[str, Standing], seed: int
) -> None:
    """Each is there once, and chance never decides against these."""

    def rank(one: Route) -> tuple[bool, int, Health, int]:
        health = standings.get(one.model.upstream, Standing(Health.DOWN)).health
        return health not in USABLE, one.group, health, one.model.price_micros

    made = ranked(routes, standings, "txt2img", random.Random(seed))
    assert sorted(map(id, made)) == sorted(map(id, routes))
    assert all(rank(one) <= rank(following) for one, following in pairwise(made))


@pytest.mark.parametrize(
    "health,expected",
    [
        (Health.OK, ["first", "second"]),
        (Health.RECOVERING, ["first", "second"]),
        (Health.LOCKED_OUT, ["second", "first"]),
        (Health.DOWN, ["second", "first"]),
    ],
)
def test_second_group_stands_in_where_nothing_of_the_first_is_well(health: Health, expected: list[str]) -> None:
    """And not before, whatever it costs less."""
    routes = [route("second", group=2), route("first", group=1, price=9)]
    assert order(routes, {"first": Standing(health), "second": OK}) == expected


def test_first_group_comes_first_again_where_nobody_is_well() -> None:
    """Then a job waits where it belongs."""
    routes = [route("second", group=2), route("first", group=1)]
    assert order(routes, {name: Standing(Health.DOWN) for name in ("first", "second")}) == ["first", "second"]


def test_healthiest_counts_before_the_cheapest() -> None:
    """Among those in the same health the price decides."""
    routes = [route("cheap"), route("dear", price=9), route("cheaper but ill", price=0)]
    standings = {"cheap": Standing(load=50), "dear": OK, "cheaper but ill": Standing(Health.RECOVERING)}
    assert order(routes, standings) == ["cheap", "dear", "cheaper but ill"]


def test_price_is_that_of_the_task() -> None:
    """What is cheap for one task may be dear for another."""
    routes = [route("a", price=1, upscale=5), route("b", price=2)]
    assert order(routes, {"a": OK, "b": OK}) == ["a", "b"]
    assert order(routes, {"a": OK, "b": OK}, "upscale") == ["b", "a"]


def test_upstream_that_nobody_knows_of_is_down() -> None:
    """It comes last, and is not left out."""
    assert order([route("unknown"), route("known", price=9)], {"known": OK}) == ["known", "unknown"]


def test_weights_share_the_work_among_equals() -> None:
    """Three to one is three to one."""
    found = shares([route("a", weight=3), route("b", weight=1)], {"a": OK, "b": OK})
    assert found == {"a": near(0.75), "b": near(0.25)}


def test_load_sends_work_elsewhere() -> None:
    """One with three jobs for each place gets a quarter of the share of one that is idle."""
    found = shares([route("busy"), route("idle")], {"busy": Standing(load=3), "idle": OK})
    assert found == {"busy": near(0.2), "idle": near(0.8)}


def test_second_best_is_shared_by_weight_too() -> None:
    """Where the best fails, the rest are asked in proportion, and not in the order of the settings."""
    routes = [route("a"), route("b", weight=3), route("c", weight=1)]
    chance = random.Random(6)
    drawn = [
        [one.model.upstream for one in ranked(routes, dict.fromkeys("abc", OK), "x", chance)] for _ in range(DRAWS)
    ]
    after_a = Counter(names[1] for names in drawn if names[0] == "a")
    assert after_a["b"] / after_a.total() == pytest.approx(0.75, abs=0.06)


@given(some.integers())
def test_weight_zero_comes_after_its_equals(seed: int) -> None:
    """So an upstream is kept in hand; it still comes before one that is worse."""
    routes = [route("kept", weight=0), route("used"), route("dear", price=1)]
    assert order(routes, dict.fromkeys(("kept", "used", "dear"), OK), seed=seed) == ["used", "kept", "dear"]


def test_endless_load_comes_after_its_equals() -> None:
    """An upstream whose line has no end is no fault of the choice."""
    assert order([route("full"), route("b")], {"full": Standing(load=math.inf), "b": OK}) == ["b", "full"]


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weight_that_means_nothing_is_refused(weight: float) -> None:
    """A negative one would draw a time before all others and win always."""
    with pytest.raises(ValueError, match="no such weight"):
        route("a", weight=weight)
