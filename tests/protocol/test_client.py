"""The Python client against a real socket: a small server that plays one script for each connection."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from protocol.client import Client
from protocol.codec import encode
from protocol.header import parse, payload
from protocol.messages import (
    AssetStored,
    Error,
    ErrorBody,
    GoAway,
    ImageReady,
    Input,
    Ok,
    Previews,
    Progress,
)
from protocol.refusals import Closed, Refused
from protocol.replica_effects import Disconnected, Event, ImageBytes, Preview, Resumed, Send
from protocol.streams import Job
from tests.protocol.playbook import (
    ASSET,
    JOB,
    OTHER,
    accepted,
    chunk,
    completed,
    image,
    notice,
    preview,
    progress,
    started,
    synced,
    welcome,
)

# Nothing here waits for time to pass: this only ends a test that hangs.
PATIENCE = 30.0
GONE = ErrorBody(code="job_not_found", message="gone", retryable=False)


class Hurry(random.Random):
    """Chance that never waits."""

    def random(self) -> float:
        return 0.0


class Line:
    """The server's end of one connection, for a script."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def say(self, *messages: msgspec.Struct | bytes) -> None:
        """Send messages: text for structs, binary for bytes."""
        for message in messages:
            if isinstance(message, bytes):
                await self.socket.send(message)
            else:
                await self.socket.send(encode(message), text=True)

    async def take(self, kind: str) -> dict[str, Any]:
        """Return the client's next message, which has to be of this type."""
        raw = await self.socket.recv()
        message: dict[str, Any] = msgspec.json.decode(raw)
        assert message["type"] == kind, f"expected {kind}, got {message}"
        return message

    async def take_bytes(self) -> bytes:
        """Return the client's next message, which has to be binary."""
        raw = await self.socket.recv()
        assert isinstance(raw, bytes)
        return raw

    async def greet(self, *replay: msgspec.Struct | bytes, resumed: bool = False, **fields: int) -> dict[str, Any]:
        """Bring the connection to `synced`; return the hello."""
        hello = await self.take("hello")
        await self.say(welcome(resumed=resumed, **fields), *replay, synced("r1" if not resumed else "r2"))
        return hello

    async def accept(self, *events: msgspec.Struct | bytes) -> dict[str, Any]:
        """Take a submit, accept it as `JOB` and send events."""
        submit = await self.take("submit")
        await self.say(accepted(submit["ref"]), *events)
        return submit

    async def part(self) -> None:
        """Take `bye` and whatever comes before it, and close as a server does."""
        while msgspec.json.decode(await self.socket.recv())["type"] != "bye":
            pass
        await self.socket.close(1000)

    async def end(self, code: int) -> None:
        """Close with a code."""
        await self.socket.close(code)

    def cut(self) -> None:
        """End the connection without a word."""
        self.socket.transport.abort()


Script = Callable[[Line], Awaitable[None]]
Gate = Callable[[ServerConnection, Request], Response | None]


@asynccontextmanager
async def gateway(*scripts: Script, gate: Gate | None = None) -> AsyncIterator[str]:
    """Serve the scripts, one a connection; at the end all have to be played out. Yields the address."""
    waiting = list(scripts)
    faults: list[BaseException] = []

    async def play(socket: ServerConnection) -> None:
        try:
            await waiting.pop(0)(Line(socket))
        except (AssertionError, ConnectionClosed, IndexError) as fault:
            faults.append(fault)

    subprotocols = [Subprotocol("safelight.v1")]
    async with serve(play, "127.0.0.1", 0, subprotocols=subprotocols, process_request=gate, close_timeout=1) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE):
            yield f"http://127.0.0.1:{port}"
    assert not faults
    assert not waiting, "a connection was expected and did not come"


def client(url: str, **options: Any) -> Client:
    """Return a client that does not wait between attempts."""
    return Client(url, chance=Hurry(), **{"patience": PATIENCE} | options)


