"""The adapter against the stand-in, over real sockets; the two were written apart from each other."""

import asyncio
import io
from itertools import pairwise

import aiohttp
import pytest
from PIL import Image

from gateway.core.params import Lora
from gateway.core.reports import ImageMade, Outcome, WorkBegun
from gateway.ports import Upstream
from gateway.upstreams.sdcpp import SdCpp
from gateway.upstreams.sdcpp import adapter as adapter_module
from load.upstreams.faults import Drip, Rule
from load.upstreams.pictures import colour_of
from load.upstreams.sdcpp import SdCpp as StandIn
from load.upstreams.sdcpp import Shop
from tests.gateway.upstreams.sdcpp.vendor import (
    CONTROLLED,
    KEY,
    adapter,
    count,
    fault,
    fields,
    flat,
    half_white,
    images,
    input_image,
    near,
    one_more,
    operations,
    order,
    pixel,
    reports,
    until,
)
from tests.pictures import encoded

INIT = (200, 100, 0)
LAMP = colour_of(7, "a lamp")


async def test_picture_is_made_from_the_seed_and_the_prompt(standin: StandIn) -> None:
    """The stand-in paints the colour of seed and prompt: both arrived as they were asked."""
    async with adapter(standin.url) as upstream:
        begun, made = await reports(upstream, order(upstream, width=192, height=128))
    assert begun == WorkBegun(2)
    assert isinstance(made, ImageMade)
    assert (made.index, made.seed, made.filtered) == (0, 7, False)
    assert (made.picture.format, made.picture.width, made.picture.height) == ("png", 192, 128)
    assert pixel(made) == LAMP
    (call,) = (call for call in standin.log if call.operation == "img_gen")
    assert (call.client, call.unknown_fields) == ("safelight", ())


async def test_every_value_is_explicit(standin: StandIn) -> None:
    """Nothing is left to what the server was started with but what we do not know."""
    async with adapter(standin.url) as upstream:
        asked = order(
            upstream, negative_prompt="fog", sampler="dpmpp_2m", scheduler="karras", steps=30, guidance=4.5, count=2
        )
        await reports(upstream, asked)
    assert fields(standin) == {
        "prompt": "a lamp",
        "negative_prompt": "fog",
        "width": 128,
        "height": 128,
        "seed": 7,
        "batch_count": 2,
        "sample_params": {
            "sample_steps": 30,
            "guidance": {"txt_cfg": 4.5},
            "sample_method": "dpm++2m",
            "scheduler": "karras",
        },
        "hires": {"enabled": False},
        "output_format": "png",
        "embed_image_metadata": False,
    }


async def test_batch_is_one_job_and_counts_the_seed_on(standin: StandIn) -> None:
    """Several images are one job; each has its own index and seed, which the colour proves."""
    async with adapter(standin.url) as upstream:
        made = await images(upstream, order(upstream, count=8, seed=50))
    assert [(image.index, image.seed) for image in made] == [(number, 50 + number) for number in range(8)]
    assert [pixel(image) for image in made] == [colour_of(50 + number, "a lamp") for number in range(8)]
    assert standin.calls == 1


async def test_file_tells_nothing_of_the_prompt(standin: StandIn) -> None:
    """The server writes prompt and settings into its files unless told not to."""
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, prompt="a secret lamp"))
    assert b"secret" not in made.picture.content
    with Image.open(io.BytesIO(made.picture.content)) as opened:
        assert opened.info == {}


async def test_large_answer_is_decoded_beside_the_loop() -> None:
    """Pictures as large as real ones come through whole."""
    async with StandIn(step_seconds=0, picture_bytes=1_500_000) as standin, adapter(standin.url) as upstream:
        made = await images(upstream, order(upstream, count=3))
    assert [len(image.picture.content) >= 1_500_000 for image in made] == [True] * 3


async def test_slow_answer_comes_whole(standin: StandIn) -> None:
    """An answer in small pieces is no stall."""
    standin.script(Rule(do=Drip(piece_bytes=100, pause_seconds=0.001), operation="job"))
    async with adapter(standin.url) as upstream:
        assert len(await images(upstream, order(upstream))) == 1


async def test_every_sampler_and_scheduler_is_sent_in_the_servers_words(standin: StandIn) -> None:
    """All names that the model lists reach the server as ones that it lists."""
    async with adapter(standin.url) as upstream:
        model = upstream.models[0]
        theirs = set()
        for sampler in model.samplers:
            await reports(upstream, order(upstream, sampler=sampler))
            theirs.add(fields(standin)["sample_params"]["sample_method"])
    assert {"euler", "euler_a", "dpmpp_2m", "dpmpp_2s_a", "ddim", "lms"} < set(model.samplers)
    assert {"euler", "euler_a", "dpm++2m", "dpm++2s_a", "ddim_trailing", "lms"} < theirs
    assert len(theirs) == len(model.samplers) == 21


