"""The gateway's side of a diffusers upstream, with a process that needs no torch: loading, failing, calling off."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.normal import Request
from gateway.core.reports import ImageMade, Outcome, Report, StepDone, UpstreamFault, WorkBegun
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.diffusers import Diffusers, Setup
from gateway.upstreams.diffusers.models import Terms, model_of, name_of
from tests.gateway.upstreams.diffusers.scripted import LOADED

SCRIPT = "tests.gateway.upstreams.diffusers.scripted"


@contextlib.asynccontextmanager
async def opened(model: str = "plain", **more: Any) -> AsyncIterator[Diffusers]:
    """An open upstream whose process is the scripted one."""
    upstream = Diffusers(name="attic", setup=Setup(model=model), module=SCRIPT, **more)
    await upstream.open()
    try:
        yield upstream
    finally:
        await upstream.close()


def order(prompt: str = "a harbour", **changes: Any) -> CallOrder:
    """Return a small call."""
    asked: dict[str, Any] = {
        "task": "txt2img",
        "model": "plain",
        "prompt": prompt,
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 7.0,
        "seed": 5,
        "n": 1,
    }
    request = Request(**asked | changes)
    return CallOrder("call-1", model_of("attic", "plain", LOADED, Terms()), request, request.seed, 1)


async def told(upstream: Diffusers, call: CallOrder) -> list[Report]:
    """Run the call to its end."""
    async with contextlib.aclosing(upstream.run(call)) as reports:
        return [report async for report in reports]


def process_id(upstream: Diffusers) -> int:
    """Return the id of the only process."""
    (process,) = upstream._processes
    return process._process.pid


def test_upstream_fills_the_port() -> None:
    """The type checker agrees; nothing is offered before the model is loaded."""
    upstream: Upstream = Diffusers(name="attic", setup=Setup(model="plain"))
    assert upstream.models == ()
    assert not upstream.can_find(None)


async def test_model_is_offered_once_it_is_loaded() -> None:
    """With what its pipelines take, and nothing else."""
    async with opened() as upstream:
        await upstream.refresh()
        (model,) = upstream.models
        assert (model.id, model.default_steps, model.default_guidance, model.billed) == ("plain", 4, 7.5, False)
        assert "strength" not in model.tasks["txt2img"]
        assert "negative_prompt" not in model.tasks["img2img"]
        findings = await upstream.probe()
        assert findings.server == "scripted 1"
        assert not findings.problems


async def test_loading_model_is_told_as_such_and_the_gateway_goes_on() -> None:
    """`refresh` gives up after its patience, says what is being loaded, and goes on later with the same process."""
    async with opened("slow", patience_seconds=0.1) as upstream:
        before = process_id(upstream)
        with pytest.raises(UpstreamFault) as caught:
            await upstream.refresh()
        assert (caught.value.outcome, caught.value.code) == (Outcome.NOT_SENT, "model_unavailable")
        assert "still being loaded" in caught.value.message
        assert "loading: " in (await upstream.probe()).facts[0]
        assert isinstance((await told(upstream, order()))[-1], ImageMade)
        assert process_id(upstream) == before
        await upstream.refresh()
        assert len(upstream.models) == 1


async def test_model_that_cannot_be_loaded_is_named_and_left_alone() -> None:
    """Each `refresh` and each call tells it, and no process is started anew for it."""
    async with opened("missing") as upstream:
        for _ in range(2):
            with pytest.raises(UpstreamFault) as caught:
                await upstream.refresh()
            assert (caught.value.outcome, caught.value.code) == (Outcome.NOT_SENT, "model_unavailable")
            assert caught.value.details["cause"] == "the model missing is not on this machine"
        with pytest.raises(UpstreamFault, match="cannot be loaded"):
            await told(upstream, order())
        assert not upstream._processes


async def test_process_that_dies_while_it_loads_is_told() -> None:
    """As a model that cannot be loaded; nothing was sent."""
    async with opened("deadly") as upstream:
        with pytest.raises(UpstreamFault, match="cannot be loaded") as caught:
            await upstream.refresh()
        assert caught.value.outcome is Outcome.NOT_SENT


async def test_steps_are_those_that_the_pipeline_runs() -> None:
    """Fewer than were asked for, where it tells so."""
    async with opened() as upstream:
        reports = await told(upstream, order())
        assert reports[0] == WorkBegun(3)
        assert [(report.step, report.steps) for report in reports if isinstance(report, StepDone)] == [
            (1, 3),
            (2, 3),
            (3, 3),
        ]


async def test_lack_of_memory_is_told_with_a_smaller_size() -> None:
    """The process lives on."""
    async with opened() as upstream:
        await upstream.refresh()
        before = process_id(upstream)
        with pytest.raises(UpstreamFault) as caught:
            await told(upstream, order("huge", width=512, height=256))
        assert caught.value.code == "out_of_memory"
        assert caught.value.details == {"suggest": {"width": 256, "height": 128}}
        assert isinstance((await told(upstream, order()))[-1], ImageMade)
        assert process_id(upstream) == before


async def test_called_off_step_is_not_waited_for_and_costs_no_process() -> None:
    """The iteration ends at once; the next call waits for the step."""
    async with opened() as upstream:
        reports = upstream.run(order(steps=100))
        async for report in reports:
            if isinstance(report, StepDone):
                break
        before, began = process_id(upstream), time.monotonic()
        await reports.aclose()
        assert time.monotonic() - began < 0.5
        assert [type(report) for report in await told(upstream, order(steps=2))] == [WorkBegun, StepDone, ImageMade]
        assert process_id(upstream) == before


async def test_process_that_does_not_obey_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next call wants it, and after the patience that a long step has."""
    monkeypatch.setattr("gateway.upstreams.diffusers.adapter._GRACE_SECONDS", 0.2)
    async with opened() as upstream:
        reports = upstream.run(order("stuck"))
        await anext(reports)
        before = process_id(upstream)
        await reports.aclose()
        assert isinstance((await told(upstream, order()))[-1], ImageMade)
        assert process_id(upstream) != before


