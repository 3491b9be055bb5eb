"""Running the stand-in of ComfyUI from a shell."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from load.upstreams.comfyui.server import ComfyUI
from load.upstreams.comfyui.values import Checkpoint
from load.upstreams.faults import rules_from_json
from load.upstreams.running import run_until_told


def arguments() -> argparse.ArgumentParser:
    """The command line's options, with the constructor's defaults."""
    parser = argparse.ArgumentParser(prog="load.upstreams.comfyui", description="Stand-in of a ComfyUI server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step-time", default="0.001", help="seconds of a step, or uniform:0.1,0.4 and the like")
    parser.add_argument("--node-time", default="0", help="the same for each node that runs")
    parser.add_argument("--service-time", default="0", help="the same for the answer to POST /prompt")
    parser.add_argument("--checkpoint", action="append", default=[], help="a model's name; may be repeated")
    parser.add_argument("--no-previews", dest="previews", action="store_false")
    parser.add_argument("--preview-size", type=int, default=512)
    parser.add_argument("--preview-bytes", type=int, default=0, help="least size of a preview")
    parser.add_argument("--picture-bytes", type=int, default=0, help="least size of a picture's file")
    parser.add_argument("--version", help="what /system_stats tells")
    parser.add_argument("--old", action="store_true", help="behave like a server of early 2024")
    parser.add_argument("--script", type=Path, help="a file with a script for requests in its JSON form")
    parser.add_argument("--prompts", type=Path, help="a file with a list of rules for prompts")
    parser.add_argument("--sockets", type=Path, help="a file with a list of rules for sockets")
    return parser


def from_arguments(options: argparse.Namespace) -> ComfyUI:
    """The stand-in the options describe; reads the files."""
    given = dict(vars(options))
    checkpoints = [Checkpoint(name) for name in given.pop("checkpoint")]
    for name in ("script", "prompts", "sockets"):
        given[name] = json.loads(given[name].read_text()) if given[name] else []
    given["script"] = rules_from_json(given["script"])
    return ComfyUI(checkpoints=checkpoints, **given)


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    options = arguments().parse_args()
    asyncio.run(run_until_told(lambda: from_arguments(options)))


if __name__ == "__main__":
    main()
