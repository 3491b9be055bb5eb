"""The stand-in of ComfyUI going wrong: requests, prompts, sockets and the whole server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from load.upstreams.comfyui import (
    OUT_OF_MEMORY,
    ComfyUI,
    Crash,
    Fail,
    LateHistory,
    LoseFiles,
    Moment,
    NoPreviews,
    Pause,
    PromptRule,
    SocketRule,
    Vanish,
)
from load.upstreams.faults import Cut, Drip, Garbage, Refuse, Rule, ScriptError, Stall
from tests.load.upstreams.comfyui_talk import Client, Talker, job_state, text_graph, until

ONE = frozenset({1})


# Requests


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_prompt_may_be_accepted_and_its_answer_lost(client: Client, how: str) -> None:
    """The connection breaks, the prompt runs all the same and can be found by the id the client chose."""
    async with ComfyUI(step_time=0) as standin:
        standin.script({"do": {"kind": "cut", "how": how}, "times": 1})
        talker = Talker(standin, client)
        with pytest.raises(aiohttp.ClientError):
            await talker.submit(text_graph(), prompt_id="mine")
        await until(lambda: job_state(standin, "mine") == "success")
        assert (await talker.get("/history/mine"))["mine"]["status"]["completed"]
        assert (standin.calls, standin.tally.billed) == (1, 1)


async def test_prompt_may_be_lost_with_its_answer(client: Client) -> None:
    """A cut before the work leaves nothing behind."""
    async with ComfyUI(script=[Rule(Cut(), begun=False)]) as standin:
        talker = Talker(standin, client)
        with pytest.raises(aiohttp.ClientError):
            await talker.submit(text_graph())
        assert (standin.jobs, standin.tally.billed, standin.calls) == ([], 0, 1)


@pytest.mark.parametrize("status,begun", [(401, 0), (403, 0), (413, 0), (429, 0), (500, 1), (503, 0)])
async def test_prompt_can_be_refused(client: Client, status: int, begun: int) -> None:
    """With any status; a 500 leaves open whether the prompt was queued, and here it was."""
    rule = Rule(Refuse(status, retry_after=3), times=1)
    async with ComfyUI(step_time=0, script=[rule]) as standin:
        url = f"{standin.url}/prompt"
        async with client.post(url, json={"prompt": text_graph()}) as response:
            assert (response.status, response.headers["Retry-After"]) == (status, "3")
        assert len(standin.jobs) == begun
        await Talker(standin, client).submit(text_graph())


@pytest.mark.parametrize(
    "operation,path", [("history", "/history/x"), ("view", "/view?filename=x"), ("queue", "/queue")]
)
async def test_other_operations_fail_by_name(client: Client, operation: str, path: str) -> None:
    """Polls and views meet rules that name them, and only those."""
    async with ComfyUI(script=[Rule(Refuse(500), operation=operation)]) as standin:
        talker = Talker(standin, client)
        assert (await talker.get(path))[0] == 500
        assert (await talker.get(f"/api{path}"))[0] == 500
        assert await talker.get("/embeddings") == []


async def test_answers_may_be_garbage_or_slow(client: Client) -> None:
    """A history that is not JSON, and one that drips."""
    rules = [Rule(Garbage("not_json"), operation="history", times=1), Rule(Drip(1, 0.0), operation="history")]
    async with ComfyUI(script=rules) as standin:
        async with client.get(f"{standin.url}/history") as response:
            assert (await response.read()).startswith(b"<html>")
        assert await Talker(standin, client).get("/history") == {}


async def test_websocket_may_be_refused_or_never_answered(client: Client) -> None:
    """The upgrade is an operation like any other, named `ws`."""
    rules = [Rule(Refuse(502), operation="ws", times=1), Rule(Stall(), operation="ws", times=1)]
    async with ComfyUI(script=rules) as standin:
        url = f"{standin.url}/ws?clientId=me"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(url)
        assert refused.value.status == 502
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ws_connect(url), 0.05)  # silence can only be shown by waiting
        async with Talker(standin, client).listening():
            assert standin.open_sockets == 1


# Prompts


async def test_node_fails_at_a_step(client: Client) -> None:
    """The client is told with the server's paths, the history keeps it, and the next prompt runs."""
    rule = PromptRule(Fail(at_step=2, exception=OUT_OF_MEMORY, message="Allocation on device"), ONE)
    async with ComfyUI(step_time=0, preview_size=64, prompts=[rule]) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            await talker.submit(text_graph())
            await until(talker.ended)
        error = next(one[1] for one in talker.heard if isinstance(one, list) and one[0] == "execution_error")
        assert (error["exception_type"], error["node_type"]) == (OUT_OF_MEMORY, "KSampler")
        assert error["exception_message"].startswith("Allocation on device\n")
        assert any("/srv/comfyui" in line for line in error["traceback"])
        assert standin.jobs[0].steps == 1
        assert (await talker.run(text_graph()))["status"]["completed"]


