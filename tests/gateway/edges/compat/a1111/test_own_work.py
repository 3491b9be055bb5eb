"""Progress, interrupts and checkpoints concern the caller alone: another account, another end user, another edge."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from gateway.core.records import Identity, Plan
from gateway.edges.compat.a1111.callers import MAX_CALLERS, Chosen
from tests.answers import Answer
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.gateway.edges.compat.a1111.test_routes import API, ASKED, basic
from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door


async def begin(door: Door, header: str, **more: Any) -> "asyncio.Task[Answer]":
    """Ask for a picture that is held, and wait until the caller sees it; one upstream works one job at a time."""
    told = asyncio.create_task(door.ask("POST", f"{API}/txt2img", ASKED | more, key=None, Authorization=header))
    while (await progress(door, header))["state"]["job_count"] == 0:
        assert not told.done(), told
        await asyncio.sleep(0.01)
    return told


async def progress(door: Door, header: str) -> Any:
    """Return what a caller is told."""
    return (await door.ask("GET", f"{API}/progress", key=None, Authorization=header)).json


async def test_two_accounts_and_two_end_users_never_meet(door: Door) -> None:
    """Each sees its own job, and an interrupt ends only that."""
    other = await door.key_of("other", Plan())
    callers = [basic("ann", door.running.key), basic("bob", door.running.key), basic("ann", other)]
    for header in callers:
        assert (await progress(door, header))["state"]["job_count"] == 0
    door.easel.hold = asyncio.Event()
    jobs = []
    for place, header in enumerate(callers):
        for idle in callers[place + 1 :]:
            assert (await progress(door, idle))["state"]["job_count"] == 0
        jobs.append(await begin(door, header, batch_size=place + 1))
    counts = [(await progress(door, header))["state"]["job_count"] for header in callers]
    assert counts == [1, 2, 3]
    stranger = basic("carl", door.running.key)
    assert (await door.ask("POST", f"{API}/interrupt", key=None, Authorization=stranger)).json == {}
    assert (await door.ask("POST", f"{API}/skip", key=None, Authorization=stranger)).json is None
    assert not any(job.done() for job in jobs)
    assert (await door.ask("POST", f"{API}/interrupt", key=None, Authorization=callers[1])).json == {}
    ended = await jobs[1]
    assert (ended.status, ended.json["images"], ended.json["info"]) == (200, [], "{}")
    assert not jobs[0].done()
    assert not jobs[2].done()
    door.easel.hold.set()
    assert [len((await jobs[place]).json["images"]) for place in (0, 2)] == [1, 3]


async def test_the_jobs_of_a_session_are_not_meant(door: Door) -> None:
    """Only what came over plain HTTP is seen here; a job that waits is told as one, and can be interrupted."""
    door.easel.hold = asyncio.Event()
    header = basic("", door.running.key)
    running = await begin(door, header)
    node = door.running.gateway.node
    [record] = await node.jobs.listed(*await _caller(door), ref=None, state=None, after=None, limit=2)
    assert record.session is None
    assert (await door.ask("POST", f"{API}/skip", key=None, Authorization=header)).json is None
    assert (await running).status == 200
    several = await begin(door, header, batch_size=2)
    refused = await door.ask("POST", f"{API}/skip", key=None, Authorization=header)
    assert (refused.status, refused.json["detail"]) == (
        422, "one of several pictures cannot be skipped: interrupt them all",
    )  # fmt: skip
    door.easel.hold.set()
    assert len((await several).json["images"]) == 2


async def _caller(door: Door) -> tuple[str, str]:
    identity = await door.running.gateway.node.access.identify(door.running.key)
    return identity.tenant, identity.subject


async def test_a_preview_is_the_callers_too(tmp_path: Path) -> None:
    """Steps and previews come while the work goes on; one who wants no picture gets none."""
    pause = asyncio.Event()
    paper = PaperUpstream(pace=lambda step: 0.0 if step < 4 or pause.is_set() else 0.2)
    async with gateway_here(tmp_path, upstreams=[paper]) as running, aiohttp.ClientSession() as client:
        door = Door(running, Easel(), client)
        header = basic("ann", running.key)
        task = await begin(door, header, steps=8, width=64, height=64)
        while (told := await progress(door, header))["current_image"] is None:
            assert not task.done(), task
            await asyncio.sleep(0.01)
        assert (told["state"]["sampling_steps"], told["state"]["interrupted"]) == (8, False)
        bare = await door.ask(
            "GET", f"{API}/progress?skip_current_image=true", key=None, Authorization=basic("ann", running.key)
        )
        assert bare.json["current_image"] is None
        pause.set()
        assert (await task).status == 200


async def test_a_checkpoint_is_set_for_the_caller_alone(tmp_path: Path) -> None:
    """Clients send all settings back with one changed; a request may name another for itself."""
    easel = Easel()
    easel.models = (EASEL, replace(EASEL, id="other"))
    async with open_door(tmp_path, easel) as door:
        ann, bob = basic("ann", door.running.key), basic("bob", door.running.key)
        options = (await door.ask("GET", f"{API}/options", key=None, Authorization=ann)).json
        assert options["sd_model_checkpoint"] == "easel"
        options["sd_model_checkpoint"] = "other"
        assert (await door.ask("POST", f"{API}/options", options, key=None, Authorization=ann)).json is None
        assert (await door.ask("POST", f"{API}/options", {}, key=None, Authorization=bob)).json is None
        models = [(await door.ask("GET", f"{API}/sd-models", key=None, Authorization=who)).json for who in (ann, bob)]
        assert [one[0]["title"] for one in models] == ["other", "easel"]
        for header, body in (
            (ann, {}),
            (bob, {}),
            (ann, {"override_settings": {"sd_model_checkpoint": "easel [abc]"}}),
        ):
            await door.ask("POST", f"{API}/txt2img", ASKED | body, key=None, Authorization=header)
        assert [order.request.model for order in easel.orders] == ["other", "easel", "easel"]


def test_choices_are_bounded() -> None:
    """Who chose longest ago is forgotten first, and nobody of another account."""
    chosen, other = Chosen(), Identity("other", "0", Plan(), "k")
    chosen.set(other, "m")
    for number in range(MAX_CALLERS + 1):
        chosen.set(Identity("t", str(number), Plan(), "k"), "m")
    assert len(chosen) == MAX_CALLERS + 1
    assert chosen.get(Identity("t", "0", Plan(), "k")) is None
    assert [chosen.get(one) for one in (Identity("t", "1", Plan(), "k"), other)] == ["m", "m"]
