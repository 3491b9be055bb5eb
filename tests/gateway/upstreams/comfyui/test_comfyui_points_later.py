"""The numbered points of the notes on how a real server behaves: connections, cancelling, content (12 to 28)."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.core.reports import ImageMade, Outcome, PreviewMade, StepDone, WorkBegun
from gateway.upstreams.comfyui import adapter as adapter_module
from gateway.upstreams.comfyui.events import Track
from gateway.upstreams.comfyui.models import findings_of
from gateway.upstreams.comfyui.socket import Mailbox
from gateway.upstreams.comfyui.wire import short_message, without_texts
from load.upstreams.comfyui import OUT_OF_MEMORY, Crash, Fail, NoPreviews, Pause, PromptRule, SocketRule, Vanish, colour
from load.upstreams.faults import Refuse, Rule
from tests.gateway.upstreams.comfyui.vendor import (
    Held,
    StandIn,
    adapter,
    asked_for,
    fault,
    flat,
    opened,
    order,
    picture,
    previews,
    reports,
    resumed,
    steps,
    until,
)

ONE = frozenset({1})


async def test_point_12_client_id_is_never_used_twice() -> None:
    """Each connection has its own, also one that takes the place of another."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        ids: set[str | None] = set()
        for _ in range(3):
            await reports(upstream, order(upstream, seed=len(ids)))
            ids.add(upstream._ear.client_id)
            await upstream._ear.renew(upstream._ear.client_id)
            await until(lambda: standin.open_sockets == 0)
        assert len(ids) == 3


@pytest.mark.parametrize("kind", ["zombie", "deaf"])
async def test_point_12_deaf_socket_is_replaced(kind: Any) -> None:
    """One that hears nothing of a prompt that runs is given up; the call ends well, and the next one hears all."""
    held = Held()
    rules = [SocketRule(kind, ONE, after=2)]
    async with StandIn(step_time=0, sockets=rules, hold=held.hold) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await until(lambda: standin.counters().get("sockets") == 2)
            held.go_on.set()
        assert (opened(call.result()).size, call.result()[0]) == ((64, 64), WorkBegun(3))
        assert steps(await reports(upstream, order(upstream, seed=8))) == [(1, 3), (2, 3), (3, 3)]


async def test_point_12_socket_that_goes_deaf_in_the_middle_is_replaced() -> None:
    """The end that it did not tell is found in the history."""
    held = Held()
    async with StandIn(step_time=0, hold=held.hold) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await held.reached.wait()
            standin.spoil_sockets("zombie")
            held.go_on.set()
        assert steps(call.result()) == [(1, 3)]
        held.reached.clear()
        assert len(steps(await reports(upstream, order(upstream, seed=8)))) == 3


async def test_point_13_gap_is_filled_from_the_history() -> None:
    """A connection that breaks costs steps, no result: queue and history are asked until the end."""
    held = Held()
    async with StandIn(step_time=0, hold=held.hold) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await held.reached.wait()
            (socket,) = standin.hub.open
            assert socket.ws._req is not None
            assert socket.ws._req.transport is not None
            socket.ws._req.transport.abort()
            await until(lambda: standin.counters().get("sockets") == 2)
            held.go_on.set()
        assert opened(call.result()).size == (64, 64)
        assert standin.calls == 1


async def test_point_14_leaving_is_told() -> None:
    """The server goes on for a client that leaves; so whoever stops listening stops the prompt."""
    async with StandIn(step_time=0.005) as standin, adapter(standin.url) as upstream:
        async with aclosing(upstream.run(order(upstream, steps=1000))) as run:
            async for report in run:
                if isinstance(report, StepDone):
                    break
        await until(lambda: standin.jobs[0].state == "interrupted", 1)


