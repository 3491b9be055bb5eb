import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.config.settings import EndUserScope
from gateway.core.records import Identity, Plan
from gateway.core.scopes import ALL, END_USER, SCOPES, UNRESTRICTED, Restriction, named, require
from protocol.errors import ClientFault

NAMES = some.sampled_from(sorted(ALL))
RESTRICTIONS = some.builds(
    Restriction,
    scopes=some.none() | some.lists(NAMES, unique=True).map(tuple),
    models=some.none() | some.lists(some.sampled_from("abc"), unique=True).map(tuple),
    max_cost_micros=some.none() | some.integers(0, 9),
)


def test_every_scope_is_told_and_settings_have_those_of_end_users() -> None:
    """One table; the names in the settings are the same words."""
    assert SCOPES.keys() == ALL
    assert set(get_args(EndUserScope)) == END_USER == ALL - {"admin"}


def test_unknown_scope_is_refused_by_name() -> None:
    """With those that there are; what is there but not the asker's is as unknown."""
    assert named(["read", "read"], ALL) == {"read"}
    with pytest.raises(ClientFault) as fault:
        named(["paint", "admin", "read"], END_USER)
    assert fault.value.code == "invalid_param"
    assert fault.value.details == {"path": "scopes", "unknown": ["admin", "paint"], "allowed": sorted(END_USER)}


def test_missing_scope_is_forbidden_by_name() -> None:
    """The refusal says what lacks, and what there is."""
    require(frozenset({"read"}), "read")
    with pytest.raises(ClientFault) as fault:
        require(frozenset({"read"}), "cancel")
    assert (fault.value.code, fault.value.details) == ("forbidden", {"scope": "cancel", "scopes": ["read"]})


@given(RESTRICTIONS, RESTRICTIONS)
def test_two_restrictions_leave_what_both_leave(one: Restriction, other: Restriction) -> None:
    """Neither is ever widened, in whichever order they come."""
    both = one.within(other)
    for scope in ALL:
        assert (scope in both.scopes_of(ALL)) == (scope in one.scopes_of(ALL) and scope in other.scopes_of(ALL))
    for model in "abcd":
        assert both.allows(model) == (one.allows(model) and other.allows(model))
    costs = [cost for cost in (one.max_cost_micros, other.max_cost_micros) if cost is not None]
    assert both.max_cost_micros == min(costs, default=None)
    assert one.within(UNRESTRICTED) == UNRESTRICTED.within(one) == one


def test_model_that_is_not_allowed_is_refused_with_those_that_are() -> None:
    """By the name that clients use."""
    Restriction().check_model("a")
    Restriction(models=("a", "b")).check_model("a")
    with pytest.raises(ClientFault) as fault:
        Restriction(models=("b", "a")).check_model("c")
    assert (fault.value.code, fault.value.details) == ("forbidden", {"path": "model", "allowed": ["a", "b"]})


@given(RESTRICTIONS, RESTRICTIONS)
def test_identity_only_becomes_narrower(one: Restriction, other: Restriction) -> None:
    """Step by step, and never back."""
    identities = [Identity("acme", "ann", Plan(), "key")]
    for restriction in (one, other, UNRESTRICTED):
        identities.append(identities[-1].narrowed(restriction))
    for before, after in itertools.pairwise(identities):
        assert after.scopes <= before.scopes
    assert identities[-1].restriction == one.within(other)
    if "read" in identities[-1].scopes:
        identities[-1].require("read")
