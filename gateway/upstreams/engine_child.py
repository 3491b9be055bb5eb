"""A painting process: `python -m gateway.upstreams.engine_child` reads orders on stdin and reports on stdout.

The main thread paints one order after the other; a second thread reads, notes cancellations and ends the process when
stdin ends, in whatever state the main thread is. So the process dies with its parent by two ways, of which the kernel's
(`PR_SET_PDEATHSIG`) is the faster and the end of stdin the one that is everywhere. Nothing but orders and the picture's
size goes in, nothing but reports comes out: no file, no network, no environment of the gateway.
"""

import ctypes
import io
import os
import queue
import signal
import struct
import sys
import threading
import traceback
import zlib
from typing import BinaryIO, Final

import msgspec
import numpy as np
from PIL import Image

from gateway.engine import wire
from gateway.engine.interface import Denoiser, Painting, Pixels
from gateway.engine.painter import Painter

_PR_SET_PDEATHSIG: Final = 1
_PREVIEW_EDGE: Final = 512
_NICE: Final = 5
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_BROKEN: Final = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise for bytes that are no image."""


class PaintingFault(Exception):
    """A painting failed for a known reason; `code` names an entry of the gateway's error registry."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Studio:
    """Paints orders one at a time and reports through a stream; `cancel` may be called from another thread."""

    def __init__(self, denoiser: Denoiser, out: BinaryIO) -> None:
        self._denoiser = denoiser
        self._out = out
        self._cancelled = -1

    def cancel(self, id: int) -> None:
        """Let the painting of this id, and of any before it, end before its next step."""
        self._cancelled = max(self._cancelled, id)

    def paint(self, order: wire.Paint) -> None:
        """Paint and report; `Ended` is the last report in any case but a broken stream (`OSError`)."""
        try:
            ended = self._try(order)
        except BrokenPipeError:
            raise
        except Exception as fault:  # noqa: BLE001 - an order ends here, and the next one must find the process alive
            traceback.print_exc(file=sys.stderr)
            # The class's name and nothing else: a message may hold a path.
            ended = wire.Ended(order.id, "upstream_error", f"the painter failed ({type(fault).__name__})")
        self._report(ended)

    def _try(self, order: wire.Paint) -> wire.Ended:
        try:
            self._paint(order)
        except MemoryError:
            return wire.Ended(order.id, "out_of_memory", "the painter has no memory for this picture")
        except PaintingFault as fault:
            return wire.Ended(order.id, fault.code, fault.message)
        return wire.Ended(order.id)

    def _paint(self, order: wire.Paint) -> None:
        size = (order.width, order.height)
        init = None if order.init is None else decode_picture(order.init, size)
        mask = None if order.mask is None else decode_mask(order.mask, size)
        for index in range(order.count):
            painting = Painting(
                order.prompt,
                order.seed + index,
                *size,
                order.steps,
                strength=order.strength,
                init=init,
                mask=mask,
            )
            if not self._picture(order.id, index, painting):
                return

    def _picture(self, id: int, index: int, painting: Painting) -> bool:
        """Paint one picture; return whether it was finished."""
        if self._cancelled >= id:
            return False
        latent = self._denoiser.begin(painting)
        if index == 0:
            self._report(wire.Begun(id))
        for step in range(1, painting.steps + 1):
            if self._cancelled >= id:
                return False
            latent, preview = self._denoiser.step(painting, latent, step)
            self._report(wire.Stepped(id, index, step, *encode_preview(preview, painting.width, painting.height)))
        if self._cancelled >= id:
            return False
        self._report(wire.Finished(id, index, encode_picture(self._denoiser.finish(painting, latent))))
        return True

    def _report(self, report: wire.Report) -> None:
        self._out.write(wire.encode(report))
        self._out.flush()


def decode_picture(content: bytes, size: tuple[int, int]) -> Pixels:
    """Return an encoded image as RGB of shape (height, width, 3), resized to `size` (width, height).

    Transparent pixels are laid on white. Raises `PaintingFault`: `image_decode_failed`, or `payload_too_large` where
    the header tells of too many pixels.
    """
    image = _decoded(content)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(_fitted(image.convert("RGB"), size, Image.Resampling.LANCZOS))


def decode_mask(content: bytes, size: tuple[int, int]) -> Pixels:
    """Return an encoded mask as grey of shape (height, width), without new greys; raises as `decode_picture`."""
    return np.asarray(_fitted(_decoded(content).convert("L"), size, Image.Resampling.NEAREST))


def _fitted(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, how)


def _decoded(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        if image.width * image.height > wire.MAX_INPUT_PIXELS:
            raise PaintingFault("payload_too_large", f"an image has at most {wire.MAX_INPUT_PIXELS} pixels")
        image.load()
    except _BROKEN as fault:
        raise PaintingFault("image_decode_failed", "an input image cannot be decoded") from fault
    return image


def encode_preview(pixels: Pixels, width: int, height: int) -> tuple[bytes, int, int]:
    """Return a latent's picture as JPEG, enlarged to the asked size but at most 512 on the long edge, and its edges."""
    part = min(1.0, _PREVIEW_EDGE / max(width, height))
    size = (max(1, round(width * part)), max(1, round(height * part)))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue(), *size


def encode_picture(pixels: Pixels) -> bytes:
    """Return RGB pixels as PNG."""
    content = io.BytesIO()
    # Level 1 takes a third of the default's time for a tenth more bytes.
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()


def read_orders(stream: BinaryIO, studio: Studio, orders: "queue.Queue[wire.Paint]") -> None:
    """Read until the stream ends or holds nonsense; a cancellation takes effect at once."""
    while (body := _read(stream)) is not None:
        try:
            order = wire.decode_order(body)
        except msgspec.MsgspecError:
            return
        if isinstance(order, wire.Cancel):
            studio.cancel(order.id)
        else:
            orders.put(order)


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(wire.LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    if len(head) < wire.LENGTH_BYTES or length > wire.MAX_ORDER:
        return None
    body = stream.read(length)
    return body if len(body) == length else None


def _watch(stream: BinaryIO, studio: Studio, orders: "queue.Queue[wire.Paint]") -> None:
    try:
        read_orders(stream, studio, orders)
    finally:
        # Not sys.exit: the main thread may be deep in numpy, or blocked on a pipe that nobody reads.
        os._exit(0)


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Paint what stdin orders until it ends; never returns."""
    # Ctrl-C in a terminal goes to the whole group; whether painting ends is the gateway's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    os.nice(_NICE)
    # A stray print would break the framing: let it go to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    studio = Studio(Painter(), out)
    # The gateway sends one order at a time.
    orders: queue.Queue[wire.Paint] = queue.Queue(maxsize=4)
    threading.Thread(target=_watch, args=(sys.stdin.buffer, studio, orders), daemon=True).start()
    try:
        while True:
            studio.paint(orders.get())
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
