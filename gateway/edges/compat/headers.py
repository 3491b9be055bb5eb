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

_POLICIES: Final = {"rate_limited": "submits", "concurrency_limit": "jobs", "quota_exceeded": "quota"}
"""Which limit a refusal is about."""


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


def trouble_headers(trouble: Trouble, allowance: Allowance | None, *, x_names: bool) -> dict[str, str]:
    """Return what a refusal carries beside its body, but for the challenge of a 401."""
    headers = {} if trouble.job is None else {"X-Job-Id": trouble.job}
    policy = _POLICIES.get(trouble.code)
    wait = trouble.retry_after_ms
    if wait is None and policy is not None:
        wait = 1000  # nothing says when; a client that is told to come back must be told when
    if wait is not None:
        headers["Retry-After"] = str(math.ceil(wait / 1000))
    headers |= rate_headers(allowance, x_names=x_names)
    if policy is not None and policy != "submits":
        headers |= _spent(policy, trouble.details, headers["Retry-After"])
    return headers


def _spent(policy: str, details: Mapping[str, object], seconds: str) -> dict[str, str]:
    """A limit that is used up, where it is not the key's rate; its quota is told where the refusal says it."""
    quota = details.get("limit")
    told = {"RateLimit": f'"{policy}";r=0;t={seconds}'}
    if isinstance(quota, int):
        told["RateLimit-Policy"] = f'"{policy}";q={quota}'
    return told
