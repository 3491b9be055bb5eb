"""Tenants, keys, signing keys, the epoch and lock-outs: rows that are few, and read often."""

from collections.abc import Sequence
from functools import partial

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from gateway.core.records import KeyRecord, KeyStanding, Plan
from gateway.core.signing import SigningKey
from gateway.ledger.schema import facts, keys, lockouts, revoked_tokens, signing_keys, tenants
from gateway.ledger.sql import Store


class Accounts:
    """See `gateway.ports.Accounts`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def found(self, epoch: str, keys: Sequence[SigningKey]) -> str:
        return await self._store.write(partial(_found, epoch=epoch, new=tuple(keys)))

    async def signing_keys(self, now_ms: int) -> list[SigningKey]:
        return await self._store.read(partial(_signing_keys, now_ms=now_ms))

    async def rotate_signing(self, keys: Sequence[SigningKey], until_ms: int) -> int:
        return await self._store.write(partial(_rotate_signing, new=tuple(keys), until_ms=until_ms))

    async def add_tenant(self, tenant: str, plan: Plan, now_ms: int) -> bool:
        return await self._store.write(partial(_add_tenant, tenant=tenant, plan=plan, now_ms=now_ms))

    async def add_key(self, record: KeyRecord, digest: str) -> None:
        await self._store.write(partial(_add_key, record=record, digest=digest))

    async def key(self, digest: str) -> tuple[KeyRecord, Plan] | None:
        return await self._store.read(partial(_key, column="digest", value=digest))

    async def plan(self, tenant: str) -> Plan | None:
        return await self._store.read(partial(_plan, tenant=tenant))

    async def standing(self, key: str, now_ms: int) -> KeyStanding | None:
        return await self._store.read(partial(_standing, key=key, now_ms=now_ms))

    async def revoke_token(self, key: str, jti: str, expires_ms: int, now_ms: int, limit: int) -> bool:
        return await self._store.write(
            partial(_revoke_token, key=key, jti=jti, expires_ms=expires_ms, now_ms=now_ms, limit=limit)
        )

    async def revoke_tokens(self, key: str) -> bool:
        return await self._store.write(partial(_revoke_tokens, key=key))

    async def forget_tokens(self, now_ms: int) -> int:
        return await self._store.write(partial(_forget_tokens, now_ms=now_ms))

    async def keys(self) -> list[KeyRecord]:
        return await self._store.read(_keys)

    async def revoke_key(self, key: str, now_ms: int) -> bool:
        return await self._store.write(partial(_revoke_key, key=key, now_ms=now_ms))

    async def lock_out(self, upstream: str, credential: str, until_ms: int) -> None:
        await self._store.write(partial(_lock_out, upstream=upstream, credential=credential, until_ms=until_ms))

    async def locked_until(self, upstream: str, credential: str) -> int:
        return await self._store.read(partial(_locked_until, upstream=upstream, credential=credential))


def _found(connection: Connection, epoch: str, new: tuple[SigningKey, ...]) -> str:
    kept = connection.scalar(select(facts.c.value).where(facts.c.name == "epoch"))
    if kept is not None:
        return str(kept)
    connection.execute(insert(facts).values(name="epoch", value=epoch))
    _add_signing(connection, new)
    return epoch


def _signing_keys(connection: Connection, now_ms: int) -> list[SigningKey]:
    query = select(signing_keys).where(signing_keys.c.not_after_ms > now_ms).order_by(signing_keys.c.id)
    return [SigningKey(row.id, row.secret, row.not_after_ms, row.kind) for row in connection.execute(query)]


def _rotate_signing(connection: Connection, new: tuple[SigningKey, ...], until_ms: int) -> int:
    shorten = update(signing_keys).where(signing_keys.c.not_after_ms > until_ms).values(not_after_ms=until_ms)
    old = connection.execute(shorten).rowcount
    _add_signing(connection, new)
    return old


def _add_signing(connection: Connection, new: tuple[SigningKey, ...]) -> None:
    for key in new:
        row = insert(signing_keys).values(id=key.id, kind=key.kind, secret=key.secret, not_after_ms=key.not_after_ms)
        connection.execute(row)


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
            token_epoch=record.token_epoch,
        )
    )


_KEY = (keys.c.id, keys.c.tenant, keys.c.label, keys.c.created_ms, keys.c.revoked_ms, keys.c.token_epoch)


def _key(connection: Connection, column: str, value: str) -> tuple[KeyRecord, Plan] | None:
    query = select(*_KEY, tenants.c.plan).join(tenants, tenants.c.id == keys.c.tenant).where(keys.c[column] == value)
    row = connection.execute(query).one_or_none()
    return None if row is None else (KeyRecord(*row[:-1]), msgspec.json.decode(row.plan, type=Plan))


def _plan(connection: Connection, tenant: str) -> Plan | None:
    kept = connection.scalar(select(tenants.c.plan).where(tenants.c.id == tenant))
    return None if kept is None else msgspec.json.decode(kept, type=Plan)


def _standing(connection: Connection, key: str, now_ms: int) -> KeyStanding | None:
    found = _key(connection, "id", key)
    if found is None:
        return None
    live = select(revoked_tokens.c.jti).where(revoked_tokens.c.key == key, revoked_tokens.c.expires_ms > now_ms)
    return KeyStanding(*found, frozenset(connection.scalars(live)))


def _revoke_token(connection: Connection, key: str, jti: str, expires_ms: int, now_ms: int, limit: int) -> bool:
    standing = _standing(connection, key, now_ms)
    if standing is None or jti in standing.revoked:
        return standing is not None
    if len(standing.revoked) >= limit:
        return False
    # One that ran out and was not forgotten yet is in the way of its twin.
    connection.execute(delete(revoked_tokens).where(revoked_tokens.c.key == key, revoked_tokens.c.jti == jti))
    connection.execute(insert(revoked_tokens).values(key=key, jti=jti, expires_ms=expires_ms))
    return True


def _revoke_tokens(connection: Connection, key: str) -> bool:
    query = update(keys).where(keys.c.id == key).values(token_epoch=keys.c.token_epoch + 1)
    connection.execute(delete(revoked_tokens).where(revoked_tokens.c.key == key))
    return connection.execute(query).rowcount == 1


def _forget_tokens(connection: Connection, now_ms: int) -> int:
    return connection.execute(delete(revoked_tokens).where(revoked_tokens.c.expires_ms <= now_ms)).rowcount


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
