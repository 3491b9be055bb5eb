"""The messages between the gateway and its painting processes."""

import msgspec
import pytest

from gateway.engine import wire
from protocol.messages import Limits


@pytest.mark.parametrize(
    "message",
    [wire.Paint(1, "p", 2**53, 64, 64, 20, init=b"\x00\xff"), wire.Enlarge(2, b"i", 8, 9, 3), wire.Cancel(3)],
    ids=lambda message: type(message).__name__,
)
def test_order_comes_back_from_its_bytes(message: wire.Order) -> None:
    """Encoding and decoding are inverse, and the length is that of the body."""
    frame = wire.encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert wire.decode_order(frame[4:]) == message


def test_report_comes_back_from_its_bytes() -> None:
    """All kinds of reports."""
    reports = (
        wire.Begun(1),
        wire.Stepped(1, 0, 3, b"j", "webp", 8, 9),
        wire.Finished(1, 0, b"p"),
        wire.Ended(1, "internal", "m"),
    )
    assert [wire.decode_report(wire.encode(report)[4:]) for report in reports] == list(reports)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xc1", b"\x81\xa4type\xa4what", wire.encode(wire.Begun(1))[4:]])
def test_order_refuses_other_bytes(body: bytes) -> None:
    """Anything but an order raises one kind of error."""
    with pytest.raises(msgspec.MsgspecError):
        wire.decode_order(body)


def test_largest_order_and_report_are_within_their_bounds() -> None:
    """Four images of the wire protocol's limit with two prompts of it, and a picture that does not compress."""
    image = bytes(wire.MAX_IMAGE)
    prompt = "\N{CAT FACE}" * 8000
    largest = wire.Paint(
        2**62, prompt, 2**53, 2048, 2048, 150, 4, "closed_form", 30.0, prompt, 0.1, image, image, image, 0.1, 0.1, 0.1,
        image, tiling=True, transparent=True,
    )  # fmt: skip
    assert len(wire.encode(largest)) <= wire.MAX_ORDER + wire.LENGTH_BYTES
    assert len(wire.encode(wire.Finished(2**62, 3, bytes(2048 * 2049 * 4 + 2**16)))) <= wire.MAX_REPORT


def test_limits_are_those_of_the_wire_protocol() -> None:
    """A client may send images of that size."""
    assert Limits().max_upload_bytes == wire.MAX_IMAGE
