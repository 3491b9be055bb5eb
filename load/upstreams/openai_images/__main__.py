"""The stand-in as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from load.upstreams.faults import rules_from_json
from load.upstreams.openai_images import OpenAIImages
from load.upstreams.openai_images.models import CURRENT
from load.upstreams.openai_images.profiles import PROFILES
from load.upstreams.running import run_until_told


def arguments() -> argparse.ArgumentParser:
    """The command line's options, with the constructor's defaults."""
    parser = argparse.ArgumentParser(
        prog="load.upstreams.openai_images", description="Stand-in of the OpenAI Images API."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="openai")
    parser.add_argument("--key", action="append", help="an accepted key; may be repeated (default sk-test)")
    parser.add_argument("--current-models", action="store_true", help="refuse the models that are shut down")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--service-time", default="0", help="seconds, or uniform:0.1,0.4, lognormal:0.5,0.4 ...")
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--script", type=Path, help="a file with a script in its JSON form")
    parser.add_argument("--limit", type=int, help="requests per period and key")
    parser.add_argument("--image-limit", type=int, help="pictures per period and key")
    parser.add_argument("--period", type=float, default=60.0)
    parser.add_argument("--retry-hint", choices=("nothing", "seconds", "milliseconds", "date"), default="seconds")
    parser.add_argument("--result-host", help="the host that URLs of pictures name")
    parser.add_argument("--picture-bytes", type=int, default=0, help="least size of a PNG's file")
    return parser


def from_arguments(options: argparse.Namespace) -> OpenAIImages:
    """The stand-in the options describe; reads the script's file."""
    given = dict(vars(options))
    script = given.pop("script")
    given["models"] = CURRENT if given.pop("current_models") else None
    return OpenAIImages(**given, script=rules_from_json(json.loads(script.read_text())) if script else ())


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    options = arguments().parse_args()
    asyncio.run(run_until_told(lambda: from_arguments(options)))


if __name__ == "__main__":
    main()
