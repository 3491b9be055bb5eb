"""The stand-in as a process of its own: `python -m load.upstreams.stability_v1 --port 8081`."""

from __future__ import annotations

from load.upstreams.running import add_keys, add_limit, parser_for, run
from load.upstreams.stability_v1.server import StabilityV1


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    parser = parser_for("stability_v1", "Stability AI v1")
    add_keys(parser)
    add_limit(parser)
    run(parser, lambda given: StabilityV1(**given))


if __name__ == "__main__":
    main()
