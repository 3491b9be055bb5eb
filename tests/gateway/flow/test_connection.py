"""A connection without a network: hello, replay, back-pressure, finals, and the one timer."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.core.records import Append
from gateway.flow.connection import MAX_UPLOADS_KNOWN
from protocol.header import Flag, Format, Header, Kind, pack, parse, payload
from protocol.messages import Limits, Started
from protocol.session import Phase, Timing
from protocol.tail import PreviewFacts
from tests.gateway.flow.studio import (
    Client,
    ScriptedUpstream,
    Studio,
    open_studio,
    paints,
    patiently,
    picture,
    preview,
    soon,
    until,
)
from tests.gateway.parts import LEASE_MS

UPLOAD = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"


async def joined(studio: Studio, subject: str = "", **hello: Any) -> Client:
    """Return a client that said hello."""
    client = Client(studio, await studio.identity("acme", subject))
    told = await client.hello(**hello)
    assert [one["type"] for one in told][:1] == ["welcome"]
    return client


def upload(name: str, content: bytes) -> bytes:
    """Return an upload in one chunk."""
    header = Header(
        kind=Kind.UPLOAD, format=Format.PNG, job_id=name, total_size=len(content), seq=0, frame=0, width=0, height=0,
        step=0, steps=0, image_index=0, image_count=1, flags=Flag.LAST_CHUNK,
    )  # fmt: skip
    return pack(header) + content


def preview_facts(frame: int) -> PreviewFacts:
    """Return the facts of a preview."""
    return PreviewFacts(frame, 2, frame % 50, 50, 0, 1, approximate=False)


# --- hello ---


@patiently
async def test_hello_is_answered_by_welcome_and_synced(tmp_path: Path) -> None:
    """With a key in the hello itself; only then larger messages are let in."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = Client(studio)
        welcome, synced = await client.hello(token=await studio.add_key())
        assert (welcome["type"], welcome["resumed"], welcome["heartbeat_ms"]) == ("welcome", False, 15_000)
        assert (synced["type"], synced["replayed"]) == ("synced", 0)
        assert client.wire.largest_message == studio.node.largest_message
        assert (client.wire.closed, len(studio.node.sessions)) == (None, 1)
        await client.gone()
        assert len(studio.node.sessions) == 0


@pytest.mark.parametrize("hello", [{}, {"token": "sk-sl-nobody"}, {"token": "t1.k1.e30.AAAA"}])
@patiently
async def test_hello_without_a_good_credential_ends_the_connection(tmp_path: Path, hello: dict[str, str]) -> None:
    """4502, and no session is made."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = Client(studio)
        assert await client.hello(**hello) == []
        assert client.wire.closed == (4502, "unauthorized")
        await client.gone()
        assert len(studio.node.sessions) == 0


@patiently
async def test_job_is_told_from_accepted_to_its_end(tmp_path: Path) -> None:
    """In order, with progress in between; nothing is told twice."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        client = await joined(studio)
        job = await client.submit()
        await studio.ended(job)
        assert client.types() == "started progress progress image completed"
        await client.gone()
        assert len(studio.feeds) == 0


# --- resume ---


@patiently
async def test_resume_replays_what_the_client_lacks_and_then_says_synced(tmp_path: Path) -> None:
    """From each job's own position; the session is the same."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        client = await joined(studio)
        session = client.connection.session
        jobs = sorted([await client.submit(f"ref-{at}") for at in range(2)])
        await client.gone()
        await studio.ended(*jobs)
        again = Client(studio, await studio.identity())
        told = await again.hello(resume=client.resume, have=[{"job": jobs[0], "seq": 3}, {"job": jobs[1], "seq": 1}])
        assert [one["type"] for one in told] == ["welcome", "completed", "started", "image", "completed", "synced"]
        assert (told[0]["resumed"], told[-1]["replayed"]) == (True, 4)
        assert session is not None
        assert told[0]["session"] == session.id


@patiently
async def test_job_whose_end_was_handled_leaves_the_session(tmp_path: Path) -> None:
    """It is not replayed, now or the next time."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        client = await joined(studio)
        job = await client.submit()
        [end] = await studio.ended(job)
        await client.gone()
        for have in ([{"job": job, "seq": end.seq}], []):
            again = Client(studio, await studio.identity())
            told = await again.hello(resume=client.resume, have=have)
            assert [one["type"] for one in told] == ["welcome", "synced"]
            await again.gone()


