"""The locks: exact, with hashes, and free of addresses."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = tuple(f"requirements{kind}.lock" for kind in ("", "-dev", "-diffusers", "-clients", "-litellm", "-bootstrap"))


def entries(name: str) -> dict[str, str]:
    """Return each requirement of the lock with the hashes that follow it."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return {line.split(" --hash")[0].strip(): line for line in text.splitlines()}


@pytest.mark.parametrize("name", LOCKS)
def test_lock_pins_each_requirement_with_a_hash(name: str) -> None:
    """A lock says exactly what is installed."""
    for requirement, line in entries(name).items():
        assert re.match(r"[a-z0-9-]+==[\w.]+", requirement), requirement
        assert "--hash=sha256:" in line, requirement


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_no_address(name: str) -> None:
    """A lock works with any mirror, so it names none."""
    assert "://" not in (ROOT / name).read_text()


def test_development_lock_contains_runtime_lock() -> None:
    """Both kinds of set-up share one environment, so they agree on every version."""
    assert entries("requirements.lock").items() <= entries("requirements-dev.lock").items()


def test_lock_of_diffusers_agrees_with_the_development_lock() -> None:
    """It is installed on top of it, so what both have is of one version."""
    theirs, ours = (set(entries(f"requirements-{name}.lock")) for name in ("diffusers", "dev"))
    names = {one.partition("==")[0] for one in ours}
    assert {one for one in theirs if one.partition("==")[0] in names} <= ours
