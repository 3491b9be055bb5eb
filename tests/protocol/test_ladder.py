"""The preview ladder: a wish is rounded down to a rung, and a preview that does not fit goes down step by step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ladder import EDGES, QUALITIES, Rung, rung_for, step_down
from protocol.messages import PreviewFormat, Previews

FORMATS: tuple[PreviewFormat, ...] = ("jpeg", "webp", "png", "raw")
POLICIES = st.builds(
    Previews, max_edge=st.integers(64, 1024), format=st.sampled_from(FORMATS), quality=st.integers(1, 100)
)


@given(POLICIES, st.integers(64, 1024))
def test_rung_is_the_highest_within_policy_and_limit(policy: Previews, limit: int) -> None:
    """No preview is larger than the client or the server allows, and none is smaller than it must be."""
    rung = rung_for(policy, limit)
    allowed = min(policy.max_edge, limit)
    assert rung.edge <= allowed
    assert all(edge <= rung.edge or edge > allowed for edge in EDGES)
    assert rung.format == policy.format


@given(POLICIES)
def test_quality_is_rounded_down_where_the_format_has_one(policy: Previews) -> None:
    """There are three qualities; formats without loss have one, so that wishes for them meet on one rung."""
    rung = rung_for(policy, 1024)
    lossy = policy.format in ("jpeg", "webp")
    below = [quality for quality in QUALITIES if quality <= policy.quality] or [QUALITIES[0]]
    assert rung.quality == (below[-1] if lossy else QUALITIES[-1])


def test_server_limit_below_the_ladder_means_its_lowest_edge() -> None:
    """The lowest edge stands for every limit under it."""
    assert rung_for(Previews(), 1).edge == EDGES[0]


def test_defaults_are_a_rung() -> None:
    """A client that only says `previews` gets what the contract calls the default."""
    assert rung_for(Previews(), 1024) == Rung(256, "jpeg", 70)


@pytest.mark.parametrize("form", FORMATS)
def test_step_down_ends_below_the_smallest_rung(form: PreviewFormat) -> None:
    """Each step is smaller, quality before size, and after the last there is nothing."""
    rung: Rung | None = Rung(1024, form, 90)
    steps = []
    while rung is not None:
        steps.append(rung)
        rung = step_down(rung)
    keys = [(one.edge, one.quality) for one in steps]
    qualities = QUALITIES if form in ("jpeg", "webp") else (90,)
    falling = [(1024, quality) for quality in reversed(qualities)]
    assert keys == falling + [(edge, falling[-1][1]) for edge in reversed(EDGES[:-1])]
    assert all(one.format == form for one in steps)
    assert all(before != after for before, after in itertools.pairwise(steps))
