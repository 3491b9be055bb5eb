"""Who is connected: opening, resuming, taking over, and the end of a session."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.records import SessionRecord
from protocol.messages import Limits
from tests.gateway.flow.studio import (
    Client,
    ScriptedUpstream,
    Studio,
    leap,
    open_studio,
    paints,
    patiently,
    soon,
    until,
)
from tests.gateway.parts import SESSION_TTL_MS

TTL_SECONDS = SESSION_TTL_MS / 1000


async def joined(studio: Studio, subject: str = "", **hello: Any) -> Client:
    """Return a client that said hello and was welcomed."""
    client = Client(studio, await studio.identity("acme", subject))
    assert (await client.hello(**hello))[0]["type"] == "welcome"
    return client


def session_of(client: Client) -> SessionRecord:
    """Return the session that a client's connection holds."""
    assert client.connection.session is not None
    return client.connection.session


async def expired(studio: Studio) -> list[str]:
    """Return the sessions whose time is over."""
    return await studio.ledger.sessions.expired(studio.clock.time_ms())


@patiently
async def test_session_opened_again_is_taken_from_its_older_connection(tmp_path: Path) -> None:
    """4505 for the older one, whose end takes nothing from the newer one."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        older = await joined(studio)
        newer = await joined(studio, resume=older.resume)
        assert (older.wire.closed, newer.wire.closed) == ((4505, "replaced"), None)
        assert session_of(newer).generation == 2
        await older.gone()
        job = await newer.submit()
        await studio.ended(job)
        assert newer.types() == "started progress progress image completed"
        await studio.node.sessions.renew()
        assert newer.wire.closed is None
        await newer.gone()
        assert len(studio.node.sessions) == 0


@pytest.mark.parametrize("how", ["subject", "tenant", "text", "ended"])
@patiently
async def test_session_of_somebody_else_is_not_resumed(tmp_path: Path, how: str) -> None:
    """A new one is opened, and the owner notices nothing."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        owner = await joined(studio)
        if how == "ended":
            await owner.say("bye")
            await owner.gone()
        identity = await studio.identity("other" if how == "tenant" else "acme", "player" if how == "subject" else "")
        client = Client(studio, identity)
        [welcome, _] = await client.hello(resume=owner.resume[:-1] + "." if how == "text" else owner.resume)
        assert welcome["resumed"] is False
        assert owner.wire.closed in (None, (1000, "normal"))


@patiently
async def test_have_brings_a_job_of_ones_own_and_of_nobody_else(tmp_path: Path) -> None:
    """A job that was submitted elsewhere (over REST) is replayed by position; another's is not."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio, "player")
        foreign = await studio.submit("ref-1")
        other = await joined(studio, "player")
        mine = await other.submit("ref-2")
        await client.gone()
        again = Client(studio, await studio.identity("acme", "player"))
        told = await again.hello(
            resume=client.resume,
            have=[{"job": mine, "seq": 0}, {"job": foreign, "seq": 0}, {"job": "01JD9Z6Q8M4T7V2XK3B5N0RCEW", "seq": 3}],
        )
        assert [(one["type"], one.get("job")) for one in told] == [
            ("welcome", None),
            ("accepted", mine),
            ("synced", None),
        ]


@patiently
async def test_connections_of_a_subject_are_bounded(tmp_path: Path) -> None:
    """4010 after a `goaway`; another subject has its own, and one that goes makes room."""
    async with open_studio(tmp_path, ScriptedUpstream(), limits=Limits(max_connections=2)) as studio:
        clients = [await joined(studio) for _ in range(2)]
        await joined(studio, "player")
        third = Client(studio, await studio.identity())
        [goaway] = await third.hello()
        assert (goaway["type"], goaway["reason"]) == ("goaway", "connection_limit")
        assert third.wire.closed == (4010, "connection_limit")
        await third.gone()
        await clients[0].gone()
        await joined(studio)
        assert len(studio.node.sessions) == 3


@patiently
async def test_drain_sends_everybody_away_and_lets_nobody_in(tmp_path: Path) -> None:
    """Each with its own time to stay away; the sessions live on."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        clients = [await joined(studio) for _ in range(5)]
        studio.node.sessions.drain()
        waits = [client.told()[0]["retry_after_ms"] for client in clients]
        assert {client.wire.closed for client in clients} == {(4001, "going_away")}
        assert len(set(waits)) > 1
        late = Client(studio, await studio.identity())
        await late.hello()
        assert late.wire.closed is not None
        for client in clients:
            await client.gone()
        assert len(studio.node.sessions) == 0
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        again = await joined(studio, resume=clients[0].resume)
        assert session_of(again).generation == 2