@patiently
async def test_synced_comes_after_the_replay_although_the_socket_was_full(tmp_path: Path) -> None:
    """Frame by frame: whatever the socket takes, `synced` is the last."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        client = await joined(studio)
        job = await client.submit()
        await studio.ended(job)
        await client.gone()
        again = Client(studio, await studio.identity())
        again.wire.has_space = False
        assert [one["type"] for one in await again.hello(resume=client.resume)] == ["welcome"]
        write = again.wire.write

        def take_one(frame: bytes) -> None:
            write(frame)
            again.wire.has_space = False

        again.wire.write = take_one  # type: ignore[method-assign]
        told = []
        for _ in range(6):
            again.wire.has_space = True
            again.connection.drained()
            told.append(again.types())
        assert told == ["accepted", "started", "image", "completed synced", "", ""]


@patiently
async def test_position_of_a_lost_ledger_is_answered_by_a_snapshot(tmp_path: Path) -> None:
    """A token of another epoch opens a new session, and a position in it counts for nothing."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    async with open_studio(tmp_path / "old", ScriptedUpstream(), epoch="0" * 16) as studio:
        client = await joined(studio)
    async with open_studio(tmp_path / "new", ScriptedUpstream(), serving=True) as studio:
        again = Client(studio, await studio.identity())
        welcome, synced = await again.hello(resume=client.resume)
        assert (welcome["resumed"], synced["type"]) == (False, "synced")
        job = await studio.submit()
        await studio.ended(job)
        await again.say("watch", job=job, after=3, ref="w")
        ok, snapshot = again.told()
        assert (ok["ref"], snapshot["reason"], snapshot["seq"]) == ("w", "store_reset", 4)


@patiently
async def test_positions_of_a_lost_ledger_count_for_nothing_as_long_as_the_session_lives(tmp_path: Path) -> None:
    """A cut may come between `synced` and the snapshot, so also the resumed connection sends one, and ended or not."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    async with open_studio(tmp_path / "old", ScriptedUpstream(), epoch="0" * 16) as studio:
        client = await joined(studio)
    async with open_studio(tmp_path / "new", ScriptedUpstream(), serving=True) as studio:
        job = await studio.submit()
        await studio.ended(job)
        resume = client.resume
        for seq in (2, 4):
            again = Client(studio, await studio.identity())
            await again.hello(resume=resume, have=[{"job": job, "seq": seq}])
            resume = again.resume
            await again.gone()
        last = Client(studio, await studio.identity())
        told = await last.hello(resume=resume, have=[{"job": job, "seq": 4}])
        assert [one["type"] for one in told] == ["welcome", "snapshot", "synced"]
        assert (told[0]["resumed"], told[1]["reason"]) == (True, "store_reset")


@patiently
async def test_submit_repeated_with_positions_of_a_lost_ledger_is_answered_by_a_snapshot(tmp_path: Path) -> None:
    """But a job that is new has no older positions."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    async with open_studio(tmp_path / "old", ScriptedUpstream(), epoch="0" * 16) as studio:
        client = await joined(studio)
    async with open_studio(tmp_path / "new", ScriptedUpstream(), serving=True) as studio:
        first = await joined(studio)
        await studio.ended(await first.submit())
        again = Client(studio, await studio.identity())
        await again.hello(resume=client.resume)
        asked = {"task": "txt2img", "params": {"prompt": "a harbour at dawn", "seed": 7}}
        await again.say("submit", ref="ref-1", **asked)
        accepted, snapshot = again.told()
        assert (accepted["duplicate"], snapshot["type"], snapshot["reason"]) == (True, "snapshot", "store_reset")
        await again.say("submit", ref="ref-2", **asked)
        new, *more = again.told()
        assert (new["duplicate"], [one for one in more if one["type"] == "snapshot"]) == (False, [])


