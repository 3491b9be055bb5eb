"""The messages between the gateway and its painting processes."""

import msgspec
import pytest

from gateway.engine import wire


@pytest.mark.parametrize(
    "message",
    [wire.Paint(1, "p", 2**53, 64, 64, 20, init=b"\x00\xff"), wire.Cancel(3)],
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
        wire.Stepped(1, 0, 3, b"j", 8, 9),
        wire.Finished(1, 0, b"p"),
        wire.Ended(1, "internal", "m"),
    )
    assert [wire.decode_report(wire.encode(report)[4:]) for report in reports] == list(reports)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xc1", b"\x81\xa4type\xa4what", wire.encode(wire.Begun(1))[4:]])
def test_order_refuses_other_bytes(body: bytes) -> None:
    """Anything but an order raises one kind of error."""
    with pytest.raises(msgspec.MsgspecError):
        wire.decode_order(body)
