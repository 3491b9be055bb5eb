"""The stand-in as a process of its own: `python -m load.upstreams.sdcpp --port 1234`."""

from __future__ import annotations

from typing import Any

from load.upstreams.running import parser_for, run
from load.upstreams.sdcpp.catalogue import Defaults, Shop
from load.upstreams.sdcpp.server import SdCpp


def make(given: dict[str, Any]) -> SdCpp:
    """The stand-in those options describe."""
    defaults = Defaults(width=given.pop("width"), height=given.pop("height"))
    of_the_shop = {name: given.pop(name) for name in ("webp", "multiple", "max_pending")}
    return SdCpp(shop=Shop(defaults=defaults, **of_the_shop), **given)


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    parser = parser_for("sdcpp", "stable-diffusion.cpp", of="a request besides its steps")
    parser.add_argument("--step-seconds", default="0.001", help="the same for a step")
    parser.add_argument("--keep-seconds", type=float, default=600.0, help="how long an ended job is known")
    parser.add_argument("--max-pending", type=int, default=64, help="pending jobs that are taken")
    parser.add_argument("--races", type=float, default=0.0, help="how often a 202 says generating, from 0 to 1")
    parser.add_argument("--width", type=int, default=-1, help="the server's default width")
    parser.add_argument("--height", type=int, default=-1, help="the server's default height")
    parser.add_argument("--webp", action="store_true", help="as built with WebP")
    parser.add_argument("--multiple", type=int, default=64, help="sides are rounded up to a multiple of this")
    run(parser, make)


if __name__ == "__main__":
    main()