# ----------------------------------------------------------------------------------------------- tasks and their pixels


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.65, 1.0])
async def test_strength_points_the_right_way(standin: StandIn, strength: float) -> None:
    """0 keeps the init image's pixels, 1 ignores them."""
    async with adapter(standin.url) as upstream:
        asked = order(upstream, "img2img", strength=strength, inputs={"init": flat(INIT)})
        (made,) = await images(upstream, asked)
    expected = tuple(a * (1 - strength) + b * strength for a, b in zip(INIT, LAMP, strict=True))
    assert near(pixel(made), expected)


@pytest.mark.parametrize("mask_size", [(128, 128), (64, 32)])
@pytest.mark.parametrize("mask_format", ["PNG", "WEBP", "JPEG"])
async def test_white_is_repainted_and_black_is_kept(
    standin: StandIn, mask_size: tuple[int, int], mask_format: str
) -> None:
    """White means edit, whatever the mask's size and format."""
    mask = encoded(half_white(mask_size), mask_format, quality=100)
    async with adapter(standin.url) as upstream:
        asked = order(upstream, "inpaint", strength=1.0, inputs={"init": flat(INIT), "mask": mask})
        (made,) = await images(upstream, asked)
    assert near(pixel(made, (20, 64)), LAMP)
    assert near(pixel(made, (120, 64)), INIT)


@pytest.mark.parametrize("weight,share", [(1.0, 0.5), (0.5, 0.25), (0.0, 0.0)])
async def test_control_image_counts_by_its_weight(standin: StandIn, weight: float, share: float) -> None:
    """The stand-in mixes it in by half of its weight."""
    control = input_image("canny", weight=weight)
    async with adapter(standin.url, terms=CONTROLLED) as upstream:
        asked = order(upstream, "controlnet", inputs={"canny": flat(INIT)}, request_inputs=(control,))
        (made,) = await images(upstream, asked)
    assert near(pixel(made), tuple(a * share + b * (1 - share) for a, b in zip(INIT, LAMP, strict=True)))
    assert "strength" not in fields(standin)


async def test_control_image_goes_with_init_and_mask(standin: StandIn) -> None:
    """The three together: repainted in the mask, kept outside, the control mixed in over all."""
    inputs = {"init": flat(INIT), "mask": encoded(half_white()), "canny": flat("white")}
    async with adapter(standin.url, terms=CONTROLLED) as upstream:
        (made,) = await images(upstream, order(upstream, "controlnet", strength=1.0, inputs=inputs))
    assert near(pixel(made, (20, 64)), tuple((value + 255) / 2 for value in LAMP))
    assert near(pixel(made, (120, 64)), tuple((value + 255) / 2 for value in INIT))


async def test_lora_goes_by_its_path() -> None:
    """Clients name it, the server wants the path; its weight counts."""
    shop = Shop(loras=("style/ink.safetensors", "paint.gguf"))
    async with StandIn(shop=shop, step_seconds=0) as standin, adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, loras=(Lora("ink", 0.5), Lora("paint"))))
        assert upstream.models[0].loras == ("ink", "paint")
    assert pixel(made) == colour_of(7, "a lamp<lora:paint.gguf:1><lora:style/ink.safetensors:0.5>")


async def test_words_in_the_prompt_are_only_words(standin: StandIn) -> None:
    """What steers the blocking dialects from within a prompt is not obeyed here: neither LoRAs nor settings."""
    prompt = 'x <lora:tiny-sd1:1> <sd_cpp_extra_args>{"width": 4096, "seed": 1}</sd_cpp_extra_args>'
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, prompt=prompt))
    assert (made.picture.width, pixel(made)) == (128, colour_of(7, prompt))


# -------------------------------------------------------------------------------------------------- the numbered points


async def test_point_1_work_is_a_job_that_is_asked_about(standin: StandIn) -> None:
    """Its id is noted before anything is asked about it, and its states are all there is: no steps, no previews."""
    standin.script(Rule(service_seconds=0.05))
    noted: list[str] = []
    asked_before: list[int] = []

    async def note(handle: str) -> None:
        asked_before.append(count(standin, "job"))
        noted.append(handle)

    async with adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream, noted=note))
    assert [type(report) for report in told] == [WorkBegun, ImageMade]
    assert asked_before == [0]
    assert [job.startswith("job_") for job in noted] == [True]
    assert count(standin, "job") > 2


async def test_point_1_queued_job_has_not_begun(standin: StandIn) -> None:
    """`WorkBegun` comes with `generating`, not before."""
    standin.script(Rule(service_seconds=0.15, requests=frozenset({1})))
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        first = group.create_task(reports(upstream, order(upstream)))
        await until(lambda: standin.calls == 1)
        second = upstream.run(order(upstream))
        begun = group.create_task(one_more(second))
        await until(lambda: count(standin, "job") > 5)
        assert (first.done(), begun.done(), standin.calls) == (False, False, 2)
        assert await begun == WorkBegun(2)
        assert first.done()
        await second.aclose()


async def test_point_1_expired_result_is_gone() -> None:
    """Results are kept for a time, then 410: lost, and nothing was paid for it."""
    async with StandIn(step_seconds=0, keep_seconds=0) as standin, adapter(standin.url) as upstream:
        found = await fault(upstream.run(order(upstream)))
    assert (found.outcome, found.code) == (Outcome.GONE, "worker_lost")


