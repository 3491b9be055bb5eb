"""Tenants, keys, signing keys, the epoch and lock-outs: rows that are few, and read often."""

from functools import partial

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from gateway.core.records import KeyRecord, Plan
from gateway.core.signing import SigningKey
from gateway.ledger.schema import facts, keys, lockouts, signing_keys, tenants
from gateway.ledger.sql import Store


class Accounts:
    """See `gateway.ports.Accounts`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def found(self, epoch: str, signing_key: SigningKey) -> str:
        return await self._store.write(partial(_found, epoch=epoch, signing_key=signing_key))

    async def signing_keys(self, now_ms: int) -> list[SigningKey]:
        return await self._store.read(partial(_signing_keys, now_ms=now_ms))

    async def add_tenant(self, tenant: str, plan: Plan, now_ms: int) -> bool:
        return await self._store.write(partial(_add_tenant, tenant=tenant, plan=plan, now_ms=now_ms))

    async def add_key(self, record: KeyRecord, digest: str) -> None:
        await self._store.write(partial(_add_key, record=record, digest=digest))

    async def key(self, digest: str) -> tuple[KeyRecord, Plan] | None:
        return await self._store.read(partial(_key, column="digest", value=digest))

    async def key_by_id(self, key: str) -> tuple[KeyRecord, Plan] | None:
        return await self._store.read(partial(_key, column="id", value=key))

    async def keys(self) -> list[KeyRecord]:
        return await self._store.read(_keys)

    async def revoke_key(self, key: str, now_ms: int) -> bool:
        return await self._store.write(partial(_revoke_key, key=key, now_ms=now_ms))

    async def lock_out(self, upstream: str, credential: str, until_ms: int) -> None:
        await self._store.write(partial(_lock_out, upstream=upstream, credential=credential, until_ms=until_ms))

    async def locked_until(self, upstream: str, credential: str) -> int:
        return await self._store.read(partial(_locked_until, upstream=upstream, credential=credential))


def _found(connection: Connection, epoch: str, signing_key: SigningKey) -> str:
    kept = connection.scalar(select(facts.c.value).where(facts.c.name == "epoch"))
    if kept is not None:
        return str(kept)
    connection.execute(insert(facts).values(name="epoch", value=epoch))
    connection.execute(
        insert(signing_keys).values(id=signing_key.id, secret=signing_key.secret, not_after_ms=signing_key.not_after_ms)
    )
    return epoch


def _signing_keys(connection: Connection, now_ms: int) -> list[SigningKey]:
    query = select(signing_keys).where(signing_keys.c.not_after_ms > now_ms)
    return [SigningKey(row.id, row.secret, row.not_after_ms) for row in connection.execute(query)]


def _add_tenant(connection: Connection, tenant: str, plan: Plan, now_ms: int) -> bool:
    if connection.scalar(select(tenants.c.id).where(tenants.c.id == tenant)) is not None:
        return False
    connection.execute(insert(tenants).values(id=tenant, plan=msgspec.json.encode(plan), created_ms=now_ms))
    return True


def _add_key(connection: Connection, record: KeyRecord, digest: str) -> None:
    connection.execute(
        insert(keys).values(
            id=record.id,
            tenant=record.tenant,
            digest=digest,
            label=record.label,
            created_ms=record.created_ms,
        )
    )


_KEY = (keys.c.id, keys.c.tenant, keys.c.label, keys.c.created_ms, keys.c.revoked_ms)


def _key(connection: Connection, column: str, value: str) -> tuple[KeyRecord, Plan] | None:
    query = select(*_KEY, tenants.c.plan).join(tenants, tenants.c.id == keys.c.tenant).where(keys.c[column] == value)
    row = connection.execute(query).one_or_none()
    return None if row is None else (KeyRecord(*row[:5]), msgspec.json.decode(row.plan, type=Plan))


def _keys(connection: Connection) -> list[KeyRecord]:
    return [KeyRecord(*row) for row in connection.execute(select(*_KEY).order_by(keys.c.id))]


def _revoke_key(connection: Connection, key: str, now_ms: int) -> bool:
    query = update(keys).where(keys.c.id == key, keys.c.revoked_ms.is_(None)).values(revoked_ms=now_ms)
    return connection.execute(query).rowcount == 1


def _lock_out(connection: Connection, upstream: str, credential: str, until_ms: int) -> None:
    connection.execute(delete(lockouts).where(*_credential_is(upstream, credential)))
    connection.execute(insert(lockouts).values(upstream=upstream, credential=credential, until_ms=until_ms))


def _locked_until(connection: Connection, upstream: str, credential: str) -> int:
    return connection.scalar(select(lockouts.c.until_ms).where(*_credential_is(upstream, credential))) or 0


def _credential_is(upstream: str, credential: str) -> tuple[ColumnElement[bool], ...]:
    return lockouts.c.upstream == upstream, lockouts.c.credential == credential
