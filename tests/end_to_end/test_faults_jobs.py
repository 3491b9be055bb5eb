"""Jobs that are canceled, granted, left or overdue, and a gateway that stops beneath them."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from protocol.client import Client
from protocol.header import parse
from tests.end_to_end.fault_parts import (
    NO_JOB,
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
from tests.end_to_end.harness import GatewayProcess, gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.end_to_end.ports import free_port
from tests.end_to_end.raw import RawSocket
from tests.end_to_end.records import Record


async def test_cancel_of_queued_running_and_ended_jobs_and_of_somebody_elses(tmp_path: Path) -> None:
    """`ok` at once, the end event tells the truth; a foreign job looks like none at all."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one, other = await connect(running), await connect(running, await token_of(running, "other"))
        one.send(submit("running"))
        first = (await one.until("started"))["job"]
        one.send(submit("queued"))
        second = (await one.until("accepted"))["job"]
        for job in (first, second, NO_JOB):
            told = await answer_to(other, {"type": "cancel", "ref": f"no-{job[-4:]}", "job": job})
            assert told["error"]["code"] == "job_not_found"
            assert told["job"] == job
        assert (await answer_to(one, {"type": "cancel", "ref": "c2", "job": second}))["type"] == "ok"
        canceled = await one.until("canceled")
        assert (canceled["job"], canceled["seq"], canceled["by"], canceled["cost_micros"]) == (second, 2, "client", 0)
        assert (await answer_to(one, {"type": "cancel", "ref": "c1", "job": first}))["type"] == "ok"
        canceled = await one.until("canceled")
        assert (canceled["job"], canceled["seq"], canceled["by"]) == (first, 3, "client")
        for job in (first, second):
            assert (await answer_to(one, {"type": "cancel", "ref": "again", "job": job}))["type"] == "ok"
        assert sorted(job.seq for job in await jobs_of(running)) == [2, 3]
        one.cut()
        other.cut()


async def test_grant_gives_its_rights_to_its_job_for_its_time_and_nothing_else(tmp_path: Path) -> None:
    """Watching shows neither ref nor costs; the right to cancel is one of its own."""
    clock, paper = SetClock(), PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper], clock=clock) as running:
        one, guest = await connect(running), await connect(running, await another_key(running, "other"))
        one.send(submit("shown"))
        job = (await one.until("started"))["job"]
        one.send(submit("hidden"))
        hidden = (await one.until("accepted"))["job"]
        grants = {}
        for rights in ("watch", "cancel"):
            body = json.dumps({"rights": [rights], "ttl_ms": 60_000}).encode()
            made = await ask(running.url, "POST", f"/v1/jobs/{job}/grants", running.key, body)
            grants[rights] = json.loads(made.body)["grant"]
        refused = [
            ({"type": "watch", "job": job}, "job_not_found"),
            ({"type": "watch", "job": hidden, "grant": grants["watch"]}, "forbidden"),
            ({"type": "watch", "job": job, "grant": grants["cancel"]}, "forbidden"),
            ({"type": "watch", "job": job, "grant": grants["watch"][:-1]}, "unauthorized"),
            ({"type": "cancel", "job": job, "grant": grants["watch"]}, "forbidden"),
            ({"type": "cancel", "job": hidden, "grant": grants["cancel"]}, "forbidden"),
        ]
        for place, (message, code) in enumerate(refused):
            told = await answer_to(guest, {"ref": f"r{place}", **message})
            assert told["type"] == "error", message
            assert told["error"]["code"] == code, message
        guest.send({"type": "watch", "ref": "w", "job": job, "grant": grants["watch"]})
        accepted = await guest.until("accepted")
        assert {"ref", "cost_max_micros", "events_url"}.isdisjoint(accepted)
        clock.ahead_ms += 60_001
        late = await answer_to(guest, {"type": "cancel", "ref": "late", "job": job, "grant": grants["cancel"]})
        assert late["error"]["code"] == "expired"
        clock.ahead_ms -= 60_001
        told = await answer_to(guest, {"type": "cancel", "ref": "now", "job": job, "grant": grants["cancel"]})
        assert told == {"type": "ok", "ref": "now", "job": job}
        canceled = await guest.until("canceled")
        assert canceled["by"] == "client"
        assert "cost_micros" not in canceled
        paper.hold.set()
        one.cut()
        guest.cut()


