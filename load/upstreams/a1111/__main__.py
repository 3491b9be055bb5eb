"""Run from a shell: `python -m load.upstreams.a1111 --port 7860 --web` until SIGTERM."""

from __future__ import annotations

from load.upstreams.a1111 import A1111
from load.upstreams.running import parser_for, run


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = parser_for("a1111", "the WebUI family", service_time="0.002", of="a step")
    parser.add_argument("--flavour", choices=("forge", "a1111", "sdnext"), default="forge")
    parser.add_argument("--web", action="store_true", help="with the web page's paths, /internal/progress above all")
    parser.add_argument("--auth", help="user:password, several parted by commas")
    parser.add_argument("--no-previews", dest="previews", action="store_false")
    parser.add_argument("--frozen-progress", action="store_true", help="progress stays at its start")
    parser.add_argument("--answer-delay", type=float, default=0.0, help="seconds between a job's end and its answer")
    parser.add_argument("--foreign-steps", type=int, default=0, help="somebody else's job runs from the start")
    run(parser, lambda given: A1111(**given))


if __name__ == "__main__":
    main()
