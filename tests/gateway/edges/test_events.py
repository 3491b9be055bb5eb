import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.types import Message

from gateway.edges.events import HIGH_WATER, Addresses, EventStream, Streams
from gateway.edges.links import TenantLinks
from gateway.flow.supervise import Supervisor
from protocol.delivery import Delivery
from protocol.messages import Notice, Previews
from protocol.session import Timing
from tests.gateway.edges.conftest import Site
from tests.gateway.node import Hands, NodeUnderTest, open_node
from tests.gateway.parts import EPOCH, PUBLIC_URL


@dataclass
class Event:
    """One server-sent event."""

    id: str | None
    name: str
    data: Any


@dataclass
class Reader:
    """An open stream, read event by event."""

    response: aiohttp.ClientResponse
    lines: list[str] = field(default_factory=list)

    async def block(self) -> list[str]:
        """Return the lines up to the next empty one; none at the end of the stream."""
        lines = []
        while (line := (await self.response.content.readline()).decode()) not in ("\n", ""):
            lines.append(line.rstrip("\n"))
        return lines

    async def event(self) -> Event | None:
        """Return the next event, `None` at the end."""
        while lines := await self.block():
            told = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if "event" in told:
                return Event(told.get("id"), told["event"], json.loads(told["data"]))
        return None

    async def events(self, count: int) -> list[Event]:
        """Return the next `count` events."""
        found = [await self.event() for _ in range(count)]
        assert None not in found, "the stream ended before"
        return [one for one in found if one is not None]

    async def rest(self) -> list[Event]:
        """Return everything up to the end."""
        found = []
        while (one := await self.event()) is not None:
            found.append(one)
        return found


@asynccontextmanager
async def following(
    site: Site, job: str, query: str = "", key: str | None = "", **headers: str
) -> AsyncIterator[Reader]:
    """Open a job's stream."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        told["Authorization"] = f"Bearer {key or site.key}"
    async with site.client.get(f"{site.url}/v1/jobs/{job}/events{query}", headers=told) as response:
        assert response.status == 200, await response.text()
        yield Reader(response)


async def working(site: Site, ref: str = "ref-1", n: int = 1) -> Hands:
    """Submit a job of acme's own and claim it."""
    await site.test.submit(await site.test.identity(site.key), ref, n=n)
    return await site.test.claim()


def watchers(site: Site, job: str) -> int:
    """How many watch a job on the node."""
    feed = site.test.node.feeds.get(job)
    return 0 if feed is None else len(feed.watchers)