async def test_point_15_restart_loses_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the queue nor in the history: it is gone, and may begin anew."""
    monkeypatch.setattr(adapter_module, "_MISSES", 2)
    rules = [PromptRule(Crash(at_step=2, restart_after=0.05), ONE)]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url) as upstream:
        assert (await fault(upstream, order(upstream))).outcome is Outcome.GONE
        assert standin.starts == 2
        await picture(upstream, order(upstream))


async def test_point_15_server_that_stays_away_leaves_the_outcome_open() -> None:
    """It may have done the work before it went; once it is back it can be asked."""
    rules = [PromptRule(Crash(at_step=2), ONE)]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        assert (await fault(upstream, asked)).outcome is Outcome.UNKNOWN
        assert (await fault(upstream, asked, resume=True)).outcome is Outcome.UNKNOWN
        await standin.restart()
        assert (await fault(upstream, asked, resume=True)).outcome is Outcome.GONE


async def test_point_16_slow_reader_holds_up_nobody() -> None:
    """Who takes reports slowly sees the newest preview; the socket is drained all the while."""
    async with StandIn(step_time=0, preview_bytes=200_000) as standin:
        async with adapter(standin.url) as upstream, aclosing(upstream.run(order(upstream, steps=100))) as slow:
            assert isinstance(await anext(slow), WorkBegun)
            # Nobody reads on; 20 MB of previews come, and another call passes through the same socket.
            await reports(upstream, order(upstream, seed=8))
            assert standin.jobs[0].state == "success"
            left = [report async for report in slow]
        assert len(previews(left)) == 1
        assert len(steps(left)) <= 64
        assert steps(left)[-1] == (100, 100)
        assert isinstance(left[-1], ImageMade)


def test_point_16_mailbox_is_bounded() -> None:
    """Steps give way to later ones, a preview to the next; the end stays."""
    box = Mailbox("p", Track({}))
    preview = PreviewMade(opened_preview(), 1, 9)
    for number in range(500):
        box.put([StepDone("denoising", number, 500), preview])
    assert len(box._notes) <= 66
    assert sum(isinstance(note, PreviewMade) for note in box._notes) == 1


def opened_preview() -> Any:
    """A small preview."""
    from gateway.upstreams.pictures import picture_of

    return picture_of(flat("red", format="JPEG"))


async def test_point_17_no_compression_is_offered_and_large_frames_are_taken() -> None:
    """JPEG gains nothing from it; a frame may well have more than the usual megabyte."""
    offers: list[str | None] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        offers.append(request.headers.get("Sec-WebSocket-Extensions"))
        raise web.HTTPServiceUnavailable

    app = web.Application()
    app.router.add_get("/ws", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with adapter(f"http://127.0.0.1:{runner.addresses[0][1]}", refresh=False, checkpoints=["a.ckpt"]) as away:
            assert (await fault(away, order(away))).outcome is Outcome.NOT_SENT
    finally:
        await runner.cleanup()
    assert offers == [None]
    async with StandIn(step_time=0.05, preview_bytes=2_000_000) as standin:
        async with adapter(standin.url) as upstream:
            assert len(previews(await reports(upstream, order(upstream)))) >= 1
        assert standin.counters()["sockets"] == 1


async def test_point_18_interrupt_names_its_prompt() -> None:
    """A cancel of one call leaves a stranger's prompt alone, on servers that can and on those that can't."""
    for old in (False, True):
        held = Held()
        async with StandIn(step_time=0, old=old, hold=held.hold) as standin, adapter(standin.url) as upstream:
            await reports_of_a_stranger(standin, upstream, held)
            states = {job.graph["sampler"]["inputs"]["seed"]: job.state for job in standin.jobs}
            assert states == {1: "success", 99: "success", 7: "deleted"}


async def reports_of_a_stranger(standin: StandIn, upstream: Any, held: Held) -> None:
    """While a stranger's prompt runs, one of ours waits and is cancelled."""
    held.go_on.set()
    await reports(upstream, order(upstream, seed=1))
    held.go_on.clear()
    held.reached.clear()
    graph = {**standin.jobs[0].graph}
    graph["sampler"] = {**graph["sampler"], "inputs": {**graph["sampler"]["inputs"], "seed": 99}}
    body = {"prompt": graph, "client_id": "x"}
    async with aiohttp.ClientSession() as other, other.post(f"{standin.url}/prompt", json=body) as answer:
        assert answer.status == 200
    await held.reached.wait()
    async with asyncio.TaskGroup() as group:
        call = group.create_task(reports(upstream, order(upstream)))
        await until(lambda: len(standin.jobs) == 3)
        call.cancel()
    held.go_on.set()
    await until(lambda: standin.idle)


