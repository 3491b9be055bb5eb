"""Run from a shell: `python -m load.upstreams.a1111 --port 7860 --web` until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from load.upstreams.a1111 import A1111
from load.upstreams.faults import rules_from_json
from load.upstreams.running import run_until_told


def arguments() -> argparse.ArgumentParser:
    """The command line's options, with the constructor's defaults."""
    parser = argparse.ArgumentParser(prog="load.upstreams.a1111", description="Stand-in of the WebUI family.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--flavour", choices=("forge", "a1111", "sdnext"), default="forge")
    parser.add_argument("--web", action="store_true", help="with the web page's paths, /internal/progress above all")
    parser.add_argument("--auth", help="user:password, several parted by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--service-time", default="0.002", help="of a step: seconds, or uniform:0.1,0.4 ...")
    parser.add_argument("--script", type=Path, help="a file with a script in its JSON form")
    parser.add_argument("--no-previews", action="store_true")
    parser.add_argument("--frozen-progress", action="store_true", help="progress stays at its start")
    parser.add_argument("--picture-bytes", type=int, default=0, help="least size of a picture's file")
    parser.add_argument("--answer-delay", type=float, default=0.0, help="seconds between a job's end and its answer")
    parser.add_argument("--foreign-steps", type=int, default=0, help="somebody else's job runs from the start")
    return parser


def from_arguments(options: argparse.Namespace) -> A1111:
    """The stand-in the options describe; reads the script's file."""
    given = dict(vars(options))
    script, previews = given.pop("script"), not given.pop("no_previews")
    rules = rules_from_json(json.loads(script.read_text())) if script else ()
    return A1111(**given, previews=previews, script=rules)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    options = arguments().parse_args()
    asyncio.run(run_until_told(lambda: from_arguments(options)))


if __name__ == "__main__":
    main()
