"""Generations from words and pictures: from a request's body to the sampler's job and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from load.upstreams.a1111 import answers, fields, images, orders
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.engine import Engine, Job
from load.upstreams.a1111.errors import Refused, scripted
from load.upstreams.a1111.generation import Generation
from load.upstreams.a1111.setup import Draws, Setup
from load.upstreams.faults import Refuse, VendorFault
from load.upstreams.standin import Exchange, StandIn

FOREIGN_COLOUR = (255, 0, 255)
"""What previews of somebody else's job are painted in."""
_JOB_NAMES = {
    "forge": {"txt2img": "scripts_txt2img", "img2img": "scripts_img2img"},
    "a1111": {"txt2img": "scripts_txt2img", "img2img": "scripts_img2img"},
    "sdnext": {"txt2img": "API-TXT", "img2img": "API-IMG"},
}


class Drawing:
    """Draws for `txt2img` and `img2img`, and makes the jobs of the others."""

    def __init__(self, standin: StandIn, setup: Setup, engine: Engine, draws: Draws) -> None:
        self._standin, self._setup, self._engine, self._draws = standin, setup, engine, draws

    async def answer(self, exchange: Exchange, body: object) -> UvicornAnswer:
        """The answer of `txt2img` and `img2img`."""
        operation = exchange.asked.operation
        table = fields.generation_fields(operation, self._setup.flavour)
        values = fields.read(table, body)
        exchange.call.unknown_fields = fields.unknown(table, body)
        work = self._checked(operation, values)
        if isinstance(work, UvicornAnswer):
            return work
        exchange.call.seeds = work.order.seeds
        job = self.job(exchange, work)
        await self._engine.run(job, work.prepare)
        if isinstance(exchange.fault, Refuse):
            raise scripted(exchange.fault)
        await asyncio.sleep(self._setup.answer_delay)
        return answers.answer(200, await work.body(job))

    def generation(self, operation: str, order: orders.Order) -> Generation:
        """A generation of these values."""
        setup, engine = self._setup, self._engine
        work = Generation(operation, order, setup.flavour, engine.options, engine.state, setup.models)
        work.picture_bytes = setup.picture_bytes
        return work

    def order(self, values: orders.Values) -> orders.Order:
        """What the values ask for, with a seed if they bring none."""
        return orders.make_order(values, self._draws.seed(), self._setup.loras)

    def job(self, exchange: Exchange | None, work: Generation) -> Job:
        """The sampler's job for a generation."""
        order, operation, setup = work.order, work.operation, self._setup
        fault = exchange.fault if exchange is not None else None

        def bill() -> None:
            if exchange is not None:
                self._standin.bill(exchange, fault.status if isinstance(fault, Refuse) else 200, len(order.seeds))

        work.bill = bill
        return Job(
            name=_JOB_NAMES[setup.flavour][operation],
            task=self._draws.task_id(order.values.get("force_task_id"), operation, setup.flavour),
            steps=order.steps,
            passes=order.rounds * order.passes,
            preview=images.preview_size(order.size, self._engine.options["show_progress_type"]),
            colour=work.colour,
            step_seconds=self._step_seconds(exchange, order),
            begun=work.begun,
            ended=work.ended,
            trouble=fault if isinstance(fault, VendorFault) else None,
        )

    def foreign_job(self, steps: int, *, passes: int, step_seconds: float | None, task: str) -> Job:
        """A job of somebody else, which is neither billed nor answered."""
        return Job(
            name=task,
            task=task,
            steps=steps,
            passes=passes,
            preview=(64, 64),
            colour=lambda _number, done: images.on_the_way(FOREIGN_COLOUR, done),
            step_seconds=self._standin.drawn_seconds if step_seconds is None else lambda: step_seconds,
            foreign=True,
        )

    def _checked(self, operation: str, values: dict[str, Any]) -> Generation | UvicornAnswer:
        """The generation, if its body passes; the order of the checks is the server's."""
        flavour = self._setup.flavour
        if operation == "img2img" and values["init_images"] is None:
            if flavour == "sdnext":
                return answers.answer(400, answers.to_json({"error": "Init image is none"}))
            raise Refused(404, "Init image not found")
        work = self.generation(operation, self.order(values))
        work.override_at_once()
        if values.get("mask"):
            images.decode(values["mask"])
        orders.check_scripts(values, operation)
        sampler = orders.find_sampler(values["sampler_name"] or values["sampler_index"], flavour)
        work.order = orders.with_sampler(work.order, sampler)
        return work

    def _step_seconds(self, exchange: Exchange | None, order: orders.Order) -> Callable[[], float]:
        whole = exchange.rule.service_seconds if exchange is not None else None
        if whole is None:
            return self._standin.drawn_seconds
        return lambda: whole / (order.steps * order.rounds * order.passes)
