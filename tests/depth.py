"""How much a test tries: little with a fixed seed in every run, everything with SAFELIGHT_DEEP=1."""

import os

from hypothesis import HealthCheck, settings

DEEP = os.environ.get("SAFELIGHT_DEEP", "") not in {"", "0"}


def deep_count(small: int, full: int) -> int:
    """Return `small`, or `full` in a deep run."""
    return full if DEEP else small


def load_hypothesis_profile() -> None:
    """Choose the profile of this run for every property that does not set its own counts."""
    # A slow machine is no fault of the property, so neither profile has a deadline or minds slow generation.
    settings.register_profile(
        "fast",
        derandomize=True,
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile(
        "deep",
        max_examples=3000,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("deep" if DEEP else "fast")
