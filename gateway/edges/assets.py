"""`/v1/assets`: pictures in and out over HTTP."""

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.records import AssetRecord
from gateway.edges.http import answer, authenticate, matches, read_body
from gateway.edges.room import Room
from gateway.flow.node import Node
from gateway.flow.pictures import told
from protocol.errors import ClientFault
from protocol.ids import is_asset_id

MAX_UPLOADS: Final = 32
"""Large bodies at once; each may be as large as the limit, and lies in memory until it is stored."""
MAX_UPLOADS_EACH: Final = 4
"""Of one end user; more wait."""
_TYPES: Final = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


class AssetRoutes:
    """Stores and gives pictures."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._room = Room(MAX_UPLOADS, MAX_UPLOADS_EACH, "too many uploads at once")

    def routes(self) -> list[Route]:
        """Return the edge's routes."""
        return [
            Route("/v1/assets", self.put, methods=["PUT"]),
            Route("/v1/assets/{asset}", self.get, methods=["GET"]),
        ]

    async def put(self, request: Request) -> Response:
        """Store the body as an input image."""
        identity = await authenticate(request, self._node, "assets")
        with self._room.lease() as enter:
            max_bytes = self._node.limits.max_upload_bytes
            content = await read_body(request, max_bytes, enter=lambda: enter(identity))
            record = await self._node.pictures.store_input(identity.tenant, content)
        return answer(told(record, self._node.asset_retention_ms))

    async def get(self, request: Request) -> Response:
        """Give a picture of the asker's account, or one whose address is signed."""
        asset = f"sha256:{request.path_params['asset'].removeprefix('sha256:')}"
        tenant = await self._tenant(request, asset)
        if not is_asset_id(asset):
            raise ClientFault("asset_not_found", "there is no such asset", details={"asset": asset[:80]})
        stored = await self._node.pictures.fetch(tenant, asset)
        headers = self._headers(stored.record)
        if matches(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        part = _wanted(request, len(stored.content), headers["ETag"])
        media_type = _TYPES.get(stored.record.format, "application/octet-stream")
        if part is None:
            return Response(stored.content, headers=headers, media_type=media_type)
        headers["Content-Range"] = _content_range(part, len(stored.content))
        if not part:
            return Response(status_code=416, headers=headers | {"Cache-Control": "no-store"})
        content = memoryview(stored.content)[part.start : part.stop]
        return Response(content, 206, headers=headers, media_type=media_type)

    async def _tenant(self, request: Request, asset: str) -> str:
        signature = request.query_params.get("sig")
        if signature is not None and "authorization" not in request.headers:
            return self._node.access.check_asset(signature, asset)
        return (await authenticate(request, self._node, "assets")).tenant

    def _headers(self, record: AssetRecord) -> dict[str, str]:
        """What goes with a picture's bytes: they never change, but they are the account's and end with their time."""
        digits = record.id.removeprefix("sha256:")
        seconds = max(0, (record.expires_ms - self._node.clock.time_ms()) // 1000)
        return {
            "ETag": f'"{digits}"',
            "Cache-Control": f"private, max-age={seconds}, immutable",
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'inline; filename="{digits[:16]}.{record.format}"',
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }


def _wanted(request: Request, size: int, etag: str) -> range | None:
    """Return the one range that is asked for, empty if there is nothing there; `None` for the whole."""
    condition = request.headers.get("if-range")
    found = _RANGE.match(request.headers.get("range", ""))
    if found is None or (condition is not None and condition != etag):
        return None  # several ranges, or another unit: the whole is always a right answer
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    stop = min(size, int(last) + 1) if last else size
    return range(min(int(first), stop), stop)


def _content_range(part: range, size: int) -> str:
    return f"bytes {part.start}-{part.stop - 1}/{size}" if part else f"bytes */{size}"
