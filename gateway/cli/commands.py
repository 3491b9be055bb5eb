"""The command `safelight`. Each command imports what it needs itself, so that `--help` answers at once.

Exit status: 0 it was done, 1 it failed, 2 it was refused or asked for in a wrong way, 130 it was canceled. A person at
a terminal never sees a traceback for something that a person can mend.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.basics import (
    FAILED,
    config_option,
    data_option,
    leave,
    leave_with_faults,
    load_settings,
    make_folder,
    run,
)
from gateway.cli.key_commands import key
from gateway.cli.picture import generate, models
from gateway.cli.upstream import upstream

if TYPE_CHECKING:
    from gateway.cli.keys import DevKey
    from gateway.config import Config


def _version(context: click.Context, _option: click.Parameter, is_asked: bool) -> None:  # noqa: FBT001 - click's way
    if not is_asked or context.resilient_parsing:
        return
    from importlib import metadata  # noqa: PLC0415

    try:
        number = metadata.version("safelight")
    except metadata.PackageNotFoundError:
        number = "of a working tree that is not installed"
    click.echo(f"safelight {number}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
def main() -> None:
    """A self-hosted streaming gateway in front of image-generation APIs."""


@main.command()
@config_option
@click.option("--host", metavar="H", help="Address to listen on.")
@click.option("--port", metavar="P", help="Port to listen on; 0 takes a free one.", type=int)
@data_option
def serve(config_path: Path | None, host: str | None, port: int | None, data: Path | None) -> None:
    """Start the gateway; it runs until SIGTERM or Ctrl-C.

    With an empty data folder it makes an API key and prints the address of its page with it.
    """
    config = load_settings(config_path, {"server.host": host, "server.port": port, "data.folder": data})
    make_folder(config.data.folder)

    from gateway import serving  # noqa: PLC0415
    from gateway.ledger import FolderInUse  # noqa: PLC0415

    async def until_the_end() -> None:
        # The gateway takes the folder for itself; a key can be seen to beside it, as `key add` does.
        dev_key = await _found_dev_key(config.data.folder)
        await serving.serve(config, announce=lambda url: _announce(url, dev_key))

    try:
        run(until_the_end())
    except FolderInUse as fault:
        leave(FAILED, str(fault))
    except OSError as error:
        leave(FAILED, _why_not_served(error, config))


@main.command("check-config")
@config_option
def check_config(config_path: Path | None) -> None:
    """Print every setting with its value and where that came from, or everything that is wrong.

    The output is a settings file itself.
    """
    from gateway.config import ConfigFaults, load_with_origins  # noqa: PLC0415

    try:
        _, effective = load_with_origins(config_path, os.environ)
    except ConfigFaults as faults:
        leave_with_faults(faults.faults)
    for one in effective:
        click.echo(one.line())


async def _found_dev_key(folder: Path) -> "DevKey":
    """See to the key of a fresh data folder before the gateway takes the folder for itself."""
    from gateway.cli.keys import ensure_dev_key  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415
    from gateway.ledger import open_ledger  # noqa: PLC0415

    async with open_ledger(folder, exclusive=False) as ledger:
        return await ensure_dev_key(ledger.accounts, folder, SystemClock())


def _announce(url: str, dev_key: "DevKey") -> None:
    """Tell where the gateway is: with its key while nobody else can know it, later only where that lies."""
    address = url.rstrip("/") + "/"
    if dev_key.is_new:
        click.echo(f"{address}#key={dev_key.key}")
        click.echo(f"The key lies in {dev_key.path}; it is not printed again.", err=True)
        return
    click.echo(address)
    if dev_key.key:
        click.echo(f"The key lies in {dev_key.path}.", err=True)
    else:
        folder = dev_key.path.parent
        click.echo(f"Another key is made with: safelight key add --data {folder}", err=True)


def _why_not_served(error: OSError, config: "Config") -> str:
    import errno  # noqa: PLC0415

    server = config.server
    if error.errno == errno.EADDRINUSE:
        return f"port {server.port} of {server.host} is taken; choose another with --port, or 0 for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {server.host}; choose another with --host"
    if error.errno in {errno.EACCES, errno.EPERM} and error.filename is None:
        return f"port {server.port} of {server.host} is not allowed to this user; choose one from 1024 with --port"
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


main.add_command(key)
main.add_command(generate)
main.add_command(models)
main.add_command(upstream)
