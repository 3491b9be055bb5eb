"""Errors as data, and their bodies in the forms the servers give them."""

from __future__ import annotations

import email.utils
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from load.upstreams.openai_images.profiles import Fashion

RetryHint = Literal["nothing", "seconds", "milliseconds", "date"]

CODES: Mapping[int, str | None] = MappingProxyType(
    {
        400: None,
        401: "invalid_api_key",
        403: "organization_must_be_verified",
        404: "model_not_found",
        429: "rate_limit_exceeded",
        500: "server_error",
        503: "server_error",
    }
)
TYPES: Mapping[str | None, str] = MappingProxyType(
    {
        "moderation_blocked": "image_generation_user_error",
        "insufficient_quota": "insufficient_quota",
        "billing_hard_limit_reached": "billing_limit_user_error",
        "rate_limit_exceeded": "requests",
        "server_error": "server_error",
        "slow_down": "rate_limit_error",
    }
)
MESSAGES: Mapping[str | None, str] = MappingProxyType(
    {
        "moderation_blocked": "Your request was rejected by the safety system. safety_violations=[violence].",
        "insufficient_quota": "You exceeded your current quota, please check your plan and billing details.",
        "billing_hard_limit_reached": "Billing hard limit has been reached.",
        "invalid_api_key": "Incorrect API key provided.",
        "organization_must_be_verified": "Your organization must be verified to use this model.",
        "server_error": "The server had an error while processing your request.",
    }
)


class Refusal(Exception):
    """The request is refused with this status and the vendor's error code."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str | None = None,
        *,
        param: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.message = message or MESSAGES.get(code, "Scripted by the stand-in.")
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    @property
    def error(self) -> dict[str, str | None]:
        """The vendor's error object."""
        kind = TYPES.get(self.code) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    def rendered(self, fashion: Fashion) -> tuple[int, bytes]:
        """Status and body as this kind of server answers."""
        match fashion:
            case "openai":
                return self.status, json.dumps({"error": self.error}).encode()
            case "fastapi":
                return self._fastapi()
            case "localai":
                # It has no 400 of its own: whatever a handler returns as an error becomes a 500.
                status = 500 if self.status == 400 else self.status
                error = {"code": status, "message": self.message, "type": ""}
                return status, json.dumps({"error": error}).encode()

    def _fastapi(self) -> tuple[int, bytes]:
        if self.code not in ("missing_required_parameter", "invalid_type"):
            return self.status, json.dumps({"detail": self.message}).encode()
        kind = "missing" if self.code == "missing_required_parameter" else "type_error"
        return 422, json.dumps({"detail": [{"loc": ["body", self.param], "msg": self.message, "type": kind}]}).encode()


def retry_headers(how: RetryHint, seconds: float, now: float) -> tuple[tuple[str, str], ...]:
    """The headers that say when to come back; `now` is seconds since 1970."""
    match how:
        case "nothing":
            return ()
        case "seconds":
            return (("Retry-After", str(math.ceil(seconds))),)
        case "milliseconds":
            return (("retry-after-ms", str(math.ceil(seconds * 1000))),)
        case "date":
            return (("Retry-After", email.utils.formatdate(math.ceil(now + seconds), usegmt=True)),)


def too_many(seconds: float, what: str, how: RetryHint, now: float) -> Refusal:
    """The refusal of a request that came too soon."""
    message = f"Rate limit reached on {what}. Please try again in {duration(seconds)}."
    return Refusal(429, "rate_limit_exceeded", message, headers=retry_headers(how, seconds, now))


def duration(seconds: float) -> str:
    """A time as the vendor's limit headers write it: `120ms`, `12s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
