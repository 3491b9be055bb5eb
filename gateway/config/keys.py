"""The keys of vendors, read from where the settings say they are. No fault repeats what may be a key itself."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.faults import Table
from gateway.config.sections import KEY_PLACES
from gateway.config.upstreams import Credential, HttpUpstream
from gateway.core.secret import Secret

_ACCOUNT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_ACCOUNT_ALLOWED: Final = "before its ending 1-64 letters, digits, ., _ and -"


class _NoKey(Exception):
    """Why there is no key; it names neither the place nor what is there."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What one field of the settings names."""

    noun: str
    should_be: str
    read: Callable[[str, Mapping[str, str]], str]
    account: Callable[[str], str]
    """Makes an account's name of what is named."""


def read_credentials(upstream: HttpUpstream, table: Table, environ: Mapping[str, str]) -> tuple[Credential, ...]:
    """Return the accounts of an upstream, one for each key, or one without a key."""
    if table.concerns(*KEY_PLACES):
        return upstream.credentials
    match upstream.api_key_env, upstream.api_key_file:
        case (), ():
            if upstream.needs_key:
                table.fault("has no API key", "api_key_env or api_key_file")
            return upstream.credentials
        case names, ():
            return _read("api_key_env", names, table, environ)
        case (), names:
            return _read("api_key_file", names, table, environ)
        case _:
            table.fault("has two places for its API key", "api_key_env or api_key_file")
            return upstream.credentials


def _read(field: str, names: tuple[str, ...], table: Table, environ: Mapping[str, str]) -> tuple[Credential, ...]:
    place = _PLACES[field]
    keys: list[str] = []
    for index, name in enumerate(names):
        try:
            keys.append(place.read(name, environ))
        except _NoKey as reason:
            which = field if len(names) == 1 else f"{field}[{index}]"
            table.tell(f"the {place.noun} that {table.name(which)} names {reason}", place.should_be, field)
    accounts = ["default"] if len(names) == 1 else [place.account(name) for name in names]
    if len(keys) < len(names) or not _are_apart(accounts, keys, field, table):
        return ()
    return tuple(
        Credential(account, Secret(key), f"{place.noun} {name}")
        for account, key, name in zip(accounts, keys, names, strict=True)
    )


def _are_apart(accounts: list[str], keys: list[str], field: str, table: Table) -> bool:
    """Whether each account has a name and a key of its own.

    What is remembered of an account goes by its name; and a key that counted as two would be called too often.
    """
    if not all(map(_ACCOUNT.match, accounts)):
        table.fault("names a file that cannot name an account", _ACCOUNT_ALLOWED, field)
    elif len(set(accounts)) < len(accounts):
        table.fault("has the same name twice", "a name of its own for each account", field)
    elif len(set(keys)) < len(keys):
        table.fault("has the same key twice", "a key of its own for each account", field)
    else:
        return True
    return False


def _in_variable(variable: str, environ: Mapping[str, str]) -> str:
    key = environ.get(variable, "").strip()
    if not key:
        raise _NoKey("is not set, or empty")
    return key


def _in_file(file: str, _environ: Mapping[str, str]) -> str:
    try:
        key = Path(file).read_text(encoding="ascii").strip()
    except OSError as error:
        raise _NoKey(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise _NoKey("cannot be read (it is not ASCII text)") from None
    if len(key.split()) != 1:
        raise _NoKey("has more than one word" if key else "is empty")
    return key


_PLACES: Final = {
    "api_key_env": _Place("variable", "a variable with the API key", _in_variable, str),
    "api_key_file": _Place("file", "a file with one line, the API key", _in_file, lambda file: Path(file).stem),
}
