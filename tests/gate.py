"""The gate: every check that `make test` runs, as stages with one headline each.

`python -m tests.gate` runs all stages, `python -m tests.gate lint types` only these. The static ones run side
by side and show their output only when they fail; the others run one after the other and show it as it comes. Those
that compute and measure no time begin beside the static ones; the rest need the machine for themselves.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.depth import DEEP
from tests.engines import ENGINES

BIN = Path(sys.executable).parent
PYTEST = (sys.executable, "-m", "pytest", *(["--timeout=0"] if DEEP else []))
ON_ALL_CORES = ("-n", "auto", "--dist", "worksteal")
# Every worker, and every gateway that a test starts, imports the same: compiled once and not each time.
KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
# What speaks over sockets waits for half of its time; but full counts need all of it.
ON_ALL_CORES_TWICE = ON_ALL_CORES if DEEP else ("-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal")
# A deep run repeats what the ordinary one has counted.
COUNTING_LINES = () if DEEP else ("--cov=protocol", "--cov=gateway/core", "--cov-report=")
NO_TESTS_COLLECTED = 5
NEITHER_TIME_NOR_ENGINES = " and ".join(f"not {name}" for name in ("timing", *ENGINES))
# What starts and cancels tasks; a deep run puts everything that has a loop under asyncio's own watch.
LOOPS = sorted(str(path) for path in Path("tests/gateway/flow").glob("test_*.py") if path.name != "test_gate.py")
WITH_LOOPS = ("tests/gateway", "--ignore=tests/gateway/core") if DEEP else LOOPS
PURE_TESTS = ("tests/protocol", "tests/gateway/core")
# What a stage of its own runs; an ordinary run has what starts tasks under that watch alone.
ELSEWHERE = PURE_TESTS if DEEP else (*PURE_TESTS, *LOOPS)
PURE = "protocol/*,gateway/core/*"
IMPURE = "protocol/client.py,protocol/client_token.py,protocol/clients/*"


@dataclass(frozen=True, slots=True)
class Stage:
    """One check: a command that returns 0."""

    name: str
    command: tuple[str | Path, ...]
    is_static: bool = False
    is_pytest: bool = False
    shares: bool = False
    """Whether it runs beside the static ones."""
    environment: tuple[tuple[str, str], ...] = ()
    may_be_empty: bool = False
    """Whether finding no test is a success."""
    after: str = ""
    """The stage whose result this one reads."""

    def to_run_alone(self) -> str:
        names = f"{self.after} {self.name}".strip()
        return f'make test STAGES="{names}"'


def files_with(mark: str) -> list[str]:
    """Return the test files in which a mark stands: to collect all others takes longer than to run these."""
    return sorted(str(path) for path in Path("tests").rglob("test_*.py") if mark in path.read_text())


STAGES = (
    Stage("format", (BIN / "ruff", "format", "--check", "."), is_static=True),
    Stage("lint", (BIN / "ruff", "check", "."), is_static=True),
    Stage("types", (BIN / "mypy",), is_static=True),
    Stage("imports", (BIN / "lint-imports", "--no-logo"), is_static=True),
    # Compiles all tests, once and not in each process of the later stages, which would do it at the same time.
    Stage("collect", (*PYTEST, "--collect-only", "-q", "-p", "no:cacheprovider", "tests"), is_static=True),
    Stage("engines", (sys.executable, "-m", "tests.engines", "--install"), shares=True),
    # The pure ranks are cheap to cover because they are pure; the adapters' measure is the suite they share. Counting
    # lines is a run of its own: it would slow what is timed.
    Stage("pure", (*PYTEST, *ON_ALL_CORES, *COUNTING_LINES, *PURE_TESTS), is_pytest=True, shares=True),
    Stage(
        "coverage",
        (BIN / "coverage", "report", f"--include={PURE}", f"--omit={IMPURE}", "--fail-under=100"),
        shares=True,
        after="pure",
    ),
    Stage(
        "tests",
        (*PYTEST, *ON_ALL_CORES_TWICE, "-m", "not timing", "tests", *(f"--ignore={path}" for path in ELSEWHERE)),
        is_pytest=True,
    ),
    # asyncio's debug mode slows every step of a loop, so this run neither measures time nor counts lines.
    Stage(
        "debug",
        (*PYTEST, *ON_ALL_CORES, "-m", NEITHER_TIME_NOR_ENGINES, *WITH_LOOPS),
        is_pytest=True,
        environment=(("PYTHONASYNCIODEBUG", "1"),),
    ),
    Stage("timing", (*PYTEST, "-m", "timing", *files_with("mark.timing")), is_pytest=True, may_be_empty=True),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stage."""

    stage: Stage
    passed: bool
    seconds: float
    output: str

    def closing_line(self) -> str:
        return self.output.rstrip().rpartition("\n")[2] if self.stage.is_pytest else ""

    def headline(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return f"== {self.stage.name:<9}{verdict:<7}{self.seconds:6.1f} s  {self.closing_line()}".rstrip()


def perform(stage: Stage, show: Callable[[str], None]) -> Outcome:
    """Run the stage's command to its end, handing each line to `show` as it comes."""
    began = time.monotonic()
    lines = []
    with subprocess.Popen(
        stage.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | KEEP_BYTECODE | dict(stage.environment),
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            lines.append(line)
            show(line)
    passed = process.returncode == 0 or (stage.may_be_empty and process.returncode == NO_TESTS_COLLECTED)
    return Outcome(stage, passed, time.monotonic() - began, "".join(lines))


def perform_quietly(stage: Stage) -> Outcome:
    """Run the stage, print its headline, and its output only if it failed."""
    outcome = perform(stage, lambda _line: None)
    print(outcome.headline(), "" if outcome.passed else outcome.output, sep="\n", end="", flush=True)
    return outcome


def perform_openly(stage: Stage) -> Outcome:
    """Run the stage, print its output as it comes, then its headline."""
    outcome = perform(stage, lambda line: print(line, end="", flush=True))
    print(outcome.headline(), flush=True)
    return outcome


def main(names: list[str]) -> int:
    """Run the stages of these names, or all; return the exit status."""
    if unknown := set(names) - {stage.name for stage in STAGES}:
        print(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in STAGES)}")
        return 2
    chosen = [stage for stage in STAGES if not names or stage.name in names]
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        static = pool.map(perform_quietly, [stage for stage in chosen if stage.is_static])
        shared = [perform_openly(stage) for stage in chosen if stage.shares]
        outcomes = [*static, *shared]
    outcomes += [perform_openly(stage) for stage in chosen if not stage.is_static and not stage.shares]

    print(f"\ngate: {len(outcomes)} stages in {time.monotonic() - began:.0f} s")
    for outcome in outcomes:
        print(outcome.headline())
    failed = [outcome.stage for outcome in outcomes if not outcome.passed]
    for stage in failed:
        print(f"stage {stage.name} failed; run it alone with: {stage.to_run_alone()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
