"""The two registries: error codes (a request or a job went wrong) and close codes (a connection ends).

An error code is frozen once shipped; its message is not. `retryable` means that the same request may succeed
later without change. The range of a close code tells the client what to do: 4000-4499 reconnect and resume,
4500-4999 do not come back without a change. Everything here is data; the tables of PROTOCOL.md are generated
from it.

Exceptions name who is at fault: `ClientFault` is told to the client and changes nothing.
"""

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One entry of the error registry."""

    name: str
    number: int
    """Stable number for logs and metrics; the hundreds are the group."""
    http: int
    """The HTTP status that the REST twin answers with."""
    retryable: bool
    meaning: str
    advice: str
    """What the client should do."""

    @property
    def group(self) -> str:
        """The group that the number's hundreds stand for."""
        return GROUPS[self.number // 100]


GROUPS: Final = {1: "request", 2: "identity", 3: "capacity", 4: "model", 5: "run"}

_E = ErrorCode
_ERRORS: Final = (
    _E("bad_request", 100, 400, False, "The protocol does not allow this message here.", "Mend the client."),
    _E("unknown_type", 101, 400, False, "No client message has this type.", "Leave it out."),
    _E("unsupported_version", 102, 400, False, "This server speaks other versions.", "Use a listed version."),
    _E("invalid_param", 103, 422, False, "A field has a value that is not allowed.", "Mend `details.path`."),
    _E("prompt_too_long", 104, 422, False, "The prompt has more characters than allowed.", "Shorten it."),
    _E("resolution_not_supported", 105, 422, False, "The model cannot draw this size.", "Use another size."),
    _E("payload_too_large", 106, 413, False, "A body, message or image is over its limit.", "Send less."),
    _E("unsupported_media", 107, 415, False, "The bytes have no known format.", "Send PNG, JPEG or WebP."),
    _E("image_decode_failed", 108, 422, False, "The image is broken.", "Send a valid image."),
    _E("bad_chunk", 109, 400, False, "An upload's chunk has a gap, overlap or wrong size.", "Upload again."),
    _E("unauthorized", 200, 401, False, "There is no valid credential.", "Send a key, token or ticket."),
    _E("token_expired", 201, 401, False, "The token's time is over.", "Get a new token."),
    _E("forbidden", 202, 403, False, "The credential does not allow this.", "Use another credential."),
    _E("job_not_found", 203, 404, False, "There is no such job for this subject.", "Forget the job."),
    _E("asset_not_found", 204, 404, False, "There is no such asset for this account.", "Upload it again."),
    _E("idempotency_conflict", 205, 409, False, "The ref was used with another body.", "Make up a new ref."),
    _E("expired", 206, 410, False, "What was asked for is past its retention.", "Ask for it anew."),
    _E("not_found", 207, 404, False, "No route has this path.", "Read PROTOCOL.md."),
    _E("method_not_allowed", 208, 405, False, "The route does not take this method.", "Use another method."),
    _E("rate_limited", 300, 429, True, "Too many requests for now.", "Wait for `retry_after_ms`."),
    _E("concurrency_limit", 301, 429, True, "Too many live jobs or watches.", "Wait for one to end."),
    _E("queue_full", 302, 503, True, "The queue is at its limit.", "Come back later."),
    _E("overloaded", 303, 503, True, "The server is shedding load.", "Come back later."),
    _E("quota_exceeded", 304, 429, False, "The plan's quota is used up.", "Wait for the next period."),
    _E("insufficient_credits", 305, 402, False, "The budget does not cover the price.", "Raise the budget."),
    _E("max_cost_exceeded", 306, 402, False, "The price is over `max_cost_micros`.", "Allow more."),
    _E("model_not_found", 400, 404, False, "There is no such model.", "See GET /v1/models."),
    _E("model_unavailable", 401, 503, True, "The model's upstream is out of service.", "Come back later."),
    _E("adapter_not_found", 402, 404, False, "There is no such LoRA or ControlNet.", "See GET /v1/models."),
    _E("adapter_incompatible", 403, 422, False, "The adapter fits another base model.", "Choose another."),
    _E("sampler_not_supported", 404, 422, False, "The model has no such sampler.", "Use an allowed sampler."),
    _E("task_not_supported", 405, 422, False, "The model cannot do this task.", "Choose another model."),
    _E("out_of_memory", 500, 500, False, "The upstream ran out of memory.", "Use `details.suggest`."),
    _E("worker_lost", 501, 500, True, "The worker died; the work could not be repeated.", "Submit again."),
    _E("outcome_unknown", 502, 500, False, "A billed call may have run unseen.", "Decide by hand."),
    _E("deadline_exceeded", 503, 504, False, "The job's deadline passed.", "Allow more time."),
    _E("invalid_output", 504, 500, False, "The upstream's picture is unusable.", "Change the request."),
    _E("content_filtered", 505, 422, False, "The prompt or each picture was filtered.", "Change the prompt."),
    _E("upstream_error", 506, 500, True, "The upstream failed.", "Submit again if `retryable`."),
    _E("internal", 507, 500, True, "The gateway failed; its log has the reason.", "Come back later."),
)
ERRORS: Final[dict[str, ErrorCode]] = {code.name: code for code in _ERRORS}


@dataclass(frozen=True, slots=True)
class CloseCode:
    """One entry of the close-code registry; the reason text on the wire is the name."""

    number: int
    name: str
    meaning: str

    @property
    def reconnect(self) -> bool:
        """Whether the client should reconnect and resume."""
        return should_reconnect(self.number)


_C = CloseCode
CLOSES: Final[dict[str, CloseCode]] = {
    close.name: close
    for close in (
        _C(1000, "normal", "Answer to `bye`."),
        _C(4000, "internal", "The server failed."),
        _C(4001, "going_away", "The server drains; a `goaway` came before."),
        _C(4002, "slow_consumer", "A numbered item waited 30 s for the window or the socket."),
        _C(4003, "heartbeat_timeout", "Nothing at all came from the client for 40 s."),
        _C(4004, "resync", "The position is no longer valid: resume as always."),
        _C(4005, "auth_expired", "The token expired; a `goaway` came 30 s before."),
        _C(4006, "rate_limited", "The client stayed over the message rate for 10 s."),
        _C(4007, "overloaded", "The server is shedding load."),
        _C(4008, "max_age", "The connection reached its greatest age."),
        _C(4009, "hello_timeout", "No valid `hello` within 10 s."),
        _C(4010, "connection_limit", "Too many connections of this subject; a `goaway` came before."),
        _C(4500, "bad_message", "Not JSON, a header too short, or data before `hello`."),
        _C(4501, "unsupported_version", "`hello.v` is not spoken here."),
        _C(4502, "unauthorized", "The credential is missing, wrong or revoked."),
        _C(4503, "forbidden", "The account or the page's origin is not allowed."),
        _C(4505, "replaced", "This session was opened elsewhere."),
        _C(4506, "message_too_big", "A message was over its limit."),
        _C(4507, "ticket_invalid", "The ticket was used or is over its time: get another first."),
    )
}
CLOSE_NUMBERS: Final = {close.number: close for close in CLOSES.values()}


def should_reconnect(code: int) -> bool:
    """Whether a client reconnects after this close code; 1009 is like 4506, 1000 comes only after `bye`."""
    return code not in (1000, 1009) and not 4500 <= code <= 4999


@dataclass(slots=True)
class ClientFault(Exception):
    """The client asked for something that is refused; nothing was changed.

    `code` names an entry of `ERRORS`; `details` hold facts for a program (`path`, `allowed`), never secrets.
    """

    code: str
    message: str
    retry_after_ms: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    retryable: bool | None = None
    """`None` = what the registry says."""

    def __post_init__(self) -> None:
        Exception.__init__(self, self.code, self.message)
        assert self.code in ERRORS, f"{self.code} is not in the registry"

    def __str__(self) -> str:
        where = f" at {self.details['path']}" if "path" in self.details else ""
        return f"{self.code}{where}: {self.message}"

    @property
    def entry(self) -> ErrorCode:
        """The registry's entry of this code."""
        return ERRORS[self.code]


@dataclass(slots=True)
class ConnectionFault(Exception):
    """The client broke the protocol so that the connection must end with the named close code."""

    close: str
    message: str

    def __post_init__(self) -> None:
        Exception.__init__(self, self.close, self.message)
        assert self.close in CLOSES, f"{self.close} is not in the registry"

    def __str__(self) -> str:
        return f"{CLOSES[self.close].number} {self.close}: {self.message}"
