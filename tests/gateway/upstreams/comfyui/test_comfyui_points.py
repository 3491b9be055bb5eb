"""The numbered points of the notes on how a real server behaves: ends, identity, frames (1 to 11)."""

import asyncio
import json
import struct
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest

from gateway.core.reports import ImageMade, Outcome, PreviewMade, StepDone, WorkBegun
from gateway.core.secret import Secret
from gateway.upstreams.comfyui.events import Ended, Event, Frame, Track, parse_frame, parse_text
from gateway.upstreams.comfyui.wire import prompt_id_of, refusal
from load.upstreams.comfyui import Fail, LateHistory, LoseFiles, PromptRule, colour
from load.upstreams.faults import Refuse, Rule
from protocol.ids import is_ulid
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

SAMPLER = {"class_type": "KSampler", "inputs": {"steps": 4, "denoise": 1.0}}
TWO_SAMPLERS = {"a": SAMPLER, "b": {**SAMPLER, "inputs": {"steps": 2}}, "v": {"class_type": "VAEDecode", "inputs": {}}}
JPEG = flat("red", format="JPEG")


@pytest.mark.parametrize("after_end", [False, True])
async def test_point_1_end_is_executing_null(after_end: bool) -> None:
    """`execution_success` is not waited for nor trusted; the history may even come after the last message."""
    rule = PromptRule(LateHistory(0.2, after_end=after_end))
    async with StandIn(step_time=0, prompts=[rule]) as standin, adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream))
        assert opened(told).size == (64, 64)
        first = next(one for one in standin.requests if one.path.startswith("/history/"))
        assert first.call > 0


async def test_point_1_old_servers_tell_no_success() -> None:
    """The end is the same there."""
    async with StandIn(step_time=0, old=True) as standin, adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream))
    assert steps(told) == previews(told) == [(1, 3), (2, 3), (3, 3)]


async def test_point_2_interrupt_and_error_are_told_apart() -> None:
    """By a message of the history; somebody else's interrupt is no failure of a node."""
    held = Held()
    rules = [PromptRule(Fail(at_step=2), frozenset({2}))]
    async with StandIn(step_time=0, hold=held.hold, prompts=rules) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(fault(upstream, order(upstream)))
            await held.reached.wait()
            async with aiohttp.ClientSession() as other, other.post(f"{standin.url}/interrupt") as answer:
                assert answer.status == 200
            held.go_on.set()
        assert (call.result().outcome, call.result().code) == (Outcome.FAILED, "upstream_error")
        assert "interrupted" in call.result().message
        failed = await fault(upstream, order(upstream))
        assert "node failed" in failed.message


