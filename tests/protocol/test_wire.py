"""Finished WebSocket frames, read back by another implementation of the RFC."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from protocol.wire import PING, binary_frame, frame_head, payload_of, text_frame

SIZES = (0, 1, 125, 126, 127, 65535, 65536, 70_000)


def read_back(wire: bytes) -> Frame:
    """Return the one frame that `wire` is, as a client's library reads it."""
    reader = StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as whole:
        next(parsing)
    at_end = reader.at_eof()
    with pytest.raises(StopIteration) as nothing_left:
        next(at_end)
    assert nothing_left.value.value is True
    frame = whole.value.value
    assert isinstance(frame, Frame)
    assert frame.fin
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)
    return frame


@pytest.mark.parametrize("size", SIZES)
def test_text_of_each_length_form_is_read_back(size: int) -> None:
    """The length takes 1, 3 or 9 bytes; clients read each."""
    frame = read_back(text_frame(b"x" * size))
    assert (frame.opcode, frame.data) == (Opcode.TEXT, b"x" * size)
    assert payload_of(text_frame(b"x" * size)) == b"x" * size


@pytest.mark.parametrize("size", SIZES)
def test_head_is_as_short_as_the_standard_demands(size: int) -> None:
    """A longer form of a short length is illegal."""
    assert len(frame_head(0x82, size)) == (2 if size < 126 else 4 if size < 65536 else 10)


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_parts_become_one_binary_message(parts: list[bytes]) -> None:
    """Header and picture are joined in the frame, in order, and views will do."""
    frame = read_back(binary_frame(*[memoryview(part) for part in parts]))
    assert (frame.opcode, frame.data) == (Opcode.BINARY, b"".join(parts))


def test_ping_is_a_frame_without_payload() -> None:
    """Every client library answers it by itself."""
    frame = read_back(PING)
    assert (frame.opcode, frame.data) == (Opcode.PING, b"")
