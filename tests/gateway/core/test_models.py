from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from gateway.core.models import Model, Sizes
from gateway.core.normal import Request
from protocol.errors import ClientFault

EDGES = some.integers(1, 20_000)
"""More than a client can ask for."""
RULE = Sizes(smallest=64, largest=1024, multiple_of=8, max_pixels=512 * 1024)
LISTED = Sizes(listed=((512, 512), (512, 768)))


def refusal(sizes: Sizes, width: int, height: int) -> ClientFault:
    """Return how a size is refused."""
    with pytest.raises(ClientFault) as caught:
        sizes.check(width, height)
    assert caught.value.code == "resolution_not_supported"
    return caught.value


@given(some.integers(-10, 2000), some.integers(-10, 2000))
def test_size_passes_exactly_where_the_rule_allows_it(width: int, height: int) -> None:
    """Both edges within bounds, both multiples, and not too many pixels."""
    allowed = (
        all(64 <= edge <= 1024 and edge % 8 == 0 for edge in (width, height)) and width * height <= RULE.max_pixels
    )
    if allowed:
        RULE.check(width, height)
    else:
        assert refusal(RULE, width, height).details["path"] in ("params.width", "params.height")


@pytest.mark.parametrize(
    "size,details",
    [
        ((56, 512), {"path": "params.width", "min": 64, "max": 1024}),
        ((512, 1032), {"path": "params.height", "min": 64, "max": 1024}),
        ((512, 500), {"path": "params.height", "multiple_of": 8}),
        ((1024, 1024), {"path": "params.width", "max_pixels": 524288}),
    ],
)
def test_refusal_says_what_is_allowed(size: tuple[int, int], details: dict[str, object]) -> None:
    """A program can mend the size from the details alone."""
    assert refusal(RULE, *size).details == details


SHAPED = Sizes(smallest=16, largest=3840, multiple_of=16, min_pixels=655_360, max_pixels=8_294_400, max_aspect=3)


@pytest.mark.parametrize(
    "size,details",
    [
        ((640, 640), {"path": "params.width", "min_pixels": 655360}),
        ((3840, 1264), {"path": "params.width", "max_aspect": 3}),
        ((480, 1456), {"path": "params.width", "max_aspect": 3}),
    ],
)
def test_size_may_be_too_small_or_too_stretched(size: tuple[int, int], details: dict[str, object]) -> None:
    """A rule may ask for pixels and for a shape."""
    assert refusal(SHAPED, *size).details == details


@given(some.integers(1, 16_384), some.integers(1, 16_384))
def test_nearest_size_is_allowed(width: int, height: int) -> None:
    """Whatever was asked, and whether the rule has a shape or not."""
    SHAPED.check(*SHAPED.nearest(width, height))
    RULE.check(*RULE.nearest(width, height))


def test_nearest_size_stays_within_the_largest_edge() -> None:
    """A rule that no size fits gives the largest there is."""
    with pytest.raises(ValueError, match="no such sizes"):
        Sizes(largest=128, min_pixels=100_000)


def test_listed_sizes_are_the_only_ones() -> None:
    """Where a model has a list, the rule does not count."""
    LISTED.check(512, 768)
    assert refusal(LISTED, 768, 512).details == {"path": "params.width", "allowed": ["512x512", "512x768"]}


def test_model_allows_its_own_defaults() -> None:
    """What a model draws when nothing is asked, it may draw."""
    model = Model("m", "up", "v", {"txt2img": frozenset({"prompt"})})
    model.sizes.check(*model.default_size)
    assert model.steps[0] <= model.default_steps <= model.steps[1]


# ------------------------------------------------------------------------------------------------------- nearest sizes