@patiently
async def test_resume_follows_a_job_whose_end_is_committed_and_not_yet_told(tmp_path: Path) -> None:
    """The row says ended, the client has all that was told so far: the end is still to come, and it does."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        job = await client.submit()
        other = await joined(studio, resume=client.resume, have=[{"job": job, "seq": 1}])
        feed = studio.feeds.get(job)
        assert feed is not None
        ended = await studio.ledger.jobs.cancel(job, "client", studio.clock.time_ms())  # committed, and nobody was told
        assert not feed.has_ended
        again = await joined(studio, resume=client.resume, have=[{"job": job, "seq": 1}])
        studio.feeds.appended(job, ended)
        assert again.types() == "canceled"
        assert other.wire.closed is not None


@patiently
async def test_log_that_was_cut_is_answered_by_a_snapshot(tmp_path: Path) -> None:
    """A repeated submit still gets its `accepted`."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        client = await joined(studio)
        job = await client.submit()
        await studio.ended(job)
        await client.gone()
        await studio.ledger.jobs.trim(studio.clock.time_ms(), 0)
        again = Client(studio, await studio.identity())
        told = await again.hello(resume=client.resume, have=[{"job": job, "seq": 2}])
        assert [one["type"] for one in told] == ["welcome", "snapshot", "synced"]
        assert (told[1]["reason"], told[1]["state"]) == ("trimmed", "completed")
        await again.say("submit", ref="ref-1", task="txt2img", params={"prompt": "a harbour at dawn", "seed": 7})
        accepted, snapshot = again.told()
        assert (accepted["type"], accepted["duplicate"], snapshot["type"]) == ("accepted", True, "snapshot")


# --- finals ---


@patiently
async def test_inline_final_is_read_once_for_many_watchers(tmp_path: Path) -> None:
    """Twenty connections, one read of the store, the same bytes for everybody."""
    async with open_studio(tmp_path, ScriptedUpstream(paints()), serving=True) as studio:
        clients = [await joined(studio, finals="inline") for _ in range(20)]
        job = await clients[0].submit()
        for client in clients[1:]:
            await client.say("watch", job=job)
        await studio.ended(job)
        await until(lambda: all(client.told()[-1:] == [] and client.binaries for client in clients))
        assert len(studio.store.gets) == 1
        for client in clients:
            [final] = client.binaries
            header = parse(final)
            assert (header.kind, header.job_id, bytes(payload(final, header))) == (Kind.FINAL, job, picture(7).content)
            await client.gone()
        assert (len(studio.feeds), len(studio.node.sessions)) == (0, 0)


