"""What the Python client makes of its arguments: a WebSocket address, an image's format, an absent field."""

from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from msgspec import UNSET, UnsetType

from protocol.messages import ImageFormat

T = TypeVar("T")
PATH: Final = "/v1/stream"
_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_MAGICS: Final[dict[bytes, ImageFormat]] = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


def stream_url(url: str) -> str:
    """Return the WebSocket address of a gateway that is named by any http(s) or ws(s) URL.

    `ValueError` if it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"a gateway's address begins with http, https, ws or wss, not {url!r}")
    path = parts.path.rstrip("/")
    if not path.endswith(PATH):
        path += PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


def format_of(data: bytes) -> ImageFormat:
    """Return the format that an image's first bytes show; `ValueError` if they show none."""
    for magic, name in _MAGICS.items():
        if data.startswith(magic):
            return name
    raise ValueError("the image is neither PNG, JPEG nor WebP: say its format")


def given(value: T | None) -> T | UnsetType:
    """Return an argument as a message's field: `None` is absent."""
    return UNSET if value is None else value
