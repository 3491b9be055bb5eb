"""The stand-in as a process of its own: `python -m load.upstreams.sdcpp --port 1234`."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from load.upstreams.faults import rules_from_json
from load.upstreams.running import run_until_told
from load.upstreams.sdcpp.catalogue import Defaults, Shop
from load.upstreams.sdcpp.server import SdCpp


def arguments() -> argparse.ArgumentParser:
    """The command line's options, with the constructor's defaults."""
    parser = argparse.ArgumentParser(prog="load.upstreams.sdcpp", description="Stand-in of stable-diffusion.cpp.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--service-time", default="0", help="seconds a request takes besides its steps")
    parser.add_argument("--step-seconds", default="0.001", help="seconds, or uniform:0.1,0.4, lognormal:0.5,0.4 ...")
    parser.add_argument("--keep-seconds", type=float, default=600.0, help="how long an ended job is known")
    parser.add_argument("--max-pending", type=int, default=64, help="pending jobs that are taken")
    parser.add_argument("--races", type=float, default=0.0, help="how often a 202 says generating, from 0 to 1")
    parser.add_argument("--width", type=int, default=-1, help="the server's default width")
    parser.add_argument("--height", type=int, default=-1, help="the server's default height")
    parser.add_argument("--webp", action="store_true", help="as built with WebP")
    parser.add_argument("--multiple", type=int, default=64, help="sides are rounded up to a multiple of this")
    parser.add_argument("--picture-bytes", type=int, default=0, help="least size of a PNG")
    parser.add_argument("--script", type=Path, help="a file with a script in its JSON form")
    return parser


def from_arguments(options: argparse.Namespace) -> SdCpp:
    """The stand-in those options describe."""
    shop = Shop(
        defaults=Defaults(width=options.width, height=options.height),
        webp=options.webp,
        multiple=options.multiple,
        max_pending=options.max_pending,
    )
    return SdCpp(
        shop=shop,
        host=options.host,
        port=options.port,
        seed=options.seed,
        service_time=options.service_time,
        step_seconds=options.step_seconds,
        keep_seconds=options.keep_seconds,
        races=options.races,
        picture_bytes=options.picture_bytes,
        script=rules_from_json(json.loads(options.script.read_text())) if options.script else (),
    )


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    options = arguments().parse_args()
    asyncio.run(run_until_told(lambda: from_arguments(options)))


if __name__ == "__main__":
    main()
