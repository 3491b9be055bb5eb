"""What clients and clocks do wrong to sessions and credentials: nothing is lost, nothing happens twice."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.depth import deep_count
from tests.end_to_end.fault_parts import (
    SetClock,
    another_key,
    answer_to,
    ask,
    connect,
    jobs_of,
    numbered_until,
    read_until,
    submit,
    token_of,
)
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.end_to_end.raw import BINARY, CLOSE, RawSocket

HOUR_MS = 3_600_000


# --- hello, resume, credentials ---


async def test_second_hello_on_a_connection_is_closed_with_4500(tmp_path: Path) -> None:
    """A session is opened once a connection; its session lives on and resumes."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send({"type": "hello", "v": 1, "token": running.key})
        assert await one.closing() == 4500
        two = await RawSocket.open(running.url)
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await two.until("welcome"))["resumed"] is True
        one.cut()
        two.cut()


async def _ending(one: RawSocket) -> tuple[list[int], int | None]:
    """The numbers that a connection got, and its close code if it was closed before the job's end."""
    numbers: list[int] = []
    while True:
        opcode, payload = await one.receive()
        if opcode == CLOSE:
            return numbers, one.close_code
        if opcode != BINARY and payload.startswith(b"{"):
            message = json.loads(payload)
            numbers += [message["seq"]] if "seq" in message else []
            if message["type"] == "completed":
                return numbers, None


async def test_of_two_connections_that_resume_at_the_same_moment_one_lives(tmp_path: Path) -> None:
    """The other is closed with 4505, and the one that lives gets every number; whoever is first."""
    paper = PaperUpstream()
    async with gateway_here(tmp_path, upstreams=[paper], limits__max_connections=500) as running:
        for _ in range(deep_count(5, 100)):
            paper.hold = asyncio.Event()
            first = await RawSocket.open(running.url)
            synced = await first.hello(running.key)
            first.send(submit(synced["resume"][-20:-1].replace(".", "-")))
            await first.until("accepted")
            first.cut()
            both = [await RawSocket.open(running.url) for _ in range(2)]
            for one in both:
                one.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
            loser = asyncio.create_task(_ending(both[0])), asyncio.create_task(_ending(both[1]))
            done, _ = await asyncio.wait(loser, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1, "one is closed while the work is held"
            assert done.pop().result()[1] == 4505
            paper.hold.set()
            results = await asyncio.gather(*loser)
            (winner,) = [numbers for numbers, code in results if code is None]
            assert winner == [1, 2, 3, 4]
            for one in both:
                one.cut()


async def test_old_resume_token_of_a_session_stays_valid(tmp_path: Path) -> None:
    """A `synced` that was lost on its way does no harm."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await RawSocket.open(running.url)
        first = (await one.hello(running.key))["resume"]
        for _ in range(3):
            one.cut()
            one = await RawSocket.open(running.url)
            one.send({"type": "hello", "v": 1, "token": running.key, "resume": first})
            assert (await one.until("welcome"))["resumed"] is True
            await one.until("synced")
        one.cut()


async def test_resume_token_of_somebody_else_or_a_tampered_one_opens_a_new_session(tmp_path: Path) -> None:
    """Nothing of the session is told to whoever does not own it, and it stays with its owner."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        owner = await RawSocket.open(running.url)
        owner.send({"type": "hello", "v": 1, "token": running.key})
        session = (await owner.until("welcome"))["session"]
        resume = (await owner.until("synced"))["resume"]
        owner.send(submit("mine"))
        job = (await owner.until("accepted"))["job"]
        flipped = resume[:-3] + ("A" if resume[-3] != "A" else "B") + resume[-2:]
        head, key, body, mac = resume.split(".")
        tried = [
            (await another_key(running, "other"), resume),
            (await token_of(running, "somebody"), resume),
            (running.key, flipped),
            (running.key, f"{head}.{key}.{body[:-2]}.{mac}"),
            (running.key, f"g1.{key}.{body}.{mac}"),
            (running.key, f"{head}.ffffffff.{body}.{mac}"),
            (running.key, "\u00e9" * 500),
            (running.key, "..." * 100),
            (running.key, ""),
        ]
        for token, text in tried:
            thief = await RawSocket.open(running.url)
            thief.send({"type": "hello", "v": 1, "token": token, "resume": text, "have": [{"job": job, "seq": 0}]})
            told, _ = await read_until(thief, "synced")
            assert [message["type"] for message in told] == ["welcome", "synced"], text
            assert told[0]["resumed"] is False
            assert told[0]["session"] != session
            thief.cut()
        assert (await answer_to(owner, {"type": "ping", "ref": "still", "t": 1}))["type"] == "pong"
        paper.hold.set()
        await owner.until("completed")
        owner.cut()


async def test_ticket_opens_exactly_one_of_fifty_connections_that_race_for_it(tmp_path: Path) -> None:
    """The others are closed with 4507, also whoever comes later and whoever comes too late."""
    clock = SetClock()
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], clock=clock) as running:
        ticket = json.loads((await ask(running.url, "POST", "/v1/tickets", running.key)).body)["ticket"]
        sockets = await asyncio.gather(*(RawSocket.open(running.url, f"/v1/stream?ticket={ticket}") for _ in range(50)))
        for one in sockets:
            one.send({"type": "hello", "v": 1})
        verdicts = Counter(await asyncio.gather(*(_welcome_or_code(one) for one in sockets)))
        assert verdicts == {"welcome": 1, "4507": 49}
        late = json.loads((await ask(running.url, "POST", "/v1/tickets", running.key)).body)
        clock.ahead_ms += late["expires_in_ms"]
        for text in (ticket, late["ticket"], "never-made", ""):
            one = await RawSocket.open(running.url, f"/v1/stream?ticket={text}")
            assert await one.closing() == 4507
            one.cut()
        for one in sockets:
            one.cut()


