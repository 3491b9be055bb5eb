"""Uploads over the socket: kind 16 chunks, in order, bounded before a byte is kept.

An upload ends as its bytes or as one `ClientFault` that names what was wrong; either way nothing of it stays here. The
chunks of a refused one that were under way are ignored. It does not survive the connection: a client repeats it.
"""

from dataclasses import dataclass, field
from typing import Final, TypeVar

from protocol.errors import ClientFault
from protocol.header import Format, Header, Kind
from protocol.messages import Limits

T = TypeVar("T")
MAX_OPEN: Final = 4
MAX_UNREFERENCED: Final = 64 * 1024 * 1024
IDLE_SECONDS: Final = 30.0
MAX_KNOWN: Final = 256
"""How many uploads are remembered as waiting for their submit, and how many as refused; the oldest go first."""
_FORMATS: Final = frozenset({Format.OTHER, Format.JPEG, Format.PNG, Format.WEBP})


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete upload: what the client called it, and its bytes."""

    id: str
    content: bytes


@dataclass(slots=True)
class _Part:
    total: int
    last_chunk_at: float
    content: bytearray = field(default_factory=bytearray)


class Uploads:
    """The open uploads of one connection."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[str, _Part] = {}
        self._unreferenced: dict[str, int] = {}
        self._refused: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"Uploads(open={len(self._open)}, unreferenced={sum(self._unreferenced.values())})"

    def receive(self, header: Header, data: memoryview, now: float) -> Upload | None:
        """Take one chunk; returns the upload when it is whole, `None` before. A `ClientFault` drops the upload."""
        if header.chunk_offset == 0:
            self._refused.pop(header.job_id, None)
        elif header.job_id in self._refused:
            return None  # sent before the client could know
        try:
            return self._receive(header, data, now)
        except ClientFault:
            self._drop(header.job_id)
            raise

    def referenced(self, upload: str) -> None:
        """A submit refers to the upload: its bytes no longer count against the connection."""
        self._unreferenced.pop(upload, None)

    def deadline(self) -> float | None:
        """When the next upload is dropped for silence, on the clock of `now`."""
        return min((part.last_chunk_at + IDLE_SECONDS for part in self._open.values()), default=None)

    def expire(self, now: float) -> list[str]:
        """Drop and return the uploads that had no chunk for 30 s."""
        idle = [name for name, part in self._open.items() if part.last_chunk_at + IDLE_SECONDS <= now]
        for name in idle:
            self._drop(name)
        return idle

    def _drop(self, upload: str) -> None:
        self._open.pop(upload, None)
        _remember(self._refused, upload, None)

    def _receive(self, header: Header, data: memoryview, now: float) -> Upload | None:
        if header.kind != Kind.UPLOAD:
            raise ClientFault("bad_request", f"a client sends binary messages of kind {int(Kind.UPLOAD)} only")
        if len(data) > self._limits.max_chunk:
            raise ClientFault("payload_too_large", f"a chunk has at most {self._limits.max_chunk} bytes")
        part = self._open.get(header.job_id)
        if part is None:
            part = self._begin(header, now)
        if header.chunk_offset != len(part.content) or header.total_size != part.total:
            raise ClientFault("bad_chunk", f"the next chunk begins at {len(part.content)} of {part.total}")
        if not data:
            raise ClientFault("bad_chunk", "a chunk has at least one byte")
        part.content += data
        part.last_chunk_at = now
        whole = len(part.content) == part.total
        if whole != header.is_last_chunk:
            raise ClientFault("bad_chunk", "the last chunk, and no other, ends at total_size and has flag 1")
        if not whole:
            return None
        del self._open[header.job_id]
        _remember(self._unreferenced, header.job_id, part.total)
        return Upload(header.job_id, bytes(part.content))

    def _begin(self, header: Header, now: float) -> _Part:
        if header.chunk_offset != 0:
            raise ClientFault("bad_chunk", "the first chunk begins at 0")
        if header.format not in _FORMATS:
            raise ClientFault("unsupported_media", "an upload is PNG, JPEG or WebP")
        if header.total_size > self._limits.max_upload_bytes:
            raise ClientFault("payload_too_large", f"an upload has at most {self._limits.max_upload_bytes} bytes")
        if len(self._open) >= MAX_OPEN:
            raise ClientFault("concurrency_limit", f"at most {MAX_OPEN} uploads are open at once")
        held = sum(self._unreferenced.values()) + sum(part.total for part in self._open.values())
        if held + header.total_size > MAX_UNREFERENCED:
            raise ClientFault("payload_too_large", f"at most {MAX_UNREFERENCED} bytes of uploads wait for a submit")
        part = self._open[header.job_id] = _Part(header.total_size, now)
        return part


def _remember(known: dict[str, T], upload: str, what: T) -> None:
    known[upload] = what
    if len(known) > MAX_KNOWN:
        del known[next(iter(known))]
