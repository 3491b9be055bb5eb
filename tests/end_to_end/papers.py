"""An upstream of the tests: paints a tiny picture at once, and writes down every call as a vendor's books would."""

import os
import struct
import zlib
from asyncio import Event, sleep
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from gateway.core.models import Model, Sizes
from gateway.core.reports import ImageMade, Picture, PreviewMade, Report, StepDone, WorkBegun
from gateway.ports import CallOrder
from tests.gateway.doubles import QuietUpstream


def png(width: int, height: int, colour: tuple[int, int, int], padding: int = 0) -> bytes:
    """Return a PNG of one colour, with `padding` bytes in a text chunk to make it as large as a test needs."""
    row = b"\0" + bytes(colour) * width
    chunks = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        _chunk(b"tEXt", b"pad\0" + b"x" * padding) if padding else b"",
        _chunk(b"IDAT", zlib.compress(row * height, 1)),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class PaperUpstream(QuietUpstream):
    """See `gateway.ports.Upstream`. Every step comes with a preview, all in one turn of the loop unless paced."""

    def __init__(
        self,
        name: str = "paper",
        *,
        billed: bool = False,
        books: Path | None = None,
        padding: int = 0,
        pace: Callable[[int], float] | None = None,
        previews: bool = True,
    ) -> None:
        self.name = name
        self.calls = 0
        self.hold: Event | None = None
        """If set, the work waits for it after `WorkBegun`."""
        self.preview_padding = 0
        self._books = books
        self._padding = padding
        self._pace = pace
        self._previews = previews
        self.models: tuple[Model, ...] = (
            Model(
                id=name,
                upstream=name,
                vendor_model=name,
                tasks=dict.fromkeys(
                    ("txt2img", "img2img", "inpaint"),
                    frozenset({"prompt", "width", "height", "steps", "seed", "n", "strength"}),
                ),
                sizes=Sizes(smallest=8, multiple_of=8),
                default_size=(64, 64),
                steps=(1, 1000),
                default_steps=4,
                max_n=8,
                billed=billed,
                price_micros=1000 if billed else 0,
            ),
        )

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Paint `order.count` pictures."""
        self._write_down(order)
        order.sent()
        steps, width, height = order.request.steps, order.request.width, order.request.height
        yield WorkBegun(steps)
        if self.hold is not None:
            await self.hold.wait()
        for index in range(order.count):
            for step in range(1, steps + 1):
                if self._pace is not None:
                    await sleep(self._pace(step))
                yield StepDone("denoising", step, steps, index)
                if self._previews:
                    picture = Picture(png(32, 32, (step % 256, 0, 0), self.preview_padding), "png", 32, 32)
                    yield PreviewMade(picture, step, steps, index)
            seed = order.seed + index
            colour = (seed % 256, seed // 256 % 256, seed // 65536 % 256)
            yield ImageMade(Picture(png(width, height, colour, self._padding), "png", width, height), index, seed)

    def _write_down(self, order: CallOrder) -> None:
        self.calls += 1
        if self._books is not None:
            line = f"{order.request.prompt}\n".encode()
            file = os.open(self._books, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
