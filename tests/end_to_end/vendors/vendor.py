"""What the contract suite needs of each kind of upstream: its stand-in, its adapter, and how to make it misbehave.

A `Vendor` says in its own words what a trouble is there, and what comes of it where that is not what the money rule
says of every upstream: what is billed and cannot be looked up is given up, everything else is done again or found.
"""

import abc
import contextlib
from collections.abc import AsyncIterator, Mapping
from enum import Enum
from typing import Any, ClassVar, Final

from gateway.core.models import Model
from gateway.ports import Upstream


class Trouble(Enum):
    """What a vendor can do wrong with one call."""

    RUNTIME_ERROR = "the work fails"
    OUT_OF_MEMORY = "the work needs more memory than there is"
    UNAUTHORISED = "the credential is refused"
    RATE_LIMITED = "429"
    BUSY = "503, before any work"
    BAD_REQUEST = "the request is not to its liking"
    CUT_BEFORE = "the connection breaks before the answer"
    CUT_INSIDE = "the connection breaks inside the answer"
    STALL = "the answer never comes"
    GARBAGE = "the answer is nonsense"
    HUGE = "the answer never ends"
    FILTERED = "the picture is held back"


CODES: Final[dict[Trouble, str]] = {
    Trouble.RUNTIME_ERROR: "upstream_error",
    Trouble.OUT_OF_MEMORY: "out_of_memory",
    Trouble.UNAUTHORISED: "upstream_error",
    Trouble.BAD_REQUEST: "upstream_error",
    Trouble.GARBAGE: "invalid_output",
    Trouble.HUGE: "invalid_output",
}
"""How a job ends that met a trouble which nothing mends."""
MENDED: Final = frozenset({Trouble.RATE_LIMITED, Trouble.BUSY})
"""Troubles that a second try gets over: the vendor said no before it worked."""
LOST: Final = frozenset({Trouble.CUT_BEFORE, Trouble.CUT_INSIDE, Trouble.STALL})
"""Troubles after which nobody knows what the vendor made of the call."""


class Vendor(abc.ABC):
    """One vendor under test; `async with vendor.open()` around its use."""

    name: ClassVar[str]
    params: Mapping[str, Any]
    """Of a small request that it makes fast."""
    impossible: ClassVar[frozenset[Trouble]] = frozenset()
    """Troubles that it cannot have, or that nobody can tell apart from another there."""
    codes: ClassVar[Mapping[Trouble, str]] = {}
    """Ends that are told otherwise here."""
    finds: ClassVar[bool] = False
    """Whether lost work that makes a picture of words can be found again."""
    restarts: ClassVar[bool] = False
    """Whether the stand-in can be killed and started again."""
    is_always_there: ClassVar[bool] = False
    """Whether there is no server that could be missing."""
    patience_seconds: ClassVar[float] = 20.0
    """How long anything may take that is waited for."""
    engines: ClassVar[tuple[str, ...]] = ()
    """What it needs, as `tests.engines` calls it."""
    adapters: list[Upstream]

    @property
    def model(self) -> Model:
        """What the suite asks for: the first model that makes a picture of words."""
        return next(model for model in self.adapter.models if "txt2img" in model.tasks)

    @property
    def adapter(self) -> Upstream:
        """The adapter that the gateway uses."""
        return self.adapters[0]

    @contextlib.asynccontextmanager
    @abc.abstractmethod
    def open(self, **how: Any) -> AsyncIterator[None]:
        """Start the stand-in and make the adapter; `how` may have `seconds` (of a run), `previews`, `concurrency`."""

    def has(self, task: str, param: str) -> bool:
        """Whether a param has an effect in a task, as the adapter declares."""
        return param in self.model.tasks.get(task, ())

    @property
    @abc.abstractmethod
    def calls(self) -> int:
        """How often work was asked for."""

    @abc.abstractmethod
    def meet(self, trouble: Trouble) -> None:
        """Let the next call meet a trouble."""

    def end_of(self, trouble: Trouble) -> str:
        """Return the code with which a job ends that met a trouble."""
        return self.codes.get(trouble, CODES.get(trouble, "outcome_unknown"))

    async def kill(self) -> None:
        """End the server as a power cut would."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Start it again, with nothing in its memory."""
        raise NotImplementedError
