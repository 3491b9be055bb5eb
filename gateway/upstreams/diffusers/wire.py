"""What the gateway and a process with a pipeline say to each other: structs in msgpack, each after its length.

Knows neither torch nor processes, so that both sides can import it. A process is told its `Setup` first, once. It
answers each order with any number of reports and one `Ended`, whatever happens; a `Cancel` for an order that has ended
means nothing.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from gateway.upstreams.child import LENGTH_BYTES

MOST_INPUTS: Final = 10
"""Images: init, mask and the most control images there can be."""
MAX_ORDER: Final = MOST_INPUTS * 16 * 2**20 + 2**16
"""Bytes: the images of 16 MiB (the wire protocol's limit) and the prompts."""
MAX_REPORT: Final = 64 * 2**20
"""Bytes: a PNG of 4096 x 4096 that does not compress has 48 MiB."""

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "sequential"]
Previews = Literal["linear", "tiny", "none"]


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """What to load, and how. Each model is a folder or file of this machine, or a name on the hub."""

    id: int = 0
    model: str = ""
    revision: str | None = None
    variant: str | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    offload: Offload = "none"
    previews: Previews = "linear"
    tiny_decoder: str | None = None
    loras: Mapping[str, str] = {}
    controlnets: Mapping[str, str] = {}
    download: bool = False
    """Whether what is not on this machine is fetched."""
    safety_checker: bool = True
    """Whether a checker that comes with the model is used."""
    memory_bytes: int | None = None
    """Bytes of address space that a process without a GPU may have, where that can be bounded; `None` = all."""


class Control(msgspec.Struct, frozen=True):
    """A control image: its kind, the encoded image, and how much and when it counts, in parts of the run."""

    kind: str
    image: bytes
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


class Paint(msgspec.Struct, frozen=True, tag="paint"):
    """Paint `count` pictures, picture i from seed `seed` + i; images are encoded and may have any size."""

    id: int
    task: str
    prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    negative_prompt: str = ""
    count: int = 1
    strength: float | None = None
    sampler: str | None = None
    init: bytes | None = None
    mask: bytes | None = None
    controls: tuple[Control, ...] = ()
    loras: Mapping[str, float] = {}
    """Weights, by name."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop the order before its next step, also if it has not begun."""

    id: int


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """What is being loaded now."""

    id: int
    what: str


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """What was loaded, and what it can do."""

    id: int
    pipeline: str
    """Name of the class that makes pictures of words."""
    params: Mapping[str, frozenset[str]]
    """Task -> the names of the parameters of the pipeline that does it."""
    device: str
    versions: str
    """Of the libraries, for people."""
    size: tuple[int, int]
    """What the model was trained for: width and height in pixels."""
    multiple_of: int
    guidance: float
    """What the pipeline itself takes where nothing is said."""
    steps: int
    samplers: tuple[str, ...]
    loras: tuple[str, ...]
    controls: tuple[str, ...]
    previews: bool
    problems: tuple[str, ...] = ()


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The inputs were read; a picture takes `steps` steps, which may be fewer than were asked for."""

    id: int
    steps: int


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """Step `step` of picture `index` is done; `preview` is a JPEG of `width` x `height`, or empty."""

    id: int
    index: int
    step: int
    preview: bytes
    width: int
    height: int


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Picture `index` is done; `image` is a PNG of `width` x `height`; `filtered` where a checker blackened it."""

    id: int
    index: int
    image: bytes
    width: int
    height: int
    filtered: bool = False


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Nothing more comes for this order; `code` names the error that ended it, None = done or cancelled."""

    id: int
    code: str | None = None
    message: str = ""


Order = Setup | Paint | Cancel
Work = Setup | Paint
Report = Loading | Loaded | Begun | Stepped | Finished | Ended

_encoder: Final = msgspec.msgpack.Encoder()
_orders: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_reports: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    """Return the message with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_order(body: bytes) -> Work | int:
    """Return the work, or the id of the order to cancel; raises `msgspec.DecodeError` for anything else."""
    order = _orders.decode(body)
    return order.id if isinstance(order, Cancel) else order


def decode_report(body: bytes) -> Report:
    """Return the report; raises `msgspec.DecodeError` for anything else."""
    return _reports.decode(body)
