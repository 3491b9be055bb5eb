"""The settings: frozen dataclasses, filled once from a TOML file, the environment and the command line.

`settings` has the dataclasses, `reading` fills them, `describe` tells what there is and what was given, and `values`
turns text into values and back. Everything stops at `app.py`, which hands components plain arguments.
"""

from gateway.config.describe import Effective, Setting, describe
from gateway.config.reading import ConfigFaults, load, load_with_origins
from gateway.config.settings import (
    NOT_SETTINGS,
    STABILITY_V1_ENGINES,
    Breaker,
    Bucket,
    Config,
    Data,
    Engine,
    Limits,
    Log,
    Protocol,
    Server,
    StabilityV1,
    Upstream,
    Window,
    Work,
)

__all__ = [
    "NOT_SETTINGS",
    "STABILITY_V1_ENGINES",
    "Breaker",
    "Bucket",
    "Config",
    "ConfigFaults",
    "Data",
    "Effective",
    "Engine",
    "Limits",
    "Log",
    "Protocol",
    "Server",
    "Setting",
    "StabilityV1",
    "Upstream",
    "Window",
    "Work",
    "describe",
    "load",
    "load_with_origins",
]
