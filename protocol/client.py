"""The Python client: `Replica` on a socket of `websockets`. The only module of this package that does I/O.

    async with Client("https://gateway.example", token="...") as client:
        job = await client.submit("txt2img", {"prompt": "a harbour at dawn"})
        async for event in job:
            ...

One task reads, one writes. The reader stops while the application does not take its numbered events, so that the
server waits and not our memory; it reads on only while a call of this client waits for its answer, because that would
else never come.
"""

import asyncio
import random
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

from msgspec import Raw, json
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from protocol.client_inputs import format_of, given, stream_url
from protocol.client_token import TokenSource, tokens_of
from protocol.feed import Feed
from protocol.ids import UploadId
from protocol.messages import (
    SUBPROTOCOL,
    VERSION,
    Accepted,
    Cancel,
    Error,
    Finals,
    Hello,
    ImageFormat,
    Input,
    Prefs,
    Previews,
    Submit,
    Unwatch,
    Watch,
)
from protocol.refusals import REFUSED_UPGRADES, Closed, Refused
from protocol.replica import ABNORMAL, Replica
from protocol.replica_effects import (
    Answer,
    Deliver,
    Disconnected,
    Effect,
    Event,
    JobLost,
    Reconnect,
    Resumed,
    Send,
    Stop,
    ends_job,
)
from protocol.replica_states import State
from protocol.streams import Job, Stream

_UNAUTHORIZED: Final = 4502
_FRAME_SLACK: Final = 1024
_CLOSE_SECONDS: Final = 2.0
_LEAVE_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 5.0
"""After the reader stood still, silence counts anew: what the server sent meanwhile has to be read first."""


