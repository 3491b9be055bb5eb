"""What can go wrong with this dialect alone, beside the faults that all stand-ins know.

Each has a kind for a script's JSON form: the class's name in lower case with underscores, as in
`{"do": {"kind": "stream_cut", "after_events": 1}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from load.upstreams.faults import KINDS, VendorFault


@dataclass(frozen=True, slots=True)
class StreamCut(VendorFault):
    """Close the connection after so many whole events of a stream."""

    after_events: int = 0
    how: Literal["fin", "rst"] = "fin"


@dataclass(frozen=True, slots=True)
class StreamStall(VendorFault):
    """Fall silent after so many whole events of a stream."""

    after_events: int = 0
    seconds: float | None = None
    """How long; None until the client or the stand-in goes."""


@dataclass(frozen=True, slots=True)
class StreamError(VendorFault):
    """Send an error event after so many events, and end the stream in good order."""

    after_events: int = 1
    code: str = "server_error"
    message: str | None = None


@dataclass(frozen=True, slots=True)
class NoPartials(VendorFault):
    """Leave out the partial pictures after the first `keep`, as a fast model or a proxy does."""

    keep: int = 0


@dataclass(frozen=True, slots=True)
class NoFinal(VendorFault):
    """End the stream in good order without its last event."""


@dataclass(frozen=True, slots=True)
class PlainAnswer(VendorFault):
    """Answer with plain JSON although a stream was asked for."""


@dataclass(frozen=True, slots=True)
class EmptyData(VendorFault):
    """Answer 200 without any picture, as proxies do after a refusal by the moderation."""


@dataclass(frozen=True, slots=True)
class Redirect(VendorFault):
    """Send whoever fetches a picture elsewhere; name the operation `result` in the rule."""

    to: str = "http://127.0.0.1:9/"
    status: int = 302


@dataclass(frozen=True, slots=True)
class ForeignUrl(VendorFault):
    """Let the picture's URL name another host; the port stays the stand-in's own."""

    host: str = "localhost"


@dataclass(frozen=True, slots=True)
class RateLimited(VendorFault):
    """Refuse with 429 `rate_limit_exceeded` and say when to come back in this way."""

    seconds: float = 1.0
    how: Literal["nothing", "seconds", "milliseconds", "date"] = "seconds"


KINDS.update(
    stream_cut=StreamCut,
    stream_stall=StreamStall,
    stream_error=StreamError,
    no_partials=NoPartials,
    no_final=NoFinal,
    plain_answer=PlainAnswer,
    empty_data=EmptyData,
    redirect=Redirect,
    foreign_url=ForeignUrl,
    rate_limited=RateLimited,
)
