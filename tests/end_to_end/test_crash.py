"""Killed between any two effects, started again: every job ends once, and a billed call is made at most once."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.depth import DEEP

LAST = 400
"""More effects than a run has; the run that survives its cut ends the series."""


async def _series(folder: Path, billed: str, first: int, step: int) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.end_to_end.doomed", str(folder), billed,
        str(first), str(LAST), str(step), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("billed", ["billed", "free"])
@pytest.mark.timeout(1200)
async def test_gateway_killed_between_any_two_effects_ends_every_job_once(tmp_path: Path, billed: str) -> None:
    """The series goes over every effect in a deep run, over each eleventh else."""
    results = await _series(tmp_path, billed, 1, 1 if DEEP else 11)
    assert results[-1]["killed"] is False, "the series reached the end of a run"
    for result in results:
        assert result["again"] == 0, result
        assert result["jobs"] == 2, result
        assert result["ends"] == [1, 1], result
        assert result["gapless"], result
        for end, images in zip(result["end"], result["images"], strict=True):
            assert end == "failed" or images == [0, 1], result
        if billed == "billed":
            assert result["most_calls"] <= 2, result  # two images, one call each
            assert set(result["error"]) <= {"outcome_unknown"}, result
        else:
            assert result["end"] == ["completed", "completed"], result
    assert sum(result["killed"] for result in results) == len(results) - 1
