import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.models import Model, Sizes
from protocol.errors import ClientFault

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


def test_listed_sizes_are_the_only_ones() -> None:
    """Where a model has a list, the rule does not count."""
    LISTED.check(512, 768)
    assert refusal(LISTED, 768, 512).details == {"path": "params.width", "allowed": ["512x512", "512x768"]}


def test_model_allows_its_own_defaults() -> None:
    """What a model draws when nothing is asked, it may draw."""
    model = Model("m", "up", "v", frozenset({"txt2img"}), frozenset({"prompt"}))
    model.sizes.check(*model.default_size)
    assert model.steps[0] <= model.default_steps <= model.steps[1]
