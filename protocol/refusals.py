"""What the Python client raises: the server's word, and what the caller can do about it."""

from typing import Final

from protocol.errors import CLOSE_NUMBERS, ERRORS
from protocol.messages import ErrorBody

REFUSED_UPGRADES: Final = {400: 4501, 401: 4502, 403: 4503, 404: 4501, 405: 4501, 410: 4501, 426: 4501}
"""A refused upgrade as the close code that a connection would have got; any other status may pass."""
_ADVICE: Final = {
    1000: "The session was ended by `bye`: open a new client.",
    1009: "Announce a larger `max_message`.",
    4500: "This client, or something on the way, spoiled a message: report it.",
    4501: "Check the address, or use a client of the server's version.",
    4502: "Get a valid token or key.",
    4503: "Use a credential that is allowed here.",
    4505: "Another connection took the session over: close one of the two clients.",
    4506: "Announce a larger `max_message`, or send less at once.",
    4507: "Get a new ticket for each connection.",
}


class Refused(Exception):
    """The server refused a request, or serves a job no longer; `error` says why."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        advice = f" ({ERRORS[self.error.code].advice})" if self.error.code in ERRORS else ""
        return f"{self.error.code}: {self.error.message}{advice}"


class Closed(Exception):
    """The session is over and the client does not come back; `code` is the close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        meaning = CLOSE_NUMBERS[self.code].meaning if self.code in CLOSE_NUMBERS else ""
        return " ".join(filter(None, (f"{self.code} {self.reason}:", meaning, _ADVICE.get(self.code))))
