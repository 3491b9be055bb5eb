"""What the client's machine wants done, and what it hands to the user.

Effects are imperatives for the driver, which performs them in order. Events are what the application sees: the typed
messages of `protocol.messages` and the values below, which exist on the client's side only.
"""

from dataclasses import dataclass
from typing import Any, Final

from protocol.errors import CLOSE_NUMBERS
from protocol.messages import (
    END_TYPES,
    Accepted,
    AssetStored,
    Error,
    ErrorBody,
    GoAway,
    Numbered,
    Ok,
    Passing,
    Snapshot,
    Welcome,
)

ENDED_STATES: Final = ("completed", "failed", "canceled")


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview's picture. Newest wins: an earlier frame may never have come."""

    job: str
    frame: int
    step: int
    steps: int
    format: str
    """As in `image`; `other` if metadata `mime` tells it."""
    width: int
    height: int
    image_index: int
    image_count: int
    has_alpha: bool
    is_approximate: bool
    data: memoryview
    """A view of the whole message: copy it to keep it long."""
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """A finished picture that came inline: the numbered event that `image` is otherwise."""

    job: str
    seq: int
    index: int
    count: int
    format: str
    """As in `image`; `other` if metadata `mime` tells it."""
    width: int
    height: int
    is_auxiliary: bool
    """Whether it is a control map or a mask."""
    data: bytes
    metadata: dict[str, Any]
    """What the server added: `asset`, `seed`, `url`."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A numbered event that this client could not read; it counts as handled, or the job would never go on."""

    job: str
    seq: int
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobLost:
    """No more events of the job will come here, though its end was not seen; `error` says why."""

    job: str
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended, or could not be made; another try follows after `after_seconds`."""

    code: int
    reason: str
    after_seconds: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The connection is live: whatever was missed has been delivered."""

    session: str
    is_same: bool
    """Whether the server still knew the session; `False` also on the first connection."""
    replayed: int


Event = (
    Numbered
    | Snapshot
    | Passing
    | Welcome
    | GoAway
    | Error
    | Preview
    | ImageBytes
    | Unreadable
    | JobLost
    | Disconnected
    | Resumed
)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this WebSocket message on the current connection."""

    data: bytes
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand this event to the user."""

    event: Event


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell whoever made the request `ref` (an upload's id for an upload) how it was answered."""

    ref: str
    message: Accepted | Ok | Error | AssetStored


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Drop the connection if it is still there, wait, and connect anew; report nothing more of the old one."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Drop the connection and do not come back; `code` is a close code."""

    code: int
    reason: str


Effect = Send | Deliver | Answer | Reconnect | Stop


def close_name(code: int) -> str:
    """Return the registry's name of a close code, or "" for a foreign one."""
    return CLOSE_NUMBERS[code].name if code in CLOSE_NUMBERS else ""


def ends_job(event: object) -> bool:
    """Whether no event of this event's job follows."""
    if isinstance(event, Snapshot):
        return event.state in ENDED_STATES
    if isinstance(event, Unreadable):
        return event.type in ENDED_STATES
    return isinstance(event, (*END_TYPES, JobLost))