async def test_point_3_cached_work_is_saved_anew() -> None:
    """Each call's files have a name of their own, so nothing depends on what an earlier one left."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        first = await reports(upstream, order(upstream))
        for place in list(standin.folders._files):
            standin.folders.delete(place)
        again = await reports(upstream, order(upstream))
        assert opened(again).getpixel((0, 0)) == opened(first).getpixel((0, 0)) == colour(7, "a lamp")
        # The sampler was cached: no step is told, and none is in the total.
        assert (again[0], steps(again)) == (WorkBegun(0), [])
        assert standin.jobs[1].ran == ["save"]


def test_point_3_total_leaves_cached_nodes_out() -> None:
    """Two samplers count together; one that is cached does not."""
    track = Track(TWO_SAMPLERS)
    assert track.total == 6
    assert track.take(Event("execution_cached", "p", nodes=("a",))) == [WorkBegun(2)]
    assert list(track.take(Event("progress", "p", "b", 1, 2))) == [StepDone("denoising", 1, 2)]


async def test_point_3_file_that_is_gone_may_be_made_again() -> None:
    """A 404 costs nobody anything: the work may begin anew, under another name."""
    rules = [PromptRule(LoseFiles(), frozenset({1}))]
    async with StandIn(step_time=0, prompts=rules) as standin, adapter(standin.url) as upstream:
        assert (await fault(upstream, order(upstream))).outcome is Outcome.GONE
        await picture(upstream, order(upstream))


SOCKET_GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "standin.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}", "clip": ["1", 1]}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["2", 0],
            "negative": ["2", 0],
            "latent_image": ["3", 0],
            "seed": "{{seed}}",
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["5", 0]}},
}


@pytest.mark.parametrize("old", [False, True])
async def test_point_4_pictures_sent_over_the_socket(old: bool) -> None:
    """They are the result and no preview, with metadata and without."""
    templates = {"mine": SOCKET_GRAPH}
    async with StandIn(step_time=0, old=old) as standin, adapter(standin.url, templates=templates) as upstream:
        told = await reports(upstream, order(upstream, model="mine"))
    assert opened(told).getpixel((0, 0)) == colour(7, "a lamp", "a lamp")
    assert steps(told) == previews(told) == [(1, 2), (2, 2)]


async def test_point_4_pictures_sent_to_nobody_are_made_again() -> None:
    """The history has nothing of them; who was not there has lost them."""
    held = Held(kind="KSampler")
    async with (
        StandIn(step_time=0, hold=held.hold) as standin,
        adapter(standin.url, templates={"mine": SOCKET_GRAPH}) as upstream,
        asyncio.TaskGroup() as group,
    ):
        call = group.create_task(fault(upstream, order(upstream, model="mine")))
        await held.reached.wait()
        standin.spoil_sockets()
        held.go_on.set()
    assert call.result().outcome is Outcome.GONE


async def test_point_5_part_of_a_graph_is_not_enough() -> None:
    """A 200 with `node_errors` is a failure, and what was taken of it is stopped."""
    graph = json.loads(json.dumps(SOCKET_GRAPH))
    graph["7"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}}
    graph["8"] = {"class_type": "LoadImage", "inputs": {"image": "never.png"}}
    held = Held()
    async with (
        StandIn(step_time=0.01, hold=held.hold) as standin,
        adapter(standin.url, templates={"mine": graph}) as upstream,
    ):
        held.go_on.set()
        found = await fault(upstream, order(upstream, model="mine", steps=9))
        assert (found.outcome, found.code) == (Outcome.FAILED, "upstream_error")
        assert found.details["node_errors"] == ["LoadImage.image: custom_validation_failed"]
        await until(lambda: standin.idle)
        assert standin.jobs[0].state in ("deleted", "interrupted")


@pytest.mark.parametrize(
    "status,body,code",
    [
        (500, b"500 Internal Server Error", "upstream_error"),
        (413, b"Maximum request body size exceeded", "payload_too_large"),
        (403, b"", "upstream_error"),
        (400, b'{"error": "no prompt", "node_errors": []}', "upstream_error"),
        (400, b'{"error": {"type": "x", "message": "y"}, "node_errors": {}}', "upstream_error"),
        (400, b'{"error": {"type": "x"}, "node_errors": {"1": 5, "2": {"errors": [3]}}}', "upstream_error"),
        (400, b"[]", "upstream_error"),
    ],
)
def test_point_6_refusals_of_every_shape(status: int, body: bytes, code: str) -> None:
    """Objects, texts, lists, nothing: each is a failure with a message of ours."""
    found = refusal(status, {}, body, Secret("x"), "comfy")
    assert (found.outcome, found.code, found.details["status"]) == (Outcome.FAILED, code, status)


async def test_point_6_no_origin_is_ever_sent() -> None:
    """The server refuses a browser's other site; we are none."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        await reports(upstream, order(upstream, "img2img", inputs={"init": flat("red")}))
        assert not [one for one in standin.requests if "Origin" in one.headers]


async def test_point_7_other_peoples_messages_are_dropped() -> None:
    """A prompt without a client id tells everybody; none of it gets into a call of ours."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        await reports(upstream, order(upstream, seed=1))
        graph = json.loads(json.dumps(standin.jobs[0].graph))
        graph["sampler"]["inputs"] |= {"seed": 99, "steps": 9}
        async with (
            aiohttp.ClientSession() as other,
            other.post(f"{standin.url}/prompt", json={"prompt": graph}) as answer,
        ):
            assert answer.status == 200
        told = await reports(upstream, order(upstream, seed=2))
        assert steps(told) == [(1, 3), (2, 3), (3, 3)]
        assert len(previews(told)) == 3
        assert all(job.client_id for job in (standin.jobs[0], standin.jobs[2]))


async def test_point_7_nameless_preview_of_a_stranger_is_dropped() -> None:
    """An old server names neither prompt nor node; what does not fit the running prompt is nobody's."""
    async with StandIn(step_time=0, old=True) as standin, adapter(standin.url) as upstream:
        ear = upstream._ear
        await reports(upstream, order(upstream))
        ear._take(Event("progress", "stranger", "sampler", 1, 9))
        before = ear.previews
        ear._take_frame(Frame(JPEG, is_png=False))
        assert ear.previews == before


