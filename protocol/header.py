"""The 64-byte header of a binary message, both directions: little-endian, aligned, equal to a plain C struct.

| offset | field | | offset | field |
|---|---|---|---|---|
| 0 | magic "SFL1" | | 24 | width, height |
| 4 | kind, format | | 28 | step, steps |
| 6 | data_offset | | 32 | image_index, image_count |
| 8 | seq | | 36 | flags |
| 12 | frame | | 38 | job_id (26 ASCII characters) |
| 16 | total_size, chunk_offset | | 64 | metadata, up to data_offset |

Unknown kinds, formats and flag bits parse: the receiver ignores them, so that version 1 may grow.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final

import msgspec

HEADER_SIZE: Final = 64
MAGIC: Final = b"SFL1"
FIRST_BYTE: Final = 0x53
_LAYOUT: Final = struct.Struct("<4sBBHIIIIHHHHHHH26s")
_ID_CHARACTERS: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_METADATA_LIMIT: Final = 4096


class Kind(IntEnum):
    """What a binary message carries."""

    PREVIEW = 1
    FINAL = 2
    AUXILIARY = 3
    UPLOAD = 16


class Format(IntEnum):
    """The encoding of the image bytes; 0 means: see metadata `mime`."""

    OTHER = 0
    JPEG = 1
    PNG = 2
    WEBP = 3
    RGBA8 = 4
    RGB8 = 5


class Flag(IntFlag):
    """The known flag bits."""

    LAST_CHUNK = 1
    ALPHA = 2
    APPROXIMATE = 4


FORMAT_NAMES: Final[dict[str, Format]] = {form.name.lower(): form for form in Format if form is not Format.OTHER}


class HeaderFault(ValueError):
    """The bytes are no header of this protocol; the message says which field is wrong."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header; sizes in bytes, edges in pixels."""

    kind: int
    format: int
    job_id: str
    total_size: int
    chunk_offset: int = 0
    data_offset: int = HEADER_SIZE
    seq: int = 0
    frame: int = 0
    width: int = 0
    height: int = 0
    step: int = 0
    steps: int = 0
    image_index: int = 0
    image_count: int = 0
    flags: int = 0

    @property
    def is_last_chunk(self) -> bool:
        """Whether the image is whole after this chunk."""
        return bool(self.flags & Flag.LAST_CHUNK)


def pack(header: Header, metadata: dict[str, Any] | None = None) -> bytes:
    """Return the header's bytes, followed by `metadata` as JSON padded with spaces to a multiple of four.

    `data_offset` is computed; `ValueError` if a field does not fit its width, `job_id` has not 26 characters
    of `0-9A-Z`, or the metadata is over 4 KiB.
    """
    if len(header.job_id) != 26 or not _ID_CHARACTERS.issuperset(header.job_id.encode()):
        raise ValueError("job_id is not 26 characters of 0-9A-Z")
    extra = msgspec.json.encode(metadata) if metadata else b""
    if len(extra) > _METADATA_LIMIT:
        raise ValueError(f"metadata has over {_METADATA_LIMIT} bytes")
    extra += b" " * (-len(extra) % 4)
    try:
        return _LAYOUT.pack(
            MAGIC, header.kind, header.format, HEADER_SIZE + len(extra), header.seq, header.frame,
            header.total_size, header.chunk_offset, header.width, header.height, header.step, header.steps,
            header.image_index, header.image_count, header.flags, header.job_id.encode("ascii"),
        ) + extra  # fmt: skip
    except struct.error as error:
        raise ValueError(f"a header field does not fit its width: {error}") from error


def parse(message: bytes | memoryview) -> Header:
    """Return the header at the start of a binary message.

    Raises `HeaderFault` if it is too short, has no magic, or contradicts itself or the message's length.
    """
    if len(message) < HEADER_SIZE:
        raise HeaderFault(f"a binary message has at least {HEADER_SIZE} bytes, not {len(message)}")
    magic, kind, form, data_offset, seq, frame, total, offset, w, h, step, steps, index, count, flags, job = (
        _LAYOUT.unpack_from(message)
    )
    if magic != MAGIC:
        raise HeaderFault("the magic is not SFL1")
    if data_offset < HEADER_SIZE or data_offset % 4 or data_offset > len(message):
        raise HeaderFault(f"data_offset {data_offset} is under 64, no multiple of 4 or beyond the message")
    if not _ID_CHARACTERS.issuperset(job):
        raise HeaderFault("job_id is not 26 characters of 0-9A-Z")
    if offset + len(message) - data_offset > total:
        raise HeaderFault("the chunk reaches beyond total_size")
    return Header(
        kind=kind, format=form, data_offset=data_offset, seq=seq, frame=frame, total_size=total,
        chunk_offset=offset, width=w, height=h, step=step, steps=steps, image_index=index, image_count=count,
        flags=flags, job_id=job.decode("ascii"),
    )  # fmt: skip


def payload(message: bytes, header: Header) -> memoryview:
    """Return the image bytes of a message, without a copy; the view lives as long as the message."""
    return memoryview(message)[header.data_offset :]


def metadata(message: bytes, header: Header) -> dict[str, Any]:
    """Return the metadata between the header and the data; empty where there is none.

    Raises `HeaderFault` if it is no JSON object or over 4 KiB.
    """
    raw = bytes(message[HEADER_SIZE : header.data_offset])
    if not raw.strip():
        return {}
    if len(raw) > _METADATA_LIMIT:
        raise HeaderFault(f"metadata has over {_METADATA_LIMIT} bytes")
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HeaderFault("metadata is no JSON object") from error
