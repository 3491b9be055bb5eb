"""The command `safelight`. Each command imports what it needs itself, so that `--help` answers at once.

Exit status: 0 it was done, 1 it failed, 2 it was refused or asked for in a wrong way, 130 it was canceled. A person at
a terminal never sees a traceback for something that a person can mend.
"""

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.cli_basics import (
    FAILED,
    FOLDER,
    REFUSED,
    config_option,
    leave,
    leave_with_faults,
    load_settings,
    run,
)
from gateway.cli_picture import generate, models
from gateway.cli_upstream import upstream

if TYPE_CHECKING:
    from gateway.cli_keys import DevKey
    from gateway.config import Config
    from gateway.ports import Accounts

T = TypeVar("T")

_data_option = click.option(
    "--data", type=FOLDER, metavar="DIR", help="Folder of the ledger and the pictures; ./var if nothing else is set."
)


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
@_data_option
def serve(config_path: Path | None, host: str | None, port: int | None, data: Path | None) -> None:
    """Start the gateway; it runs until SIGTERM or Ctrl-C.

    With an empty data folder it makes an API key and prints the address of its page with it.
    """
    config = load_settings(config_path, {"server.host": host, "server.port": port, "data.folder": data})
    _make_folder(config.data.folder)

    from gateway import app  # noqa: PLC0415
    from gateway.ledger import FolderInUse  # noqa: PLC0415

    async def serving() -> None:
        # The gateway takes the folder for itself; a key can be seen to beside it, as `key add` does.
        dev_key = await _found_dev_key(config.data.folder)
        await app.serve(config, announce=lambda url: _announce(url, dev_key))

    try:
        run(serving())
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


@main.group()
def key() -> None:
    """Make, list and revoke API keys; also while the gateway runs."""


@key.command("add")
@click.option("--tenant", default="default", show_default=True, metavar="T", help="Whose key; made if it is new.")
@click.option("--label", default="", metavar="L", help="What it is for, to tell keys apart.")
@config_option
@_data_option
def key_add(tenant: str, label: str, config_path: Path | None, data: Path | None) -> None:
    """Make a key and print it: once, for only its digest is kept."""
    if not tenant.strip():
        raise click.BadParameter("a tenant's name is not empty", param_hint="--tenant")
    folder = _folder(config_path, data)
    _make_folder(folder)

    from gateway.cli_keys import add_key, make_key  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415

    new_key = make_key()
    record, is_new_tenant = _with_accounts(
        folder, lambda accounts: add_key(accounts, SystemClock(), tenant, label, new_key)
    )
    click.echo(new_key)
    made = f"; tenant {tenant} is new" if is_new_tenant else ""
    click.echo(f"This is key {record.id} of tenant {tenant}; it is not shown again{made}.", err=True)


@key.command("list")
@config_option
@_data_option
def key_list(config_path: Path | None, data: Path | None) -> None:
    """List all keys, oldest first: id, tenant, when made, when revoked, label."""
    folder = _existing_folder(config_path, data)
    records = _with_accounts(folder, lambda accounts: accounts.keys())
    width = max((len(record.tenant) for record in records), default=0)
    for record in records:
        state = f"revoked {_moment(record.revoked_ms)}" if record.revoked_ms is not None else "valid"
        line = f"{record.id}  {record.tenant:<{width}}  {_moment(record.created_ms)}  {state:<28}  {record.label}"
        click.echo(line.rstrip())
    if not records:
        click.echo(f"There are no keys in {folder}; make one with: safelight key add --data {folder}", err=True)


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@config_option
@_data_option
def key_revoke(key_id: str, config_path: Path | None, data: Path | None) -> None:
    """Revoke a key for good, by its id."""
    folder = _existing_folder(config_path, data)

    from gateway.clock import SystemClock  # noqa: PLC0415

    now_ms = SystemClock().time_ms()
    if not _with_accounts(folder, lambda accounts: accounts.revoke_key(key_id, now_ms)):
        leave(REFUSED, f"there is no valid key {key_id} in {folder}; see: safelight key list")
    click.echo(f"Key {key_id} is revoked.")


@key.command("revoke-tokens")
@click.argument("key_id", metavar="ID")
@config_option
@_data_option
def key_revoke_tokens(key_id: str, config_path: Path | None, data: Path | None) -> None:
    """Revoke every token that was made with a key, by the key's id; the key itself stays valid."""
    folder = _existing_folder(config_path, data)
    if not _with_accounts(folder, lambda accounts: accounts.revoke_tokens(key_id)):
        leave(REFUSED, f"there is no key {key_id} in {folder}; see: safelight key list")
    click.echo(f"The tokens of key {key_id} are revoked; a running gateway refuses them within 2 seconds.")


@key.command("rotate-signing")
@click.option(
    "--grace",
    "grace_hours",
    type=click.FloatRange(min=0, max=8760),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="How long what the old keys signed goes on counting; 0 if they may have been stolen.",
)
@config_option
@_data_option
def key_rotate_signing(grace_hours: float, config_path: Path | None, data: Path | None) -> None:
    """Make new keys for signing tokens, grants, addresses and sessions; a running gateway takes them up.

    After the grace, whoever holds something of the old keys gets it anew; sessions begin anew, and their jobs go on.
    """
    folder = _existing_folder(config_path, data)

    from gateway.cli_keys import rotate_signing  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415

    until_ms = _with_accounts(folder, lambda accounts: rotate_signing(accounts, SystemClock(), grace_hours))
    click.echo(f"New signing keys are made; what the old ones signed counts until {_moment(until_ms)}.")


async def _found_dev_key(folder: Path) -> "DevKey":
    """See to the key of a fresh data folder before the gateway takes the folder for itself."""
    from gateway.cli_keys import ensure_dev_key  # noqa: PLC0415
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


def _folder(config_path: Path | None, data: Path | None) -> Path:
    return load_settings(config_path, {"data.folder": data}).data.folder


def _make_folder(folder: Path) -> None:
    """Make the data folder if it is not there, or leave if nothing can be kept in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        leave(FAILED, f"the data folder {folder} cannot be made ({error.strerror}); name another with --data")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        leave(FAILED, f"nothing can be written to the data folder {folder}; name another with --data")


def _existing_folder(config_path: Path | None, data: Path | None) -> Path:
    folder = _folder(config_path, data)
    if not (folder / "ledger.db").exists():
        leave(REFUSED, f"{folder} holds no ledger; name the gateway's folder with --data, or make a key first")
    return folder


def _with_accounts(folder: Path, work: "Callable[[Accounts], Coroutine[Any, Any, T]]") -> T:
    """Do `work` on the ledger in `folder`, beside whatever gateway holds it."""
    from gateway.ledger import open_ledger  # noqa: PLC0415

    async def working() -> T:
        async with open_ledger(folder, exclusive=False) as ledger:
            return await work(ledger.accounts)

    return run(working())


def _moment(time_ms: int) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


main.add_command(generate)
main.add_command(models)
main.add_command(upstream)

if __name__ == "__main__":
    main()
