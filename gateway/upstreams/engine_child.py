"""A painting process: `python -m gateway.upstreams.engine_child` reads orders on stdin and reports on stdout.

`child` is its frame: nothing but orders goes in, nothing but reports comes out; it uses no network and no environment
of the gateway, and of files only those of its models.
"""

import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import BinaryIO, Protocol

from gateway.engine import wire
from gateway.engine.atlas import Atlas
from gateway.engine.denoise.closed_form import ClosedForm
from gateway.engine.denoise.network import Network
from gateway.engine.interface import Denoiser, Painting, Pixels
from gateway.engine.paint.painter import Painter
from gateway.engine.paint.upscale import Enlargement, Upscaler
from gateway.engine.sketch.sketcher import IconSketcher
from gateway.upstreams.child import Inbox, PaintingFault, serve
from gateway.upstreams.child_pictures import encode_picture
from gateway.upstreams.engine_pictures import Preview, decode_whole, encode_photo, encode_preview, first_painting

Work = wire.Paint | wire.Enlarge


class Making(Protocol):
    """One picture that is being made."""

    def step(self, step: int) -> Preview:
        """Take step 1 or the next one, and return how far it has come."""

    def finish(self) -> Pixels:
        """Return it, RGB or RGBA, after the last step."""


class Studio:
    """Does orders one at a time and reports through a stream; `cancel` may be called from another thread."""

    def __init__(self, denoisers: Mapping[wire.DenoiserName, Denoiser], out: BinaryIO) -> None:
        self._denoisers = denoisers
        self._out = out
        self._cancelled = -1

    def cancel(self, id: int) -> None:
        """Let the order of this id, and any before it, end before its next step."""
        self._cancelled = max(self._cancelled, id)

    def paint(self, order: Work) -> None:
        """Do it and report; `Ended` is the last report in any case but a broken stream (`OSError`)."""
        try:
            ended = self._try(order)
        except BrokenPipeError:
            raise
        except Exception as fault:  # noqa: BLE001 - an order ends here, and the next one must find the process alive
            traceback.print_exc(file=sys.stderr)
            # The class's name and nothing else: a message may hold a path.
            ended = wire.Ended(order.id, "upstream_error", f"the engine failed ({type(fault).__name__})")
        self._report(ended)

    def _try(self, order: Work) -> wire.Ended:
        try:
            if not self._is_cancelled(order.id):
                self._do(order)
        except MemoryError:
            return wire.Ended(order.id, "out_of_memory", "the engine has no memory for this picture")
        except PaintingFault as fault:
            return wire.Ended(order.id, fault.code, fault.message)
        return wire.Ended(order.id)

    def _do(self, order: Work) -> None:
        if isinstance(order, wire.Enlarge):
            self._make(order, 0, _Enlarging(order))
            return
        first = first_painting(order)
        denoiser = self._denoisers[order.denoiser]
        for index in range(order.count):
            if self._is_cancelled(order.id):
                return
            self._make(order, index, _Painting(order, replace(first, seed=order.seed + index), denoiser))

    def _make(self, order: Work, index: int, making: Making) -> None:
        """Make a picture unless it is cancelled, and tell of it."""
        if index == 0:
            self._report(wire.Begun(order.id))
        for step in range(1, order.steps + 1):
            if self._is_cancelled(order.id):
                return
            self._report(wire.Stepped(order.id, index, step, *making.step(step)))
        if not self._is_cancelled(order.id):
            self._report(wire.Finished(order.id, index, encode_picture(making.finish())))

    def _is_cancelled(self, id: int) -> bool:
        return self._cancelled >= id

    def _report(self, report: wire.Report) -> None:
        self._out.write(wire.encode(report))
        self._out.flush()


class _Painting:
    """See `Making`. The steps outside the lines' span have a painting without them."""

    def __init__(self, order: wire.Paint, painting: Painting, denoiser: Denoiser) -> None:
        self._order, self._denoiser = order, denoiser
        self._painting = painting
        self._plain = painting if painting.edges is None else replace(painting, edges=None)
        self._latent = denoiser.begin(self._at(1))

    def step(self, step: int) -> Preview:
        self._latent, preview = self._denoiser.step(self._at(step), self._latent, step)
        return encode_preview(preview, self._order.width, self._order.height)

    def finish(self) -> Pixels:
        return self._denoiser.finish(self._at(self._order.steps), self._latent)

    def _at(self, step: int) -> Painting:
        done = (step - 1) / self._order.steps
        return self._painting if self._order.edges_from <= done < self._order.edges_until else self._plain


class _Enlarging:
    """See `Making`."""

    def __init__(self, order: wire.Enlarge) -> None:
        self._job = Enlargement(decode_whole(order.picture), order.width, order.height, order.steps)
        self._upscaler = Upscaler()
        self._state = self._upscaler.begin(self._job)

    def step(self, step: int) -> Preview:
        self._state, preview = self._upscaler.step(self._job, self._state, step)
        return encode_photo(preview)

    def finish(self) -> Pixels:
        return self._upscaler.finish(self._job, self._state)


def denoisers() -> dict[wire.DenoiserName, Denoiser]:
    """Return all there are; they share what finds icons for words."""
    sketcher = IconSketcher(Atlas())
    return {"network": Painter(sketcher, Network()), "closed_form": Painter(sketcher, ClosedForm())}


def inbox() -> Inbox[Work]:
    """Return an empty one for the engine's orders."""
    return Inbox(_decode, wire.MAX_ORDER)


def _decode(body: bytes) -> Work | int:
    order = wire.decode_order(body)
    return order.id if isinstance(order, wire.Cancel) else order


def main() -> None:
    """Do what stdin orders until it ends; never returns."""
    serve(inbox(), lambda out: Studio(denoisers(), out))


if __name__ == "__main__":
    main()