class Client:
    """One session with a gateway, over as many connections as it takes; used with `async with`, once.

    Entering waits for the first `synced`, at most `patience` seconds (`None`: for ever), then raises `TimeoutError`.
    Everything that waits raises `Closed` when the server forbids to come back. Leaving says `bye`, which ends the
    session: jobs submitted with `on_disconnect="cancel"` are canceled. `hook` is called with every event, also
    `Disconnected` and `Resumed`.

    `token` is a token or an API key, or a function that gets a fresh one for each connection. An `api_key` is exchanged
    for a token of a day, which is renewed in time; a token that was refused is got anew once.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenSource | None = None,
        api_key: str | None = None,
        token_in_hello: bool = False,
        agent: str = "safelight-python",
        previews: Previews | None = None,
        finals: Finals = "url",
        max_message: int = 262_144,
        window: int = 2_097_152,
        max_queued: int = 64,
        patience: float | None = 30.0,
        hook: Callable[[Event], None] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._url = stream_url(url)
        self._tokens = tokens_of(url, token, api_key)
        self._was_refused = False
        """The token of the last connection was, so that another refusal is the end."""
        self._token_in_hello = token_in_hello
        self._max_size = max_message + _FRAME_SLACK
        self._max_queued = max_queued
        self._patience = patience
        self._hook = hook
        hello = Hello(
            v=VERSION, agent=agent, max_message=max_message, window=window, finals=finals, previews=given(previews)
        )
        self._replica = Replica(hello, chance or random.SystemRandom())
        self._jobs: weakref.WeakValueDictionary[str, Job] = weakref.WeakValueDictionary()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._outbox: deque[Send] = deque()
        self._mail = asyncio.Event()
        self._room = asyncio.Event()
        self._settled = asyncio.Event()
        """The first session stands, or there will be none."""
        self._tasks: asyncio.TaskGroup | None = None
        self._after_seconds: float | None = 0.0
        """When the next connection is to be made; `None` if no more."""
        self._is_up = False
        self._listening_since = 0.0
        self._failure: Exception | None = RuntimeError("enter the client first: async with Client(...)")
        self._last_reason = "nothing was heard"
        self._performers: Final[dict[type, Callable[[Any], None]]] = {
            Send: self._send,
            Deliver: self._deliver,
            Answer: self._answer,
            Reconnect: self._reconnect,
            Stop: self._stop,
        }

    def __repr__(self) -> str:
        return f"<Client {self._url} {self._replica.state.value}>"

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("a client is entered once: make another")
        self._failure = None
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._runner = self._tasks.create_task(self._run(), name=f"{self!r} runs")
        try:
            async with asyncio.timeout(self._patience):
                await self._settled.wait()
        except BaseException as error:
            await self._shut(error)
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"no session within {self._patience} s: {self._last_reason}") from None
            raise
        if self._failure is not None:
            await self._shut(None)
            raise self._failure
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._failure is None and not isinstance(error, asyncio.CancelledError):
            self._perform(self._replica.bye(_now()))
            await asyncio.wait({self._runner}, timeout=_LEAVE_SECONDS)
        await self._shut(error)

    # What the application wants

    async def submit(
        self,
        task: str,
        params: Mapping[str, Any],
        *,
        ref: str | None = None,
        model: str | None = None,
        inputs: Sequence[Input] = (),
        previews: Previews | None = None,
        finals: Finals | None = None,
        priority: int = 0,
        max_cost_micros: int | None = None,
        deadline_ms: int | None = None,
        on_disconnect: Literal["continue", "cancel"] = "continue",
    ) -> Job:
        """Ask for a job and return it once it is accepted; it runs once however often `ref` is submitted.

        Raises `Refused`, or `ClientBusy` if too much is unanswered. Where the call is canceled, the job may still run.
        """
        wish = Submit(
            ref=ref or self._replica.make_ref(),
            task=task,
            params=Raw(json.encode(params)),
            model=given(model),
            inputs=list(inputs),
            previews=given(previews),
            finals=given(finals),
            priority=priority,
            max_cost_micros=given(max_cost_micros),
            deadline_ms=given(deadline_ms),
            on_disconnect=on_disconnect,
        )
        job = await self._ask(wish.ref, lambda: self._replica.submit(wish))
        assert isinstance(job, Job), "a submit is answered by `accepted` or refused"
        return job

    async def watch(
        self,
        job: str,
        *,
        after: int = 0,
        grant: str | None = None,
        previews: Previews | None = None,
        finals: Finals | None = None,
    ) -> Job:
        """Follow a job from event `after` + 1 on, also one of somebody else's with a `grant`. Raises `Refused`."""
        handle = self._job(job)
        ref = self._replica.make_ref()
        wish = Watch(ref=ref, job=job, after=after, grant=given(grant), previews=given(previews), finals=given(finals))
        await self._ask(ref, lambda: self._replica.watch(wish, _now()))
        return handle

    async def cancel(self, job: str, *, grant: str | None = None) -> None:
        """Wish that a job end; its end event tells what happened. Raises `Refused` if that is not allowed."""
        ref = self._replica.make_ref()
        await self._ask(ref, lambda: self._replica.cancel(Cancel(ref=ref, job=job, grant=given(grant))))

    async def unwatch(self, job: str) -> None:
        """Follow a job no longer; it goes on."""
        handle = self._jobs.pop(job, None)
        if handle is not None:
            handle.finish()
        ref = self._replica.make_ref()
        await self._ask(ref, lambda: self._replica.unwatch(Unwatch(ref=ref, job=job)))

    async def prefs(
        self, *, previews: Previews | None = None, finals: Finals | None = None, job: str | None = None
    ) -> None:
        """Change how the events of one job, or of all, come from now on. Raises `Refused`."""
        ref = self._replica.make_ref()
        wish = Prefs(ref=ref, previews=given(previews), finals=given(finals), job=given(job))
        await self._ask(ref, lambda: self._replica.prefs(wish))

    def upload(self, data: bytes, image_format: ImageFormat | None = None) -> UploadId:
        """Send an image and return its id for `Input(upload=...)`; a submit may follow at once.

        Raises `ValueError` if the format is neither given nor seen, and `ClientBusy`. What the server thinks of the
        image is told to the submit that refers to it.
        """
        self._check()
        upload, effects = self._replica.upload(data, image_format or format_of(data))
        self._perform(effects)
        return upload

    def events(self) -> Stream:
        """Return a stream of all events from now on, of every job and of the connection."""
        return self._watched(Stream(self, Feed(self._max_queued), asyncio.Event()))

    # Effects

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._performers[type(effect)](effect)
        self.look_for_room()

    def _send(self, send: Send) -> None:
        self._outbox.append(send)
        self._mail.set()

    def _deliver(self, deliver: Deliver) -> None:
        event = deliver.event
        if isinstance(event, Resumed):
            self._was_refused = False
            self._settled.set()
        if isinstance(event, Disconnected):
            self._last_reason = f"{event.code} {event.reason}".rstrip()
        if self._hook is not None:
            self._hook(event)
        for stream in list(self._streams):
            stream.put(event)
        job = self._jobs.get(getattr(event, "job", ""))
        if job is None:
            return
        if not isinstance(event, JobLost):
            job.put(event)
        if ends_job(event):
            job.finish(Refused(event.error) if isinstance(event, JobLost) else None)
            del self._jobs[job.id]

    def _answer(self, answer: Answer) -> None:
        # Popped here and not where it is awaited: from now on nobody waits, and the reader may have to stop.
        future = self._waiting.pop(answer.ref, None)
        if future is None or future.done():
            return
        message = answer.message
        if isinstance(message, Error):
            future.set_exception(Refused(message.error))
        else:
            future.set_result(self._job(message.job) if isinstance(message, Accepted) else None)

    def _reconnect(self, reconnect: Reconnect) -> None:
        self._after_seconds = reconnect.after_seconds
        self._is_up = False

    def _stop(self, stop: Stop) -> None:
        self._is_up = False
        self._end(Closed(stop.code, stop.reason))

    # Within

    def look_for_room(self) -> None:
        """Let the reader go on if no stream is full, or if somebody waits for an answer or for the end."""
        awaited = self._waiting or self._failure is not None or self._replica.state is State.LEAVING
        if awaited or not any(stream.is_full for stream in (*self._jobs.values(), *self._streams)):
            self._room.set()
        else:
            self._room.clear()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _ask(self, ref: str, wish: Callable[[], list[Effect]]) -> Job | None:
        """Make a request and wait for its answer, over as many connections as it takes."""
        self._check()
        effects = wish()
        future = self._waiting[ref] = asyncio.get_running_loop().create_future()
        self._perform(effects)
        try:
            answer: Job | None = await future
        finally:
            self._waiting.pop(ref, None)
            self.look_for_room()
        return answer

    def _job(self, job: str) -> Job:
        """Return the handle of a job, the one that the application holds if it holds one."""
        handle = self._jobs.get(job)
        if handle is None:
            handle = self._jobs[job] = Job(self, Feed(self._max_queued), asyncio.Event(), job)
            weakref.finalize(handle, self.look_for_room).atexit = False
        return handle

    def _watched(self, stream: Stream) -> Stream:
        self._streams.add(stream)
        weakref.finalize(stream, self.look_for_room).atexit = False
        return stream

    def _end(self, failure: Exception) -> None:
        """Tell everybody who waits, once, that nothing more comes."""
        if self._failure is not None:
            return
        self._failure = failure
        self._after_seconds = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure)
        for job in self._jobs.values():
            job.finish(failure)
        is_plain = isinstance(failure, Closed) and failure.code == 1000
        for stream in self._streams:
            stream.finish(None if is_plain else failure)
        self._settled.set()
        self._room.set()

    async def _shut(self, error: BaseException | None) -> None:
        """Cancel and await the tasks. Only a cancellation is the group's business, every other error the caller's."""
        assert self._tasks is not None, "the client was entered"
        self._runner.cancel()
        canceled = error if isinstance(error, asyncio.CancelledError) else None
        try:
            await self._tasks.__aexit__(type(canceled) if canceled else None, canceled, None)
        finally:
            self._end(Closed(1000, "normal"))

    async def _run(self) -> None:
        try:
            while self._after_seconds is not None:
                await asyncio.sleep(self._after_seconds)
                await self._connect_once()
        except Exception as error:  # noqa: BLE001 - the task ends here; whoever waits is told
            self._end(error.exceptions[0] if isinstance(error, ExceptionGroup) else error)

    async def _connect_once(self) -> None:
        try:
            token = await self._tokens.get()
            async with self._socket(token) as socket:
                await self._converse(socket, token)
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            self._disconnected(REFUSED_UPGRADES.get(status, ABNORMAL), f"HTTP {status}")
        except (OSError, WebSocketException) as error:
            self._disconnected(ABNORMAL, f"{type(error).__name__}: {error}")

    def _socket(self, token: str | None) -> connect:
        in_header = token is not None and not self._token_in_hello
        return connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"} if in_header else None,
            compression=None,
            proxy=None,
            # The gateway's heartbeat and pings do it: our own would end a connection that is only slow.
            ping_interval=None,
            close_timeout=_CLOSE_SECONDS,
            max_size=self._max_size,
        )

    async def _converse(self, socket: ClientConnection, token: str | None) -> None:
        """Read and write until the connection ends, or the machine ends it."""
        self._outbox.clear()
        self._is_up = True
        self._perform(self._replica.connected(_now(), token if self._token_in_hello else None))
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(socket), name=f"{self!r} writes")
            try:
                while self._is_up:
                    await self._read(socket)
            finally:
                writer.cancel()

    async def _read(self, socket: ClientConnection) -> None:
        if not self._room.is_set():
            await self._room.wait()
            self._listening_since = _now()
        try:
            async with asyncio.timeout_at(self._deadline()):
                message = await socket.recv(decode=False)
        except TimeoutError:
            self._perform(self._replica.timeout(_now()))
        except ConnectionClosed as closed:
            frame = closed.rcvd or closed.sent
            self._disconnected(frame.code if frame else ABNORMAL, frame.reason if frame else "")
        else:
            effects = self._replica.receive(message, _now())
            self._perform(effects)
            if effects:
                # Messages that came together are received without a pause; who keeps up shall see each step.
                await asyncio.sleep(0)

    async def _write(self, socket: ClientConnection) -> None:
        # A connection that is gone is the reader's to report.
        with suppress(ConnectionClosed):
            while True:
                while self._outbox:
                    send = self._outbox.popleft()
                    await socket.send(send.data, text=not send.binary)
                self._mail.clear()
                await self._mail.wait()

    def _disconnected(self, code: int, reason: str) -> None:
        if code == _UNAUTHORIZED and not self._was_refused and self._tokens.refused():
            # Revoked, or its key was rotated away: the next one may do. The session is resumed with it.
            self._was_refused, code = True, ABNORMAL
        self._perform(self._replica.disconnected(code, _now(), reason))

    def _deadline(self) -> float | None:
        deadline = self._replica.deadline()
        return None if deadline is None else max(deadline, self._listening_since + _GRACE_SECONDS)


def _now() -> float:
    return asyncio.get_running_loop().time()
