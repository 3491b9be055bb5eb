"""The application's side of a feed: events as an async iterator.

It knows no event loop: whoever makes a stream brings the signal that it waits with, an `asyncio.Event`.
"""

from typing import Protocol, Self

from protocol.feed import Feed
from protocol.replica_effects import Event


class Signal(Protocol):
    """What an `asyncio.Event` offers."""

    def set(self) -> None: ...
    def clear(self) -> None: ...
    async def wait(self) -> object: ...


class Owner(Protocol):
    """What a stream asks of the client that fills it."""

    def look_for_room(self) -> None: ...
    async def cancel(self, job: str) -> None: ...
    async def unwatch(self, job: str) -> None: ...


class Stream:
    """Events for one reader: `async for event in stream`. It ends with the client, or raises `Closed`.

    Keep the object and take its events; one that is dropped is not waited for.
    """

    def __init__(self, owner: Owner, feed: Feed, news: Signal) -> None:
        self._owner = owner
        self._feed = feed
        self._news = news
        self._is_over = False
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._feed}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._feed:
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        event = self._feed.take()
        self._owner.look_for_room()
        return event

    @property
    def is_full(self) -> bool:
        """Whether the client reads nothing more until an event is taken."""
        return self._feed.is_full

    def put(self, event: Event) -> None:
        """Add an event; called by the client."""
        self._feed.put(event)
        self._news.set()

    def finish(self, failure: Exception | None = None) -> None:
        """Let the reader end after the last event, with `failure` if there is one; called by the client."""
        self._is_over = True
        self._failure = failure
        self._news.set()


class Job(Stream):
    """A job that is followed: its events in order, its end event last.

    Raises `Refused` where the server serves the job no longer.
    """

    def __init__(self, owner: Owner, feed: Feed, news: Signal, job: str) -> None:
        super().__init__(owner, feed, news)
        self.id = job

    async def cancel(self) -> None:
        """Wish that the job end; its end event tells what happened. Raises `Refused` if that is not allowed."""
        await self._owner.cancel(self.id)

    async def unwatch(self) -> None:
        """Follow the job no longer; it goes on."""
        await self._owner.unwatch(self.id)