async def test_killed_process_costs_its_call_alone() -> None:
    """`worker_lost`, and the next call loads the model anew."""
    async with opened() as upstream:
        reports = upstream.run(order(steps=100))
        await anext(reports)
        os.kill(process_id(upstream), signal.SIGKILL)
        with pytest.raises(UpstreamFault) as caught:
            async for _ in reports:
                pass
        assert (caught.value.outcome, caught.value.code) == (Outcome.UNKNOWN, "worker_lost")
        assert isinstance((await told(upstream, order()))[-1], ImageMade)


async def test_call_cancelled_while_the_model_loads_keeps_the_process() -> None:
    """The loading goes on for the next."""
    async with opened("slow") as upstream:
        before = process_id(upstream)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await told(upstream, order())
        assert isinstance((await told(upstream, order()))[-1], ImageMade)
        assert process_id(upstream) == before


async def test_process_gets_keys_only_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """No vendor's key at all, and the hub's only where something may be fetched."""
    monkeypatch.setenv("SAFELIGHT_OPENAI_KEY", "secret-1")
    monkeypatch.setenv("HF_TOKEN", "secret-2")
    for download in (False, True):
        upstream = Diffusers(name="attic", setup=Setup(model="plain", download=download), module=SCRIPT)
        await upstream.open()
        environment = Path(f"/proc/{process_id(upstream)}/environ").read_bytes()
        await upstream.close()
        assert b"secret-1" not in environment
        assert (b"secret-2" in environment, b"HF_HUB_OFFLINE=1" in environment) == (download, not download)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
async def test_missing_library_is_named_with_what_to_do() -> None:
    """By the real process."""
    upstream = Diffusers(name="attic", setup=Setup(model="plain"))
    await upstream.open()
    with pytest.raises(UpstreamFault) as caught:
        await upstream.refresh()
    await upstream.close()
    assert 'pip install "safelight[diffusers]"' in caught.value.details["cause"]


def test_gateway_never_imports_torch() -> None:
    """Neither the adapter nor the builders do."""
    code = "import sys, gateway.app; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "origin,name",
    [("/models/sd15/", "sd15"), ("someone/sdxl-turbo", "sdxl-turbo"), ("C:\\x\\my model", "my-model"), ("/", "model")],
)
def test_model_is_named_after_its_folder(origin: str, name: str) -> None:
    """In letters that a model's name may have."""
    assert name_of(origin) == name
