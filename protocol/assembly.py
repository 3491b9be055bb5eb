"""Inline images while their chunks arrive: one part a job, all of them within a fixed number of bytes.

The rule is R2: a chunk must begin where the bytes held end. Whoever gets `GAP` discards nothing more, because the part
is gone already, and watches; whoever gets `TOO_BIG` has to ask for the image as a URL.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from protocol.header import FORMAT_NAMES, Header, HeaderFault, Kind, metadata, payload
from protocol.replica_effects import ImageBytes

_FORMATS: Final = {int(number): name for name, number in FORMAT_NAMES.items()}


class Outcome(Enum):
    """What became of a chunk that did not complete its image."""

    MORE = "more"
    GAP = "gap"
    TOO_BIG = "too big"


@dataclass(slots=True)
class _Part:
    total: int
    data: bytearray = field(default_factory=bytearray)
    metadata: dict[str, Any] = field(default_factory=dict)


class Assembly:
    """The images under way. The announced size of a part is reserved when it begins, its bytes as they come."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._reserved = 0
        self._parts: dict[str, _Part] = {}

    def __repr__(self) -> str:
        return f"<Assembly of {len(self._parts)} images, {self._reserved} of {self._max_bytes} bytes>"

    def add(self, header: Header, message: bytes) -> ImageBytes | Outcome:
        """Take one chunk of the job's next image; return the image when this was its last chunk."""
        part = self._parts.get(header.job_id)
        held = len(part.data) if part else 0
        if header.chunk_offset != held or (part is not None and part.total != header.total_size):
            self.discard(header.job_id)
            return Outcome.GAP
        if part is None:
            if self._reserved + header.total_size > self._max_bytes:
                return Outcome.TOO_BIG
            part = self._begin(header)
        part.data += payload(message, header)
        part.metadata |= read_metadata(message, header)
        if not header.is_last_chunk:
            return Outcome.MORE
        self.discard(header.job_id)
        return _image(header, part) if len(part.data) == part.total else Outcome.GAP

    def discard(self, job: str) -> None:
        """Forget the part of the job's image, if there is one."""
        part = self._parts.pop(job, None)
        if part is not None:
            self._reserved -= part.total

    def clear(self) -> None:
        """Forget every part."""
        self._parts.clear()
        self._reserved = 0

    def _begin(self, header: Header) -> _Part:
        part = self._parts[header.job_id] = _Part(header.total_size)
        self._reserved += header.total_size
        return part


def format_name(number: int) -> str:
    """Return the name of a header's format, `other` for one unknown or told by metadata."""
    return _FORMATS.get(number, "other")


def read_metadata(message: bytes, header: Header) -> dict[str, Any]:
    """Return the metadata of a message, empty where it is broken: it only adds to the header."""
    try:
        return metadata(message, header)
    except HeaderFault:
        return {}


def _image(header: Header, part: _Part) -> ImageBytes:
    return ImageBytes(
        job=header.job_id,
        seq=header.seq,
        index=header.image_index,
        count=header.image_count,
        format=format_name(header.format),
        width=header.width,
        height=header.height,
        is_auxiliary=header.kind == Kind.AUXILIARY,
        data=bytes(part.data),
        metadata=part.metadata,
    )
