"""Pictures in and out of the store: checked before they are kept, opened only to their tenant.

The bytes go to the blob store under their hash, then a row says whose they are. A picture is measured from its header
before anything decodes it, so that a small file cannot become a large one here.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, UnsetType

from gateway.core.images import ImageFault, measure
from gateway.core.normal import InputImage
from gateway.core.records import AssetRecord
from gateway.core.reports import Picture
from gateway.ports import Assets, Blobs, Clock
from protocol.errors import ClientFault
from protocol.ids import asset_id
from protocol.messages import AssetStored, Limits

HASHED_HERE: Final = 262_144
"""Bytes that are hashed on the loop itself, in a quarter of a millisecond; more goes to a thread."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored picture and its bytes."""

    record: AssetRecord
    content: bytes


@dataclass(frozen=True, slots=True)
class Brought:
    """A client's picture that was checked and is not kept yet, and the id that it will have."""

    asset: str
    picture: Picture


class Pictures:
    """The tenants' pictures."""

    def __init__(self, assets: Assets, blobs: Blobs, clock: Clock, limits: Limits, retention_ms: int) -> None:
        self._assets = assets
        self._blobs = blobs
        self._clock = clock
        self._limits = limits
        self._retention_ms = retention_ms

    async def store_input(self, tenant: str, content: bytes) -> AssetRecord:
        """Check and keep a client's picture. Raises `ClientFault`, and keeps nothing then."""
        return await self.keep(tenant, await self.brought(content))

    async def brought(self, content: bytes) -> Brought:
        """Check a client's picture, for `keep` once it is needed. Raises `ClientFault`."""
        return await _named(self.checked(content))

    def checked(self, content: bytes) -> Picture:
        """Return a client's picture as its head tells it. Raises `ClientFault` if it is none, or over a limit."""
        if len(content) > self._limits.max_upload_bytes:
            raise ClientFault("payload_too_large", f"an image has at most {self._limits.max_upload_bytes} bytes")
        try:
            facts = measure(content)
        except ImageFault as fault:
            raise ClientFault(fault.code, str(fault)) from fault
        if facts.width * facts.height > self._limits.max_input_pixels:
            raise ClientFault(
                "payload_too_large",
                f"an image has at most {self._limits.max_input_pixels} pixels, not {facts.width} x {facts.height}",
                details={"max_input_pixels": self._limits.max_input_pixels},
            )
        return Picture(content, facts.format, facts.width, facts.height)

    async def store_output(self, tenant: str, picture: Picture) -> AssetRecord:
        """Keep a finished picture; when this returns, it may be promised."""
        return await self.keep(tenant, await _named(picture))

    async def input(self, tenant: str, role: str, asset: str) -> InputImage:
        """Return a tenant's asset as an input. Raises `ClientFault` `asset_not_found`."""
        record = await self._assets.find(tenant, asset, self._clock.time_ms())
        if record is None:
            raise ClientFault("asset_not_found", "there is no such asset; upload it", details={"asset": asset})
        await self._assets.keep(self._renewed(record))
        return InputImage(role, asset, record.width, record.height)

    async def fetch(self, tenant: str, asset: str) -> Stored:
        """Return a tenant's picture. Raises `ClientFault` `asset_not_found`."""
        record = await self._assets.find(tenant, asset, self._clock.time_ms())
        content = None if record is None else await self._blobs.get(tenant, asset)
        if record is None or content is None:
            raise ClientFault("asset_not_found", "there is no such asset", details={"asset": asset})
        return Stored(record, content)

    async def content(self, tenant: str, asset: str) -> bytes:
        """Return a picture's bytes for work that was promised. Raises `ClientFault` if they are gone."""
        content = await self._blobs.get(tenant, asset)
        if content is None:
            raise ClientFault("asset_not_found", "an input image is gone", details={"asset": asset})
        return content

    async def sweep(self) -> int:
        """Delete pictures whose time is over; returns how many."""
        expired = await self._assets.expired(self._clock.time_ms())
        for tenant, asset in expired:
            if await self._assets.drop(tenant, asset, self._clock.time_ms()):
                await self._blobs.delete(tenant, asset)
        return len(expired)

    async def keep(self, tenant: str, brought: Brought) -> AssetRecord:
        """Keep a picture; when this returns, it may be promised."""
        asset, picture = brought.asset, brought.picture
        record = AssetRecord(
            tenant, asset, picture.format, picture.width, picture.height, len(picture.content), self._expiry()
        )
        await self._blobs.put(tenant, asset, picture.content)
        await self._assets.keep(record)
        return record

    def _renewed(self, record: AssetRecord) -> AssetRecord:
        return AssetRecord(
            record.tenant, record.id, record.format, record.width, record.height, record.bytes, self._expiry()
        )

    def _expiry(self) -> int:
        return self._clock.time_ms() + self._retention_ms


async def _named(picture: Picture) -> Brought:
    # A hash of 16 MiB would hold the loop up; one of a few KiB is sooner made than handed over.
    large = len(picture.content) > HASHED_HERE
    asset = await asyncio.to_thread(asset_id, picture.content) if large else asset_id(picture.content)
    return Brought(asset, picture)


def told(record: AssetRecord, retention_ms: int, upload: str | UnsetType = UNSET) -> AssetStored:
    """Return the message that tells a stored picture."""
    return AssetStored(
        asset=record.id, format=record.format, w=record.width, h=record.height, bytes=record.bytes,
        expires_in_ms=retention_ms, upload=upload,
    )  # fmt: skip
