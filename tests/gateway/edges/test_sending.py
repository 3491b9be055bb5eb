import asyncio
from typing import Any

from starlette.responses import Response
from starlette.types import Message

from gateway.edges.sending import SLICE, Unsent, in_slices


async def receive() -> Message:
    """Stands for a client that says nothing more."""
    return await asyncio.Event().wait()  # type: ignore[return-value]


def scope_of(cut: list[str], name: str = "") -> dict[str, Any]:
    """Return the scope of a request whose connection notes in `cut` that it was cut."""
    return {"type": "http", "method": "GET", "safelight.abort": lambda: cut.append(name)}


async def sent_of(size: int) -> list[Message]:
    """Return what the server is given of an answer of so many bytes."""
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    await in_slices(Response(bytes(size)), Unsent())(scope_of([]), receive, send)
    return told


async def test_large_answer_goes_out_in_slices() -> None:
    """Each is bounded, together they are the answer, and only the last one ends it."""
    start, *parts = await sent_of(3 * SLICE + 5)
    assert start["type"] == "http.response.start"
    assert [len(part["body"]) for part in parts] == [SLICE, SLICE, SLICE, 5]
    assert [part["more_body"] for part in parts] == [True, True, True, False]


async def test_small_answer_goes_out_as_it_is() -> None:
    """One message, up to the very size of a slice."""
    for size in (0, 1, SLICE):
        assert [len(part["body"]) for part in (await sent_of(size))[1:]] == [size]


async def test_oldest_reader_is_cut_where_the_answers_are_too_much() -> None:
    """The newest goes on, however large; what was sent to its end is counted no more."""
    unsent, cut = Unsent(most=4 * SLICE), list[str]()
    is_read = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await is_read.wait()

    async def read(size: int, name: str) -> None:
        await in_slices(Response(bytes(size)), unsent)(scope_of(cut, name), receive, send)

    async with asyncio.TaskGroup() as tasks:
        for name in ("first", "second", "third"):
            tasks.create_task(read(2 * SLICE, name))
            await asyncio.sleep(0)
        assert cut == ["first"]
        assert unsent.bytes == 4 * SLICE
        tasks.create_task(read(9 * SLICE, "huge"))
        await asyncio.sleep(0)
        assert cut == ["first", "second", "third"]
        is_read.set()
    assert unsent.bytes == 0
