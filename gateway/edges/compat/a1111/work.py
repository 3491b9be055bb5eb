"""The caller's own job: how far it is, and its end before its time. Nobody else's is seen or touched."""

from collections import OrderedDict
from typing import Any, Final

from gateway.core.jobs import State
from gateway.core.records import Identity, JobRecord
from gateway.edges.compat.a1111 import progress
from gateway.edges.compat.a1111.callers import own_work
from gateway.edges.compat.bodies import encode_picture
from gateway.edges.compat.doors import Doors
from protocol.errors import ClientFault
from protocol.header import HEADER_SIZE
from protocol.ladder import rung_for
from protocol.messages import Previews

_MOST_UNFINISHED: Final = 8
"""Interrupted jobs of an account whose newest preview is kept until the request that waits for them is answered.

Those that nobody waits for may be asked for as long as there are no more of them.
"""


class OwnWork:
    """What `progress`, `interrupt` and `skip` are about."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._node = doors.node
        self._rung = rung_for(Previews(max_edge=1024, format="png"), doors.node.limits.max_preview_edge)
        self._unfinished: OrderedDict[str, tuple[str, bytes | None]] = OrderedDict()
        """By job: the account, and what there was of the picture."""

    async def told(self, identity: Identity, *, with_image: bool) -> dict[str, Any]:
        """Return the answer of `progress`."""
        record = await own_work(identity, self._node)
        return await self.told_of(record, with_image=with_image)

    async def told_of(self, record: JobRecord | None, *, with_image: bool) -> dict[str, Any]:
        """Return the answer of `progress` about one job that has not ended, or about none."""
        request = None if record is None else await self._node.jobs.request(record.id)
        if record is None or request is None:
            return progress.told(None, None, None)
        work = progress.Work(
            task=request.task,
            has_init=request.input("init") is not None,
            count=request.n,
            steps=request.steps,
            created_ms=record.created_ms if record.started_ms is None else record.started_ms,
            is_interrupted=record.cancel_by is not None,
            is_waiting=record.state is not State.RUNNING,
        )
        preview = await self._preview(record.id) if with_image else None
        image = None if preview is None else encode_picture(preview)
        return progress.told(work, self._doors.progress(record.id), image)

    async def interrupt(self, identity: Identity) -> None:
        """End the caller's job; the request that waits for it is answered with what there is of its picture."""
        record = await own_work(identity, self._node)
        if record is not None:
            await self._end(record)

    async def skip(self, identity: Identity) -> None:
        """End the picture that is being made. Raises `ClientFault` where others would follow it."""
        record = await own_work(identity, self._node)
        if record is None:
            return
        request = await self._node.jobs.request(record.id)
        if request is not None and request.n > 1:
            raise ClientFault("task_not_supported", "one of several pictures cannot be skipped: interrupt them all")
        await self._end(record)

    def unfinished(self, job: str | None) -> tuple[bytes | None] | None:
        """Return what there was of an interrupted job's picture, if the job was interrupted here.

        It is forgotten once the last request that waits for it is answered.
        """
        if job is None or job not in self._unfinished:
            return None
        is_last = self._doors.waiting.count(job) == 1
        _, preview = self._unfinished.pop(job) if is_last else self._unfinished[job]
        return (preview,)

    async def _end(self, record: JobRecord) -> None:
        self._unfinished[record.id] = (record.tenant, await self._preview(record.id))
        mine = [job for job, (tenant, _) in self._unfinished.items() if tenant == record.tenant]
        for job in mine[:-_MOST_UNFINISHED]:
            del self._unfinished[job]
        await self._node.admission.cancel(record, "client")

    async def _preview(self, job: str) -> bytes | None:
        """The newest preview as PNG; none where none was made, or another node works the job."""
        found = await self._node.feeds.preview(job, self._rung)
        return None if found is None else bytes(memoryview(found.wire)[-found.size :][HEADER_SIZE:])
