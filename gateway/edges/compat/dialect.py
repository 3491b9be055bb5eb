"""What a dialect must offer, and the values that go between it and the doors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.responses import Response
from starlette.routing import BaseRoute

from gateway.core.normal import Request
from protocol.errors import ERRORS, ClientFault
from protocol.messages import ErrorBody, ImageFormat

CODES: Final = frozenset(ERRORS) | {"canceled", "wait_over"}
"""Every code that a dialect must have a word for: those of the registry, a job that was canceled, and a wait that came
to its limit while the job goes on."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A picture that came along with a request; it is stored before the job is made."""

    role: str
    content: bytes
    name: str
    """What the dialect calls it."""
    weight: float | None = None
    start: float | None = None
    end: float | None = None
    preprocessor: str | None = None
    is_raw: bool = False
    """Whether a control image is to be made of it: by the model's preprocessor of the role's name, if it has one."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a dialect's request asks for, in our words."""

    task: str
    params: Mapping[str, Any]
    """Names inside `params` of a submit; `None` = not given."""
    model: str | None = None
    """As the client named it; it may be an alias. `None` = whatever does the task."""
    sent: tuple[Sent, ...] = ()
    hints: frozenset[str] = frozenset()
    """Names inside `params` that are left out where the model has no use for them, and told in `X-Ignored`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that the dialect gives what is not given, where the model has a use for them."""
    goes_anywhere: bool = False
    """Whether any model will do that can do the task, where the one that is named cannot."""
    has_preset: bool = False
    """Whether its style is one of the vendor's presets: then a model that does not know it has no use for it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One picture of a result; edges in pixels."""

    index: int
    seed: int
    width: int
    height: int
    format: ImageFormat = "png"
    content: bytes | None = None
    """`None` = a filter held it back."""
    asset: str = ""
    """Its id in the store; empty if a filter held it back."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a job that ended well came to, each index once."""

    job: str
    request: Request
    pieces: tuple[Piece, ...]
    created_ms: int


@dataclass(slots=True)
class Trouble(Exception):
    """Anything that goes wrong at a door, before a job is made or with it. `code` is one of `CODES`."""

    code: str
    message: str
    retry_after_ms: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    job: str | None = None
    retryable: bool | None = None
    """Whether the same request may end otherwise; `None` = what the registry says of the code."""

    def __post_init__(self) -> None:
        Exception.__init__(self, self.code, self.message)
        assert self.code in CODES, f"no dialect has a word for {self.code}"

    @classmethod
    def of(cls, fault: ClientFault | ErrorBody, job: str | None = None) -> "Trouble":
        """Return what a refusal is at a door, or the end of a job that failed."""
        if isinstance(fault, ClientFault):
            return cls(fault.code, fault.message, fault.retry_after_ms, fault.details, job, fault.retryable)
        retry_after_ms = fault.retry_after_ms if isinstance(fault.retry_after_ms, int) else None
        details = fault.details if isinstance(fault.details, dict) else {}
        code = fault.code if fault.code in CODES else "internal"
        return cls(code, fault.message, retry_after_ms, details, job, fault.retryable)

    @property
    def may_be_repeated(self) -> bool:
        """Whether the same request may end otherwise."""
        entry = ERRORS.get(self.code)
        usual = entry is not None and entry.retryable
        return usual if self.retryable is None else self.retryable

    @property
    def path(self) -> str:
        """The field that is wrong, as admission names it; empty if none is."""
        return str(self.details.get("path", ""))


class Dialect(Protocol):
    """One foreign API. The doors add headers to what it answers; it adds none that all dialects share."""

    prefixes: tuple[str, ...]
    """Where its paths begin: whatever goes wrong there is said in its words, also an unknown path."""
    challenge: str
    """What a 401 asks for in `WWW-Authenticate`."""
    names: Mapping[str, str]
    """Our names of params -> the dialect's, where they differ."""
    tells_x_ratelimit: bool
    """Whether its clients know the `x-ratelimit-` headers."""

    def routes(self) -> list[BaseRoute]:
        """Return the dialect's routes."""
        ...

    def refusal(self, trouble: Trouble, reference: str) -> Response:
        """Return how the dialect says what went wrong; `reference` finds it in the log."""
        ...


class View(Protocol):
    """How one route of a dialect tells what became of a request."""

    is_json: bool
    """Whether white space may come before the answer, so that it can be kept alive; a bare picture cannot."""

    async def accepted(self, job: str) -> Response:
        """Return the answer to a client that does not want to wait."""
        ...

    async def finished(self, result: Result) -> Response:
        """Return the answer that has the pictures."""
        ...
