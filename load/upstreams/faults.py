"""What can go wrong, as data: a script of rules that says which request meets which fault.

Vendor-independent. A rule without conditions meets every generation request; of several that fit, the first
wins. Chance comes from a seeded generator, so the same script, seed and order of arrival give the same
faults.

The JSON form of a script is a list of rules, or an object with the list under `rules`. A rule's keys are the
field names of `Rule`; `do` is an object with `kind` and the field names of that fault:

    [{"requests": [2], "do": {"kind": "cut", "at_byte": 100, "how": "rst"}},
     {"engine": "esrgan-v1-x2plus", "probability": 0.1, "do": {"kind": "refuse", "status": 503}},
     {"first": 10, "last": 20, "service_seconds": 5}]
"""

from __future__ import annotations

import random
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

_Made = TypeVar("_Made")


class ScriptError(ValueError):
    """A script names an unknown key or kind, or gives a value of the wrong type or range."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error instead of doing the work.

    A refusal before work is begun comes first of all. One that begins it, as a 500 does, meets only requests
    that would have succeeded; the others get the error they earned.
    """

    status: int
    name: str | None = None
    """The vendor's error name; None takes the usual one for the status."""
    message: str | None = None
    retry_after: int | None = None
    """Seconds for a Retry-After header; None sends no such header."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Do the work and report this finish reason, still as a success of the transport."""

    reason: Literal["SUCCESS", "ERROR", "CONTENT_FILTERED"] = "CONTENT_FILTERED"


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection after so many bytes of the answer, its head included."""

    at_byte: int = 0
    """0 cuts before the answer; a negative number counts back from the answer's end."""
    how: Literal["fin", "rst"] = "fin"


@dataclass(frozen=True, slots=True)
class Stall:
    """Fall silent after so many bytes of the answer, with the connection open."""

    after_bytes: int = 0
    """0 never sends a header; a negative number counts back from the answer's end."""
    seconds: float | None = None
    """How long the silence lasts before the rest follows; None until the client or the stand-in goes."""


@dataclass(frozen=True, slots=True)
class Drip:
    """Send the answer in small pieces with a pause after each."""

    piece_bytes: int = 64
    pause_seconds: float = 0.01


@dataclass(frozen=True, slots=True)
class Garbage:
    """Answer 200 with a body that is wrong; errors the request earned by itself stay as they are."""

    what: Literal["not_json", "truncated_json", "wrong_base64", "not_png", "empty", "huge"] = "not_json"
    size_bytes: int = 64 * 1024 * 1024
    """The body's size for `huge`."""


@dataclass(frozen=True, slots=True)
class VendorFault:
    """A fault that one vendor alone knows: subclass it and enter the subclass in `KINDS`."""


Fault = Refuse | Finish | Cut | Stall | Drip | Garbage | VendorFault

KINDS: dict[str, type[Fault]] = {
    "refuse": Refuse,
    "finish": Finish,
    "cut": Cut,
    "stall": Stall,
    "drip": Drip,
    "garbage": Garbage,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule can look at."""

    number: int
    """Counts from 1 at the moment the script was set; generation requests and others are counted apart."""
    operation: str
    generation: bool
    engine: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a script: when, and what then. Conditions left at their defaults always hold."""

    do: Fault | None = None
    """None changes nothing but the time or the bill."""
    requests: frozenset[int] | None = None
    """Numbers of the requests that are met, counted from 1 since the script was set."""
    first: int = 1
    last: int | None = None
    every: int = 1
    """Of the numbers from `first` on, each n-th."""
    engine: str | None = None
    operation: str | None = None
    """None stands for the generation operations; reading the account and the like must be named."""
    key: str | None = None
    probability: float = 1.0
    times: int | None = None
    """How often the rule may be used; None without end."""
    service_seconds: float | None = None
    """Overrides the time until the answer begins; None draws it if work is begun, else 0."""
    begun: bool | None = None
    """Whether work is begun, so billed; None: yes for a success and for 5xx but 503, no for other errors."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ScriptError(f"probability must be 0 to 1, not {self.probability}")
        if self.every < 1:
            raise ScriptError(f"every must be at least 1, not {self.every}")

    def fits(self, seen: Seen) -> bool:
        """Whether all conditions but chance and the number of uses hold."""
        return (
            (seen.generation if self.operation is None else self.operation == seen.operation)
            and self._names(seen.number)
            and self.engine in (None, seen.engine)
            and self.key in (None, seen.key)
        )

    def _names(self, number: int) -> bool:
        if self.requests is not None and number not in self.requests:
            return False
        if number < self.first or (self.last is not None and number > self.last):
            return False
        return (number - self.first) % self.every == 0


Rules = Iterable[Rule | Mapping[str, object]]


class Script:
    """The rules in force, how often each was used, and the chance they draw from."""

    def __init__(self, rules: Rules = (), seed: int = 1) -> None:
        self.rules = [rule if isinstance(rule, Rule) else rule_from_json(rule) for rule in rules]
        self._uses = [0] * len(self.rules)
        self._chance = random.Random(f"{seed}/script")
        self._numbers = {True: 0, False: 0}

    def match(
        self, operation: str, *, generation: bool, engine: str | None = None, key: str | None = None
    ) -> Rule | None:
        """Count one request and return the first rule that meets it; call it once per request, in order."""
        self._numbers[generation] += 1
        seen = Seen(self._numbers[generation], operation, generation, engine, key)
        for index, rule in enumerate(self.rules):
            if rule.fits(seen) and self._use(index, rule):
                return rule
        return None

    def _use(self, index: int, rule: Rule) -> bool:
        if rule.times is not None and self._uses[index] >= rule.times:
            return False
        if rule.probability < 1 and self._chance.random() >= rule.probability:
            return False
        self._uses[index] += 1
        return True


def rules_from_json(value: object) -> list[Rule]:
    """The rules of a script in its JSON form; raises `ScriptError` naming what is wrong."""
    if isinstance(value, dict) and set(value) == {"rules"}:
        value = value["rules"]
    if not isinstance(value, list):
        raise ScriptError("a script is a list of rules")
    return [rule_from_json(rule) for rule in value]


def rule_from_json(value: object) -> Rule:
    """One rule from its JSON form; raises `ScriptError` naming what is wrong."""
    given = _object(value)
    if given.get("do") is not None:
        given["do"] = _fault(given["do"])
    requests = given.get("requests")
    if isinstance(requests, list) and all(isinstance(number, int) for number in requests):
        given["requests"] = frozenset(requests)
    return _build(Rule, given)


def _fault(value: object) -> Fault:
    if isinstance(value, Fault):
        return value
    given = _object(value)
    kind = KINDS.get(str(given.pop("kind", None)))
    if kind is None:
        raise ScriptError(f"a fault's kind is one of {', '.join(KINDS)}")
    return _build(kind, given)


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ScriptError(f"expected an object, not {value!r}")
    return {str(name): item for name, item in value.items()}


def _build(kind: type[_Made], given: dict[str, object]) -> _Made:
    hints = typing.get_type_hints(kind)
    for name, value in given.items():
        if name not in hints:
            raise ScriptError(f"{kind.__name__} has no {name!r}; it has {', '.join(hints)}")
        if not _suits(value, hints[name]):
            raise ScriptError(f"{kind.__name__}.{name} cannot be {value!r}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ScriptError(str(error)) from error


def _suits(value: object, hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_suits(value, argument) for argument in arguments)
    if origin is frozenset:
        return isinstance(value, frozenset)
    if hint is float or hint is int:
        # bool is an int to Python and never one to the writer of a script.
        return isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)
