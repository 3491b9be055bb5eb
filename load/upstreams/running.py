"""Running a stand-in as a process of its own: what all their command lines have in common."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load.upstreams.faults import rules_from_json
from load.upstreams.standin import CONTROL, StandIn

_TIME = "seconds, or uniform:0.1,0.4, lognormal:0.5,0.4 ..."


def parser_for(vendor: str, description: str, *, service_time: str = "0", of: str = "") -> argparse.ArgumentParser:
    """A command line with the options of every stand-in, by the names of the constructor's parameters.

    `service_time` is the default of that option, and `of` says what takes so long if it is no request.
    """
    parser = argparse.ArgumentParser(prog=f"load.upstreams.{vendor}", description=f"Stand-in of {description}.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--service-time", default=service_time, help=f"{of}{': ' if of else ''}{_TIME}")
    parser.add_argument("--script", type=Path, help="a file with a script in its JSON form")
    parser.add_argument("--picture-bytes", type=int, default=0, help="least size of a picture's file")
    return parser


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the option of a vendor that knows its customers by keys."""
    parser.add_argument("--key", action="append", help="an accepted key; may be repeated (default sk-test)")


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add the options of a vendor that counts arrivals in a window."""
    parser.add_argument("--limit", type=_limit, default=150, help="arrivals per period and key; 0 takes everything")
    parser.add_argument("--period", type=float, default=10.0)
    parser.add_argument("--lockout", type=float, default=60.0)
    parser.add_argument("--window-kind", choices=("sliding", "fixed"), default="sliding")
    parser.add_argument("--retry-after", action="store_true", help="send that header with the limit's 429")


def _limit(text: str) -> int | None:
    return int(text) or None


def read_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options as the constructor takes them; reads the script's file."""
    given = dict(vars(options))
    script = given["script"]
    given["script"] = rules_from_json(json.loads(script.read_text())) if script else ()
    if given.get("key", ()) is None:
        # Which keys are good without any named is the constructor's to say.
        del given["key"]
    return given


def run(parser: argparse.ArgumentParser, make: Callable[[dict[str, Any]], StandIn]) -> None:
    """Run what the command line describes until SIGTERM or SIGINT."""
    options = parser.parse_args()
    asyncio.run(run_until_told(lambda: make(read_options(options))))


async def run_until_told(make: Callable[[], StandIn]) -> None:
    """Serve until SIGTERM or SIGINT; prints one line of JSON with the address once requests are taken.

    `make` is called inside the event loop.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with make() as standin:
        print(json.dumps({"url": standin.url, "control": standin.url + CONTROL}), flush=True)
        await told.wait()