@patiently
async def test_final_that_is_gone_ends_the_connection(tmp_path: Path) -> None:
    """Nothing that comes after it may be told."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        job = await studio.submit()
        await studio.ended(job)
        [image] = [event for event in await studio.log(job) if hasattr(event, "asset")]
        await studio.store.delete("acme", image.asset)
        client = await joined(studio, finals="inline")
        await client.say("watch", job=job)
        await until(lambda: client.wire.closed is not None)
        assert client.wire.closed == (4000, "internal")
        assert client.types() == "accepted started"
        await client.gone()


# --- messages ---


@patiently
async def test_upload_is_stored_before_the_submit_that_names_it(tmp_path: Path) -> None:
    """One that is no picture is refused by its own id."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        await client.connection.receive(upload(UPLOAD, picture(1).content))
        [stored] = client.told()
        assert (stored["type"], stored["upload"], stored["w"]) == ("asset", UPLOAD, 8)
        await client.say(
            "submit", ref="r", task="img2img", params={"prompt": "x"}, inputs=[{"role": "init", "upload": UPLOAD}]
        )
        assert client.types() == "accepted"
        await client.connection.receive(upload(UPLOAD, b"no picture"))
        [error] = client.told()
        assert (error["type"], error["upload"], error["error"]["code"]) == ("error", UPLOAD, "unsupported_media")
        known = client.connection._uploads
        known.update({f"{at:026d}": "an asset" for at in range(MAX_UPLOADS_KNOWN - 1)})
        await client.connection.receive(upload(UPLOAD[:-1] + "X", picture(1).content))
        assert (len(known), UPLOAD in known, UPLOAD[:-1] + "X" in known) == (MAX_UPLOADS_KNOWN, False, True)


@patiently
async def test_jobs_of_others_need_a_grant(tmp_path: Path) -> None:
    """Unknown and foreign are the same refusal; a grant gives its right, and a refused watch leaves no feed behind."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job = await studio.submit()
        client = await joined(studio, "player")
        await studio.feeds.poll()
        assert len(studio.feeds) == 0
        for verb in ("watch", "cancel"):
            for name in (job, UPLOAD):
                await client.say(verb, job=name, ref="r")
                [error] = client.told()
                assert (error["ref"], error["error"]["code"]) == ("r", "job_not_found")
        await studio.feeds.poll()
        assert len(studio.feeds) == 0
        grant = studio.node.access.make_grant(job, ["watch"], 60_000)
        await client.say("watch", job=job, grant=grant)
        [accepted] = client.told()
        assert ("ref" in accepted, "cost_max_micros" in accepted) == (False, False)
        await client.say("cancel", job=job, grant=grant, ref="r")
        assert client.told()[0]["error"]["code"] == "forbidden"
        await client.say("cancel", job=job, grant=studio.node.access.make_grant(job, ["cancel"], 60_000), ref="r")
        assert client.types() == "ok canceled"


@patiently
async def test_watches_are_bounded_and_given_back(tmp_path: Path) -> None:
    """A submit over the bound is refused before it makes a job."""
    async with open_studio(tmp_path, ScriptedUpstream(), limits=Limits(max_watch=1)) as studio:
        client = await joined(studio)
        job = await client.submit()
        await client.say("submit", ref="ref-2", task="txt2img", params={"prompt": "x"})
        assert client.told()[0]["error"]["code"] == "concurrency_limit"
        assert sum((await studio.ledger.jobs.counts()).values()) == 1
        await client.say("prefs", job=job, previews={"max_fps": 0}, ref="p")
        await client.say("unwatch", job=job, ref="u")
        assert client.types() == "ok ok"
        await client.say("prefs", job=job, previews={"max_fps": 0}, ref="p")
        assert client.told()[0]["error"]["code"] == "job_not_found"
        await client.submit("ref-2")


@patiently
async def test_client_over_its_rate_is_read_more_slowly(tmp_path: Path) -> None:
    """Each message over the rate is handled, and the next is not read for a while."""
    async with open_studio(tmp_path, ScriptedUpstream(), limits=Limits(msgs_per_s=10)) as studio:
        client = await joined(studio)
        began = studio.clock.now()
        for at in range(40):
            await client.say("ping", t=at)
        assert [one["t"] for one in client.told()] == list(range(40))
        assert 1.5 <= studio.clock.now() - began <= 3.0


@patiently
async def test_bye_ends_session_and_connection(tmp_path: Path) -> None:
    """Its jobs that said so are canceled; there is nothing to resume."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        job = await client.submit(on_disconnect="cancel")
        await client.say("bye", ref="b")
        assert (client.types(), client.wire.closed) == ("ok canceled", (1000, "normal"))
        assert (await studio.record(job)).state == "canceled"
        await client.gone()
        again = Client(studio, await studio.identity())
        assert (await again.hello(resume=client.resume))[0]["resumed"] is False


