"""Pictures in a folder or an object store, by content hash under the tenant's own prefix: `{tenant}/{ab}/{abcd…}`."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, ObjectStore

from protocol.ids import is_asset_id

_log: Final = logging.getLogger(__name__)


class BrokenBlob(Exception):
    """The stored bytes are not those that were put; whoever holds the disk or the bucket is at fault."""


def _report(broken: BrokenBlob) -> None:
    _log.error("%s", broken)


class ObjectBlobs:
    """See `gateway.ports.Blobs`. `report` is told of a blob that is broken, which then counts as missing."""

    def __init__(self, store: ObjectStore, report: Callable[[BrokenBlob], None] = _report) -> None:
        self._store = store
        self._report = report

    async def put(self, tenant: str, asset: str, content: bytes) -> None:
        key = _key(tenant, asset)
        await self._store.put_async(key, content)
        if isinstance(self._store, LocalStore):
            # obstore 0.12 writes a temporary file and renames it, but syncs neither it nor the folder (seen with
            # strace). A crash before this is done may leave half a file: nobody was promised it, `get` refuses it, and
            # the next `put` replaces it.
            assert self._store.prefix is not None, "`local` gives it one; without, a key would begin at the root"
            await asyncio.to_thread(_sync, Path(self._store.prefix), key)

    async def get(self, tenant: str, asset: str) -> bytes | None:
        key = _key(tenant, asset)
        try:
            found = await self._store.get_async(key)
            content = bytes(await found.bytes_async())
        except (FileNotFoundError, NotFoundError):
            return None
        try:
            await asyncio.to_thread(_check, key, asset, content)
        except BrokenBlob as broken:
            self._report(broken)
            return None
        return content

    async def delete(self, tenant: str, asset: str) -> None:
        try:
            await self._store.delete_async(_key(tenant, asset))
        except (FileNotFoundError, NotFoundError):
            return  # not every store tells


def local(folder: Path) -> ObjectBlobs:
    """Return blobs that lie in `folder`, making it if it is not there."""
    return ObjectBlobs(LocalStore(folder, mkdir=True))


def _key(tenant: str, asset: str) -> str:
    if not is_asset_id(asset):
        raise ValueError(f"{asset!r} is no asset id")
    if not tenant:
        raise ValueError("a blob belongs to a tenant")
    digits = asset.removeprefix("sha256:")
    # A tenant named `..` or `a/b` must not get at another's prefix; dots are not among what `quote` would change.
    return f"{quote(tenant, safe='').replace('.', '%2E')}/{digits[:2]}/{digits}"


def _check(key: str, asset: str, content: bytes) -> None:
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != asset:
        raise BrokenBlob(f"the blob {key} has {len(content)} bytes that are not its own")


def _sync(folder: Path, key: str) -> None:
    """Bring a file to the disk, and its name and those of the folders down to it."""
    path = folder / key
    for one in (path, *path.parents[:4]):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
