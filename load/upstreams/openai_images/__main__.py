"""The stand-in as a process of its own."""

from __future__ import annotations

from typing import Any

from load.upstreams.openai_images import OpenAIImages
from load.upstreams.openai_images.models import CURRENT
from load.upstreams.openai_images.profiles import PROFILES
from load.upstreams.running import add_keys, parser_for, run


def make(given: dict[str, Any]) -> OpenAIImages:
    """The stand-in the options describe."""
    current = given.pop("current_models")
    return OpenAIImages(**given, models=CURRENT if current else None)


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    parser = parser_for("openai_images", "the OpenAI Images API")
    add_keys(parser)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="openai")
    parser.add_argument("--current-models", action="store_true", help="refuse the models that are shut down")
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--limit", type=int, help="requests per period and key")
    parser.add_argument("--image-limit", type=int, help="pictures per period and key")
    parser.add_argument("--period", type=float, default=60.0)
    parser.add_argument("--retry-hint", choices=("nothing", "seconds", "milliseconds", "date"), default="seconds")
    parser.add_argument("--result-host", help="the host that URLs of pictures name")
    run(parser, make)


if __name__ == "__main__":
    main()
