"""The headers that say the same at every door: the job, when to come back, and what the key's rate leaves.

`RateLimit` and `RateLimit-Policy` are those of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10): a policy has
a quota `q` for a window of `w` seconds, a state has what is left, `r`, and after how many seconds it is more, `t`. The
`x-ratelimit-` names are OpenAI's, whose clients read them.
"""

import math
from collections.abc import Mapping
from typing import Final

from gateway.edges.compat.dialect import Trouble
from gateway.flow.admission import Allowance

_POLICIES: Final = {
    "rate_limited": ("submits", 1000),
    "concurrency_limit": ("jobs", 1000),
    "quota_exceeded": ("quota", 3_600_000),
    "insufficient_credits": ("budget", 3_600_000),
}
"""Which limit a 429 is about, and milliseconds to wait where nothing says how long: money comes back late."""


def rate_headers(allowance: Allowance | None, *, x_names: bool) -> dict[str, str]:
    """Return what a key's rate leaves it; nothing where its plan sets no rate."""
    if allowance is None:
        return {}
    again = math.ceil(max(allowance.wait_seconds, (allowance.burst - allowance.left) * _interval(allowance)))
    headers = {
        "RateLimit-Policy": f'"submits";q={allowance.burst};w={math.ceil(allowance.period_seconds)}',
        "RateLimit": f'"submits";r={allowance.left};t={again}',
    }
    if x_names:
        headers |= {
            "x-ratelimit-limit-requests": str(allowance.burst),
            "x-ratelimit-remaining-requests": str(allowance.left),
            "x-ratelimit-reset-requests": f"{again}s",
        }
    return headers


def _interval(allowance: Allowance) -> float:
    return allowance.period_seconds / allowance.burst


def trouble_headers(trouble: Trouble, status: int, allowance: Allowance | None, *, x_names: bool) -> dict[str, str]:
    """Return what a refusal carries beside its body, but for the challenge of a 401.

    `status` is the dialect's: one that has no 402 says 429 of an empty purse.
    """
    headers = {} if trouble.job is None else {"X-Job-Id": trouble.job}
    policy, usual_wait = _POLICIES.get(trouble.code, ("", None)) if status == 429 else ("", None)
    wait = usual_wait if trouble.retry_after_ms is None else trouble.retry_after_ms
    if wait is not None:
        headers["Retry-After"] = str(math.ceil(wait / 1000))
    headers |= rate_headers(allowance, x_names=x_names)
    if policy not in ("", "submits"):
        headers |= _spent(policy, trouble.details, headers["Retry-After"])
    return headers


def _spent(policy: str, details: Mapping[str, object], seconds: str) -> dict[str, str]:
    """A limit that is used up, where it is not the key's rate; its quota is told where the refusal says it."""
    quota = details.get("limit")
    told = {"RateLimit": f'"{policy}";r=0;t={seconds}'}
    if isinstance(quota, int):
        told["RateLimit-Policy"] = f'"{policy}";q={quota}'
    return told
