"""How the Python client ends: by its credentials, by the server, and by leaving."""

import asyncio
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from protocol.client import Client
from protocol.messages import GoAway
from protocol.refusals import Closed
from protocol.replica_effects import Disconnected, Event, Resumed, Send
from tests.protocol.playbook import completed, notice, started
from tests.protocol.scripted_server import Line, client, gateway, seqs, submitted, until_full

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
