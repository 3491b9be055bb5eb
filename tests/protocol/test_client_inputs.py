"""Addresses, formats and absent fields."""

import pytest
from msgspec import UNSET

from protocol.client_inputs import format_of, given, stream_url


@pytest.mark.parametrize(
    "url,address",
    [
        ("http://localhost:8000", "ws://localhost:8000/v1/stream"),
        ("https://gw.example/", "wss://gw.example/v1/stream"),
        ("wss://gw.example/art/", "wss://gw.example/art/v1/stream"),
        ("ws://[::1]:1/v1/stream?ticket=T#x", "ws://[::1]:1/v1/stream?ticket=T"),
    ],
)
def test_any_address_becomes_the_streams(url: str, address: str) -> None:
    """Scheme and path are filled in, the query stays."""
    assert stream_url(url) == address


@pytest.mark.parametrize("url", ["gw.example", "ftp://gw.example", "https://", ""])
def test_address_that_is_none_is_refused(url: str) -> None:
    """Here, and not at the first of a thousand attempts."""
    with pytest.raises(ValueError, match="a gateway's address"):
        stream_url(url)


def test_format_is_seen_from_the_first_bytes() -> None:
    """Raw pixels have none."""
    assert [format_of(one) for one in (b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"RIFF....WEBP")] == ["png", "jpeg", "webp"]
    with pytest.raises(ValueError, match="say its format"):
        format_of(b"GIF89a")


def test_none_is_absent() -> None:
    """A message has no null."""
    assert given(None) is UNSET
    assert given(0) == 0
