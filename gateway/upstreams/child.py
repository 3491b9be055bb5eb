"""The frame of a process that works for an upstream: it reads orders on stdin and reports on stdout.

The main thread does one order after the other; a second thread reads, notes cancellations and ends the process when
stdin ends, in whatever state the main thread is. So the process dies with its parent by two ways, of which the kernel's
(`PR_SET_PDEATHSIG`) is the faster and the end of stdin the one that is everywhere. Nothing but orders goes in, nothing
but reports comes out: no environment of the gateway. `children` is the other side.
"""

import ctypes
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, Final, Generic, Protocol, TypeVar

import msgspec

LENGTH_BYTES: Final = 4
"""Of the length before each message, big endian."""
_PR_SET_PDEATHSIG: Final = 1
_NICE: Final = 5

Order = TypeVar("Order")
Order_contra = TypeVar("Order_contra", contravariant=True)


class PaintingFault(Exception):
    """A painting failed for a known reason; `code` names an entry of the gateway's error registry."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Hand(Protocol[Order_contra]):
    """What does the orders, one at a time."""

    def cancel(self, id: int) -> None:
        """Let the order of this id, and any before it, end soon; called from another thread."""

    def paint(self, order: Order_contra) -> None:
        """Do an order and report its end; raises `BrokenPipeError` where nobody listens."""


class Inbox(Generic[Order]):
    """The orders that wait; `decode` returns an order, or the id of one to cancel, or raises `MsgspecError`."""

    def __init__(self, decode: Callable[[bytes], Order | int], max_order: int) -> None:
        self._decode = decode
        self._max_order = max_order
        # The gateway sends one order at a time.
        self.orders: queue.Queue[Order] = queue.Queue(maxsize=4)

    def read(self, stream: BinaryIO, hand: Hand[Order]) -> None:
        """Read until the stream ends or holds nonsense; a cancellation takes effect at once."""
        while (body := self._body(stream)) is not None:
            try:
                order = self._decode(body)
            except msgspec.MsgspecError:
                return
            if isinstance(order, int):
                hand.cancel(order)
            else:
                self.orders.put(order)

    def _body(self, stream: BinaryIO) -> bytes | None:
        head = stream.read(LENGTH_BYTES)
        length = int.from_bytes(head, "big")
        if len(head) < LENGTH_BYTES or length > self._max_order:
            return None
        body = stream.read(length)
        return body if len(body) == length else None

    def watch(self, stream: BinaryIO, hand: Hand[Order]) -> None:
        """Read to the end, and end the process with it."""
        try:
            self.read(stream, hand)
        finally:
            # Not sys.exit: the main thread may be deep in numpy, or blocked on a pipe that nobody reads.
            os._exit(0)


def serve(inbox: Inbox[Order], make: Callable[[BinaryIO], Hand[Order]]) -> None:
    """Do what stdin orders until it ends, by the hand that `make` returns for the stream to report on; never returns.

    `make` must not take long: nothing is read before it returns.
    """
    # Ctrl-C in a terminal goes to the whole group; whether painting ends is the gateway's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    os.nice(_NICE)
    # A stray print would break the framing: let it go to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    hand = make(out)
    threading.Thread(target=inbox.watch, args=(sys.stdin.buffer, hand), daemon=True).start()
    try:
        while True:
            hand.paint(inbox.orders.get())
    except BrokenPipeError:
        os._exit(0)


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