# --- the timer ---


@patiently
async def test_quiet_connection_is_kept_alive_without_spinning(tmp_path: Path) -> None:
    """A heartbeat after 15 s of silence, a ping each 20 s, and no ring for nothing."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        beats = []
        for _ in range(60):
            await asyncio.sleep(5.0)  # virtual
            client.connection.byte_received()
            beats += [one["type"] for one in client.told()]
        assert (beats, client.wire.closed) == (["ping"] * 20, None)
        assert client.connection.rings <= 60


@patiently
async def test_each_silence_ends_the_connection_by_its_name(tmp_path: Path) -> None:
    """No hello, no byte, a token that ends: on time, once, and nothing rings after that."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        mute = Client(studio, await studio.identity())
        quiet = await joined(studio)
        account = await studio.node.access.identify(await studio.add_key())
        token, _ = studio.node.access.make_token(account, "player", 100_000)
        brief = Client(studio)
        await brief.hello(token=token)
        began, notice = studio.clock.now(), 0.0
        ends: dict[str, tuple[float, str]] = {}
        clients = {"mute": mute, "quiet": quiet, "brief": brief}
        while len(ends) < 3:
            await asyncio.sleep(0.5)  # virtual
            brief.connection.byte_received()
            for name, client in clients.items():
                if client.wire.closed and name not in ends:
                    ends[name] = (studio.clock.now() - began, client.wire.closed[1])
            if any(one["type"] == "goaway" for one in brief.told()):
                notice = studio.clock.now() - began
        assert ends == {
            "mute": (10.0, "hello_timeout"),
            "quiet": (40.0, "heartbeat_timeout"),
            "brief": (pytest.approx(100.0, abs=0.6), "auth_expired"),
        }
        assert notice == pytest.approx(70.0, abs=0.6)
        rings = [client.connection.rings for client in clients.values()]
        await asyncio.sleep(300)  # virtual
        assert [client.connection.rings for client in clients.values()] == rings
        for client in clients.values():
            await client.gone()


@pytest.mark.parametrize("was_full_before", [False, True])
@patiently
async def test_slow_consumer_is_closed_after_its_time(tmp_path: Path, was_full_before: bool) -> None:
    """A number waits for the socket: also one that comes when nothing else waits any more."""
    async with open_studio(tmp_path, ScriptedUpstream(), timing=Timing(slow=30.0, silence=1e6)) as studio:
        client = await joined(studio)
        job = await client.submit()
        client.wire.has_space = False
        if was_full_before:
            client.connection.drained()
            await asyncio.sleep(100)  # virtual
            assert client.wire.closed is None
        await studio.node.admission.cancel(await studio.record(job), "client")
        began = studio.clock.now()
        await until(lambda: client.wire.closed is not None)
        assert client.wire.closed == (4002, "slow_consumer")
        assert studio.meter.counted["closes", "4002"] == 1
        assert studio.clock.now() - began == pytest.approx(30.0, abs=0.1)
        await client.gone()