async def submitted(user: Client) -> Job:
    """Submit the plainest job."""
    return await user.submit("txt2img", {"prompt": "a harbour"})


async def until_full(job: Job) -> None:
    """Wait until the client has stopped reading because of this job."""
    while not job.is_full:
        await asyncio.sleep(0)


def seqs(events: list[Event]) -> list[int]:
    """Return the numbers of the numbered events."""
    return [event.seq for event in events if hasattr(event, "seq")]


# Jobs


async def test_client_follows_a_job_to_its_end() -> None:
    """Every event in order, the preview as a picture, and `unwatch` and `bye` at the end."""

    async def script(line: Line) -> None:
        hello = await line.greet()
        assert (hello["previews"], hello["window"]) == ({"max_fps": 4.0}, 2_097_152)
        submit = await line.accept(started(), progress(12), preview(7, b"jpeg"), image(), completed(4))
        assert submit["params"] == {"prompt": "a harbour", "steps": 30}
        assert (submit["model"], submit["priority"]) == ("sdxl", 1)
        assert await line.take("unwatch") == {"type": "unwatch", "job": JOB}
        await line.part()

    async with gateway(script) as url, client(url, previews=Previews(max_fps=4)) as user:
        job = await user.submit("txt2img", {"prompt": "a harbour", "steps": 30}, model="sdxl", priority=1)
        assert job.id == JOB
        events = [event async for event in job]
        assert [type(event).__name__ for event in events] == [
            "Accepted",
            "Started",
            "Progress",
            "Preview",
            "ImageReady",
            "Completed",
        ]
        assert isinstance(events[3], Preview)
        assert bytes(events[3].data) == b"jpeg"
        assert "live" in repr(user)
        assert repr(job) == "<Job <Feed of 0 events, 0 bytes>>"


async def test_client_puts_an_inline_image_together() -> None:
    """Chunks become one event, and binary bytes are acknowledged at half the window."""

    async def script(line: Line) -> None:
        await line.greet()
        data = bytes(range(256)) * 100
        chunks = [
            chunk(data[at : at + 12_800], total=25_600, offset=at, last=at > 0, metadata={"seed": 7})
            for at in (0, 12_800)
        ]
        await line.accept(started(), *chunks)
        assert (await line.take("ack"))["bytes"] == sum(map(len, chunks))
        await line.say(completed(4))
        await line.part()

    async with gateway(script) as url, client(url, finals="inline", max_message=16_384, window=40_000) as user:
        events = [event async for event in await submitted(user)]
        (picture,) = [event for event in events if isinstance(event, ImageBytes)]
        assert picture.data == bytes(range(256)) * 100
        assert picture.metadata == {"seed": 7}
        assert seqs(events) == [1, 2, 3, 4]


async def test_client_resumes_after_a_cut() -> None:
    """The stream goes on as if nothing had been; who listens to everything is told."""

    async def first(line: Line) -> None:
        await line.greet()
        await line.accept(started())
        line.cut()

    async def second(line: Line) -> None:
        hello = await line.greet(image(), resumed=True)
        assert hello["resume"] == "r1"
        assert hello["have"] == [{"job": JOB, "seq": 2}]
        await line.say(completed(4))
        await line.part()

    heard: list[Event] = []
    async with gateway(first, second) as url, client(url, hook=heard.append) as user:
        everything = user.events()
        events = [event async for event in await submitted(user)]
        assert seqs(events) == [1, 2, 3, 4]
    kinds = [type(event) async for event in everything]
    assert [kind.__name__ for kind in kinds if kind in (Disconnected, Resumed, ImageReady)] == [
        "Disconnected",
        "ImageReady",
        "Resumed",
    ]
    resumptions = [event for event in heard if isinstance(event, Resumed)]
    assert [one.is_same for one in resumptions] == [False, True]