async def test_point_19_interrupt_that_is_lost_is_sent_again() -> None:
    """Until the prompt has left the queue, or a second is over."""
    held = Held()
    rules = [Rule(Refuse(500), operation="interrupt", times=1)]
    async with StandIn(step_time=0, hold=held.hold, script=rules) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await held.reached.wait()
            call.cancel()
            await until(lambda: asked_for(standin, "/interrupt", "POST") >= 2)
            held.go_on.set()
        await until(lambda: standin.jobs[0].state == "interrupted")


async def test_point_20_pending_prompt_is_deleted() -> None:
    """And that it is no longer there is read from the queue, for the answer is the same in any case."""
    held = Held()
    async with StandIn(step_time=0, hold=held.hold) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(reports(upstream, order(upstream)))
            await held.reached.wait()
            second = group.create_task(reports(upstream, order(upstream, seed=8)))
            await until(lambda: len(standin.jobs) == 2)
            began = time.monotonic()
            second.cancel()
            await asyncio.wait([second])
            assert time.monotonic() - began < 1
            assert standin.jobs[1].state == "deleted"
            held.go_on.set()
        assert opened(first.result()).size == (64, 64)


async def test_point_21_waiting_is_not_work() -> None:
    """While others are before it, a prompt tells nothing; the count of everybody's prompts is not its place."""
    held = Held()
    async with StandIn(step_time=0, hold=held.hold) as standin, adapter(standin.url) as upstream:
        told: list[Any] = []

        async def wait() -> None:
            async with aclosing(upstream.run(order(upstream, seed=8))) as run:
                async for report in run:
                    told.append(report)  # noqa: PERF401 - it is looked at meanwhile

        async with asyncio.TaskGroup() as group:
            group.create_task(reports(upstream, order(upstream)))
            await held.reached.wait()
            group.create_task(wait())
            await until(lambda: asked_for(standin, "/queue") >= 2)
            assert told == []
            held.go_on.set()
        assert isinstance(told[0], WorkBegun)
        assert standin.counters()["sockets"] == 1


@pytest.mark.parametrize(
    "message,left",
    [
        ("Allocation on device\nThis error means", "Allocation on device"),
        ("[Errno 2] No such file: '/srv/x y/input/a.png'", "[Errno 2] No such file: '...'"),
        ("cannot open C:\\Users\\me\\a.png now", "cannot open ... now"),
        ("at ~/models/x.ckpt, line 3", "at ..., line 3"),
        ("expected tensor([[1.0, 2.0]])", "expected"),
        ("1/8 of 512x512", "1/8 of 512x512"),
        (None, ""),
        ("x" * 999, "x" * 200),
    ],
)
def test_point_22_messages_are_short_and_tell_no_path(message: str | None, left: str) -> None:
    """The first line, without paths and tensors."""
    assert short_message(message) == left


@pytest.mark.parametrize("exception", [OUT_OF_MEMORY, "torch.cuda.OutOfMemoryError", "OutOfMemoryError"])
async def test_point_22_memory_that_ran_out_is_known_by_its_type(exception: str) -> None:
    """Whatever module it comes from; the client learns what might do."""
    rules = [PromptRule(Fail(at_step=2, exception=exception, message="Allocation on device"))]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url) as upstream:
        found = await fault(upstream, order(upstream, width=1024, height=512))
    assert (found.outcome, found.code) == (Outcome.FAILED, "out_of_memory")
    assert found.details == {
        "upstream": "comfy",
        "vendor_code": exception,
        "vendor_message": "Allocation on device",
        "suggest": {"width": 704, "height": 320},
    }


