"""The stand-in as a process of its own."""

from __future__ import annotations

from load.upstreams.running import add_keys, add_limit, parser_for, run
from load.upstreams.stability_v2beta.service import StabilityV2Beta


def main() -> None:
    """Run from a shell until SIGTERM or SIGINT."""
    parser = parser_for("stability_v2beta", "Stability AI v2beta stable-image")
    add_keys(parser)
    add_limit(parser)
    parser.add_argument("--credits", type=float, default=1000.0, help="the account's balance")
    parser.add_argument("--poll-floor", type=float, default=10.0, help="seconds between polls of one result")
    parser.add_argument("--strict-polls", action="store_true", help="answer 429 to polls that come sooner")
    parser.add_argument("--four-megapixels", action="append", default=[], help="an operation that returns that size")
    run(parser, lambda given: StabilityV2Beta(**given))


if __name__ == "__main__":
    main()
