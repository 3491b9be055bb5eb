"""The stand-in as a process of its own: `python -m load.upstreams.stability_v1 --port 8081`."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from load.upstreams.faults import rules_from_json
from load.upstreams.running import run_until_told
from load.upstreams.stability_v1.server import StabilityV1


def arguments() -> argparse.ArgumentParser:
    """The command line's options, with the constructor's defaults."""
    parser = argparse.ArgumentParser(prog="load.upstreams.stability_v1", description="Stand-in of Stability AI v1.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--key", action="append", help="an accepted key; may be repeated (default sk-test)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--service-time", default="0", help="seconds, or uniform:0.1,0.4, lognormal:0.5,0.4 ...")
    parser.add_argument("--script", type=Path, help="a file with a script in its JSON form")
    parser.add_argument("--limit", type=int, default=150, help="arrivals per period and key; 0 takes everything")
    parser.add_argument("--period", type=float, default=10.0)
    parser.add_argument("--lockout", type=float, default=60.0)
    parser.add_argument("--window-kind", choices=("sliding", "fixed"), default="sliding")
    parser.add_argument("--retry-after", action="store_true", help="send that header with the limit's 429")
    parser.add_argument("--picture-bytes", type=int, default=0, help="least size of a picture's file")
    return parser


def from_arguments(options: argparse.Namespace) -> StabilityV1:
    """The stand-in the options describe; reads the script's file."""
    given = dict(vars(options))
    script = given.pop("script")
    given["key"] = given["key"] or ("sk-test",)
    given["limit"] = given["limit"] or None
    return StabilityV1(**given, script=rules_from_json(json.loads(script.read_text())) if script else ())


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    options = arguments().parse_args()
    asyncio.run(run_until_told(lambda: from_arguments(options)))


if __name__ == "__main__":
    main()