async def until(condition: Any) -> None:
    """Let the loop turn until something holds that no event tells."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


# --- the stream ---


async def test_stream_tells_a_job_from_its_first_event_to_its_last(site: Site) -> None:
    """Numbered events with an id, passing ones without, the same JSON as on the socket, and then the end."""
    hands = await working(site)
    async with following(site, hands.job) as reader:
        assert reader.response.headers["Content-Type"].startswith("text/event-stream")
        assert reader.response.headers["X-Accel-Buffering"] == "no"
        assert reader.response.headers["Cache-Control"] == "no-store"
        assert "Content-Encoding" not in reader.response.headers
        assert await reader.block() == ["retry: 2000"]
        [accepted] = await reader.events(1)
        await hands.start()
        hands.progress(1)
        hands.progress(2)
        await hands.image()
        await hands.complete()
        told = [accepted, *await reader.rest()]
    assert [(one.id, one.name) for one in told] == [
        (f"1.{EPOCH}", "accepted"),
        (f"2.{EPOCH}", "started"),
        (None, "progress"),
        (None, "progress"),
        (f"3.{EPOCH}", "image"),
        (f"4.{EPOCH}", "completed"),
    ]
    for one in told:
        assert one.data["type"] == one.name
        assert one.data["job"] == hands.job
    assert accepted.data["ref"] == "ref-1"
    assert [one.data["step"] for one in told[2:4]] == [1, 2]
    assert (await site.ask("GET", told[4].data["url"], key=None)).status == 200
    assert told[-1].data["cost_micros"] == 400
    assert watchers(site, hands.job) == 0
    assert site.test.node.feeds.get(hands.job) is None


async def test_every_step_reaches_a_reader_that_keeps_up(site: Site) -> None:
    """Also when many steps come in one turn of the loop."""
    hands = await working(site)
    async with following(site, hands.job) as reader:
        await hands.start()
        await reader.events(2)
        for step in range(1, 101):
            hands.progress(step, steps=100)
        assert [one.data["step"] for one in await reader.events(100)] == list(range(1, 101))


async def test_progress_is_capped_where_the_reader_says_so(site: Site) -> None:
    """`progress_max_hz` lets the newest out when its time has come."""
    hands = await working(site)
    async with following(site, hands.job, "?progress_max_hz=20") as reader:
        await hands.start()
        await reader.events(2)
        for step in range(1, 101):
            hands.progress(step, steps=100)
        assert [one.data["step"] for one in await reader.events(2)] == [1, 100]


async def test_preview_is_told_with_an_address_that_opens_it(site: Site) -> None:
    """The address has the policy of the stream and needs no header."""
    hands = await working(site)
    async with following(site, hands.job, "?max_edge=128&quality=90") as reader:
        await hands.start()
        await reader.events(2)
        hands.preview(step=2, edge=300)
        [preview] = await reader.events(1)
        assert (preview.id, preview.name) == (None, "preview")
        facts = {name: preview.data[name] for name in ("frame", "step", "steps", "w", "h")}
        assert facts == {"frame": 1, "step": 2, "steps": 4, "w": 128, "h": 128}
        assert "max_edge=128&format=jpeg&quality=90&frame=1&sig=" in preview.data["url"]
        answer = await site.ask("GET", preview.data["url"], key=None)
        assert (answer.status, answer.headers["Preview-Size"]) == (200, "128x128")
        assert site.test.node.feeds.encoded == 1


async def test_previews_can_be_switched_off(site: Site) -> None:
    """`max_fps=0` costs nobody an encoding."""
    hands = await working(site)
    async with following(site, hands.job, "?max_fps=0&max_edge=64") as reader:
        await hands.start()
        hands.preview(edge=300)
        await hands.complete()
        assert [one.name for one in await reader.rest()] == ["accepted", "started", "completed"]
    assert site.test.node.feeds.encoded == 0


async def test_silent_stream_is_kept_alive_with_comments(tmp_path: Path) -> None:
    """Proxies see something at least every heartbeat."""
    async with open_node(tmp_path, timing=Timing(heartbeat=0.02)) as test:
        identity = await test.identity(await test.add_key())
        stream = await stream_of(test, await test.submit(identity))
        server = FakeServer()
        async with running(stream, server):
            await until(lambda: server.text.count(":\n\n") >= 3)
        assert server.text.startswith("retry: 2000\n\nid: 1.")


# --- who may ---


async def test_events_url_of_accepted_needs_no_header(site: Site) -> None:
    """Whoever has it watches as a guest: without `ref` and costs."""
    hands = await working(site)
    async with following(site, hands.job) as reader:
        [accepted] = await reader.events(1)
    query = accepted.data["events_url"].removeprefix(f"{PUBLIC_URL}/v1/jobs/{hands.job}/events")
    await hands.start()
    await hands.complete()
    async with following(site, hands.job, query, key=None) as reader:
        told = await reader.rest()
    assert [one.name for one in told] == ["accepted", "started", "completed"]
    for one in told:
        assert not {"ref", "cost_max_micros", "cost_micros"} & set(one.data)


async def test_guest_fetches_previews_by_the_right_it_came_with(site: Site) -> None:
    """The address of a preview gives no more and no longer than the grant."""
    hands = await working(site)
    grant = site.test.node.access.make_grant(hands.job, ["watch"], 1000)
    async with following(site, hands.job, f"?sig={grant}", key=None) as reader:
        await hands.start()
        hands.preview()
        told = await reader.events(3)
    assert told[2].data["url"].endswith(f"&sig={grant}")


@pytest.mark.parametrize("rights,job,status,code", [
    (["cancel"], None, 403, "forbidden"),
    (["watch"], "01JD9Z6Q8M4T7V2XK3B5N0RCEW", 403, "forbidden"),
])  # fmt: skip
async def test_grant_of_something_else_opens_no_stream(
    site: Site, rights: Any, job: str | None, status: int, code: str
) -> None:
    """Another right, or another job's."""
    hands = await working(site)
    grant = site.test.node.access.make_grant(job or hands.job, rights, 60_000)
    answer = await site.ask("GET", f"/v1/jobs/{hands.job}/events?sig={grant}", key=None)
    assert (answer.status, answer.code) == (status, code)
    assert watchers(site, hands.job) == 0


