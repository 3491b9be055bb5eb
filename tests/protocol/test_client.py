"""The Python client against a real socket: jobs, slow applications, and what else it may wish."""

import asyncio
import gc

import pytest

from protocol.header import parse, payload
from protocol.messages import AssetStored, Error, ErrorBody, GoAway, ImageReady, Input, Ok, Previews, Progress
from protocol.refusals import Refused
from protocol.replica_effects import Disconnected, Event, ImageBytes, Preview, Resumed
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
)
from tests.protocol.scripted_server import GONE, Line, client, gateway, seqs, submitted, until_full

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
