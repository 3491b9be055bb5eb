"""What the gateway and its painting processes say to each other: structs in msgpack, each after its length.

Knows neither numpy nor processes, so that both sides can import it. A process answers each `Paint` with any number of
reports and one `Ended`, whatever happens; a `Cancel` for a painting that has ended means nothing.
"""

from typing import Final

import msgspec

LENGTH_BYTES: Final = 4
"""Of the length before each message, big endian."""
MAX_ORDER: Final = 2 * 16 * 2**20 + 2**16
"""Bytes: two images of 16 MiB (the wire protocol's limit) and the prompt."""
MAX_REPORT: Final = 32 * 2**20
"""Bytes: a PNG of 2048 x 2048 that does not compress has 12 MiB."""
MAX_INPUT_PIXELS: Final = 16_777_216
"""Pixels of an input image after decoding (the wire protocol's limit)."""


class Paint(msgspec.Struct, frozen=True, tag="paint"):
    """Paint `count` pictures, picture i from seed `seed` + i; images are encoded and may have any size."""

    id: int
    prompt: str
    seed: int
    width: int
    height: int
    steps: int
    count: int = 1
    strength: float = 1.0
    init: bytes | None = None
    mask: bytes | None = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop the painting before its next step, also if it has not begun."""

    id: int


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The inputs were read and the first latent is made."""

    id: int


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """Step `step` of picture `index` is done; `preview` is a JPEG of `width` x `height`."""

    id: int
    index: int
    step: int
    preview: bytes
    width: int
    height: int


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Picture `index` is done; `image` is a PNG of the asked size."""

    id: int
    index: int
    image: bytes


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Nothing more comes for this painting; `code` names the error that ended it, None = done or cancelled."""

    id: int
    code: str | None = None
    message: str = ""


Order = Paint | Cancel
Report = Begun | Stepped | Finished | Ended

_encoder: Final = msgspec.msgpack.Encoder()
_orders: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_reports: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    """Return the message with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_order(body: bytes) -> Order:
    """Return the order; raises `msgspec.DecodeError` for anything else."""
    return _orders.decode(body)


def decode_report(body: bytes) -> Report:
    """Return the report; raises `msgspec.DecodeError` for anything else."""
    return _reports.decode(body)