async def test_point_22_failure_of_a_node_tells_type_and_message() -> None:
    """And nothing of the traceback, the inputs or the server's folders."""
    rules = [PromptRule(Fail(at_step=2, exception="RuntimeError", message="bad '/srv/comfyui/x'\nmore"))]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url) as upstream:
        found = await fault(upstream, order(upstream))
    assert (found.outcome, found.code, found.details["retryable"]) == (Outcome.FAILED, "upstream_error", False)
    assert (found.details["vendor_code"], found.details["vendor_message"]) == ("RuntimeError", "bad '...'")
    assert set(found.details) == {"upstream", "vendor_code", "vendor_message", "retryable"}


async def test_point_23_probe_tells_no_paths() -> None:
    """The server's arguments are looked at and not repeated."""
    async with StandIn() as standin, adapter(standin.url) as upstream:
        assert "/srv/" not in repr(await upstream.probe())


async def test_point_24_uploads_are_named_after_their_bytes() -> None:
    """The same picture lies there once; what the graph has is the name that came back, among the passing files."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        for seed in (1, 2):
            await reports(upstream, order(upstream, "img2img", seed=seed, inputs={"init": flat("red")}))
        names = {job.graph["init"]["inputs"]["image"] for job in standin.jobs}
        assert len(names) == 1
        assert names.pop().endswith(".png [temp]")
        assert len([place for place in standin.folders._files if place[0] == "temp"]) == 1
        assert standin.folders.names("input") == ()


async def test_point_25_prompts_are_stripped_from_results() -> None:
    """The pixels stay as they are, byte for byte."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream, prompt="a very private lamp"))
        (stored,) = [file.data for place, file in standin.folders._files.items() if place[0] == "output"]
    made = told[-1]
    assert isinstance(made, ImageMade)
    assert b"private" in stored
    assert b"private" not in made.picture.content
    assert opened(told).getpixel((3, 3)) == colour(7, "a very private lamp")
    assert without_texts(b"\xff\xd8\xff") == b"\xff\xd8\xff"
    assert without_texts(made.picture.content) == made.picture.content
    assert without_texts(stored[:50]) == stored[:33]


async def test_point_26_run_without_previews_is_normal() -> None:
    """All steps, no preview; the probe says how to have them."""
    async with StandIn(step_time=0, prompts=[PromptRule(NoPreviews())]) as standin, adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream))
        assert (len(steps(told)), previews(told)) == (3, [])
        problems = (await upstream.probe()).problems
        assert problems == ("previews are off: start ComfyUI with --preview-method auto",)
        assert standin.jobs[0].extra_data["preview_method"] == "auto"
    for argv, is_off in (
        (["--preview-method", "auto"], False),
        (["--preview-method", "none"], True),
        (["--preview-method=latent2rgb"], False),
        (["--preview-method"], True),
    ):
        found = findings_of({"system": {"argv": argv, "comfyui_version": "0.3.64"}}, upstream.models, [])
        assert (len(found.problems) == 1) == is_off


async def test_point_27_silence_is_no_failure() -> None:
    """A node may be busy for minutes; as long as the queue has the prompt, it is waited for."""
    rules = [PromptRule(Pause(at_step=2, seconds=0.4))]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url, quiet_seconds=0.1) as upstream:
        told = await reports(upstream, order(upstream))
        assert steps(told) == [(1, 3), (2, 3), (3, 3)]
        assert asked_for(standin, "/queue") >= 2
        assert standin.counters()["sockets"] == 1


async def test_point_28_prompt_in_neither_list_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown history is an empty 200; only with the queue does it mean anything, and not at the first look."""
    monkeypatch.setattr(adapter_module, "_MISSES", 2)
    rules = [PromptRule(Vanish(at_step=2))]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        assert (await fault(upstream, asked)).outcome is Outcome.GONE
        assert asked_for(standin, "/history/") >= 4
        with pytest.raises(Exception, match="gone"):
            await resumed(upstream, asked)
