"""API keys from the command line: made, listed and revoked in the ledger, also beside a running gateway.

A key is shown once, when it is made; the ledger keeps its digest. The key of a fresh data folder is the exception: it
lies in the folder as well, for its owner only, so that the page and `safelight generate` work without any set-up.
"""

import base64
import os
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.records import KeyRecord, Plan
from gateway.core.signing import digest
from gateway.ports import Accounts, Clock
from protocol.ids import make_ulid

DEV_KEY: Final = "dev-key"
DEFAULT_TENANT: Final = "default"
_KEY_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class DevKey:
    """The key of the data folder, and whether it was made just now."""

    key: str
    """Empty: the ledger has keys of its own, and none lies in the folder."""
    path: Path
    is_new: bool


def make_key() -> str:
    """Return a new API key: 160 random bits behind a prefix by which scanners for leaked keys know it."""
    return "sk-sl-" + base64.b32encode(secrets.token_bytes(_KEY_BYTES)).decode().lower()


async def add_key(accounts: Accounts, clock: Clock, tenant: str, label: str, key: str) -> tuple[KeyRecord, bool]:
    """Keep `key` for `tenant`; return its record, and whether the tenant had to be made."""
    now_ms = clock.time_ms()
    is_new_tenant = await accounts.add_tenant(tenant, Plan(), now_ms)
    record = KeyRecord(make_ulid(now_ms, _system_chance()), tenant, label, now_ms)
    await accounts.add_key(record, digest(key))
    return record, is_new_tenant


async def rotate_signing(accounts: Accounts, clock: Clock, grace_hours: float) -> int:
    """Make new signing keys; return until when the old ones count, in milliseconds since 1970."""
    from gateway.flow.tokens import new_signing_keys  # noqa: PLC0415 - no other command signs

    now_ms = clock.time_ms()
    until_ms = now_ms + int(grace_hours * 3_600_000)
    await accounts.rotate_signing(new_signing_keys(now_ms), until_ms)
    return until_ms


async def ensure_dev_key(accounts: Accounts, folder: Path, clock: Clock, draw: Callable[[], str] = make_key) -> DevKey:
    """See to it that a fresh data folder has a tenant and a key; do nothing where the ledger has any key.

    The file comes first: a start that dies in between finds it and goes on with it.
    """
    path = folder / DEV_KEY
    found = _read(path)
    if await accounts.keys():
        return DevKey(found, path, is_new=False)
    key = found or draw()
    if not found:
        _write(path, key)
    await add_key(accounts, clock, DEFAULT_TENANT, "made with the data folder", key)
    return DevKey(key, path, is_new=not found)


def read_dev_key(folder: Path) -> str:
    """Return the key that lies in a data folder, or "" if none does."""
    return _read(folder / DEV_KEY)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _write(path: Path, key: str) -> None:
    # Exclusively, so that no link or file that lies there already gets the key; and never readable by others.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")


def _system_chance() -> random.Random:
    return random.SystemRandom()
