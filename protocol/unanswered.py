"""The client's requests that were not answered yet, in order, and the pictures uploaded for them.

They are what R9 sends again after `synced`. A picture is kept until the server has named its asset; from then on a
submit that refers to the upload is sent with the asset instead, which is the same body (section 2.8) and costs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET, structs

from protocol.codec import encode
from protocol.header import FORMAT_NAMES, HEADER_SIZE, Flag, Header, Kind, pack
from protocol.messages import Asset, Cancel, ImageFormat, Input, Prefs, Submit, Unwatch, Watch
from protocol.replica_effects import Send

_MAX_ASSETS: Final = 256


@dataclass(slots=True)
class ClientBusy(Exception):
    """The client was asked for more than it may hold; wait for an answer and ask again. Nothing was changed."""

    what: str
    limit: int

    def __post_init__(self) -> None:
        Exception.__init__(self, self.what, self.limit)

    def __str__(self) -> str:
        return f"over {self.limit} {self.what} are unanswered: wait for an answer, then ask again"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that is uploaded in chunks of kind 16; its id is the request's `ref`."""

    upload: str
    format: ImageFormat
    data: bytes = field(repr=False)

    def chunks(self, max_chunk: int) -> Iterator[bytes]:
        """Yield the messages of the upload, each at most `max_chunk` bytes, in order."""
        step = max(1, max_chunk - HEADER_SIZE)
        total = len(self.data)
        for offset in range(0, total, step):
            header = Header(
                kind=Kind.UPLOAD,
                format=FORMAT_NAMES[self.format],
                job_id=self.upload,
                total_size=total,
                chunk_offset=offset,
                flags=Flag.LAST_CHUNK if offset + step >= total else 0,
            )
            yield pack(header) + self.data[offset : offset + step]


Wish = Submit | Cancel | Watch | Unwatch | Prefs | Picture


@dataclass(frozen=True, slots=True)
class Request:
    """A wish under way; `is_own` says that the machine made it, so that nobody waits for the answer."""

    ref: str
    wish: Wish
    is_own: bool = False


class Unanswered:
    """The requests under way: at most `max_count` of the user's, with at most `max_bytes` of pictures."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._requests: dict[str, Request] = {}
        self._assets: dict[str, Asset] = {}

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))

    def __repr__(self) -> str:
        return f"<Unanswered {list(self._requests)}>"

    def add(self, request: Request) -> None:
        """Keep a request until `pop`.

        Raises `ClientBusy` over a limit and `ValueError` if a request with this `ref` is under way.
        """
        if request.ref in self._requests:
            raise ValueError(f"a request with ref {request.ref} is under way")
        size = len(request.wish.data) if isinstance(request.wish, Picture) else 0
        if not request.is_own and sum(not one.is_own for one in self._requests.values()) >= self._max_count:
            raise ClientBusy("requests", self._max_count)
        if self._bytes + size > self._max_bytes:
            raise ClientBusy("bytes of uploads", self._max_bytes)
        self._bytes += size
        self._requests[request.ref] = request

    def find(self, ref: str) -> Request | None:
        """Return the request, if it is under way."""
        return self._requests.get(ref)

    def pop(self, ref: str) -> Request | None:
        """Return the request and keep it no longer, because it was answered or is void."""
        request = self._requests.pop(ref, None)
        if request is not None and isinstance(request.wish, Picture):
            self._bytes -= len(request.wish.data)
        return request

    def pop_watches(self, job: str) -> list[Request]:
        """Return the watches of the job, because it ended, and keep them no longer."""
        found = [one for one in self if isinstance(one.wish, Watch) and one.wish.job == job]
        for one in found:
            self.pop(one.ref)
        return found

    def note_asset(self, upload: str, asset: Asset) -> None:
        """Note which asset an upload became; the newest 256 are known."""
        self._assets[upload] = asset
        while len(self._assets) > _MAX_ASSETS:
            del self._assets[next(iter(self._assets))]

    def sends(self, request: Request, max_chunk: int) -> list[Send]:
        """Return the messages that make the request, as they have to read now."""
        wish = request.wish
        if isinstance(wish, Picture):
            return [Send(chunk, binary=True) for chunk in wish.chunks(max_chunk)]
        if isinstance(wish, Submit):
            wish = structs.replace(wish, inputs=[self._with_asset(one) for one in wish.inputs])
        return [Send(encode(wish))]

    def _with_asset(self, one: Input) -> Input:
        asset = self._assets.get(one.upload) if isinstance(one.upload, str) else None
        return one if asset is None else structs.replace(one, asset=asset, upload=UNSET)
