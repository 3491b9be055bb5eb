"""What can go wrong inside this server, as data: rules for prompts and for sockets.

The faults of single requests (refusals, cuts, stalls) are the shared script's, by the names of operations.
These here lie behind it. A prompt rule's JSON form is an object with the names of `PromptRule`'s fields and
`do` as an object with `kind`: `{"prompts": [2], "do": {"kind": "fail", "at_step": 3}}`. A socket rule's is
`{"sockets": [1], "kind": "zombie", "after": 10}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from load.upstreams.faults import ScriptError

SERVER_ROOT = "/srv/comfyui"
"""Where the server says its files are; a gateway's users must never read it."""

OUT_OF_MEMORY = "torch.OutOfMemoryError"


@dataclass(frozen=True, slots=True)
class Fail:
    """A node raises: when it begins, or before one of its steps."""

    at_node: str = "KSampler"
    """A node's class or its id."""
    at_step: int | None = None
    exception: str = "RuntimeError"
    """`torch.OutOfMemoryError` stands for a full graphics card."""
    message: str = "scripted by the stand-in"


@dataclass(frozen=True, slots=True)
class Pause:
    """A node falls silent before a step, or before each; an interrupt sent meanwhile takes hold after it."""

    at_node: str = "KSampler"
    at_step: int | None = None
    """None stands for each step; 0 for the node's beginning."""
    seconds: float | None = None
    """None lasts until the stand-in ends."""


@dataclass(frozen=True, slots=True)
class Vanish:
    """The prompt ends without a word and leaves nothing in queue or history."""

    at_node: str = "KSampler"
    at_step: int | None = None


@dataclass(frozen=True, slots=True)
class Crash:
    """The whole server dies: all connections break, queue and history are gone."""

    at_node: str = "KSampler"
    at_step: int | None = None
    restart_after: float | None = None
    """Seconds until it listens again; None until `restart` is called."""


@dataclass(frozen=True, slots=True)
class LateHistory:
    """The history is written so long after `execution_success`; what follows the writing waits with it."""

    seconds: float
    after_end: bool = False
    """True lets the last messages go out before, which the real server was never seen to do."""


@dataclass(frozen=True, slots=True)
class LoseFiles:
    """The files of the results are gone when somebody asks for them."""


@dataclass(frozen=True, slots=True)
class NoPreviews:
    """No preview is sent for this prompt."""


Trouble = Fail | Pause | Vanish | Crash | LateHistory | LoseFiles | NoPreviews

KINDS: Mapping[str, type[Trouble]] = {
    "fail": Fail,
    "pause": Pause,
    "vanish": Vanish,
    "crash": Crash,
    "late_history": LateHistory,
    "lose_files": LoseFiles,
    "no_previews": NoPreviews,
}


@dataclass(frozen=True, slots=True)
class PromptRule:
    """Which accepted prompts meet a trouble; they are counted from 1 since the rules were set."""

    do: Trouble
    prompts: frozenset[int] | None = None
    """None stands for all."""

    def fits(self, number: int) -> bool:
        return self.prompts is None or number in self.prompts


SocketKind = Literal["zombie", "deaf", "frozen"]


@dataclass(frozen=True, slots=True)
class SocketRule:
    """Which WebSocket connections go wrong, and how.

    A `zombie` stays open, answers pings and hears nothing; a `deaf` one still hears `status`; a `frozen` one
    does not even answer pings.
    """

    kind: SocketKind = "zombie"
    sockets: frozenset[int] | None = None
    """Connections counted from 1 since the rules were set; None stands for all."""
    after: int = 0
    """How many messages it hears before."""

    def fits(self, number: int) -> bool:
        return self.sockets is None or number in self.sockets


PromptRules = Iterable[PromptRule | Mapping[str, Any]]
SocketRules = Iterable[SocketRule | Mapping[str, Any]]


def prompt_rule(given: PromptRule | Mapping[str, Any]) -> PromptRule:
    """A rule, from its JSON form if need be; raises `ScriptError`."""
    if isinstance(given, PromptRule):
        return given
    fields = dict(given)
    do = fields.pop("do", None)
    if isinstance(do, Mapping):
        details = dict(do)
        kind = KINDS.get(str(details.pop("kind", None)))
        if kind is None:
            raise ScriptError(f"a trouble's kind is one of {', '.join(KINDS)}")
        do = _made(kind, details)
    return _made(PromptRule, {**fields, "do": do, "prompts": _numbers(fields.get("prompts"))})


def socket_rule(given: SocketRule | Mapping[str, Any]) -> SocketRule:
    """A rule, from its JSON form if need be; raises `ScriptError`."""
    if isinstance(given, SocketRule):
        return given
    return _made(SocketRule, {**given, "sockets": _numbers(given.get("sockets"))})


_Made = TypeVar("_Made")


def _made(kind: type[_Made], fields: Mapping[str, Any]) -> _Made:
    try:
        return kind(**fields)
    except TypeError as error:
        raise ScriptError(str(error)) from error


def _numbers(value: Any) -> frozenset[int] | None:
    return None if value is None else frozenset(value)
