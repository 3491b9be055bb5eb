"""Running the stand-in of ComfyUI from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from load.upstreams.comfyui.server import ComfyUI
from load.upstreams.comfyui.values import Checkpoint
from load.upstreams.running import parser_for, run


def make(given: dict[str, Any]) -> ComfyUI:
    """The stand-in the options describe; reads the files of rules."""
    checkpoints = [Checkpoint(name) for name in given.pop("checkpoint")]
    for name in ("prompts", "sockets"):
        given[name] = json.loads(given[name].read_text()) if given[name] else ()
    return ComfyUI(checkpoints=checkpoints, **given)


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    parser = parser_for("comfyui", "a ComfyUI server", of="the answer to POST /prompt")
    parser.add_argument("--step-time", default="0.001", help="seconds of a step, or uniform:0.1,0.4 and the like")
    parser.add_argument("--node-time", default="0", help="the same for each node that runs")
    parser.add_argument("--checkpoint", action="append", default=[], help="a model's name; may be repeated")
    parser.add_argument("--no-previews", dest="previews", action="store_false")
    parser.add_argument("--preview-size", type=int, default=512)
    parser.add_argument("--preview-bytes", type=int, default=0, help="least size of a preview")
    parser.add_argument("--version", help="what /system_stats tells")
    parser.add_argument("--old", action="store_true", help="behave like a server of early 2024")
    parser.add_argument("--prompts", type=Path, help="a file with a list of rules for prompts")
    parser.add_argument("--sockets", type=Path, help="a file with a list of rules for sockets")
    run(parser, make)


if __name__ == "__main__":
    main()