async def test_unwatch_ends_the_events_here_and_prefs_change_them_from_now_on(tmp_path: Path) -> None:
    """Previews begin and end, finals change their way, and an unwatched job goes on unseen."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await connect(running)
        one.send(submit("changed", params={"n": 2}))
        job = (await one.until("started"))["job"]
        prefs = {"previews": {"format": "png", "max_edge": 64}, "finals": "inline"}
        assert (await answer_to(one, {"type": "prefs", "ref": "p", "job": job, **prefs}))["type"] == "ok"
        paper.hold.set()
        told, pictures = await read_until(one, "completed")
        kinds = Counter(parse(picture).kind for picture in pictures)
        assert kinds == {1: 8, 2: 2}
        assert not any(message["type"] == "image" for message in told)
        off = {"previews": {"max_fps": 0}, "finals": "url"}
        assert (await answer_to(one, {"type": "prefs", "ref": "q", **off}))["type"] == "ok"
        told = (await answer_to(one, {"type": "prefs", "ref": "none", "job": NO_JOB, **off}))["error"]
        assert (told["code"], told["details"]["path"]) == ("job_not_found", "job")
        one.send(submit("plain", params={"n": 2}))
        told, pictures = await read_until(one, "completed")
        assert pictures == []
        assert [message["index"] for message in told if message["type"] == "image"] == [0, 1]
        paper.hold = asyncio.Event()
        one.send(submit("unseen"))
        unseen = (await one.until("started"))["job"]
        assert (await answer_to(one, {"type": "unwatch", "ref": "u", "job": unseen}))["type"] == "ok"
        other = await connect(running)
        other.send({"type": "watch", "ref": "w", "job": unseen})
        await other.until("ok")
        paper.hold.set()
        await other.until("completed")
        told, _ = await _until_pong(one)
        assert not any(message.get("job") == unseen for message in told)
        one.send({"type": "watch", "ref": "w", "job": unseen, "after": 2})
        assert [event["seq"] for event in await numbered_until(one, "completed")] == [3, 4]
        one.cut()
        other.cut()


async def _until_pong(one: RawSocket) -> tuple[list[dict[str, Any]], list[bytes]]:
    one.send({"type": "ping", "t": 7})
    return await read_until(one, "pong")


async def test_bye_ends_the_session_and_with_it_the_jobs_that_said_so(tmp_path: Path) -> None:
    """`resume` is void from then on; jobs that said nothing go on."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("ends", on_disconnect="cancel"))
        ends = (await one.until("started"))["job"]
        one.send(submit("waits", on_disconnect="cancel"))
        waits = (await one.until("accepted"))["job"]
        one.send(submit("goes-on"))
        goes_on = (await one.until("accepted"))["job"]
        watcher = await connect(running)
        for job in (ends, waits, goes_on):
            watcher.send({"type": "watch", "ref": job, "job": job})
        one.send({"type": "bye"})
        assert await one.closing() == 1000
        canceled = [await watcher.until("canceled") for _ in range(2)]
        assert {(event["job"], event["by"]) for event in canceled} == {(ends, "session"), (waits, "session")}
        paper.hold.set()
        assert (await watcher.until("completed"))["job"] == goes_on
        again = await RawSocket.open(running.url)
        again.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
        assert (await again.until("welcome"))["resumed"] is False
        for socket in (one, watcher, again):
            socket.cut()


async def test_job_over_its_deadline_is_canceled_by_deadline(tmp_path: Path) -> None:
    """Running or still in the queue; one with time left ends well."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await connect(running)
        one.send(submit("runs", deadline_ms=700))
        runs = (await one.until("started"))["job"]
        one.send(submit("waits", deadline_ms=1))
        waits = (await one.until("accepted"))["job"]
        one.send(submit("patient", deadline_ms=600_000))
        patient = (await one.until("accepted"))["job"]
        async with asyncio.timeout(10):
            canceled = [await one.until("canceled") for _ in range(2)]
        assert [(event["job"], event["by"]) for event in canceled] == [(waits, "deadline"), (runs, "deadline")]
        paper.hold.set()
        assert (await one.until("completed"))["job"] == patient
        one.cut()


# --- drain ---


class ShortWaits(random.Random):
    """Chance whose waits are short but none: a starting gateway needs the processor too."""

    def random(self) -> float:
        return 0.05


async def test_terminated_gateway_tells_everybody_ends_well_and_finishes_after_its_restart(tmp_path: Path) -> None:
    """The job that runs has a while to end; what does not goes back to the queue and is done by the next start."""
    config = "[protocol]\ndrain_grace_ms = 300\ndrain_spread_ms = 50\n"
    gateway = GatewayProcess(tmp_path, free_port(), config)
    record = Record()
    async with (
        gateway,
        Client(gateway.url, token=gateway.key, hook=record, chance=ShortWaits(), patience=60, finals="inline") as one,
    ):
        params = {"prompt": "long", "width": 512, "height": 512, "steps": 40}
        running = await one.submit("txt2img", params)
        waiting = await one.submit("txt2img", {**params, "prompt": "waits", "steps": 4, "width": 64, "height": 64})
        async for event in running:
            if type(event).__name__ == "Progress":
                break
        watcher = await RawSocket.open(gateway.url)
        await watcher.hello(gateway.key)
        stopping = asyncio.create_task(gateway.stop())
        goaway = await watcher.until("goaway")
        assert (goaway["reason"], goaway["retry_after_ms"] <= 50) == ("drain", True)
        assert await watcher.closing() == 4001
        watcher.cut()
        assert await stopping == 0
        assert "Traceback" not in gateway.log
        await gateway.start()
        async with asyncio.timeout(60):
            for job in (running, waiting):
                async for _ in job:
                    pass
            while len(record.resumed) < 2:  # `synced` comes after all that was replayed
                await asyncio.sleep(0.01)
        for job in (running, waiting):
            record.check(job.id)
            assert type(record.ends(job.id)[0]).__name__ == "Completed"
        assert record.resumed[0] is False
        assert all(record.resumed[1:])


async def test_job_that_can_end_in_the_grace_ends_before_the_gateway_does(tmp_path: Path) -> None:
    """What is nearly done is not thrown away, and is told after the restart."""
    paper = PaperUpstream()
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        one = await RawSocket.open(running.url)
        synced = await one.hello(running.key)
        one.send(submit("nearly"))
        job = (await one.until("started"))["job"]
        draining = asyncio.create_task(running.gateway.drain())
        assert await one.closing() == 4001
        assert not draining.done()
        paper.hold.set()
        await draining
        one.cut()
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        two = await RawSocket.open(running.url)
        have = [{"job": job, "seq": 2}]
        two.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"], "have": have})
        told, _ = await read_until(two, "synced")
        assert [message["type"] for message in told] == ["welcome", "image", "completed", "synced"]
        assert paper.calls == 1
        two.cut()
