"""Refusals, their names and words, and the faults that only this vendor can have.

Two kinds of fault join the shared ones; their JSON kinds are `lose` and `refuse_without_id`. The rest needs
none of its own: a result that never finishes is a rule with `service_seconds` of a year on the create call, a
filtered result is `finish` on it, and a lost answer to a poll is any fault with `"operation": "results"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from load.upstreams.faults import KINDS, Finish, Refuse


@dataclass(frozen=True, slots=True)
class RefuseWithoutId(Refuse):
    """Refuse with a body that lacks `id`, as one live report shows it for 403 content_moderation."""


@dataclass(frozen=True, slots=True)
class Lose(Finish):
    """Take an asynchronous request, do and charge it, and know nothing of its result some polls later."""

    after_polls: int = 0
    """So many polls are still answered."""


KINDS.update({"refuse_without_id": RefuseWithoutId, "lose": Lose})


class Refusal(Exception):
    """The request is refused with this status and the vendor's error name."""

    def __init__(
        self,
        status: int,
        name: str,
        *messages: str,
        retry_after: int | None = None,
        with_id: bool = True,
    ) -> None:
        super().__init__(*messages)
        self.status = status
        self.name = name
        self.messages = messages
        self.retry_after = retry_after
        self.with_id = with_id


def bad_request(*messages: str) -> Refusal:
    """A 400 with one or more messages of the form `field: what is wrong`."""
    return Refusal(400, "bad_request", *messages)


def refusal_of(fault: Refuse) -> Refusal:
    """The refusal a script asks for, with the usual name of its status unless it gives one."""
    name = fault.name or NAMES.get(fault.status, "internal_error" if fault.status >= 500 else "bad_request")
    message = fault.message or MESSAGES.get(name, "scripted by the stand-in")
    with_id = not isinstance(fault, RefuseWithoutId)
    return Refusal(fault.status, name, message, retry_after=fault.retry_after, with_id=with_id)


NAMES: Mapping[int, str] = MappingProxyType(
    {
        400: "bad_request",
        401: "unauthorized",
        402: "payment_required",
        403: "content_moderation",
        404: "generation_not_found",
        413: "payload_too_large",
        422: "invalid_language",
        429: "rate_limit_exceeded",
        500: "internal_error",
        503: "service_unavailable",
    }
)

MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "unauthorized": "authorization: invalid or missing header value",
        "payment_required": "not enough credits for this request",
        "content_moderation": "the request was flagged by content moderation and not charged",
        "generation_not_found": "id: no such generation, or it has expired",
        "payload_too_large": "body: must not be larger than 10 MiB",
        "invalid_language": "only English is supported",
        "public_figure": "the likeness of a public figure was found in the image",
        "rate_limit_exceeded": "more than 150 requests within 10 seconds, timed out for 60 seconds",
        "internal_error": "an unexpected error occurred, try again later",
    }
)
