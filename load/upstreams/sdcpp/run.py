"""What one run of the server holds in memory: its jobs, its one worker and the model they share."""

from __future__ import annotations

import asyncio
import random

from load.upstreams.dying import Chores
from load.upstreams.sdcpp import answers, dialects
from load.upstreams.sdcpp.answers import Headed
from load.upstreams.sdcpp.jobs import Expired, Generating, Job, Jobs, QueueFull, Unknown
from load.upstreams.sdcpp.model import Failed, Model
from load.upstreams.sdcpp.settings import Settings, Work
from load.upstreams.sdcpp.tally import JobTally


class Run:
    """One run; a new one knows nothing of the last."""

    def __init__(
        self, settings: Settings, model: Model, tally: JobTally, chores: Chores, chance: random.Random, *, made: int
    ) -> None:
        self._settings, self._model, self._tally, self._chores = settings, model, tally, chores
        self._chance = chance
        self._working = False
        """Whether the worker has a job, if only one that waits for the model."""
        self._abandoned = False
        self.jobs: Jobs[Work] = Jobs(
            max_pending=settings.shop.max_pending, keep_seconds=settings.keep_seconds, made=made
        )

    def abandon(self) -> None:
        """Nobody asks this run any more: what is being drawn goes on, and nothing else is begun."""
        self._abandoned = True

    def accept(self, work: Work) -> Headed:
        """The native dialect's answer: a job."""
        settings = self._settings
        try:
            job = self.jobs.add(work, work.order.format, settings.wall())
        except QueueFull:
            work.exchange.call.limited = True
            return answers.error(429, "job queue is full")
        self._tally.accepted += 1
        if settings.races and self._chance.random() < settings.races:
            self._begin_next()
        answer = answers.json_told(202, job.accepted())
        self._begin_next()
        return answer

    async def draw_now(self, work: Work, given: object) -> Headed:
        """The blocking dialects' answer: the pictures."""
        operation = work.exchange.asked.operation
        # In a task of its own and shielded: the server does not notice that a client leaves.
        task = self._chores.start(self._model.draw(work), f"sdcpp {operation}")
        try:
            images: list[str] = await asyncio.shield(task)
        except Failed as error:
            return answers.error(500, str(error))
        if operation in ("generations", "edits"):
            return answers.told(200, dialects.openai_body(work.order, images, self._settings.wall()))
        img2img = operation == "img2img"
        return answers.told(200, dialects.webui_body(work.order, self._settings.shop, images, given, img2img=img2img))

    def tell(self, id: str, *, cancel: bool) -> Headed:
        """What became of a job, or of the wish to cancel it."""
        now = self._settings.wall()
        try:
            if cancel:
                job, did = self.jobs.cancel(id, now)
                self._tally.cancelled += did
            else:
                job = self.jobs.find(id, now)
        except Generating:
            return answers.error(409, "job is currently generating and cannot be interrupted yet")
        except Expired:
            return answers.error(410, "job expired")
        except Unknown:
            return answers.error(404, "job not found")
        return answers.told(200, job.told(self.jobs.position(job)))

    def _begin_next(self) -> None:
        """Set the one worker to work unless it is."""
        if not self._working and self.jobs.waiting:
            self._working = True
            self._chores.start(self._work_on(self.jobs.take(self._settings.wall())), "sdcpp job")

    async def _work_on(self, job: Job[Work]) -> None:
        work, wall = job.work, self._settings.wall
        assert work is not None, "a job keeps its work until it ends"
        try:
            images = await self._model.draw(work)
            if work.happens("expire"):
                job.keep_seconds = work.special_seconds or 0.0
            self.jobs.complete(job, images, wall())
        except Failed as error:
            self.jobs.fail(job, str(error), wall())
        self._working = False
        if not self._abandoned:
            self._begin_next()
