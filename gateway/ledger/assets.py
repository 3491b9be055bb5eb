"""Which tenant owns which stored picture, and until when it is kept.

The bytes lie in the blob store under their hash; that a tenant may read them is a row here and nothing else.
"""

from functools import partial

from sqlalchemy import Connection, delete, insert, select, update

from gateway.core.records import AssetRecord
from gateway.ledger.schema import assets
from gateway.ledger.sql import Store


class Assets:
    """See `gateway.ports.Assets`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def keep(self, record: AssetRecord) -> None:
        await self._store.write(partial(_keep, record=record))

    async def find(self, tenant: str, asset: str, now_ms: int) -> AssetRecord | None:
        return await self._store.read(partial(_find, tenant=tenant, asset=asset, now_ms=now_ms))

    async def expired(self, now_ms: int, limit: int = 256) -> list[tuple[str, str]]:
        return await self._store.read(partial(_expired, now_ms=now_ms, limit=limit))

    async def drop(self, tenant: str, asset: str, now_ms: int) -> bool:
        return await self._store.write(partial(_drop, tenant=tenant, asset=asset, now_ms=now_ms))


def _keep(connection: Connection, record: AssetRecord) -> None:
    mine = (assets.c.tenant == record.tenant, assets.c.id == record.id)
    known = connection.scalar(select(assets.c.expires_ms).where(*mine))
    if known is None:
        connection.execute(
            insert(assets).values(
                tenant=record.tenant, id=record.id, format=record.format, width=record.width, height=record.height,
                bytes=record.bytes, expires_ms=record.expires_ms,
            )
        )  # fmt: skip
    elif known < record.expires_ms:
        connection.execute(update(assets).where(*mine).values(expires_ms=record.expires_ms))


def _find(connection: Connection, tenant: str, asset: str, now_ms: int) -> AssetRecord | None:
    query = select(assets).where(assets.c.tenant == tenant, assets.c.id == asset, assets.c.expires_ms > now_ms)
    row = connection.execute(query).one_or_none()
    return None if row is None else AssetRecord(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name


def _expired(connection: Connection, now_ms: int, limit: int) -> list[tuple[str, str]]:
    query = select(assets.c.tenant, assets.c.id).where(assets.c.expires_ms <= now_ms).limit(limit)
    return [(row.tenant, row.id) for row in connection.execute(query)]


def _drop(connection: Connection, tenant: str, asset: str, now_ms: int) -> bool:
    query = delete(assets).where(assets.c.tenant == tenant, assets.c.id == asset, assets.c.expires_ms <= now_ms)
    return connection.execute(query).rowcount == 1