async def _welcome_or_code(one: RawSocket) -> str:
    while True:
        opcode, payload = await one.receive()
        if opcode == CLOSE:
            return str(one.close_code)
        if b'"welcome"' in payload:
            return "welcome"


async def test_token_that_expires_on_a_live_connection_is_told_and_closed_with_4005(tmp_path: Path) -> None:
    """`goaway` comes before; with a new token the session goes on, with the old one nobody comes in."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        body = b'{"subject":"player","ttl_ms":1200}'
        made = json.loads((await ask(running.url, "POST", "/v1/tokens", running.key, body)).body)
        one = await RawSocket.open(running.url)
        began = time.monotonic()
        one.send({"type": "hello", "v": 1, "token": made["token"]})
        one.send(submit("long"))
        told: dict[str, dict[str, Any]] = {}
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                while True:
                    message = await one.message()
                    told[message["type"]] = message
        assert one.close_code == 4005
        assert told["goaway"]["reason"] == "auth_expired"
        synced, job = told["synced"], told["accepted"]["job"]
        assert time.monotonic() - began > 0.9
        one.cut()
        old = await RawSocket.open(running.url)
        old.send({"type": "hello", "v": 1, "token": made["token"], "resume": synced["resume"]})
        assert await old.closing() == 4502
        old.cut()
        by_header = await RawSocket.open(running.url, headers=f"Authorization: Bearer {made['token']}\r\n")
        assert await by_header.closing() == 4502
        by_header.cut()
        new = await RawSocket.open(running.url)
        new.send({"type": "hello", "v": 1, "token": await token_of(running, "player"), "resume": synced["resume"]})
        assert (await new.until("welcome"))["resumed"] is True
        paper.hold.set()
        events = await numbered_until(new, "completed")
        assert [(event["job"], event["seq"]) for event in events] == [(job, number) for number in range(1, 5)]
        new.cut()


async def test_revoked_key_and_its_tokens_open_nothing(tmp_path: Path) -> None:
    """The key from that moment, its tokens within two seconds, and soon a connection that stands is ended."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        accounts = running.gateway.ledger.accounts
        key = await another_key(running, "other")
        identity = await running.gateway.node.access.identify(key)
        token = running.gateway.node.access.make_token(identity, "player", HOUR_MS)[0]
        before = await connect(running, token)
        assert await accounts.revoke_key(identity.key, 1)
        for credential, late_seconds in ((key, 0.0), (token, 2.0)):
            await asyncio.sleep(late_seconds)  # what a node believes of a key, it believes by the real clock
            one = await RawSocket.open(running.url)
            one.send({"type": "hello", "v": 1, "token": credential})
            assert await one.closing() == 4502
            one.cut()
            told = await ask(running.url, "GET", "/v1/jobs", credential)
            assert (told.status, told.error["code"]) == (401, "unauthorized")
        assert await before.closing() == 4502
        before.cut()


