"""One txt2img or img2img from its checked body to its answer's body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from load.upstreams.a1111 import answers, images, orders
from load.upstreams.a1111.engine import Job
from load.upstreams.a1111.errors import Flavour, Raised
from load.upstreams.a1111.faults import OUT_OF_MEMORY
from load.upstreams.a1111.listings import find_model, title_of
from load.upstreams.a1111.state import Options, State

_CHECKPOINT = "sd_model_checkpoint"


def set_options(options: Options, given: dict[str, Any], models: Collection[str], *, strict: bool) -> list[bool]:
    """Set options for good and tell which of them changed; raises for an unknown checkpoint if `strict`."""
    if _CHECKPOINT in given:
        given = {**given, _CHECKPOINT: _checkpoint(given[_CHECKPOINT], options, models, strict=strict)}
    changed = [options.get(name) != value for name, value in given.items()]
    options.update(given)
    return changed


def _checkpoint(name: object, options: Options, models: Collection[str], *, strict: bool) -> object:
    model = find_model(models, name)
    if model is None and name is not None and strict:
        raise Raised("RuntimeError", f"model {name!r} not found")
    return options[_CHECKPOINT] if model is None else title_of(model)


@dataclass(slots=True)
class Generation:
    """A generation on its way through the worker."""

    operation: str
    order: orders.Order
    flavour: Flavour
    options: Options
    state: State
    models: Collection[str] = ()
    picture_bytes: int = 0
    bill: Callable[[], None] = lambda: None
    scene: images.Scene = field(default_factory=lambda: images.Scene((8, 8)))
    stamp: str = ""
    model: tuple[str, str] = ("", "")
    clip_skip: object = 1
    _before: dict[str, Any] = field(default_factory=dict)

    @property
    def overrides(self) -> dict[str, Any]:
        """The options that this request brings along."""
        return dict(self.order.values.get("override_settings") or {})

    def override_at_once(self) -> None:
        """Forge sets options when a request comes in, before its turn, and never sets them back."""
        if self.flavour == "forge":
            set_options(self.options, self.overrides, self.models, strict=True)

    async def prepare(self) -> None:
        """Decode the pictures; what fails here fails before the job begins."""
        self.scene = await asyncio.to_thread(orders.scene, self.order, self.operation)

    def begun(self) -> None:
        """The job's turn has come."""
        self.bill()
        self.stamp = self.state.job_timestamp
        self._override()
        self.model = orders.model_name(self.options)
        self.clip_skip = self.options["CLIP_stop_at_last_layers"]
        orders.check_memory(self.order, OUT_OF_MEMORY)
        self.scene = orders.with_controls(self.scene, self.order)

    def ended(self) -> None:
        """Take back what the request overrode, unless it asked to keep it.

        That comes before pictures are encoded, so an overridden format takes no effect, as on the server.
        """
        if self.order.values["override_settings_restore_afterwards"]:
            self.options.update(self._before)

    def colour(self, number: int, done: float) -> images.Colour:
        """What a preview of a pass shows: the first picture of its batch."""
        order = self.order
        round_, within = divmod(number, order.passes)
        return order.colour(round_ * order.batch, (within + done) / order.passes)

    async def body(self, job: Job) -> bytes:
        """The body of the answer."""
        return await asyncio.to_thread(self._body, job)

    def files(self, job: Job) -> tuple[list[bytes], str]:
        """The pictures as files, and the answer's `info`."""
        made = self._made(job)
        gridded = len(made) > 1 and bool(self.order.values["save_images"]) and self.options["return_grid"]
        told = orders.Told(self.flavour, self.stamp, len(made), self.model, self.clip_skip, bool(gridded))
        info, texts = orders.info(self.order, told)
        every = ([images.grid(made)] if gridded else []) + made
        every_text = (texts[:1] if gridded else []) + texts
        maps = images.detected_maps(self.scene) if made else []
        files = [self._file(one, text) for one, text in zip(every, every_text, strict=True)]
        return files + [self._file(one, "") for one in maps], info

    def _body(self, job: Job) -> bytes:
        files, info = self.files(job)
        if not self.order.values["send_images"]:
            files = []
        return answers.pictures_json(files, orders.parameters(self.order, self.operation), info)

    def _made(self, job: Job) -> list[Image.Image]:
        order, made = self.order, []
        for round_ in range(order.rounds):
            passes = job.done[round_ * order.passes : (round_ + 1) * order.passes]
            if passes:
                made += [self._picture(round_ * order.batch + one, sum(passes)) for one in range(order.batch)]
        return made

    def _picture(self, index: int, passes_done: float) -> Image.Image:
        colour = self.order.colour(index, passes_done / self.order.passes)
        return images.draw(self.scene, colour, index, self.order.seeds[index])

    def _file(self, picture: Image.Image, text: str) -> bytes:
        options = self.options
        return images.encode(picture, options["samples_format"], options["jpeg_quality"], text, self.picture_bytes)

    def _override(self) -> None:
        if self.flavour == "forge":
            return
        given = self.overrides
        self._before = {name: self.options[name] for name in given if name in self.options}
        # Here a checkpoint that is not there is left out without a word.
        set_options(self.options, given, self.models, strict=False)