async def test_client_repairs_a_gap() -> None:
    """A server that lost something is asked for it, once."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(notice(3), notice(4))
        watch = await line.take("watch")
        assert (watch["job"], watch["after"]) == (JOB, 1)
        await line.say(Ok(ref=watch["ref"], job=JOB), started(), notice(3), notice(4), completed(5))
        await line.part()

    async with gateway(script) as url, client(url) as user:
        assert seqs([event async for event in await submitted(user)]) == [1, 2, 3, 4, 5]


async def test_unanswered_submit_survives_a_cut() -> None:
    """The caller waits on; the same `ref` goes out again."""
    refs: list[str] = []

    async def first(line: Line) -> None:
        await line.greet()
        refs.append((await line.take("submit"))["ref"])
        line.cut()

    async def second(line: Line) -> None:
        await line.greet(resumed=True)
        submit = await line.accept(completed(2))
        refs.append(submit["ref"])
        await line.part()

    async with gateway(first, second) as url, client(url) as user:
        job = await user.submit("txt2img", {}, ref="shot-1")
        assert seqs([event async for event in job]) == [1, 2]
    assert refs == ["shot-1", "shot-1"]


# Slow applications


async def test_client_stops_reading_while_nobody_takes_numbered_events() -> None:
    """Nothing is lost and little is held: the rest waits in the socket; progress is merged."""
    total = 400
    sent = asyncio.Event()

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(*[progress(step) for step in range(1, 31)], *[notice(seq) for seq in range(2, total)])
        sent.set()
        await line.say(completed(total))
        await line.part()

    async with gateway(script) as url, client(url, max_queued=4) as user:
        job = await submitted(user)
        await sent.wait()
        await until_full(job)
        assert seqs([await anext(job)]) == [1]
        assert len(job._feed) <= 4 + 16
        rest = [event async for event in job]
        steps = [event.step for event in rest if isinstance(event, Progress)]
        assert steps[-1] == 30
        assert len(steps) < 30
        assert seqs(rest) == list(range(2, total + 1))


async def test_client_shows_each_step_to_who_keeps_up() -> None:
    """Also where many come in one piece: nothing is merged before it could be taken."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(*[progress(step) for step in range(1, 31)], completed(2))
        await line.part()

    async with gateway(script) as url, client(url) as user:
        events = [event async for event in await submitted(user)]
        assert [event.step for event in events if isinstance(event, Progress)] == list(range(1, 31))


