"""The settings: frozen dataclasses, filled once from a TOML file, the environment and the command line.

`settings` and `upstreams` have the dataclasses, `fields` the types in them. `reading` fills them from what `sources`
lays over each other, `describe` tells what there is and what was given, and `values` turns text into values and back.
Everything stops at `app.py`, `wiring.py` and `builders.py`, which hand components plain arguments.
"""

from gateway.config.describe import Effective, Setting, describe
from gateway.config.faults import ConfigFaults
from gateway.config.reading import load, load_with_origins
from gateway.config.settings import (
    NOT_SETTINGS,
    Compat,
    Config,
    Data,
    Issuer,
    Limits,
    Log,
    Model,
    Protocol,
    Route,
    Server,
    Work,
)
from gateway.config.upstreams import (
    A1111,
    STABILITY_V1_ENGINES,
    STABILITY_V2BETA_PRICES,
    Breaker,
    Bucket,
    ComfyUI,
    Credential,
    Diffusers,
    Embedded,
    Engine,
    HttpUpstream,
    OpenAIImages,
    SdCpp,
    StabilityV1,
    StabilityV2Beta,
    Upstream,
    Window,
)

__all__ = [
    "A1111",
    "NOT_SETTINGS",
    "STABILITY_V1_ENGINES",
    "STABILITY_V2BETA_PRICES",
    "Breaker",
    "Bucket",
    "ComfyUI",
    "Compat",
    "Config",
    "ConfigFaults",
    "Credential",
    "Data",
    "Diffusers",
    "Effective",
    "Embedded",
    "Engine",
    "HttpUpstream",
    "Issuer",
    "Limits",
    "Log",
    "Model",
    "OpenAIImages",
    "Protocol",
    "Route",
    "SdCpp",
    "Server",
    "Setting",
    "StabilityV1",
    "StabilityV2Beta",
    "Upstream",
    "Window",
    "Work",
    "describe",
    "load",
    "load_with_origins",
]
