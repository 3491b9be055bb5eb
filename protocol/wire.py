"""One message as one finished WebSocket frame, server to client: unmasked, unfragmented, never compressed.

Frames are built once and written to every watcher, which is why they are made here and not by each connection.
"""

from typing import Final

TEXT: Final = 0x81
BINARY: Final = 0x82
PING: Final = b"\x89\x00"


def text_frame(payload: bytes) -> bytes:
    """Return a JSON message as a text frame."""
    return frame_head(TEXT, len(payload)) + payload


def binary_frame(*parts: bytes | memoryview) -> bytes:
    """Return a binary message, given in parts, as one frame; the parts are copied once."""
    return b"".join((frame_head(BINARY, sum(len(part) for part in parts)), *parts))


def frame_head(opcode: int, size: int) -> bytes:
    """Return the 2, 4 or 10 bytes in front of a payload of `size` bytes (RFC 6455, section 5.2)."""
    if size < 126:
        return bytes((opcode, size))
    if size < 65536:
        return bytes((opcode, 126)) + size.to_bytes(2, "big")
    return bytes((opcode, 127)) + size.to_bytes(8, "big")


def payload_of(frame: bytes) -> memoryview:
    """Return what stands in a frame of ours, without a copy."""
    size = frame[1]
    return memoryview(frame)[2 if size < 126 else 4 if size == 126 else 10 :]