async def test_call_that_waits_for_its_answer_lets_the_client_read() -> None:
    """Else an application that cancels in the middle of a full stream would wait for ever."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(*[notice(seq) for seq in range(2, 50)])
        cancel = await line.take("cancel")
        await line.say(Ok(ref=cancel["ref"], job=JOB), completed(50))
        await line.part()

    async with gateway(script) as url, client(url, max_queued=2) as user:
        job = await submitted(user)
        await until_full(job)
        await job.cancel()
        assert seqs([event async for event in job]) == list(range(1, 51))


async def test_job_that_was_dropped_is_not_waited_for() -> None:
    """Its events go to nobody, and the client reads on."""
    goaway = GoAway(reason="drain", retry_after_ms=0)
    told = asyncio.Event()

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(*[notice(seq) for seq in range(2, 50)], goaway)
        await line.part()

    def hook(event: Event) -> None:
        if isinstance(event, GoAway):
            told.set()

    async with gateway(script) as url, client(url, max_queued=2, hook=hook) as user:
        job = await submitted(user)
        await until_full(job)
        del job
        gc.collect()
        await told.wait()


# Other wishes


async def test_refusal_is_raised_and_the_session_goes_on() -> None:
    """With the server's error and the registry's advice."""

    async def script(line: Line) -> None:
        await line.greet()
        submit = await line.take("submit")
        body = ErrorBody(code="prompt_too_long", message="8001 characters", retryable=False)
        await line.say(Error(ref=submit["ref"], error=body))
        await line.accept(completed(2))
        await line.part()

    async with gateway(script) as url, client(url) as user:
        with pytest.raises(Refused, match=r"prompt_too_long: 8001 characters \(Shorten it.\)") as refused:
            await submitted(user)
        assert refused.value.error.code == "prompt_too_long"
        assert seqs([event async for event in await submitted(user)]) == [1, 2]


async def test_upload_goes_before_its_submit() -> None:
    """Without a round trip; the format is seen from the bytes."""

    async def script(line: Line) -> None:
        await line.greet()
        raw = await line.take_bytes()
        header = parse(raw)
        assert bytes(payload(raw, header)) == b"\x89PNG...."
        submit = await line.take("submit")
        assert submit["inputs"] == [{"role": "init", "upload": header.job_id}]
        stored = AssetStored(asset=ASSET, format="png", w=1, h=1, bytes=8, expires_in_ms=1, upload=header.job_id)
        await line.say(stored, accepted(submit["ref"]), completed(2))
        await line.part()

    async with gateway(script) as url, client(url) as user:
        upload = user.upload(b"\x89PNG....")
        job = await user.submit("img2img", {"strength": 0.6}, inputs=[Input(role="init", upload=upload)])
        assert seqs([event async for event in job]) == [1, 2]


async def test_watch_with_a_grant_follows_somebody_elses_job() -> None:
    """From where the caller says; `unwatch` ends the stream; one handle is one job."""

    async def script(line: Line) -> None:
        await line.greet()
        watch = await line.take("watch")
        assert (watch["after"], watch["grant"], watch["finals"]) == (1, "signed", "inline")
        await line.say(started(), Ok(ref=watch["ref"], job=JOB))
        prefs = await line.take("prefs")
        assert prefs["previews"] == {"max_fps": 0.0}
        await line.say(Ok(ref=prefs["ref"]))
        unwatch = await line.take("unwatch")
        await line.say(notice(3), Ok(ref=unwatch["ref"]))
        await line.part()

    async with gateway(script) as url, client(url) as user:
        job = await user.watch(JOB, after=1, grant="signed", finals="inline")
        assert seqs([await anext(job)]) == [2]
        await user.prefs(previews=Previews(max_fps=0), job=JOB)
        await job.unwatch()
        assert [event async for event in job] == []


async def test_watch_that_is_refused_is_raised() -> None:
    """And a job that is lost later ends its stream with the reason."""

    async def script(line: Line) -> None:
        await line.greet()
        watch = await line.take("watch")
        await line.say(Error(ref=watch["ref"], error=GONE))
        await line.accept(started(), Error(job=JOB, error=GONE))
        unwatch = await line.take("unwatch")
        await line.say(Ok(ref=unwatch["ref"]))
        await line.part()

    async with gateway(script) as url, client(url) as user:
        with pytest.raises(Refused, match="job_not_found"):
            await user.watch(OTHER)
        job = await submitted(user)
        assert seqs([await anext(job), await anext(job)]) == [1, 2]
        with pytest.raises(Refused, match="gone"):
            await anext(job)
        await user.unwatch(OTHER)


# Credentials


@pytest.mark.parametrize("in_hello", [False, True])
async def test_token_goes_where_it_is_wanted(in_hello: bool) -> None:
    """In the header, or in `hello`; a function is asked before each connection."""
    tokens = iter(["first", "second"])
    headers: list[str | None] = []
    hellos: list[str | None] = []

    def gate(_: ServerConnection, request: Request) -> None:
        headers.append(request.headers.get("Authorization"))

    async def first(line: Line) -> None:
        hellos.append((await line.greet()).get("token"))
        await line.end(4005)

    async def second(line: Line) -> None:
        hellos.append((await line.greet(resumed=True)).get("token"))
        await line.accept(completed(2))
        await line.part()

    async def fresh() -> str:
        return next(tokens)

    async with gateway(first, second, gate=gate) as url, client(url, token=fresh, token_in_hello=in_hello) as user:
        assert seqs([event async for event in await submitted(user)]) == [1, 2]
    assert hellos == (["first", "second"] if in_hello else [None, None])
    assert headers == ([None, None] if in_hello else ["Bearer first", "Bearer second"])


async def test_fault_of_the_token_source_reaches_the_caller() -> None:
    """As it is, and not as a group."""

    async def none() -> str:
        raise LookupError("no token today")

    with pytest.raises(LookupError, match="no token today"):
        async with Client("http://127.0.0.1:9", token=none):
            pass


# Ends


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4505, 4506, 4507])
async def test_stop_code_ends_everything(code: int) -> None:
    """Streams, calls under way and later ones all say why."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(started())
        await line.take("cancel")
        await line.end(code)

    async with gateway(script) as url, client(url) as user:
        everything = user.events()
        job = await submitted(user)
        with pytest.raises(Closed, match=str(code)):
            await job.cancel()
        assert seqs([await anext(job), await anext(job)]) == [1, 2]
        with pytest.raises(Closed) as closed:
            await anext(job)
        assert closed.value.code == code
        with pytest.raises(Closed):
            await submitted(user)
        with pytest.raises(Closed):
            user.upload(b"\x89PNG")
        with pytest.raises(Closed):
            [event async for event in everything]


