"""The states of the client's session and what moves it from one to another; what is absent is illegal."""

from enum import Enum
from typing import Final


class State(Enum):
    """Where the session stands."""

    OFFLINE = "offline"
    GREETING = "greeting"
    REPLAYING = "replaying"
    LIVE = "live"
    LEAVING = "leaving"
    STOPPED = "stopped"


class Happening(Enum):
    """What moves the session."""

    CONNECTED = "connected"
    WELCOMED = "welcomed"
    SYNCED = "synced"
    LOST = "lost"
    """The connection ended so that another may follow."""
    ENDED = "ended"
    """It ended and none may follow."""
    LEFT = "left"
    """The user has had enough."""


TRANSITIONS: Final[dict[tuple[State, Happening], State]] = {
    (State.OFFLINE, Happening.CONNECTED): State.GREETING,
    (State.OFFLINE, Happening.LOST): State.OFFLINE,
    (State.OFFLINE, Happening.ENDED): State.STOPPED,
    (State.OFFLINE, Happening.LEFT): State.STOPPED,
    (State.GREETING, Happening.WELCOMED): State.REPLAYING,
    (State.GREETING, Happening.LOST): State.OFFLINE,
    (State.GREETING, Happening.ENDED): State.STOPPED,
    # No `bye` yet: before the welcome a server takes one message only.
    (State.GREETING, Happening.LEFT): State.STOPPED,
    (State.REPLAYING, Happening.SYNCED): State.LIVE,
    (State.REPLAYING, Happening.LOST): State.OFFLINE,
    (State.REPLAYING, Happening.ENDED): State.STOPPED,
    (State.REPLAYING, Happening.LEFT): State.LEAVING,
    (State.LIVE, Happening.LOST): State.OFFLINE,
    (State.LIVE, Happening.ENDED): State.STOPPED,
    (State.LIVE, Happening.LEFT): State.LEAVING,
    (State.LEAVING, Happening.ENDED): State.STOPPED,
}