async def test_point_8_metadata_is_asked_for_first() -> None:
    """The first message of each connection; the server then names what its pictures belong to."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        for seed in (1, 2):
            await reports(upstream, order(upstream, seed=seed))
            (socket,) = standin.hub.open
            assert socket.flags == {"supports_preview_metadata": True}
            await upstream._ear.renew(upstream._ear.client_id)
            await until(lambda: not standin.hub.open)


@pytest.mark.parametrize("with_metadata", [True, False])
def test_point_9_preview_is_paired_by_node_not_by_place(with_metadata: bool) -> None:
    """Named ones come before their step, nameless ones after it; both get the right one."""
    track = Track(TWO_SAMPLERS)
    track.take(Event("execution_cached", "p"))
    track.take(Event("executing", "p", "a"))
    step = Event("progress", "p", "a", 2, 4)
    if with_metadata:
        assert track.take_frame(Frame(JPEG, False, "p", "a")) == []
        assert track.take_frame(Frame(JPEG, False, "p", "v")) == []
        done, preview = track.take(step)
    else:
        (done,) = track.take(step)
        (preview,) = track.take_frame(Frame(JPEG, False))
    assert done == StepDone("denoising", 2, 6)
    assert isinstance(preview, PreviewMade)
    assert (preview.step, preview.steps) == (2, 6)
    assert list(track.take(Event("progress", "p", "b", 1, 2))) == [StepDone("denoising", 3, 6)]


async def test_point_10_prompt_id_is_the_calls_own() -> None:
    """A UUID of the ULID's bits, known before it is sent, and the server's where that differs."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        await reports(upstream, asked)
        assert is_ulid(asked.id)
        assert standin.jobs[0].prompt_id == prompt_id_of(asked.id)
    assert prompt_id_of("00000000000000000000000001") == "00000000-0000-0000-0000-000000000001"
    assert prompt_id_of("7ZZZZZZZZZZZZZZZZZZZZZZZZZ") == "ffffffff-ffff-ffff-ffff-ffffffffffff"
    assert prompt_id_of("call-1") == prompt_id_of("call-1") != prompt_id_of("call-2")


async def test_point_10_id_that_comes_back_counts() -> None:
    """An old server makes its own; that is what is noted and looked up."""
    noted: list[str] = []

    async def note(handle: str) -> None:
        noted.append(handle)

    async with StandIn(step_time=0, old=True) as standin, adapter(standin.url) as upstream:
        asked = order(upstream, noted=note)
        await reports(upstream, asked)
        assert noted == [standin.jobs[0].prompt_id] != [prompt_id_of(asked.id)]
        assert opened(await resumed(upstream, asked, noted[0])).size == (64, 64)
        # Even without it: our own id went along as a tag.
        assert opened(await resumed(upstream, asked)).size == (64, 64)


async def test_point_11_one_socket_hears_all_prompts() -> None:
    """Calls at once, one client id; each gets only its own."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        told = await asyncio.gather(*(reports(upstream, order(upstream, seed=seed)) for seed in (1, 2, 3, 4)))
        assert [opened(one).getpixel((0, 0)) for one in told] == [colour(seed, "a lamp") for seed in (1, 2, 3, 4)]
        assert all(steps(one) == [(1, 3), (2, 3), (3, 3)] for one in told)
        assert (standin.counters()["sockets"], asked_for(standin, "/queue")) == (1, 0)


def test_messages_of_any_shape_are_survived() -> None:
    """What cannot be read is passed over."""
    assert parse_text("no json") is None
    assert parse_text('{"type": "progress", "data": {"value": "x"}}') is None
    assert parse_text('{"type": "progress_state", "data": 5}') == Event("progress_state")
    for data in (b"", b"\0\0\0\1", struct.pack(">II", 3, 1) + b"xyz", struct.pack(">II", 4, 99) + b"{}"):
        assert parse_frame(data) is None
    assert parse_frame(struct.pack(">II", 4, 2) + b"[]x") is None
    track = Track({})
    assert track.take(Event("executing", "p")) == [Ended()]
    assert track.take_frame(Frame(b"GIF", False, "p", "x")) == []
    assert Track(TWO_SAMPLERS).take_frame(Frame(b"GIF", False, "p", "a")) == []
    assert Track({"c": {"class_type": "SamplerCustom", "inputs": {"steps": ["1", 0]}}}).total == 0
    advanced = {"steps": 20, "start_at_step": 5, "end_at_step": 10_000}
    assert Track({"a": {"class_type": "KSamplerAdvanced", "inputs": advanced}}).total == 15


async def test_socket_that_is_refused_sends_nothing() -> None:
    """Without the socket no work is begun; the next call tries again."""
    rules = [Rule(Refuse(502), operation="ws", times=1)]
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url) as upstream:
        assert (await fault(upstream, order(upstream))).outcome is Outcome.NOT_SENT
        assert standin.calls == 0
        async with aclosing(upstream.run(order(upstream))) as run:
            assert isinstance([report async for report in run][-1], ImageMade)
