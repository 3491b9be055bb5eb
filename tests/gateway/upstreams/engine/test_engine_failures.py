"""How calls of the embedded engine fail, and that the next one is none the worse."""

import os
import signal

import numpy as np
import pytest

from gateway.core.reports import ImageMade, Outcome, UpstreamFault, WorkBegun
from gateway.engine import wire
from gateway.upstreams.engine import Engine, _told
from tests.gateway.upstreams.engine.talk import encoded, noise, order, process_id, told

BROKEN = [b"", b"no image", encoded(np.zeros((64, 64, 3), np.uint8))[:-90], b"GIF89a" + bytes(99)]


@pytest.mark.parametrize(
    "task,role",
    [
        ("img2img", "init"),
        ("inpaint", "mask"),
        ("controlnet", "scribble"),
        ("reference", "reference"),
        ("upscale", "init"),
    ],
)
async def test_engine_refuses_a_broken_image_by_name_and_goes_on(engine: Engine, task: str, role: str) -> None:
    """Whatever it is for, the call fails for good, and the process lives."""
    before = process_id(engine)
    others = {"init": noise()} if role == "mask" else {}
    for content in BROKEN:
        with pytest.raises(UpstreamFault) as caught:
            await told(engine, order(task, {**others, role: content}))
        assert (caught.value.outcome, caught.value.code) == (Outcome.FAILED, "image_decode_failed"), content[:20]
        assert isinstance((await told(engine, order()))[-1], ImageMade)
        assert process_id(engine) == before


async def test_engine_refuses_inputs_that_are_too_large_together() -> None:
    """Nothing is started for an order that a process would not read."""
    engine = Engine()
    with pytest.raises(UpstreamFault, match="payload_too_large"):
        await told(engine, order("img2img", {"init": bytes(wire.MAX_ORDER)}))
    assert not engine._processes


async def test_engine_tells_a_lost_worker_and_paints_the_next_order(engine: Engine) -> None:
    """A process killed in the middle of an order costs that order alone."""
    reports = engine.run(order(steps=150))
    assert isinstance(await anext(reports), WorkBegun)
    os.kill(process_id(engine), signal.SIGKILL)
    with pytest.raises(UpstreamFault) as caught:
        async for _ in reports:
            pass
    assert (caught.value.outcome, caught.value.code) == (Outcome.UNKNOWN, "worker_lost")
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert len(engine._processes) == 1


async def test_engine_replaces_a_process_that_died_while_idle(engine: Engine) -> None:
    """Nobody notices."""
    await told(engine, order())
    (process,) = engine._processes
    os.kill(process_id(engine), signal.SIGKILL)
    await process._process.wait()
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert process not in engine._processes


async def test_engine_drops_a_process_that_talks_nonsense(engine: Engine) -> None:
    """A report over the bound ends the process before it is read."""
    (process,) = engine._processes
    process._due = wire.MAX_REPORT + 1
    with pytest.raises(UpstreamFault, match="worker_lost"):
        await told(engine, order())
    assert isinstance((await told(engine, order()))[-1], ImageMade)
    assert process not in engine._processes


async def test_engine_that_is_closed_refuses_calls() -> None:
    """No process is started after `close`."""
    engine = Engine()
    await engine.close()
    with pytest.raises(UpstreamFault) as caught:
        await told(engine, order())
    assert (caught.value.outcome, caught.value.code) == (Outcome.NOT_SENT, "model_unavailable")


@pytest.mark.parametrize("code", ["upstream_error", "something_new"])
def test_fault_that_nobody_knows_is_the_engines(code: str) -> None:
    """A process may say what it likes: the client gets a code of the registry."""
    with pytest.raises(UpstreamFault) as caught:
        _told(wire.Ended(1, code, "the engine failed (KeyError)"), order())
    assert (caught.value.outcome, caught.value.code) == (Outcome.FAILED, "upstream_error")
    assert caught.value.details == {}


@pytest.mark.parametrize("size,advice", [((2048, 1000), (1024, 496)), ((64, 72), (64, 64))])
def test_lack_of_memory_is_told_with_a_size_to_try(size: tuple[int, int], advice: tuple[int, int]) -> None:
    """Half of each edge, which is a size that the model has."""
    with pytest.raises(UpstreamFault) as caught:
        _told(wire.Ended(1, "out_of_memory", "m"), order(width=size[0], height=size[1]))
    assert (caught.value.outcome, caught.value.code) == (Outcome.FAILED, "out_of_memory")
    assert caught.value.details == {"suggest": {"width": advice[0], "height": advice[1]}}
    order().model.sizes.check(*advice)