@some.composite
def rules(draw: some.DrawFn) -> Sizes:
    """A rule that allows something, however little."""
    multiple_of = draw(some.sampled_from([1, 8, 16, 64]))
    smallest = draw(some.integers(1, 600))
    least = -(-smallest // multiple_of) * multiple_of
    largest = draw(some.integers(least, 4096))
    return Sizes(smallest, largest, multiple_of, draw(some.integers(least**2, 4096**2)))


LISTS = some.lists(some.tuples(some.integers(1, 4096), some.integers(1, 4096)), min_size=1, max_size=9)


@given(some.one_of(rules(), some.builds(Sizes, listed=LISTS.map(tuple))), EDGES, EDGES)
@example(Sizes(smallest=512, largest=4096, multiple_of=8, max_pixels=1024 * 1024), 4096, 256)
@example(Sizes(smallest=100, largest=2048, multiple_of=64, max_pixels=128 * 128), 1, 20_000)
def test_nearest_size_is_always_allowed(sizes: Sizes, width: int, height: int) -> None:
    """Of a list or of a rule, whatever was asked; and one that is allowed is nearest to itself."""
    nearest = sizes.nearest(width, height)
    sizes.check(*nearest)
    assert sizes.nearest(*nearest) == nearest


@pytest.mark.parametrize(
    "asked,nearest",
    [
        ((515, 515), (512, 512)),
        ((519, 512), (520, 512)),
        ((2048, 512), (1024, 256)),
        ((512, 4096), (128, 1024)),
        ((1024, 1024), (720, 720)),
        ((10, 20), (64, 128)),
        ((1, 16384), (64, 1024)),
        ((3000, 1), (1024, 64)),
    ],
)
def test_nearest_size_keeps_the_shape_as_far_as_the_rule_goes(asked: tuple[int, int], nearest: tuple[int, int]) -> None:
    """A picture that is too large or too small is scaled as a whole; only a shape that the rule lacks is lost."""
    assert RULE.nearest(*asked) == nearest


@given(some.integers(512, 20_000), some.integers(512, 20_000))
def test_nearest_size_by_a_rule_has_nearly_the_asked_shape(width: int, height: int) -> None:
    """To within a multiple for each edge, where the bounds leave room."""
    sizes = Sizes(smallest=8, largest=2048, multiple_of=8, max_pixels=1024 * 1024)
    found = sizes.nearest(width, height)
    assert width / height * (1 - 9 / min(found)) <= found[0] / found[1] <= width / height * (1 + 9 / min(found))


@pytest.mark.parametrize(
    "asked,nearest",
    [
        ((500, 500), (512, 512)),
        ((3000, 3100), (1024, 1024)),
        ((1500, 1000), (1152, 768)),
        ((10, 100), (512, 1024)),
        ((1024, 512), (1152, 768)),
    ],
)
def test_nearest_listed_size_is_most_like_in_shape_then_in_area(
    asked: tuple[int, int], nearest: tuple[int, int]
) -> None:
    """A smaller picture of the right shape is more like it than one that is stretched."""
    sizes = Sizes(listed=((1024, 1024), (512, 512), (1152, 768), (512, 1024)))
    assert sizes.nearest(*asked) == nearest


@pytest.mark.parametrize(
    "sizes",
    [
        {"smallest": 512, "max_pixels": 512 * 512 - 1},
        {"smallest": 100, "multiple_of": 64, "max_pixels": 100 * 100},
        {"smallest": 512, "largest": 511},
        {"smallest": 65, "largest": 127, "multiple_of": 64},
        {"smallest": 0},
        {"multiple_of": 0},
        {"listed": ((512, 512), (0, 512))},
        {"listed": ((512, -1),)},
    ],
)
def test_sizes_that_allow_nothing_are_refused(sizes: dict[str, Any]) -> None:
    """A model that draws no size is a mistake in a setting."""
    with pytest.raises(ValueError, match="no such sizes"):
        Sizes(**sizes)


# --------------------------------------------------------------------------------------------------------------- tasks


def test_model_tells_what_holds_for_a_task() -> None:
    """Its own sizes and price, else the model's; and every name that has an effect anywhere."""
    tasks = {"txt2img": frozenset({"prompt", "seed"}), "upscale": frozenset({"scale"})}
    model = Model(
        "m", "up", "v", tasks, sizes=RULE, task_sizes={"upscale": LISTED}, price_micros=5, task_prices={"upscale": 0}
    )
    assert (model.sizes_of("txt2img"), model.sizes_of("upscale")) == (RULE, LISTED)
    assert (model.price("txt2img"), model.price("upscale")) == (5, 0)
    assert model.params == {"prompt", "seed", "scale"}
    assert Model("m", "up", "v", {}).params == frozenset()


@pytest.mark.parametrize(
    "task,roles,names",
    [
        ("txt2img", set(), {"prompt", "background"}),
        ("controlnet", {"canny"}, {"prompt", "background"}),
        ("controlnet", {"canny", "init"}, {"prompt"}),
        ("img2img", {"init"}, {"prompt"}),
    ],
)
def test_effect_of_a_name_may_end_beside_a_picture(task: str, roles: set[str], names: set[str]) -> None:
    """What a task takes alone, it may not take with everything."""
    whole = frozenset({"prompt", "background"})
    tasks = {"txt2img": whole, "controlnet": whole, "img2img": frozenset({"prompt"})}
    model = Model("m", "up", "v", tasks, idle_beside={"background": frozenset({"init", "mask"})})
    assert model.effects(task, roles) == names


def test_request_may_have_a_price_of_its_own() -> None:
    """Where the task alone does not say what it costs; else the task's price counts."""
    request = Request("txt2img", "m", "a lamp", "", 64, 64, 20, 7.0, 1, 1)
    model = Model("m", "up", "v", {"txt2img": frozenset({"prompt"})}, price_micros=5, task_prices={"upscale": 9})
    assert [model.price(task) for task in ("txt2img", "upscale")] == [5, 9]
    assert model.price_of(request) == 5
    assert replace(model, request_price=lambda asked: len(asked.prompt)).price_of(request) == 6
