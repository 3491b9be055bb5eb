"""What a painting process makes of its orders, in this process: every word of them, cancellations, failures."""

import io
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from gateway.engine import wire
from gateway.engine.interface import Latent, Painting, Pixels
from gateway.upstreams.engine_child import Studio, denoisers, inbox
from tests.gateway.upstreams.engine.talk import noise, pixels_of, square, upper_half

PAINT = wire.Paint(1, "sea", 1, 64, 64, 2)
PREVIEW = np.zeros((64, 64, 3), np.uint8)


class Canvas:
    """A denoiser that notes what it is asked for, and fails as it is told."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault
        self.asked: list[Painting] = []
        """The painting of each call, in order: begin, steps, finish."""

    def begin(self, painting: Painting) -> Latent:
        self.asked.append(painting)
        return Latent(np.zeros((4, 64, 64), np.float32))

    def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
        self.asked.append(painting)
        if self.fault is not None:
            raise self.fault
        return latent, PREVIEW

    def finish(self, painting: Painting, latent: Latent) -> Pixels:
        self.asked.append(painting)
        return np.zeros((painting.height, painting.width, 4 if painting.transparent else 3), np.uint8)


def reports_in(stream: io.BytesIO) -> Iterator[wire.Report]:
    """Yield all reports of a stream."""
    stream.seek(0)
    while head := stream.read(4):
        yield wire.decode_report(stream.read(int.from_bytes(head, "big")))


def done(*orders: wire.Paint, **canvases: Canvas) -> list[wire.Report]:
    """Return what a studio reports of orders that come one after the other."""
    stream = io.BytesIO()
    network, closed_form = canvases.get("network", Canvas()), canvases.get("closed_form", Canvas())
    studio = Studio({"network": network, "closed_form": closed_form}, stream)
    for order in orders:
        studio.paint(order)
    return list(reports_in(stream))


def asked(**said: Any) -> list[Painting]:
    """Return the paintings of begin, four steps and finish of an order with these fields."""
    canvas = Canvas()
    least: dict[str, Any] = {"id": 1, "prompt": "sea", "seed": 7, "width": 128, "height": 64, "steps": 4}
    *_, ended = done(wire.Paint(**least | said), closed_form=canvas)
    assert ended == wire.Ended(1)
    return canvas.asked


# ---- what reaches the denoiser


def test_every_word_of_an_order_reaches_its_painting() -> None:
    """Under the same name, pictures decoded and brought to the asked size."""
    said: dict[str, Any] = {
        "prompt": "a fish", "seed": 2**53, "width": 128, "height": 64, "steps": 4, "guidance": 3.5,
        "negative_prompt": "red", "strength": 0.25, "edge_weight": 1.5, "tiling": True, "transparent": True,
        "look": "pixel-art",
    }  # fmt: skip
    files = {"init": noise(32, 64), "mask": upper_half(), "edges": square(), "reference": noise(9, 8, 4)}
    first = asked(**said, **files)[0]
    assert {name: getattr(first, name) for name in said} == said
    read: dict[str, Pixels] = {name: getattr(first, name) for name in files}
    shapes = {name: pixels.shape for name, pixels in read.items()}
    assert shapes == {"init": (64, 128, 3), "mask": (64, 128), "edges": (64, 128), "reference": (9, 8, 4)}
    assert np.array_equal(read["mask"], np.repeat([255, 0], 32)[:, None].repeat(128, axis=1))
    assert np.array_equal(read["edges"], pixels_of(square()))
    assert np.array_equal(read["reference"], pixels_of(noise(9, 8, 4)))
    assert {one.name for one in fields(Painting)} == {*said, *files}


def test_order_of_a_few_words_has_a_paintings_defaults() -> None:
    """What is not said is what the interface says."""
    first = asked()[0]
    for field in fields(Painting):
        if field.name not in ("prompt", "seed", "width", "height", "steps"):
            assert getattr(first, field.name) == field.default
    for name in ("guidance", "strength", "edge_weight", "tiling", "transparent"):
        assert getattr(wire.Paint(1, "", 1, 64, 64, 1), name) == getattr(first, name)


def test_orders_choose_their_denoiser() -> None:
    """By its name."""
    network, closed_form = Canvas(), Canvas()
    done(PAINT, wire.Paint(2, "sky", 1, 64, 64, 1, denoiser="network"), network=network, closed_form=closed_form)
    assert ({one.prompt for one in closed_form.asked}, {one.prompt for one in network.asked}) == ({"sea"}, {"sky"})
    assert denoisers().keys() == {"network", "closed_form"}


def test_one_picture_is_one_painting_and_the_next_has_the_next_seed() -> None:
    """A denoiser may keep what it made of a painting for as long as it is the same object."""
    paintings = asked(count=2, init=noise())
    assert [len(set(map(id, some))) for some in (paintings[:6], paintings[6:])] == [1, 1]
    assert [paintings[0].seed, paintings[6].seed] == [7, 8]
    assert paintings[0].init is paintings[6].init


@pytest.mark.parametrize(
    "start,end,steps",
    [
        (0.0, 1.0, [1, 2, 3, 4]),
        (0.0, 0.5, [1, 2]),
        (0.5, 1.0, [3, 4]),
        (0.3, 0.6, [3]),
        (0.0, 0.01, [1]),
        (1.0, 1.0, []),
    ],
)
def test_lines_count_in_their_span_of_the_steps(start: float, end: float, steps: list[int]) -> None:
    """A step belongs to the span if it begins in it."""
    begun, *at_step, finished = asked(edges=square(), edges_from=start, edges_until=end)
    assert [step for step, one in enumerate(at_step, 1) if one.edges is not None] == steps
    assert (begun is at_step[0], finished is at_step[-1]) == (True, True)
    assert len(set(map(id, at_step))) <= 2


def test_reports_tell_the_formats() -> None:
    """A picture with alpha is a PNG as well."""
    begun, stepped, finished, ended = done(wire.Paint(1, "sea", 1, 64, 128, 1, transparent=True))
    assert (begun, ended) == (wire.Begun(1), wire.Ended(1))
    assert isinstance(stepped, wire.Stepped)
    assert (stepped.index, stepped.step, stepped.width, stepped.height) == (0, 1, 64, 128)
    assert isinstance(finished, wire.Finished)
    assert (finished.format, pixels_of(finished.image).shape) == ("png", (128, 64, 4))


# ---- how it ends


@pytest.mark.parametrize(
    "fault,code",
    [(MemoryError(), "out_of_memory"), (KeyError("/etc/passwd"), "upstream_error"), (OSError(5), "upstream_error")],
)
def test_studio_survives_an_exception_and_names_it(fault: Exception, code: str) -> None:
    """The order ends with a code and neither a path nor a trace; the next one is painted."""
    begun, failed, *_, finished, ended = done(
        PAINT, wire.Paint(2, "sea", 1, 64, 64, 2, denoiser="network"), closed_form=Canvas(fault)
    )
    assert begun == wire.Begun(1)
    assert isinstance(failed, wire.Ended)
    assert failed.code == code
    assert "/" not in failed.message
    assert isinstance(finished, wire.Finished)
    assert ended == wire.Ended(2)


def test_studio_passes_on_that_nobody_listens() -> None:
    """There is nobody to report it to either."""
    with pytest.raises(BrokenPipeError):
        done(PAINT, closed_form=Canvas(BrokenPipeError()))


@pytest.mark.parametrize("order", [PAINT, wire.Enlarge(1, b"no image", 64, 64, 3)])
def test_studio_does_not_begin_an_order_that_was_cancelled(order: wire.Paint | wire.Enlarge) -> None:
    """Cancellations overtake orders that wait; its images are not even looked at."""
    stream, canvas = io.BytesIO(), Canvas()
    studio = Studio({"closed_form": canvas}, stream)
    studio.cancel(1)
    studio.paint(order)
    assert list(reports_in(stream)) == [wire.Ended(1)]
    assert not canvas.asked


@pytest.mark.parametrize("after", [1, 2, 3, 6, 7, 8])
def test_studio_stops_between_steps(after: int) -> None:
    """At the latest one step after the cancellation, and it finishes no picture that nobody wants."""

    class Interrupted(Canvas):
        def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
            if len(self.asked) == after:
                studio.cancel(1)
            return super().step(painting, latent, step)

    stream, canvas = io.BytesIO(), Interrupted()
    studio = Studio({"closed_form": canvas}, stream)
    studio.paint(wire.Paint(1, "sea", 1, 64, 64, 3, count=2))
    *reports, ended = reports_in(stream)
    assert ended == wire.Ended(1)
    assert sum(isinstance(one, wire.Finished) for one in reports) == (after > 3)
    assert len(canvas.asked) == after + 1


def test_studio_forgets_a_cancellation_that_came_too_late() -> None:
    """The cancellation of one order does not touch the next."""
    stream, box = io.BytesIO(), inbox()
    studio = Studio({"closed_form": Canvas()}, stream)
    box.read(io.BytesIO(wire.encode(wire.Cancel(0)) + wire.encode(PAINT)), studio)
    studio.paint(box.orders.get_nowait())
    assert isinstance(list(reports_in(stream))[-2], wire.Finished)
