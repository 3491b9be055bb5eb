"""The commands `safelight upstream ...`, for whoever sets up what stands behind a gateway."""

import sys
from pathlib import Path

import click

from gateway.cli.basics import FILE, config_option, load_settings


@click.group()
def upstream() -> None:
    """Look at the services that make the pictures; the gateway need not run."""


@upstream.command()
@click.argument("what", metavar="NAME|URL")
@click.option("--generate", is_flag=True, help="Make the shortest picture too: smallest size, fewest steps.")
@click.option("--yes", "is_agreed", is_flag=True, help="Make it without asking even if it costs money.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Where to write it; else probe-NAME.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON instead.")
def probe(
    what: str, config_path: Path | None, output: Path | None, *, generate: bool, is_agreed: bool, as_json: bool
) -> None:
    """Connect to an upstream and say what it is, what it offers, and what is wrong.

    NAME is one of your settings. With a URL, as http://127.0.0.1:8188, every kind of upstream is tried there until one
    answers sensibly, and you are told what to write into your settings. Nothing costs money without --generate.

    Exit status: 0 all is well, 1 something is wrong or does not answer, 2 it was asked for in a wrong way.
    """
    settings = load_settings(config_path, {})

    from gateway.cli.probe import Probe  # noqa: PLC0415

    run = Probe(settings, generate=generate, is_agreed=is_agreed, output=output, as_json=as_json)
    sys.exit(run.run(what))
