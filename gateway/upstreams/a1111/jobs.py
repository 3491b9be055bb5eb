"""SD.Next's second API: work as stored jobs that can be watched over a WebSocket and asked for by their ids.

`StoredJobs` follows one job to its end and fetches its pictures. A job outlives our connection and the server's
restart, so here, other than in the rest of the family, the outcome of a call can always be found out.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

import aiohttp
import msgspec

from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.a1111.progress import Board, Follow, Job, is_of_jobs, read_frame, read_job
from gateway.upstreams.a1111.wire import job_failure, refusal, to_job
from gateway.upstreams.http import Beside
from gateway.upstreams.pictures import picture_of, unusable
from gateway.upstreams.vendor import INLINE_BYTES, Answer, Ask, Vendor

JOBS: Final = "/sdapi/v2/jobs"
_STOP_SECONDS: Final = 0.8
_ASK_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 2.0
"""After so much of it the job is asked for: nobody who watches a waiting job is told that it was cancelled."""
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds between questions to a server that does not answer; then the outcome is left unknown."""
_MOST_FRAME_BYTES: Final = 16 * 1024 * 1024
_STOPPED: Final = "stopped:"
"""Before the id in the handle of a job that we stopped."""


class StoredJobs:
    """The second API of one server."""

    def __init__(
        self, vendor: Vendor, secret: Secret, *, poll_seconds: float, timeout_seconds: float, max_answer_bytes: int
    ) -> None:
        self._vendor = vendor
        self._secret = secret
        self._poll_seconds = poll_seconds
        self._timeout_seconds = timeout_seconds
        self._max_answer_bytes = max_answer_bytes

    async def run(self, order: CallOrder, follow: Follow, *, previews: bool) -> AsyncGenerator[Report, None]:
        """Begin a job and follow it; see `Upstream.run`."""
        job = await self._begin(order)
        async with aclosing(self._follow(order, job, follow, previews=previews)) as reports:
            async for report in reports:
                yield report

    async def resume(
        self, order: CallOrder, handle: str, follow: Follow, *, previews: bool
    ) -> AsyncGenerator[Report, None]:
        """Go on with a job; see `Upstream.resume`."""
        if handle.startswith(_STOPPED):
            raise UpstreamFault(Outcome.GONE, "worker_lost", "the work was stopped before it was done")
        async with aclosing(self._follow(order, handle, follow, previews=previews, is_resumed=True)) as reports:
            async for report in reports:
                yield report

    async def _follow(
        self, order: CallOrder, id: str, follow: Follow, *, previews: bool, is_resumed: bool = False
    ) -> AsyncGenerator[Report, None]:
        """Follow a job to its end and yield its pictures. Leaving early stops it."""
        board = Board()
        try:
            await order.noted(id)
            work = self._watched(order, id, follow, board, previews=previews, is_resumed=is_resumed)
            async with Beside(work, f"{self._vendor.name} job {id}") as watching:
                while not board.is_done:
                    for report in await board.take():
                        yield report
                await watching.result()
        except (GeneratorExit, asyncio.CancelledError):
            await self._stop(order, id)
            raise
        for index in range(order.count):
            yield await self._image(order, id, index)

    async def _begin(self, order: CallOrder) -> str:
        body = to_job(order) if _is_small(order) else await asyncio.to_thread(to_job, order)
        ask = Ask("POST", JOBS, body, most=INLINE_BYTES, whole=frozenset({200, 202}))
        async with Beside(self._vendor.ask(ask, order.sent), f"{self._vendor.name} call {order.id}") as asked:
            try:
                return self._id_of(await asked.result(), order)
            except asyncio.CancelledError:
                await self._cancel_begun(asked, order)
                raise

    async def _cancel_begun(self, asked: Beside[Answer], order: CallOrder) -> None:
        """Cancel a job whose id we are just being told."""
        with suppress(UpstreamFault, TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS / 2):
                job = self._id_of(await asked.result(), order)
            await self._cancel(job)

    def _id_of(self, answer: Answer, order: CallOrder) -> str:
        if answer.status not in (200, 202):
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self._vendor.name, order)
        job = read_job(answer.body)
        if job is None:
            raise unusable("the server did not tell the job's id", charged=False)
        return job.id

    async def _stop(self, order: CallOrder, id: str) -> None:
        try:
            # First of all: what the server makes of a running job that is cancelled may be told as completed.
            await order.noted(f"{_STOPPED}{id}")
        finally:
            await self._cancel(id)

    async def _cancel(self, id: str) -> None:
        # A waiting job is taken out; for a running one the server interrupts whatever it works on, which is that job
        # where we are its only client.
        with suppress(UpstreamFault):
            await self._vendor.ask(Ask("DELETE", f"{JOBS}/{id}", seconds=_STOP_SECONDS))

    # --- until it ends ---

    async def _watched(
        self, order: CallOrder, id: str, follow: Follow, board: Board, *, previews: bool, is_resumed: bool
    ) -> None:
        """Put on the board what is told of a job; returns when it is completed. Raises `UpstreamFault`."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                job = await self._ended(id, follow, board, previews=previews)
        except TimeoutError:
            await self._stop(order, id)
            raise _unknown("the work took too long") from None
        finally:
            board.close()
        if job.status == "failed":
            raise job_failure(job.error or "", self._secret, self._vendor.name, order)
        if job.status == "cancelled" and is_resumed:
            raise UpstreamFault(Outcome.GONE, "worker_lost", "the work was stopped before it was done")
        if job.status == "cancelled":
            details = {"upstream": self._vendor.name, "retryable": True}
            raise UpstreamFault(Outcome.FAILED, "upstream_error", "somebody cancelled the work", details=details)

    async def _ended(self, id: str, follow: Follow, board: Board, *, previews: bool) -> Job:
        has_socket = True
        while True:
            if has_socket:
                has_socket = await self._listen(id, follow, board, previews=previews)
            job = await self._job(id)
            if job.is_over:
                return job
            if job.status == "running":
                board.put(*follow.at(job.step or 0, job.steps or 0))
            await asyncio.sleep(self._poll_seconds)

    async def _listen(self, id: str, follow: Follow, board: Board, *, previews: bool) -> bool:
        """Read a job's WebSocket until it ends, falls silent or breaks; returns whether to open it again."""
        try:
            async with self._vendor.session.ws_connect(
                await self._address(id),
                headers=self._vendor.own_headers(),
                max_msg_size=_MOST_FRAME_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=_STOP_SECONDS / 2),
            ) as socket:
                await self._read(socket, follow, board, previews=previews)
        except aiohttp.WSServerHandshakeError:
            return False
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        return True

    async def _read(
        self, socket: aiohttp.ClientWebSocketResponse, follow: Follow, board: Board, *, previews: bool
    ) -> None:
        is_ours = False
        while True:
            message = await socket.receive(timeout=_SILENCE_SECONDS)
            if message.type is aiohttp.WSMsgType.BINARY:
                # A bare JPEG of whatever the server works on, which the frame before it named.
                if previews and is_ours:
                    board.put(*follow.picture(bytes(message.data)))
                continue
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            frame = read_frame(message.data)
            if frame.type in ("completed", "error", "cancelled"):
                return
            if frame.type == "progress":
                is_ours = is_of_jobs(frame.task)
                if is_ours:
                    board.put(*follow.at(frame.step or 0, frame.steps or 0))

    async def _address(self, id: str) -> str:
        address = f"{self._vendor.base_url}{JOBS}/{id}/ws"
        if "Authorization" not in self._vendor.own_headers():
            return address
        with suppress(UpstreamFault, msgspec.DecodeError):
            answer = await self._vendor.ask(Ask("POST", "/sdapi/v2/ws-ticket", seconds=_ASK_SECONDS, most=INLINE_BYTES))
            ticket = msgspec.json.decode(answer.body, type=dict[str, str]).get("ticket", "")
            return f"{address}?ticket={ticket}"
        return address

    # --- questions that may be asked again ---

    async def _job(self, id: str) -> Job:
        answer = await self._asked(Ask("GET", f"{JOBS}/{id}", seconds=_ASK_SECONDS, most=INLINE_BYTES))
        if answer.status == 404:
            raise UpstreamFault(Outcome.GONE, "worker_lost", "the server knows nothing of the job")
        job = read_job(answer.body) if answer.status == 200 else None
        if job is None:
            raise _unknown("the server does not tell what became of the job")
        return job

    async def _image(self, order: CallOrder, id: str, index: int) -> ImageMade:
        answer = await self._asked(Ask("GET", f"{JOBS}/{id}/images/{index}", most=self._max_answer_bytes))
        if answer.status == 404:
            raise unusable(f"the job made fewer than {order.count} pictures", charged=False)
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self._vendor.name, order)
        if not answer.is_whole:
            raise unusable(f"a picture has more than {self._max_answer_bytes} bytes", charged=False)
        try:
            return ImageMade(picture_of(answer.body), index, order.seed % 2**32 + index)
        except UpstreamFault as fault:
            fault.charged = False
            raise

    async def _asked(self, ask: Ask) -> Answer:
        """Ask, and ask again while the server cannot be reached. Raises `UNKNOWN`: the work may be under way."""
        for pause in (*_PAUSES, None):
            with suppress(UpstreamFault):
                return await self._vendor.ask(ask)
            if pause is not None:
                await asyncio.sleep(pause)
        raise _unknown("the server does not answer")


def _unknown(message: str) -> UpstreamFault:
    return UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message)


def _is_small(order: CallOrder) -> bool:
    return sum(map(len, order.inputs.values())) <= INLINE_BYTES