async def test_history_may_come_after_success(client: Client) -> None:
    """Between `execution_success` and the last message the history is empty."""
    async with ComfyUI(step_time=0, prompts=[PromptRule(LateHistory(0.3))]) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            prompt_id = await talker.submit(text_graph())
            await until(lambda: "execution_success" in talker.kinds)
            assert await talker.get(f"/history/{prompt_id}") == {}
            assert not talker.ended()
            await until(talker.ended)
            assert prompt_id in await talker.get(f"/history/{prompt_id}")


async def test_history_may_come_after_the_end(client: Client) -> None:
    """The worse kind: nothing is left to wait for, and the history is still empty."""
    rule = {"do": {"kind": "late_history", "seconds": 0.3, "after_end": True}}
    async with ComfyUI(step_time=0, prompts=[rule]) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            prompt_id = await talker.submit(text_graph())
            await until(talker.ended)
            assert await talker.get(f"/history/{prompt_id}") == {}
            await asyncio.sleep(0.35)
            assert prompt_id in await talker.get(f"/history/{prompt_id}")


async def test_result_file_may_be_gone(client: Client) -> None:
    """History names a file that `/view` does not find."""
    async with ComfyUI(step_time=0, prompts=[PromptRule(LoseFiles())]) as standin:
        talker = Talker(standin, client)
        entry = await talker.run(text_graph())
        (place,) = entry["outputs"]["9"]["images"]
        assert await talker.get(f"/view?filename={place['filename']}&type=output") == (404, b"")


async def test_cached_run_names_a_file_that_was_removed(client: Client) -> None:
    """Who deletes outputs and sends the same graph again gets the old name."""
    async with ComfyUI(step_time=0) as standin:
        talker = Talker(standin, client)
        (place,) = (await talker.run(text_graph()))["outputs"]["9"]["images"]
        standin.folders.delete(("output", "", place["filename"]))
        assert (await talker.run(text_graph()))["outputs"]["9"]["images"] == [place]
        assert (await talker.get(f"/view?filename={place['filename']}"))[0] == 404


async def test_prompt_may_vanish(client: Client) -> None:
    """No message, no history, not in the queue; the count falls."""
    async with ComfyUI(step_time=0, preview_size=64, prompts=[PromptRule(Vanish(at_step=2))]) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            prompt_id = await talker.submit(text_graph())
            await until(lambda: standin.idle)
            assert await talker.get(f"/history/{prompt_id}") == {}
            assert await talker.get("/queue") == {"queue_running": [], "queue_pending": []}
        assert talker.kinds[-1] == "event 1"
        assert job_state(standin, prompt_id) == "vanished"


async def test_pause_holds_an_interrupt_back(client: Client) -> None:
    """A node that is busy does not look at the flag; it takes hold afterwards."""
    async with ComfyUI(step_time=0, preview_size=64, prompts=[PromptRule(Pause(at_step=2, seconds=0.1))]) as standin:
        talker = Talker(standin, client)
        prompt_id = await talker.submit(text_graph())
        await until(lambda: standin.jobs[0].steps == 1)
        began = time.monotonic()
        await talker.post("/interrupt", {"prompt_id": prompt_id})
        await until(lambda: job_state(standin, prompt_id) == "interrupted")
        assert time.monotonic() - began > 0.05
        assert standin.jobs[0].steps == 2


async def test_one_prompt_without_previews(client: Client) -> None:
    """Progress comes, pictures do not."""
    async with ComfyUI(step_time=0, prompts=[PromptRule(NoPreviews())]) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            await talker.submit(text_graph())
            await until(talker.ended)
        assert talker.kinds.count("progress") == 3
        assert "event 1" not in talker.kinds