async def test_grant_ends_with_its_time(site: Site) -> None:
    """410 says that it was good once."""
    hands = await working(site)
    grant = site.test.node.access.make_grant(hands.job, ["watch"], 1000)
    site.test.clock.advance(2)
    answer = await site.ask("GET", f"/v1/jobs/{hands.job}/events?sig={grant}", key=None)
    assert (answer.status, answer.code) == (410, "expired")


# --- coming back ---


async def test_reader_that_comes_back_gets_what_it_missed(site: Site) -> None:
    """`Last-Event-ID` is exactly the last number handled; it counts before `after` in the address."""
    hands = await working(site)
    await hands.start()
    await hands.image()
    for query, headers in (
        ("?after=2", {}),
        ("", {"Last_Event_ID": f"2.{EPOCH}"}),
        ("?after=0", {"Last_Event_ID": f"2.{EPOCH}"}),
        ("?after=2", {"Last_Event_ID": ""}),
    ):
        async with following(site, hands.job, query, **headers) as reader:
            assert [one.id for one in await reader.events(1)] == [f"3.{EPOCH}"]


async def test_reader_that_has_the_end_is_told_to_stop(site: Site) -> None:
    """204 stops EventSource; nothing stays behind."""
    hands = await working(site)
    await hands.start()
    await hands.complete()
    for headers in ({"Last_Event_ID": f"3.{EPOCH}"}, {}):
        answer = await site.ask("GET", f"/v1/jobs/{hands.job}/events?after=3", **headers)
        assert (answer.status, answer.body) == (204, b"")
    assert site.test.node.feeds.get(hands.job) is None


async def test_reader_of_a_lost_log_gets_a_snapshot(site: Site) -> None:
    """A number of another epoch, or beyond the log, cannot be continued."""
    hands = await working(site)
    await hands.start()
    for told in ("1.0123456789abcdef", f"9.{EPOCH}"):
        async with following(site, hands.job, Last_Event_ID=told) as reader:
            [snapshot] = await reader.events(1)
            assert (snapshot.id, snapshot.name) == (f"2.{EPOCH}", "snapshot")
            assert (snapshot.data["reset"], snapshot.data["reason"]) == (True, "store_reset")
            assert (snapshot.data["seq"], snapshot.data["state"]) == (2, "running")
            await hands.append(note())
            [following_event] = await reader.events(1)
            assert following_event.name == "notice"
            break
    async with following(site, hands.job, "?after=7") as reader:
        assert (await reader.events(1))[0].data["reason"] == "store_reset"


async def test_end_number_of_another_log_is_no_end(site: Site) -> None:
    """After a restore the reader learns how the job stands now, and then the stream is over."""
    hands = await working(site)
    await hands.start()
    await hands.complete()
    async with following(site, hands.job, Last_Event_ID="3.0123456789abcdef") as reader:
        assert [(one.id, one.data["state"]) for one in await reader.rest()] == [(f"3.{EPOCH}", "completed")]


async def test_reader_of_a_trimmed_log_gets_a_snapshot(site: Site) -> None:
    """Only the end event is left, and it has everything."""
    hands = await working(site)
    await hands.start()
    await hands.image()
    await hands.complete()
    await site.test.ledger.jobs.trim(site.test.clock.time_ms() + 1, 0)
    async with following(site, hands.job, "?after=1") as reader:
        [snapshot] = await reader.rest()
    assert (snapshot.name, snapshot.id, snapshot.data["reason"]) == ("snapshot", f"4.{EPOCH}", "trimmed")
    assert len(snapshot.data["images"]) == 1
    assert site.test.node.feeds.get(hands.job) is None


@pytest.mark.parametrize("told,path", [
    ({"Last_Event_ID": "x"}, "Last-Event-ID"), ({"Last_Event_ID": "1"}, "Last-Event-ID"),
    ({"Last_Event_ID": "99999999999.x"}, "Last-Event-ID"),
])  # fmt: skip
async def test_position_that_is_none_is_refused(site: Site, told: dict[str, str], path: str) -> None:
    """Nothing is guessed."""
    hands = await working(site)
    answer = await site.ask("GET", f"/v1/jobs/{hands.job}/events", **told)
    assert (answer.status, answer.code, answer.json["error"]["details"]["path"]) == (422, "invalid_param", path)
    answer = await site.ask("GET", f"/v1/jobs/{hands.job}/events?after=-1")
    assert answer.json["error"]["details"]["path"] == "after"


