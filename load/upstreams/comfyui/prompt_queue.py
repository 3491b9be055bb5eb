"""The queue of prompts and the history, in memory as the server has them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.comfyui.jobs import Job

MAXIMUM_HISTORY = 10_000


@dataclass(frozen=True, order=True, slots=True)
class Item:
    """One prompt; the smallest number goes first."""

    number: float
    place: int
    job: Job = field(compare=False)

    @property
    def told(self) -> list[Any]:
        """The five parts that `/queue` and the history show."""
        job = self.job
        return [self.number, job.prompt_id, job.graph, job.extra_data, job.outputs]


class PromptQueue:
    """A heap of prompts, the one that runs, and what is known of the finished ones."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._places = itertools.count()
        self._filled = asyncio.Event()
        self.pending: list[Item] = []
        self.running: list[Item] = []
        self.history: dict[str, dict[str, Any]] = {}

    @property
    def remaining(self) -> int:
        return len(self.pending) + len(self.running)

    def put(self, number: float, job: Job) -> None:
        heapq.heappush(self.pending, Item(number, next(self._places), job))
        self._filled.set()
        self._changed()

    async def get(self) -> Item:
        """The next prompt, as soon as there is one."""
        while not self.pending:
            self._filled.clear()
            await self._filled.wait()
        item = heapq.heappop(self.pending)
        self.running.append(item)
        self._changed()
        return item

    def finish(self, item: Item) -> None:
        self.running.remove(item)
        self._changed()

    def remember(self, item: Item, result: dict[str, Any]) -> None:
        """Write the history of a prompt; an older one of the same id is overwritten in its place."""
        if len(self.history) >= MAXIMUM_HISTORY:
            del self.history[next(iter(self.history))]
        self.history[item.job.prompt_id] = {"prompt": item.told, **result}

    def delete(self, prompt_id: str) -> Item | None:
        """Take a pending prompt out; None if it is not pending."""
        found = next((item for item in self.pending if item.job.prompt_id == prompt_id), None)
        if found is not None:
            self.pending.remove(found)
            heapq.heapify(self.pending)
            self._changed()
            if not self.pending:
                # The server deletes the last one the way it clears, which tells everybody once more.
                self._changed()
        return found

    def clear(self) -> list[Item]:
        """Take all pending prompts out."""
        gone, self.pending = self.pending, []
        self._changed()
        return gone

    def told(self) -> dict[str, Any]:
        """What `/queue` answers; pending prompts stand in the heap's order, not in the queue's."""
        return {
            "queue_running": [item.told for item in self.running],
            "queue_pending": [item.told for item in self.pending],
        }

    def told_history(self, max_items: int | None, offset: int) -> dict[str, Any]:
        """A part of the history."""
        names = list(self.history)
        start = max(0, len(names) - max_items) if offset < 0 and max_items is not None else max(0, offset)
        part = names[start:] if max_items is None else names[start : start + max_items]
        return {name: self.history[name] for name in part}
