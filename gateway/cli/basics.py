"""What the commands of `safelight` share: their exit statuses, options, settings, and how they end."""

import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from gateway.config import Config

T = TypeVar("T")
DEFAULT_FOLDER: Final = Path("var")
DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
CANCELED: Final = 130

FILE: Final = click.Path(dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)
config_option = click.option("--config", "config_path", type=FILE, metavar="F", help="Settings as a TOML file.")
data_option = click.option(
    "--data", type=FOLDER, metavar="DIR", help="Folder of the ledger and the pictures; ./var if nothing else is set."
)


def load_settings(path: Path | None, overrides: Mapping[str, object]) -> "Config":
    """Return the settings, or leave with every fault that they have."""
    from gateway.config import ConfigFaults, load  # noqa: PLC0415

    try:
        return load(path, os.environ, overrides)
    except ConfigFaults as faults:
        leave_with_faults(faults.faults)


def leave(status: int, message: str) -> NoReturn:
    """End the command with a sentence."""
    click.echo(f"safelight: {message}", err=True)
    sys.exit(status)


def leave_with_faults(faults: list[str]) -> NoReturn:
    """End the command because of its settings."""
    for fault in faults:
        click.echo(fault, err=True)
    count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
    leave(REFUSED, f"the settings have {count}; nothing was done")


def run(main_coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what a task group wrapped comes out as it was raised."""
    import uvloop  # noqa: PLC0415

    try:
        return uvloop.run(main_coroutine)
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        raise cause from None


def folder_of(config_path: Path | None, data: Path | None) -> Path:
    """Return the data folder that the settings name."""
    return load_settings(config_path, {"data.folder": data}).data.folder


def make_folder(folder: Path) -> None:
    """Make the data folder if it is not there, or leave if nothing can be kept in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        leave(FAILED, f"the data folder {folder} cannot be made ({error.strerror}); name another with --data")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        leave(FAILED, f"nothing can be written to the data folder {folder}; name another with --data")


def existing_folder(config_path: Path | None, data: Path | None) -> Path:
    """Return the data folder, or leave if it holds no ledger."""
    folder = folder_of(config_path, data)
    if not (folder / "ledger.db").exists():
        leave(REFUSED, f"{folder} holds no ledger; name the gateway's folder with --data, or make a key first")
    return folder
