"""Enlarging a picture: the work that has no steps."""

from __future__ import annotations

import asyncio
import base64

from load.upstreams.a1111 import answers, fields, images
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.engine import Engine
from load.upstreams.a1111.errors import scripted
from load.upstreams.a1111.sdnext_jobs import File
from load.upstreams.a1111.setup import Setup
from load.upstreams.faults import Refuse
from load.upstreams.standin import Exchange, StandIn


class Enlarging:
    """Enlarges while nothing else runs, for `extra-single-image` and for stored jobs."""

    def __init__(self, standin: StandIn, setup: Setup, engine: Engine) -> None:
        self._standin, self._setup, self._engine = standin, setup, engine

    async def answer(self, exchange: Exchange, body: object) -> UvicornAnswer:
        """The answer of `extra-single-image`."""
        asked = fields.read(fields.EXTRAS, body)
        exchange.call.unknown_fields = fields.unknown(fields.EXTRAS, body)
        picture = await asyncio.to_thread(images.decode, asked["image"])
        box = (asked["upscaling_resize_w"], asked["upscaling_resize_h"]) if asked["resize_mode"] == 1 else None
        order = images.Upscale(
            picture, asked["upscaler_1"], asked["upscaling_resize"], box, crop=asked["upscaling_crop"]
        )
        made: list[bytes] = []

        async def work() -> None:
            self._standin.bill(exchange, exchange.fault.status if isinstance(exchange.fault, Refuse) else 200, 1)
            await asyncio.sleep(self._standin.drawn_seconds() if exchange.rule.service_seconds is None else 0)
            made.append((await self.file(order)).data)

        await self._engine.alone(work, "extras")
        await self._standin.pace(exchange, begun=False)
        if isinstance(exchange.fault, Refuse):
            raise scripted(exchange.fault)
        body_json = {"html_info": "<p></p>", "image": base64.b64encode(made[0]).decode()}
        return answers.answer(200, answers.to_json(body_json))

    async def file(self, order: images.Upscale) -> File:
        """The enlarged picture's file."""
        return await asyncio.to_thread(self._file, order)

    def _file(self, order: images.Upscale) -> File:
        picture = images.upscale(order, self._setup.upscalers)
        options = self._engine.options
        kind = options["samples_format"]
        data = images.encode(picture, kind, options["jpeg_quality"], at_least=self._setup.picture_bytes)
        return File(data, picture.width, picture.height, kind)
