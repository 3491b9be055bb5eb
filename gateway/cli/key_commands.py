"""`safelight key ...`: the keys of clients, and those that sign. Works beside whatever gateway holds the folder."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.cli.basics import REFUSED, config_option, data_option, existing_folder, folder_of, leave, make_folder, run

if TYPE_CHECKING:
    from gateway.ports import Accounts

T = TypeVar("T")


@click.group()
def key() -> None:
    """Make, list and revoke API keys; also while the gateway runs."""


@key.command("add")
@click.option("--tenant", default="default", show_default=True, metavar="T", help="Whose key; made if it is new.")
@click.option("--label", default="", metavar="L", help="What it is for, to tell keys apart.")
@config_option
@data_option
def key_add(tenant: str, label: str, config_path: Path | None, data: Path | None) -> None:
    """Make a key and print it: once, for only its digest is kept."""
    if not tenant.strip():
        raise click.BadParameter("a tenant's name is not empty", param_hint="--tenant")
    folder = folder_of(config_path, data)
    make_folder(folder)

    from gateway.cli.keys import add_key, make_key  # noqa: PLC0415
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
@data_option
def key_list(config_path: Path | None, data: Path | None) -> None:
    """List all keys, oldest first: id, tenant, when made, when revoked, label."""
    folder = existing_folder(config_path, data)
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
@data_option
def key_revoke(key_id: str, config_path: Path | None, data: Path | None) -> None:
    """Revoke a key for good, by its id."""
    folder = existing_folder(config_path, data)

    from gateway.clock import SystemClock  # noqa: PLC0415

    now_ms = SystemClock().time_ms()
    if not _with_accounts(folder, lambda accounts: accounts.revoke_key(key_id, now_ms)):
        leave(REFUSED, f"there is no valid key {key_id} in {folder}; see: safelight key list")
    click.echo(f"Key {key_id} is revoked.")


@key.command("revoke-tokens")
@click.argument("key_id", metavar="ID")
@config_option
@data_option
def key_revoke_tokens(key_id: str, config_path: Path | None, data: Path | None) -> None:
    """Revoke every token that was made with a key, by the key's id; the key itself stays valid."""
    folder = existing_folder(config_path, data)
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
@data_option
def key_rotate_signing(grace_hours: float, config_path: Path | None, data: Path | None) -> None:
    """Make new keys for signing tokens, grants, addresses and sessions; a running gateway takes them up.

    After the grace, whoever holds something of the old keys gets it anew; sessions begin anew, and their jobs go on.
    """
    folder = existing_folder(config_path, data)

    from gateway.cli.keys import rotate_signing  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415

    until_ms = _with_accounts(folder, lambda accounts: rotate_signing(accounts, SystemClock(), grace_hours))
    click.echo(f"New signing keys are made; what the old ones signed counts until {_moment(until_ms)}.")


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