@pytest.mark.parametrize("cut_at", range(12))
async def test_stream_cut_anywhere_is_continued_without_loss(site: Site, cut_at: int) -> None:
    """Whatever the reader had when it was cut, it ends with each number once."""
    hands = await working(site, n=2)
    seen: list[str] = []
    last = ""
    steps = [hands.start(), hands.image(0, 2), hands.image(1, 2), hands.complete()]
    async with following(site, hands.job) as reader:
        for _ in range(cut_at // 3):
            await steps.pop(0)
        for one in await reader.events(min(cut_at // 3 + 1, 1 + cut_at % 3)):
            if one.id is not None:
                seen.append(one.id)
                last = one.id
    for step in steps:
        await step
    if last == f"5.{EPOCH}":
        return
    async with following(site, hands.job, Last_Event_ID=last) as reader:
        seen += [one.id for one in await reader.rest() if one.id is not None]
    assert seen == [f"{number}.{EPOCH}" for number in range(1, 6)]


# --- leaving ---


async def test_reader_that_leaves_is_forgotten_at_once(site: Site) -> None:
    """Its watcher goes with the connection, and the feed with the last watcher."""
    identity = await site.test.identity(site.key)
    job = await site.test.submit(identity)
    async with following(site, job) as reader, following(site, job) as other:
        await reader.events(1)
        await other.events(1)
        assert (watchers(site, job), len(site.streams)) == (2, 2)
        other.response.close()
        await until(lambda: watchers(site, job) == 1)
    await until(lambda: site.test.node.feeds.get(job) is None)
    assert len(site.streams) == 0


async def test_head_of_a_stream_is_no_stream(site: Site) -> None:
    """It tells the headers and leaves nothing behind."""
    job = await site.test.submit(await site.test.identity(site.key))
    answer = await site.ask("HEAD", f"/v1/jobs/{job}/events")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert site.test.node.feeds.get(job) is None


async def test_stopping_node_ends_its_streams_and_takes_no_more(site: Site) -> None:
    """Readers come back elsewhere with what they have."""
    hands = await working(site)
    async with following(site, hands.job) as reader:
        await reader.events(1)
        site.streams.drain()
        assert await reader.rest() == []
    answer = await site.ask("GET", f"/v1/jobs/{hands.job}/events")
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "overloaded", "2")


# --- slow readers, with a server whose socket the test holds ---


class FakeServer:
    """The server's side of ASGI: a socket that takes everything, nothing, or one batch at a time."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.left = asyncio.Event()
        self.finished = False

    @property
    def text(self) -> str:
        return b"".join(self.taken).decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: ")]

    async def send(self, message: Message) -> None:
        await self.may_take.wait()
        self.taken.append(message.get("body", b""))
        self.finished = message.get("more_body") is False

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def stream_of(test: NodeUnderTest, job: str, policy: Previews | None = None) -> EventStream:
    """Return a stream from the job's beginning."""
    feed = await test.node.feeds.open(job)
    delivery = Delivery(test.node.limits, test.node.limits.max_message, 0, policy or Previews(), "url")
    delivery.watch(job, 0, owner=True)
    links = TenantLinks(PUBLIC_URL, test.node.access, "acme")
    return EventStream(test.node, Streams(), feed, delivery, Addresses(links, job, "grant"))


@asynccontextmanager
async def running(stream: EventStream, server: FakeServer, **scope: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Answer with a stream while the context lasts, as a server would."""
    failures: list[BaseException] = []
    supervisor = Supervisor(lambda _, error: failures.append(error))
    task = supervisor.start(stream({"type": "http", "method": "GET", **scope}, server.receive, server.send), "answer")
    try:
        yield task
    finally:
        await supervisor.stop()
    assert failures == []


def note() -> Notice:
    """Return a numbered event of 10 KiB."""
    return Notice(job="01JD9Z6Q8M4T7V2XK3B5N0RCEW", seq=0, time_ms=1, code="param_clamped", message="x" * 10_000)


async def test_slow_reader_gets_each_number_and_the_newest_step(node: NodeUnderTest) -> None:
    """While the socket takes nothing only a cursor is kept: steps are merged, numbers wait in their log."""
    job = await node.submit(await node.identity(await node.add_key()))
    hands = await node.claim()
    server = FakeServer()
    stream = await stream_of(node, job)
    async with running(stream, server) as task:
        await until(lambda: len(server.events) == 1)
        server.may_take.clear()
        await hands.start(steps=1000)
        for step in range(1, 501):
            hands.progress(step, steps=1000)
            hands.preview(step)
            await asyncio.sleep(0)
            assert len(stream._waiting) < 1000, "at most what came before the send"
        for _ in range(40):
            await hands.append(note())
            hands.progress(501, steps=1000)
        assert len(stream._waiting) < 1000
        server.may_take.set()
        await hands.complete()
        await task
    told = server.events
    assert [one["seq"] for one in told if "seq" in one] == list(range(1, 44))
    steps = [one["step"] for one in told if one["type"] == "progress"]
    assert len(steps) <= 2
    assert server.finished


async def test_long_log_is_told_in_batches(node: NodeUnderTest) -> None:
    """A stream never holds much more than its mark, however much there is to tell."""
    job = await node.submit(await node.identity(await node.add_key()))
    hands = await node.claim()
    await hands.start()
    for _ in range(40):
        await hands.append(note())
    server = FakeServer()
    async with running(await stream_of(node, job), server):
        await until(lambda: len(server.events) == 42)
    assert max(len(batch) for batch in server.taken) < HIGH_WATER + 11_000


async def test_reader_that_takes_no_number_for_long_is_cut(tmp_path: Path) -> None:
    """The transport is aborted, because to end the answer in order would wait for the reader again."""
    async with open_node(tmp_path, timing=Timing(slow=0.1)) as test:
        job = await test.submit(await test.identity(await test.add_key()))
        hands = await test.claim()
        server, stream = FakeServer(), await stream_of(test, job)
        async with running(stream, server, **{"safelight.abort": server.left.set}) as task:
            await until(lambda: len(server.events) == 1)
            server.may_take.clear()
            await hands.start()
            await hands.append(note())
            async with asyncio.timeout(5):
                await task
        feed = test.node.feeds.get(job)
        assert feed is not None
        assert feed.watchers == set()
        assert server.left.is_set()
        assert not server.finished
        assert test.meter.counted["events_given_up",] == 1


async def test_reader_that_takes_a_number_now_and_then_is_kept(tmp_path: Path) -> None:
    """Slow is allowed; what counts is that each number gets through in time."""
    async with open_node(tmp_path, timing=Timing(slow=0.2)) as test:
        job = await test.submit(await test.identity(await test.add_key()))
        hands = await test.claim()
        server = FakeServer()
        async with running(await stream_of(test, job), server) as task:
            await until(lambda: len(server.events) == 1)
            for number in range(2, 6):
                server.may_take.clear()
                await (hands.start() if number == 2 else hands.append(note()))
                # The wait is what is tested: half of what a number may wait.
                await asyncio.sleep(0.1)
                server.may_take.set()
                await until(lambda number=number: len(server.events) == number)
            assert not task.done()
            server.left.set()
            await task


async def test_reader_that_takes_no_step_is_kept(tmp_path: Path) -> None:
    """Passing events may wait for ever: they are merged, so they cost nothing."""
    async with open_node(tmp_path, timing=Timing(slow=0.05)) as test:
        job = await test.submit(await test.identity(await test.add_key()))
        hands = await test.claim()
        await hands.start()
        server = FakeServer()
        async with running(await stream_of(test, job), server) as task:
            await until(lambda: len(server.events) == 2)
            server.may_take.clear()
            hands.progress(1)
            await asyncio.sleep(0.2)  # four times what a number may wait
            assert not task.done()
            server.left.set()
            await task


async def test_slow_reader_delays_nobody(node: NodeUnderTest) -> None:
    """Another reader of the same job gets every step meanwhile."""
    job = await node.submit(await node.identity(await node.add_key()))
    hands = await node.claim()
    slow, quick = FakeServer(), FakeServer()
    slow.may_take.clear()
    async with running(await stream_of(node, job), slow), running(await stream_of(node, job), quick) as task:
        await until(lambda: len(quick.events) == 1)
        await hands.start(steps=50)
        for step in range(1, 51):
            hands.progress(step, steps=50)
        await hands.complete()
        await task
    assert [one["step"] for one in quick.events if one["type"] == "progress"] == list(range(1, 51))
    assert slow.taken == []
