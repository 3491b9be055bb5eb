"""A process with a pipeline: `python -m gateway.upstreams.diffusers.child`, in the frame of `gateway.upstreams.child`.

torch and diffusers are imported when the setup has come, so that a process without them can say so.
"""

import os
import sys
import traceback
from typing import TYPE_CHECKING, BinaryIO

from gateway.upstreams.child import Inbox, PaintingFault, serve
from gateway.upstreams.diffusers import wire

if TYPE_CHECKING:
    from gateway.upstreams.diffusers.loading import Shop

_INSTALL = 'pip install "safelight[diffusers]"'
_SCARCE = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a memory")
"""What torch's errors for a lack of memory say, where they have no class of their own."""


class Studio:
    """Loads the model it is told, then paints orders one at a time; `cancel` may be called from another thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._cancelled = -1
        self._shop: Shop | None = None

    def cancel(self, id: int) -> None:
        """Let the painting of this id, and of any before it, end before its next step."""
        self._cancelled = max(self._cancelled, id)

    def paint(self, order: wire.Work) -> None:
        """Do an order; `Ended` is the last report in any case but a broken stream (`BrokenPipeError`)."""
        try:
            ended = self._try(order)
        except BrokenPipeError:
            raise
        except Exception as fault:  # noqa: BLE001 - an order ends here, and the next one must find the process alive
            traceback.print_exc(file=sys.stderr)
            # The class's name and nothing else: a message may hold a path.
            ended = wire.Ended(order.id, "upstream_error", f"the pipeline failed ({type(fault).__name__})")
        self._report(ended)

    def _try(self, order: wire.Work) -> wire.Ended:
        try:
            self._do(order)
        except PaintingFault as fault:
            return wire.Ended(order.id, fault.code, fault.message)
        except ImportError as fault:
            traceback.print_exc(file=sys.stderr)
            missing = fault.name or "diffusers"
            return wire.Ended(order.id, "model_unavailable", f"{missing} is not installed here: {_INSTALL}")
        except (MemoryError, RuntimeError) as fault:
            if not is_scarce(fault):
                raise
        else:
            return wire.Ended(order.id)
        # Outside of `except`: the trace holds what fills the memory.
        if self._shop is not None:
            self._shop.free()
        what = "the model" if isinstance(order, wire.Setup) else "this picture"
        return wire.Ended(order.id, "out_of_memory", f"there is not enough memory for {what}")

    def _do(self, order: wire.Work) -> None:
        if isinstance(order, wire.Setup):
            self._set_up(order)
            return
        if self._shop is None:
            raise PaintingFault("upstream_error", "no model is loaded")
        from gateway.upstreams.diffusers.painting import Painter  # noqa: PLC0415 - imports torch

        Painter(self._shop, order, self._report, lambda: self._cancelled >= order.id).paint()

    def _set_up(self, setup: wire.Setup) -> None:
        self._report(wire.Loading(setup.id, "torch and diffusers"))
        from gateway.upstreams.diffusers.loading import load  # noqa: PLC0415 - imports torch

        self._shop = load(setup, lambda what: self._report(wire.Loading(setup.id, what)))
        self._report(self._shop.told(setup.id))

    def _report(self, report: wire.Report) -> None:
        self._out.write(wire.encode(report))
        self._out.flush()


def is_scarce(fault: BaseException) -> bool:
    """Whether an error of Python's or torch's tells of a lack of memory."""
    return isinstance(fault, MemoryError) or any(sign in str(fault).lower() for sign in _SCARCE)


def main() -> None:
    """Load and paint what stdin orders until it ends; never returns."""
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    serve(Inbox[wire.Work](wire.decode_order, wire.MAX_ORDER), Studio)


if __name__ == "__main__":
    main()
