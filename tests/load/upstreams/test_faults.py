"""Scripts of faults: which rule meets which request, and their JSON form."""

from __future__ import annotations

import pytest

from load.upstreams.faults import (
    Cut,
    Drip,
    Fault,
    Finish,
    Garbage,
    Refuse,
    Rule,
    Script,
    ScriptError,
    Stall,
    rules_from_json,
)


def met(script: Script, count: int, operation: str = "text-to-image") -> list[int]:
    """The numbers of the generation requests, of `count` in a row, that some rule meets."""
    numbers = range(1, count + 1)
    return [n for n in numbers if script.match(operation, generation=True, engine="e", key="k") is not None]


def test_rule_without_conditions_meets_every_generation_request() -> None:
    """The empty rule leaves nothing out but requests that generate nothing."""
    script = Script([Rule(Cut())])
    assert met(script, 3) == [1, 2, 3]
    assert script.match("user/account", generation=False) is None


@pytest.mark.parametrize(
    "rule,expected",
    [
        (Rule(requests=frozenset({2, 5})), [2, 5]),
        (Rule(first=3), [3, 4, 5, 6]),
        (Rule(first=2, last=4), [2, 3, 4]),
        (Rule(first=2, every=2), [2, 4, 6]),
        (Rule(times=2), [1, 2]),
        (Rule(engine="e", key="k"), [1, 2, 3, 4, 5, 6]),
        (Rule(engine="other"), []),
        (Rule(key="other"), []),
        (Rule(operation="upscale"), []),
        (Rule(probability=0.0), []),
    ],
)
def test_rule_meets_the_requests_its_conditions_name(rule: Rule, expected: list[int]) -> None:
    """Each condition narrows the requests that are met."""
    assert met(Script([rule]), 6) == expected


def test_first_rule_that_fits_wins() -> None:
    """A later rule is reached only by requests that no earlier one took."""
    script = Script([Rule(Cut(), requests=frozenset({2})), Rule(Stall())])
    faults = [rule.do for _ in range(3) if (rule := script.match("upscale", generation=True))]
    assert faults == [Stall(), Cut(), Stall()]


def test_script_counts_other_requests_apart() -> None:
    """Reading the account doesn't move the numbers of generation requests, and can be met by name."""
    script = Script([Rule(Cut(), requests=frozenset({1})), Rule(Stall(), operation="user/account", first=2)])
    assert script.match("user/account", generation=False) is None
    account = script.match("user/account", generation=False)
    generation = script.match("upscale", generation=True)
    assert [Stall(), Cut()] == [account and account.do, generation and generation.do]


def test_chance_repeats_with_the_seed() -> None:
    """The same seed meets the same requests, another seed others."""
    rules = [Rule(probability=0.3)]
    assert met(Script(rules, seed=1), 200) == met(Script(rules, seed=1), 200)
    assert met(Script(rules, seed=1), 200) != met(Script(rules, seed=2), 200)
    assert 30 <= len(met(Script(rules, seed=1), 200)) <= 90


@pytest.mark.parametrize(
    "written,fault",
    [
        ({"kind": "refuse", "status": 429, "retry_after": 60}, Refuse(429, retry_after=60)),
        ({"kind": "finish", "reason": "ERROR"}, Finish("ERROR")),
        ({"kind": "cut", "at_byte": -1, "how": "rst"}, Cut(-1, "rst")),
        ({"kind": "stall", "seconds": 2}, Stall(seconds=2)),
        ({"kind": "drip", "piece_bytes": 1, "pause_seconds": 0.5}, Drip(1, 0.5)),
        ({"kind": "garbage", "what": "not_png"}, Garbage("not_png")),
        (Cut(3), Cut(3)),
        (None, None),
    ],
)
def test_script_reads_every_kind_of_fault(written: object, fault: Fault | None) -> None:
    """Each kind has a JSON form with the field names of its class."""
    assert rules_from_json([{"do": written}]) == [Rule(fault)]


def test_script_may_stand_under_a_key_of_its_own() -> None:
    """A list of rules and an object that holds it are the same script."""
    rules = [{"requests": [1, 2], "probability": 1, "service_seconds": 0.5, "begun": False}]
    expected = [Rule(requests=frozenset({1, 2}), probability=1, service_seconds=0.5, begun=False)]
    assert expected == rules_from_json(rules) == rules_from_json({"rules": rules})


@pytest.mark.parametrize(
    "script,complaint",
    [
        ({}, "list of rules"),
        ([1], "expected an object"),
        ([{"engin": "e"}], "has no 'engin'"),
        ([{"probability": 2}], "probability"),
        ([{"every": 0}], "every"),
        ([{"first": "3"}], r"Rule\.first"),
        ([{"first": True}], r"Rule\.first"),
        ([{"requests": 3}], r"Rule\.requests"),
        ([{"requests": [[1]]}], r"Rule\.requests"),
        ([{"do": "cut"}], "expected an object"),
        ([{"do": {"kind": "explode"}}], "kind is one of"),
        ([{"do": {"kind": "cut", "how": "axe"}}], r"Cut\.how"),
        ([{"do": {"kind": "refuse"}}], "status"),
        ([{"do": {"kind": "stall", "seconds": "long"}}], r"Stall\.seconds"),
    ],
)
def test_script_says_what_is_wrong_with_it(script: object, complaint: str) -> None:
    """A mistake in a script is named instead of being ignored."""
    with pytest.raises(ScriptError, match=complaint):
        rules_from_json(script)