async def test_stop_code_before_the_welcome_is_raised_on_entering() -> None:
    """A bad token is no reason to wait."""

    async def script(line: Line) -> None:
        await line.take("hello")
        await line.end(4502)

    async with gateway(script) as url:
        with pytest.raises(Closed, match=r"4502 unauthorized: .* Get a valid token or key\."):
            async with client(url):
                pass


async def test_message_over_the_limit_stops_the_client() -> None:
    """1009: it would come again."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(bytes(20_000))
        await line.socket.wait_closed()

    async with gateway(script) as url, client(url, max_message=16_384, window=40_000) as user:
        job = await submitted(user)
        with pytest.raises(Closed, match="Announce a larger `max_message`"):
            [event async for event in job]


@pytest.mark.parametrize(
    "status,code", [(HTTPStatus.UNAUTHORIZED, 4502), (HTTPStatus.FORBIDDEN, 4503), (HTTPStatus.NOT_FOUND, 4501)]
)
async def test_refused_upgrade_is_told_as_a_close_code(status: HTTPStatus, code: int) -> None:
    """Something before the gateway may know no close codes."""

    def gate(socket: ServerConnection, _: Request) -> Response:
        return socket.respond(status, "no")

    async with gateway(gate=gate) as url:
        with pytest.raises(Closed, match=f"{code} HTTP {status.value}"):
            async with client(url):
                pass


async def test_upgrade_refused_for_now_is_tried_again() -> None:
    """503 may pass."""
    refusals = [1, 2, 3]

    def gate(socket: ServerConnection, _: Request) -> Response | None:
        return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "later") if refusals and refusals.pop() else None

    async def script(line: Line) -> None:
        await line.greet()
        await line.part()

    async with gateway(script, gate=gate) as url, client(url):
        assert not refusals


async def test_client_does_not_wait_for_ever_for_a_server(unused_tcp_port: int) -> None:
    """After `patience` it says what it saw last."""
    with pytest.raises(TimeoutError, match=r"no session within 0.05 s: 1006 ConnectionRefusedError"):
        async with client(f"http://127.0.0.1:{unused_tcp_port}", patience=0.05):
            pass


async def test_silent_server_is_left() -> None:
    """After 2.5 heartbeats, here 50 ms, the client comes back."""

    async def first(line: Line) -> None:
        await line.greet(heartbeat_ms=20)
        await line.socket.wait_closed()

    async def second(line: Line) -> None:
        await line.greet(resumed=True)
        await line.part()

    again = asyncio.Event()

    def hook(event: Event) -> None:
        if isinstance(event, Resumed) and event.is_same:
            again.set()

    async with gateway(first, second) as url, client(url, hook=hook):
        await again.wait()


async def test_message_of_a_lost_connection_is_not_sent_on_the_next() -> None:
    """Nothing comes before `hello`; what still counts is repeated by the machine."""

    async def first(line: Line) -> None:
        await line.greet()
        line.cut()

    async def second(line: Line) -> None:
        await line.greet(resumed=True)
        await line.part()

    again = asyncio.Event()

    def hook(event: Event) -> None:
        if isinstance(event, Disconnected):
            user._outbox.append(Send(b"of yesterday"))
        if isinstance(event, Resumed) and event.is_same:
            again.set()

    async with gateway(first, second) as url:
        user = client(url, hook=hook)
        async with user:
            await again.wait()


async def test_goaway_is_shown() -> None:
    """With the reason why the connection will end."""

    async def first(line: Line) -> None:
        await line.greet()
        await line.say(GoAway(reason="drain", retry_after_ms=0))
        await line.end(4001)

    async def second(line: Line) -> None:
        await line.greet(resumed=True)
        await line.part()

    seen: list[Event] = []
    again = asyncio.Event()

    def hook(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Resumed) and event.is_same:
            again.set()

    async with gateway(first, second) as url, client(url, hook=hook):
        await again.wait()
    assert [type(event).__name__ for event in seen] == [
        "Welcome",
        "Resumed",
        "GoAway",
        "Disconnected",
        "Welcome",
        "Resumed",
    ]


# Leaving


async def test_error_of_the_application_comes_out_as_it_is() -> None:
    """After a `bye` all the same."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.part()

    async with gateway(script) as url:
        with pytest.raises(KeyError, match="mine"):
            async with client(url):
                raise KeyError("mine")


