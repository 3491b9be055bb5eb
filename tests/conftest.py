"""What holds for every test: its depth, and the engines it needs."""

import gc
import os
from collections import Counter

import pytest

from tests.depth import DEEP, load_hypothesis_profile
from tests.engines import ENGINES, required

load_hypothesis_profile()
# Processes that test side by side have no core for threads of numpy's, which would burn it while they wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
gc.disable()
REQUIRED = required(os.environ.get("SAFELIGHT_REQUIRE", ""))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave deep tests out of ordinary runs."""
    if DEEP:
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the garbage collector begin, and not go through the thousands of tests again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose engine is missing, or fail it where the engine is required."""
    for engine in ENGINES.values():
        if item.get_closest_marker(engine.name) is None or not engine.is_missing():
            continue
        # The property travels with the report, also from a worker of pytest-xdist to the summary.
        item.user_properties.append(("missing_engine", engine.name))
        if engine.name in REQUIRED:
            pytest.fail(f"engine {engine.name} is missing: {engine.install_command()}", pytrace=False)
        pytest.skip(f"engine {engine.name} is missing")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each missing engine what it cost."""
    missed: Counter[tuple[str, str]] = Counter()
    for category, outcome in (("skipped", "skipped"), ("error", "failed")):
        for report in terminalreporter.getreports(category):
            missed.update(
                (str(value), outcome)
                for key, value in getattr(report, "user_properties", ())
                if key == "missing_engine"
            )
    for (name, outcome), count in sorted(missed.items()):
        command = ENGINES[name].install_command()
        terminalreporter.line(f"engine {name} is missing: tests {count} {outcome}; install it with: {command}")