async def test_work_can_be_held_at_a_moment(client: Client) -> None:
    """A test can stop the work before an exact step and look around."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold(moment: Moment) -> None:
        if moment.step == 2:
            reached.set()
            await go_on.wait()

    async with ComfyUI(step_time=0, hold=hold) as standin:
        await Talker(standin, client).submit(text_graph())
        await reached.wait()
        assert (standin.jobs[0].state, standin.jobs[0].steps) == ("running", 1)
        go_on.set()
        await until(lambda: standin.jobs[0].state == "success")


# Sockets


@pytest.mark.parametrize("kind,kinds", [("zombie", []), ("deaf", ["status"]), ("frozen", [])])
async def test_socket_may_be_open_and_hear_nothing(client: Client, kind: Any, kinds: list[str]) -> None:
    """A zombie answers pings, a deaf one hears `status` too, a frozen one does nothing."""
    async with ComfyUI(step_time=0, sockets=[SocketRule(kind, ONE, after=1)]) as standin:
        talker = Talker(standin, client)
        async with client.ws_connect(f"{standin.url}/ws?clientId=me", autoping=False) as socket:
            await socket.receive_json()
            await talker.run(text_graph())
            await socket.ping(b"?")
            heard = []
            try:
                while (message := await socket.receive(timeout=0.1)).type is not aiohttp.WSMsgType.PONG:
                    heard.append(message.json()["type"])
                answered = True
            except TimeoutError:
                answered = False
        assert answered == (kind != "frozen")
        assert sorted(set(heard)) == kinds
        async with Talker(standin, client, "other").listening() as other:
            await other.submit(text_graph(seed=9))
            await until(other.ended)


async def test_open_sockets_can_be_spoilt_later(client: Client) -> None:
    """From one moment on the sockets that are open hear nothing more."""
    async with ComfyUI(step_time=0) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            standin.spoil_sockets()
            await talker.run(text_graph())
            await talker.get("/queue")
        assert talker.kinds == []


# The whole server


async def test_killed_server_forgets_and_comes_back_on_its_port(client: Client) -> None:
    """Sockets break without a close frame, connections are refused, then numbers begin at 0 with nothing known."""
    async with ComfyUI(step_time=0.005) as standin:
        talker = Talker(standin, client)
        async with talker.listening():
            running = await talker.submit(text_graph(steps=1000))
            pending = await talker.submit(text_graph(seed=8))
            await until(lambda: standin.jobs[0].steps > 1)
            url = standin.url
            await standin.kill()
            await until(lambda: talker.heard[-1] == ["closed", 1006])
        with pytest.raises(aiohttp.ClientConnectorError):
            await talker.get("/queue")
        assert [job_state(standin, one) for one in (running, pending)] == ["lost", "lost"]
        await standin.restart()
        assert standin.url == url
        assert await talker.get("/history") == {}
        assert (await talker.get("/prompt"))["exec_info"]["queue_remaining"] == 0
        assert (await talker.post("/prompt", {"prompt": text_graph()}))[1]["number"] == 0


async def test_server_may_crash_at_a_step_and_return(client: Client) -> None:
    """Scripted: the crash comes in the middle of a prompt, the restart a moment later; uploads are still there."""
    rule = PromptRule(Crash(at_step=2, restart_after=0.02), ONE)
    async with ComfyUI(step_time=0, prompts=[rule]) as standin:
        talker = Talker(standin, client)
        await talker.upload("kept.png", b"x")
        await talker.submit(text_graph())
        await until(lambda: standin.starts == 2)
        assert standin.jobs[0].state == "lost"
        assert (await talker.get("/view?filename=kept.png&type=input")) == (200, b"x")
        assert (await talker.run(text_graph()))["status"]["completed"]


async def test_ends_within_a_second_whatever_goes_on(client: Client) -> None:
    """A prompt in a pause without end, an open socket and a stalled request do not hold it up."""
    async with ComfyUI(prompts=[PromptRule(Pause())], script=[Rule(Stall(), operation="queue")]) as standin:
        talker = Talker(standin, client)
        socket = await client.ws_connect(f"{standin.url}/ws")
        stalled = asyncio.create_task(talker.get("/queue"))
        await talker.submit(text_graph())
        await until(lambda: standin.jobs[0].state == "running")
        began = time.monotonic()
    assert time.monotonic() - began < 1
    with pytest.raises(aiohttp.ClientError):
        await stalled
    await socket.close()


# Control


async def test_rules_can_be_set_over_http(client: Client) -> None:
    """For a stand-in that runs as a process: prompts, sockets, what was accepted, a crash."""
    async with ComfyUI(step_time=0) as standin:
        talker = Talker(standin, client)
        rules = [{"prompts": [1], "do": {"kind": "fail", "message": "told over HTTP"}}]
        assert (await talker.post("/__standin/comfyui/prompts", rules))[0] == 200
        assert (await talker.post("/__standin/comfyui/sockets", [{"kind": "deaf"}]))[0] == 200
        await talker.run(text_graph())
        told = await talker.get("/__standin/comfyui/prompts")
        assert [one["state"] for one in told["prompts"]] == ["error"]
        assert (await talker.post("/__standin/comfyui/prompts", [{"do": {"kind": "nonsense"}}]))[0] == 400
        assert (await talker.post("/__standin/comfyui/nonsense"))[0] == 404
        await talker.post("/__standin/comfyui/crash", {"restart_after": 0})
        await until(lambda: standin.starts == 2)
        assert await talker.get("/history") == {}
        with pytest.raises(ScriptError):
            standin.script_sockets({"nonsense": 1})
