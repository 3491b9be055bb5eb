"""Settings files for tests, and what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import ConfigFaults, load

VENDOR = """
[upstreams.vendor]
kind = "stability_v1"
api_key_env = "VENDOR_KEY"
"""
VENDOR_KEY = {"VENDOR_KEY": "sk-planted-0123456789"}


def write(folder: Path, text: str) -> Path:
    """Return the path of a settings file with this text."""
    path = folder / "safelight.toml"
    path.write_text(text)
    return path


def faults_of(
    path: Path | None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> list[str]:
    """Return every fault of the settings, without the file's folder."""
    with pytest.raises(ConfigFaults) as caught:
        load(path, environ or {}, overrides or {})
    return [fault.replace(f"{path.parent}/", "") if path else fault for fault in caught.value.faults]
