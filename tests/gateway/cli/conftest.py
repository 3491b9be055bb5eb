"""What holds for every test of the command line."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import builders, config
from gateway.cli import examine, probe
from tests.gateway.cli.boxes import Box, Boxes


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every command run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_signal_of_ours_is_left() -> Iterator[None]:
    """Let each test leave Ctrl-C as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Boxes:
    """Let upstreams of a kind be doubles, after the real ones in the table; `box(kind, ...)` returns what they note."""
    table: dict[type, Any] = {kind: builders.BUILDERS[kind] for kind in (config.Engine, config.StabilityV1)}
    for module in (builders, examine, probe):
        monkeypatch.setattr(module, "BUILDERS", table)

    def put(kind: type = config.ComfyUI, **told: Any) -> dict[str, Any]:
        noted: dict[str, Any] = {"orders": [], "closed": [], "keys": [], **told}

        def build(name: str, settings: config.HttpUpstream, key: str) -> Box:
            noted["keys"].append(key)
            if "built" in noted:
                raise noted["built"]
            return Box(name, **noted)

        table[kind] = build
        return noted

    return put