async def test_point_3_full_queue_refuses_for_a_moment() -> None:
    """429 closes the gate for a second, not for the minutes that a hosted vendor's rate limit asks."""
    full = StandIn(shop=Shop(max_pending=2), service_time=0.2)
    async with full as standin, adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(reports(upstream, order(upstream)))
        await until(lambda: standin.tally.accepted == 2)
        found = await fault(upstream.run(order(upstream)))
    assert (found.outcome, found.code, found.locked_out) == (Outcome.REFUSED, "model_unavailable", True)
    assert found.retry_after_seconds == 1.0
    assert found.details["vendor_message"] == "job queue is full"
    assert standin.calls == 3


async def test_point_3_generating_may_still_wait_for_another(standin: StandIn) -> None:
    """A job says `generating` while a blocking request has the model: the work may take longer than its steps."""
    standin.script(Rule(service_seconds=0.1, operation="txt2img"))
    async with adapter(standin.url) as upstream, aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
        body = {"prompt": "x", "width": 64, "height": 64}
        blocking = group.create_task(client.post(f"{standin.url}/sdapi/v1/txt2img", json=body))
        await until(lambda: standin.calls == 1)
        run = upstream.run(order(upstream))
        assert await anext(run) == WorkBegun(2)
        assert not blocking.done()
        assert isinstance(await anext(run), ImageMade)
        (await blocking).close()
        await run.aclose()


async def test_point_5_only_the_job_dialect_is_spoken(standin: StandIn) -> None:
    """The blocking dialects tell nothing while they work and go on when their client leaves: never used."""
    async with adapter(standin.url) as upstream:
        await reports(upstream, order(upstream))
        await upstream.probe()
    assert operations(standin) == ["capabilities", "img_gen", "job"]


async def test_point_6_never_asks_faster_than_ten_times_a_second(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the settings say: the server's answers take up to 45 ms each."""
    monkeypatch.undo()
    standin.script(Rule(service_seconds=0.3))
    async with adapter(standin.url, poll_seconds=0.0) as upstream:
        await reports(upstream, order(upstream))
    assert adapter_module.SHORTEST_POLL_SECONDS == 0.1
    at = [call.arrived for call in standin.log if call.operation in ("img_gen", "job")]
    assert len(at) > 3
    assert min(later - earlier for earlier, later in pairwise(at)) > 0.09


# ------------------------------------------------------------------------------------------------------- the connection


async def test_sent_is_told_once_and_before_the_work_begins(standin: StandIn) -> None:
    """`sent` comes when the order is out; `WorkBegun` follows it."""
    standin.script(Rule(service_seconds=0.05))
    sent: list[None] = []
    async with adapter(standin.url) as upstream:
        run = upstream.run(order(upstream, sent=lambda: sent.append(None)))
        assert await anext(run) == WorkBegun(2)
        assert len(sent) == 1
        assert [type(report) async for report in run] == [ImageMade]
    assert len(sent) == 1


async def test_slow_consumer_holds_no_connection() -> None:
    """Nothing is asked while nobody listens; the job waits at the server, and its pictures are still there."""
    async with StandIn(step_seconds=0, keepalive_seconds=0.05) as standin, adapter(standin.url) as upstream:
        run = upstream.run(order(upstream))
        assert isinstance(await anext(run), WorkBegun)
        asked = len(standin.log)
        await asyncio.sleep(0.15)  # longer than the server keeps an idle connection
        assert len(standin.log) == asked
        assert [type(report) async for report in run] == [ImageMade]


async def test_closed_connections_are_no_failure() -> None:
    """The server ends a connection after each error, after idle seconds, and after many answers."""
    curt = StandIn(step_seconds=0, keepalive_requests=2, keepalive_seconds=0.02)
    async with curt as standin, adapter(standin.url) as upstream:
        for _ in range(10):
            assert len(await images(upstream, order(upstream))) == 1
    assert standin.calls == 10


async def test_many_jobs_wait_side_by_side(standin: StandIn) -> None:
    """How many go at once is the gate's decision; each gets its own pictures."""
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        tasks = [group.create_task(images(upstream, order(upstream, seed=number))) for number in range(40)]
    assert [pixel(task.result()[0]) for task in tasks] == [colour_of(number, "a lamp") for number in range(40)]


async def test_adapter_opens_without_a_server_and_closes_twice() -> None:
    """Open and close come in any order that `app` may need; nothing is offered before the server was asked."""
    upstream = SdCpp(name="home", base_url="http://127.0.0.1:9/", api_key=KEY)
    await upstream.close()
    for _ in range(2):
        await upstream.open()
        await upstream.close()
        await upstream.close()
    assert upstream.models == ()
    assert KEY not in repr(upstream) + repr(vars(upstream))
    assert repr(upstream) == "<SdCpp home at http://127.0.0.1:9>"


def test_adapter_fills_the_port() -> None:
    """Mypy holds this assignment to the protocol."""
    upstream: Upstream = SdCpp(name="home")
    assert (upstream.name, upstream.can_find("job"), upstream.can_find(None)) == ("home", True, False)