# --- clocks ---


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
async def test_wall_clock_that_jumps_an_hour_ends_and_repeats_nothing(tmp_path: Path, jump_ms: int) -> None:
    """Work that runs goes on, its session lives and resumes, what waits is begun, and every log is in order."""
    clock, paper = SetClock(), PaperUpstream(billed=True)
    paper.hold = asyncio.Event()
    settings: dict[str, Any] = {
        "work__poll_ms": 50,
        "upstreams__engine__kind": "engine",
        "upstreams__engine__processes": 4,
    }
    async with gateway_here(tmp_path, upstreams=[paper], clock=clock, **settings) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        jobs = []
        for ref in ("a", "b"):
            one.send(submit(ref, on_disconnect="cancel"))
            jobs.append((await one.until("started"))["job"])
        clock.ahead_ms += jump_ms
        sessions, dispatch = running.gateway.node.sessions, running.gateway.dispatch
        await sessions.sweep()
        dispatch.ring(paper.name)
        await running.gateway.node.feeds.poll()
        one.send(submit("after"))
        jobs.append((await one.until("accepted"))["job"])
        await asyncio.sleep(0.3)  # several polls of the queue, in which a lease that seems over would be taken
        assert paper.calls == 3
        one.cut()
        two = await RawSocket.open(running.url)
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await two.until("welcome"))["resumed"] is True
        paper.hold.set()
        seen: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
        async with asyncio.timeout(20):
            while any(not log or log[-1]["type"] != "completed" for log in seen.values()):
                message = await two.message()
                assert message["type"] not in {"failed", "canceled"}, message
                if "seq" in message:
                    seen[message["job"]].append(message)
        for log in seen.values():
            assert [event["seq"] for event in log] == [1, 2, 3, 4]
            assert [event["type"] for event in log] == ["accepted", "started", "image", "completed"]
            assert log[1]["attempt"] == 1
            assert all(value >= 0 for value in log[-1]["timings"].values())
        assert paper.calls == 3
        two.cut()


async def test_session_that_nobody_holds_ends_when_its_time_is_over_and_not_before(tmp_path: Path) -> None:
    """A jump back prolongs it; `on_disconnect: cancel` acts when it ends, and not when the socket drops."""
    clock, paper = SetClock(), PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper], clock=clock) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("ends", on_disconnect="cancel"))
        ends = (await one.until("started"))["job"]
        one.send(submit("goes-on"))
        goes_on = (await one.until("accepted"))["job"]
        one.cut()
        sessions = running.gateway.node.sessions
        async with asyncio.timeout(10):
            while len(sessions):
                await asyncio.sleep(0.01)  # the end of a connection has no event for others
        clock.ahead_ms -= HOUR_MS
        await sessions.sweep()
        assert not any(job.has_ended or job.cancel_by for job in await jobs_of(running))
        watcher = await connect(running)
        for job in (ends, goes_on):
            watcher.send({"type": "watch", "ref": job, "job": job})
        clock.ahead_ms += 2 * HOUR_MS
        canceled = await watcher.until("canceled")
        assert (canceled["job"], canceled["by"]) == (ends, "session")
        paper.hold.set()
        assert (await watcher.until("completed"))["job"] == goes_on
        again = await RawSocket.open(running.url)
        again.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await again.until("welcome"))["resumed"] is False
        watcher.cut()
        again.cut()