@patiently
async def test_rate_cap_lets_the_newest_preview_out_when_its_time_has_come(tmp_path: Path) -> None:
    """Two a second of a hundred; the last one is not forgotten, though nothing happens after it."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        job = await client.submit(previews={"max_fps": 2, "max_edge": 128})
        for frame in range(1, 101):
            studio.feeds.previewed(job, preview_facts(frame), preview(frame % 5))
            await asyncio.sleep(0.05)  # virtual
        await asyncio.sleep(2)  # virtual
        client.told()
        shown = [parse(one).frame for one in client.binaries]
        assert (9 <= len(shown) <= 12, shown[-1], shown) == (True, 100, sorted(shown))
        assert client.connection.rings <= 15


@patiently
async def test_preview_that_fits_no_message_is_made_smaller_at_once(tmp_path: Path) -> None:
    """The frame that showed it does not wait for the next: after the last step there is none."""
    async with open_studio(tmp_path, ScriptedUpstream(paints(hold=asyncio.Event())), serving=True) as studio:
        client = await joined(studio, max_message=20_000)
        job = await client.submit(previews={"max_edge": 128, "format": "raw"})
        await soon()
        studio.feeds.previewed(job, preview_facts(1), preview(1))
        await until(lambda: studio.feeds.encoded == 2)
        await soon()
        client.told()
        assert [(parse(one).frame, parse(one).width) for one in client.binaries] == [(1, 64)]


@pytest.mark.parametrize("seed", range(3))
@patiently
async def test_timer_is_never_later_than_the_machine_asks(tmp_path: Path, seed: int) -> None:
    """Whatever happens, in whatever order: the timer rings in time, and not for nothing all the time."""
    chance = random.Random(seed)
    async with open_studio(tmp_path, ScriptedUpstream(), limits=Limits(msgs_per_s=1000)) as studio:
        client = await joined(studio)
        jobs = [await client.submit(f"ref-{at}") for at in range(3)]
        connection, steps = client.connection, 150
        for frame in range(1, steps):
            job = chance.choice(jobs)
            match chance.randrange(8):
                case 0:
                    await client.say("watch", job=job, previews={"max_fps": chance.choice([1, 5, 30]), "max_edge": 128})
                case 1:
                    await client.say("unwatch", job=job)
                case 2 if connection._outlet.watches(job):
                    await client.say("prefs", job=job, previews={"max_fps": chance.choice([0, 2])})
                case 3:
                    client.wire.has_space = not client.wire.has_space
                    if client.wire.has_space:
                        connection.drained()
                case 4:
                    studio.feeds.previewed(job, preview_facts(frame), preview(frame % 5))
                case 5:
                    await connection.receive(upload(f"{frame:026d}", picture(1).content))
                case 6:
                    client.connection.byte_received()
                case _:
                    await asyncio.sleep(chance.choice([0.0, 0.01, 0.3, 2.0]))  # virtual
            if connection.machine.phase is Phase.CLOSED:
                break
            assert connection._alarm.at <= connection.machine.deadline(), frame
        assert connection.rings < 2 * steps
        client.told()
        await client.gone()


@patiently
async def test_backlog_that_moves_is_life_and_one_that_stands_is_not(tmp_path: Path) -> None:
    """A slow reader's pong waits behind what he has yet to read."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        client.wire.backlog = 10_000
        for _ in range(20):
            await asyncio.sleep(10)  # virtual
            client.wire.taken += 100
        assert client.wire.closed is None
        await asyncio.sleep(61)  # virtual: it stands, from the last look on
        assert client.wire.closed == (4003, "heartbeat_timeout")
        await client.gone()


@patiently
async def test_nothing_is_told_to_a_connection_that_is_closed(tmp_path: Path) -> None:
    """Between the close and the end of its socket things go on happening; `Wire` fails what is written then."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        client = await joined(studio)
        job = await client.submit()
        client.connection.close("going_away")
        await studio.ended(job)
        client.connection.drained()
        await soon()
        assert client.told() == []
        await client.gone()
        assert len(studio.feeds) == 0


@patiently
async def test_event_of_a_worker_elsewhere_reaches_the_client_by_the_poll(tmp_path: Path) -> None:
    """No bell tells of it: the poll reads it."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio)
        job = await client.submit()
        claimed = await studio.claim()
        started = Started(job=job, seq=0, time_ms=1, attempt=1, model="script", steps=2)
        step = Append(job, claimed.job.claim, 1, studio.clock.time_ms() + LEASE_MS, (started,))
        await studio.ledger.work.append(step)
        assert client.types() == ""
        await studio.feeds.poll()
        assert client.types() == "started"