@patiently
async def test_connection_that_is_opening_when_the_node_drains_is_closed_in_peace(tmp_path: Path) -> None:
    """It is admitted and not yet live: no failure, no welcome after the close."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = Client(studio, await studio.identity())
        opening = asyncio.ensure_future(client.hello())
        while not len(studio.node.sessions):
            await asyncio.sleep(0)
        studio.node.sessions.drain()
        assert [one["type"] for one in await opening] == ["goaway"]
        assert client.wire.closed == (4001, "going_away")
        await client.gone()
        assert len(studio.node.sessions) == 0


@patiently
async def test_two_resumes_at_once_leave_one_connection(tmp_path: Path) -> None:
    """The later generation has it; the earlier is told so, whichever was faster."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        first = await joined(studio)
        await first.gone()
        rivals = [Client(studio, await studio.identity()) for _ in range(3)]
        await asyncio.gather(*(rival.hello(resume=first.resume) for rival in rivals))
        await studio.node.sessions.renew()
        alive = [rival for rival in rivals if rival.wire.closed is None]
        assert len(alive) == 1
        assert session_of(alive[0]).generation == 4
        assert [rival.wire.closed for rival in rivals if rival not in alive] == [(4505, "replaced")] * 2


@patiently
async def test_session_taken_over_on_another_node_closes_the_connection_here(tmp_path: Path) -> None:
    """The renewal finds another generation."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client, other = await joined(studio), await joined(studio)
        now = studio.clock.time_ms()
        await studio.ledger.sessions.resume(session_of(client).id, "acme", "", now, now + SESSION_TTL_MS)
        await studio.node.sessions.renew()
        assert (client.wire.closed, other.wire.closed) == ((4505, "replaced"), None)


@patiently
async def test_resume_here_while_sessions_are_renewed_is_not_taken_for_one_elsewhere(tmp_path: Path) -> None:
    """The renewal asks for the generation before; its answer is about a connection that is gone already."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        older = await joined(studio)
        newer = Client(studio, await studio.identity())
        resuming = asyncio.ensure_future(newer.hello(resume=older.resume))
        await asyncio.sleep(0)  # its write is under way; that of the renewal is right behind it
        await studio.node.sessions.renew()
        await resuming
        assert (older.wire.closed, newer.wire.closed) == ((4505, "replaced"), None)
        assert session_of(newer).generation == 2


@patiently
async def test_session_lives_while_connected_and_for_its_time_after(tmp_path: Path) -> None:
    """Renewed while it is held, renewed once more when the connection goes; then it ends."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        for _ in range(40):
            await asyncio.sleep(TTL_SECONDS / 10)  # virtual
            client.connection.byte_received()
            await studio.node.sessions.renew()
        assert (await expired(studio), client.wire.closed) == ([], None)
        await client.gone()
        await asyncio.sleep(TTL_SECONDS - 5)  # virtual
        await studio.node.sessions.sweep()
        again = Client(studio, await studio.identity())
        assert (await again.hello(resume=client.resume))[0]["resumed"] is True
        await again.gone()
        await asyncio.sleep(TTL_SECONDS + 5)  # virtual
        assert await expired(studio) == [session_of(again).id]
        late = Client(studio, await studio.identity())
        assert (await late.hello(resume=again.resume))[0]["resumed"] is False
        await studio.node.sessions.sweep()
        assert await expired(studio) == []


@patiently
async def test_expired_session_cancels_the_jobs_that_said_so(tmp_path: Path) -> None:
    """A queued one and a running one end by `session`; one that is to go on goes on."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()))
    async with open_studio(tmp_path, upstream, serving=True, concurrency=1) as studio:
        client = await joined(studio)
        running = await client.submit("ref-1", on_disconnect="cancel")
        await until(lambda: len(upstream.orders) == 1)
        queued = await client.submit("ref-2", on_disconnect="cancel")
        kept = await client.submit("ref-3")
        await client.gone()
        await asyncio.sleep(TTL_SECONDS - 1)  # virtual
        await studio.node.sessions.sweep()
        assert (await studio.record(running)).state == "running"
        await asyncio.sleep(2)  # virtual
        await studio.node.sessions.sweep()
        ends = await studio.ended(running, queued, kept)
        assert [getattr(end, "by", None) for end in ends] == ["session", "session", None]


@patiently
async def test_live_connection_keeps_its_session_although_its_time_seems_over(tmp_path: Path) -> None:
    """The machine slept: the sweep renews before it ends anything."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        job = await client.submit(on_disconnect="cancel")
        await leap(3 * TTL_SECONDS)
        assert await expired(studio) == [session_of(client).id]
        await studio.node.sessions.sweep()
        assert (await expired(studio), (await studio.record(job)).state) == ([], "queued")
        await soon()


@patiently
async def test_renewing_nothing_asks_nobody(tmp_path: Path) -> None:
    """A node without clients leaves the ledger alone."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        reads = studio.ledger.store.reads
        await studio.node.sessions.renew()
        assert studio.ledger.store.reads == reads
