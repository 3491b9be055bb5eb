"""What the gateway and its painting processes say to each other: structs in msgpack, each after its length.

Knows neither numpy nor processes, so that both sides can import it. A process answers each order with any number of
reports and one `Ended`, whatever happens; a `Cancel` for an order that has ended means nothing.
"""

from typing import Final, Literal

import msgspec

LENGTH_BYTES: Final = 4
"""Of the length before each message, big endian."""
MAX_IMAGE: Final = 16 * 2**20
"""Bytes of an encoded input image (the wire protocol's limit)."""
MAX_ORDER: Final = 4 * MAX_IMAGE + 2**17
"""Bytes: an init image, a mask, lines and a reference, and two prompts of 8000 characters in UTF-8."""
MAX_REPORT: Final = 32 * 2**20
"""Bytes: a PNG of 2048 x 2048 with alpha that does not compress has 16 MiB and some."""

DenoiserName = Literal["network", "closed_form"]
PreviewFormat = Literal["jpeg", "webp"]
Look = Literal["drawn", "pixel-art"]
"""Whether enlarging gives smooth outlines, or shows the squares that the model painted."""


class Paint(msgspec.Struct, frozen=True, tag="paint"):
    """Paint `count` pictures, picture i from seed `seed` + i; images are encoded and may have any size.

    What a field means stands at the same name of `gateway.engine.interface.Painting`.
    """

    id: int
    prompt: str
    seed: int
    width: int
    height: int
    steps: int
    count: int = 1
    denoiser: DenoiserName = "closed_form"
    guidance: float = 7.0
    negative_prompt: str = ""
    strength: float = 1.0
    init: bytes | None = None
    mask: bytes | None = None
    edges: bytes | None = None
    """A drawing, light on dark or dark on light, or a picture whose outlines count."""
    edge_weight: float = 1.0
    edges_from: float = 0.0
    """The part of the steps, 0 to 1, after which the lines count, and that after which they no longer do."""
    edges_until: float = 1.0
    reference: bytes | None = None
    tiling: bool = False
    transparent: bool = False
    look: Look = "drawn"


class Enlarge(msgspec.Struct, frozen=True, tag="enlarge"):
    """Bring a picture of any size to `width` x `height`, without painting; `steps` as `upscale.Enlargement`."""

    id: int
    picture: bytes
    width: int
    height: int
    steps: int


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop an order before its next step, also if it has not begun."""

    id: int


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The inputs were read and the first latent is made."""

    id: int


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """Step `step` of picture `index` is done; `preview` is a file of `format`, `width` x `height` pixels."""

    id: int
    index: int
    step: int
    preview: bytes
    format: PreviewFormat
    width: int
    height: int


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Picture `index` is done; `image` is a file of `format` in the asked size, with alpha if that was asked for."""

    id: int
    index: int
    image: bytes
    format: Literal["png"] = "png"


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Nothing more comes for this order; `code` names the error that ended it, None = done or cancelled."""

    id: int
    code: str | None = None
    message: str = ""


Order = Paint | Enlarge | Cancel
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
