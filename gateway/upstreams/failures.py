"""What a vendor's refusals mean: one literal table a vendor, read here in one way.

A row is found by the vendor's own name of the error (where the status is one under which names count), by the status,
or by its class (`4xx`); the first that is there counts.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.upstreams.http import retry_after_seconds

MOST_ERROR_BYTES: Final = 64 * 1024
"""How much of a refusal's body is read, and told."""
_MOST_MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """What a status means, and what the client is told."""

    outcome: Outcome
    code: str
    message: str
    retryable: bool = False
    locked_out: bool = False
    credential: bool = False
    charged: bool = False


_F = Failure
COMMON: Final[dict[int | str, Failure]] = {
    401: _F(Outcome.FAILED, "upstream_error", "the vendor does not accept our credential", credential=True),
    402: _F(Outcome.FAILED, "upstream_error", "the vendor wants to be paid first", credential=True),
    403: _F(Outcome.FAILED, "upstream_error", "the vendor does not allow this to our credential", credential=True),
    429: _F(Outcome.REFUSED, "model_unavailable", "the vendor's rate limit is used up", True, locked_out=True),
    500: _F(Outcome.FAILED, "upstream_error", "the vendor failed", retryable=True),
    503: _F(Outcome.REFUSED, "model_unavailable", "the vendor is out of service", retryable=True),
    # A proxy speaks, not the vendor: what stood behind it may have worked on, and the bill comes.
    502: _F(Outcome.UNKNOWN, "outcome_unknown", "a proxy of the vendor's lost the answer"),
    504: _F(Outcome.UNKNOWN, "outcome_unknown", "a proxy of the vendor's did not wait for the answer"),
    "2xx": _F(Outcome.FAILED, "invalid_output", "the vendor answered without pictures", charged=True),
    "3xx": _F(Outcome.FAILED, "upstream_error", "the vendor's address has moved"),
    "4xx": _F(Outcome.FAILED, "upstream_error", "the vendor does not accept the request"),
    "5xx": _F(Outcome.FAILED, "upstream_error", "the vendor failed", retryable=True),
    "odd": _F(Outcome.FAILED, "upstream_error", "the vendor's answer is no HTTP that we know"),
}
"""What holds for hosted vendors; a vendor's table is this with its own rows over it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a refusal's body says of itself."""

    name: str = ""
    message: str = ""


def find(failures: Mapping[int | str, Failure], status: int, name: str, named: Collection[int] = ()) -> Failure:
    """Return the row of a refusal; the vendor's `name` counts under the statuses of `named`."""
    by_name = failures.get(name) if name and status in named else None
    return by_name or failures.get(status) or failures.get(f"{status // 100}xx") or failures["odd"]


def fault_of(
    row: Failure,
    told: Told,
    *,
    status: int,
    headers: Mapping[str, str],
    secret: Secret,
    upstream: str,
    **more: Any,
) -> UpstreamFault:
    """Return the fault that a refusal is. Their words may repeat what we sent, our key included: it is taken out."""
    details: dict[str, Any] = {
        "upstream": upstream,
        "status": status,
        "retryable": row.retryable,
        # Redacted before it is cut, so that no half of a secret is left.
        "vendor_code": secret.redact(told.name)[:100],
        "vendor_message": secret.redact(told.message)[:_MOST_MESSAGE],
        **more,
    }
    if row.code == "content_filtered":
        details.setdefault("stage", "prompt")
    return UpstreamFault(
        row.outcome,
        row.code,
        row.message,
        retry_after_seconds=retry_after_seconds(headers) if row.outcome is Outcome.REFUSED else None,
        locked_out=row.locked_out,
        credential=row.credential,
        charged=row.charged,
        details=details,
    )
