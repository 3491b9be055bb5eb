"""What one start of the server has in memory: queue, history, cache and sockets, and the worker between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from load.upstreams.comfyui.executor import Executor, Settings
from load.upstreams.comfyui.facts import Facts
from load.upstreams.comfyui.hub import Hub
from load.upstreams.comfyui.jobs import State
from load.upstreams.comfyui.prompt_queue import Item, PromptQueue
from load.upstreams.comfyui.records import Records
from load.upstreams.comfyui.running import Run
from load.upstreams.comfyui.troubles import LateHistory
from load.upstreams.comfyui.values import Vanished

_TEMP_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Worker:
    """One worker, which runs one prompt after the other."""

    def __init__(
        self, settings: Settings, facts: Facts, records: Records, chance: random.Random, clock: Callable[[], float]
    ) -> None:
        self._records, self._clock = records, clock
        self.queue = PromptQueue(self._tell_status)
        self.hub = Hub(self.queue_info, facts.features(), negotiates=not settings.old)
        temp = "".join(records.ids.choice(_TEMP_LETTERS) for _ in range(5))
        self.executor = Executor(settings, self.hub, chance, temp)
        self._free_asked = False
        settings.folders.clear("temp")

    def queue_info(self) -> dict[str, Any]:
        """How much is to be done, as `/prompt` and the status message tell it."""
        return {"exec_info": {"queue_remaining": self.queue.remaining}}

    def free(self) -> None:
        """Forget the cache, after the prompt that runs."""
        if self.queue.running:
            self._free_asked = True
        else:
            self.executor.cache.clear()

    async def work(self) -> None:
        """Run what is queued, for ever."""
        while True:
            item = await self.queue.get()
            await self._run(item)
            if self._free_asked:
                self.executor.cache.clear()
                self._free_asked = False

    async def _run(self, item: Item) -> None:
        job = item.job
        job.state, job.began = "running", self._clock()
        troubles = self._records.troubles_of(job)
        run = Run(self.executor, item, troubles)
        try:
            await run.go()
        except Vanished:
            job.state, job.ended = "vanished", self._clock()
            self.queue.finish(item)
            return
        late = next((trouble for trouble in troubles if isinstance(trouble, LateHistory)), None)
        result = run.result()
        if late is not None and late.after_end:
            asyncio.get_running_loop().call_later(late.seconds, self.queue.remember, item, result)
        else:
            await asyncio.sleep(late.seconds if late is not None else 0)
            self.queue.remember(item, result)
        job.state, job.ended = _state(run), self._clock()
        self.queue.finish(item)
        run.end()

    def _tell_status(self) -> None:
        self.hub.publish("status", {"status": self.queue_info()})


def _state(run: Run) -> State:
    if run.success:
        return "success"
    return "interrupted" if run.messages[-1][0] == "execution_interrupted" else "error"