async def test_cancellation_leaves_at_once_and_leaves_nothing_behind() -> None:
    """No `bye`, no task, and the cancellation goes on."""
    inside = asyncio.Event()

    async def script(line: Line) -> None:
        await line.greet()
        await line.socket.wait_closed()

    async def use(url: str) -> None:
        async with client(url) as user:
            inside.set()
            await anext(user.events())

    async with gateway(script) as url:
        task = asyncio.get_running_loop().create_task(use(url))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [one for one in asyncio.all_tasks() if "Client" in one.get_name()]


async def test_cancellation_while_entering_leaves_nothing_behind() -> None:
    """As above, before the welcome."""
    said = asyncio.Event()

    async def script(line: Line) -> None:
        await line.take("hello")
        said.set()
        await line.socket.wait_closed()

    async def use(url: str) -> None:
        async with client(url):
            pass

    async with gateway(script) as url:
        task = asyncio.get_running_loop().create_task(use(url))
        await said.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_fault_of_the_hook_ends_the_session() -> None:
    """It is the application's, so it is raised where the application waits."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.socket.wait_closed()

    def hook(event: Event) -> None:
        if isinstance(event, Resumed):
            raise ZeroDivisionError("in the hook")

    async with gateway(script) as url:
        with pytest.raises(ZeroDivisionError, match="in the hook"):
            async with client(url, hook=hook) as user:
                await submitted(user)


async def test_client_is_entered_once() -> None:
    """Before it nothing can be asked, after it neither."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.part()

    async with gateway(script) as url:
        user = client(url)
        with pytest.raises(RuntimeError, match="enter the client first"):
            await submitted(user)
        async with user:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            await user.__aenter__()
        with pytest.raises(Closed, match="1000 normal"):
            await submitted(user)


async def test_full_stream_does_not_hold_up_leaving() -> None:
    """The reader goes on once the application has left."""

    async def script(line: Line) -> None:
        await line.greet()
        await line.accept(*[notice(seq) for seq in range(2, 50)])
        await line.part()

    async with gateway(script) as url, client(url, max_queued=2) as user:
        job = await submitted(user)
        await until_full(job)
    # Had the reader stood still until the client gave up, the feed would hold the first two.
    assert len(job._feed) == 49
    with pytest.raises(Closed, match="1000"):
        [event async for event in job]
