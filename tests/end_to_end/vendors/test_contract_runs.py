"""What every kind of upstream does when nothing goes wrong: each behaviour holds, or the adapter says it has it not."""

import asyncio
import io
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from protocol.messages import Completed, ImageReady, Input, Notice, Previews, Progress, Started
from protocol.refusals import Refused
from protocol.replica_effects import ImageBytes, Preview
from tests.end_to_end.records import Record
from tests.end_to_end.vendors.bench import Bench, bench
from tests.end_to_end.vendors.kinds import CORE, EVERY
from tests.end_to_end.vendors.vendor import Vendor
from tests.pictures import encoded, flat

RED = (220, 10, 10)


def opened(content: bytes) -> Image.Image:
    """Return a picture, decoded."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def halves(size: tuple[int, int]) -> bytes:
    """Return a mask whose right half is to be repainted."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, *size))
    return encoded(mask)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return how far two pictures of one size are apart, 0 to 255."""
    ours, theirs = one.tobytes(), other.tobytes()
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def size_of(vendor: Vendor) -> tuple[int, int]:
    """Return the size of the vendor's small request."""
    model = vendor.model
    return vendor.params.get("width", model.default_size[0]), vendor.params.get("height", model.default_size[1])


def declares(vendor: Vendor, task: str) -> bool:
    """Whether the model of the suite can do a task."""
    return task in vendor.model.tasks


@CORE
async def test_picture_of_words(kind: type[Vendor], tmp_path: Path) -> None:
    """Accepted, started once, one picture of the asked size, completed; one call."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        end = await one.run()
        assert isinstance(end, Completed)
        assert [image.index for image in end.images] == [0]
        assert (end.images[0].w, end.images[0].h) == size_of(vendor)
        assert len(one.told(end.job, Started)) == 1
        assert opened(await one.picture(end.images[0])).size == size_of(vendor)
        assert (vendor.calls, end.cost_micros) == (1, vendor.model.price("txt2img"))


@EVERY
async def test_same_request_again_gives_the_same_picture(kind: type[Vendor], tmp_path: Path) -> None:
    """Also where the vendor has it in a cache and does no step: a run without progress is a normal run."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        first, again = await one.run(), await one.run()
        assert isinstance(again, Completed)
        assert len(one.told(again.job, ImageReady)) + len(one.told(again.job, ImageBytes)) == 1
        if not vendor.has("txt2img", "seed"):
            return  # then nobody promises the same
        pictures = [opened(await one.picture(end.images[0])) for end in (first, again)]
        assert distance(*pictures) < 1


@EVERY
async def test_seed_decides(kind: type[Vendor], tmp_path: Path) -> None:
    """Another seed, another picture; the seed that is told is the one that was asked for."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        if "seed" not in vendor.model.tasks["txt2img"]:
            assert isinstance(await one.run(seed=None), Completed)
            return
        ends = [await one.run(seed=seed) for seed in (7, 1234)]
        assert [end.images[0].seed for end in ends] == [7, 1234]
        first, other = [opened(await one.picture(end.images[0])) for end in ends]
        assert distance(first, other) > 0.5


@EVERY
async def test_progress_is_as_honest_as_declared(kind: type[Vendor], tmp_path: Path) -> None:
    """Steps rise and are never invented; an estimate is marked; where there is none, none is told."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=0.6) as one:
        await one.run()
        end = await one.run(seed=99)
        told = one.told(end.job, Progress)
        steps = [event.step for event in told]
        assert steps == sorted(steps)
        match vendor.model.progress:
            case "steps":
                assert told
                assert not any(event.estimated for event in told)
                assert max(steps) <= told[-1].steps
            case "estimated":
                assert told
                assert all(event.estimated and event.ratio < 1 for event in told)
            case "none":
                assert told == []


@CORE
async def test_previews_come_if_declared(kind: type[Vendor], tmp_path: Path) -> None:
    """And only then; each frame is newer than the one before."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=0.3) as one:
        end = await one.run()
        frames = [event.frame for event in one.told(end.job, Preview)]
        assert bool(frames) == vendor.model.previews
        assert frames == sorted(set(frames))


@EVERY
async def test_run_without_previews_is_a_normal_run(kind: type[Vendor], tmp_path: Path) -> None:
    """Whether the server sends none, or the client wants none."""
    vendor = kind()
    async with bench(vendor, tmp_path, previews=False) as one, one.client(previews=Previews(max_fps=0)) as quiet:
        end = await one.end(await one.submit(quiet))
        assert isinstance(end, Completed)
        assert one.told(end.job, Preview) == []


@EVERY
async def test_two_users_get_their_own(kind: type[Vendor], tmp_path: Path) -> None:
    """At once: each sees the progress, previews and picture of its own job and nothing of the other's."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=0.2, concurrency=2) as one:
        records = [Record(), Record()]
        async with one.client(records[0]) as first, one.client(records[1]) as second:
            jobs = [
                await one.submit(client, seed=seed, prompt=prompt)
                for client, seed, prompt in ((first, 7, "a harbour"), (second, 4321, "a fox"))
            ]
            ends = [await one.end(job, record) for job, record in zip(jobs, records, strict=True)]
        assert all(isinstance(end, Completed) for end in ends)
        assert all(list(record.jobs) == [job.id] for record, job in zip(records, jobs, strict=True))
        first_picture, second_picture = [opened(await one.picture(end.images[0])) for end in ends]
        assert distance(first_picture, second_picture) > 0.5


@CORE
async def test_several_pictures_are_one_for_each_index(kind: type[Vendor], tmp_path: Path) -> None:
    """However many calls it takes; all different, and paid one by one."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        end = await one.run(n=3)
        assert isinstance(end, Completed)
        assert [image.index for image in end.images] == [0, 1, 2]
        assert len({image.asset for image in end.images}) == 3
        assert end.cost_micros == 3 * vendor.model.price("txt2img")
        assert vendor.calls == -(-3 // vendor.model.images_per_call)


@EVERY
async def test_strength_goes_from_the_init_to_the_new(kind: type[Vendor], tmp_path: Path) -> None:
    """0.1 stays nearer to the init picture than 0.9, by the pixels."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        if not declares(vendor, "img2img"):
            await _is_refused(one, "img2img", "init")
            return
        if not vendor.has("img2img", "strength"):
            await _is_refused_by_name(one, "img2img", strength=0.5)
            return
        size = size_of(vendor)
        init = flat(RED, size)
        far = []
        for strength in (0.1, 0.9):
            async with one.client() as client:
                upload = Input(role="init", upload=client.upload(init))
                end = await one.end(await one.submit(client, "img2img", inputs=[upload], strength=strength))
            assert isinstance(end, Completed), end
            far.append(distance(opened(await one.picture(end.images[0])).resize(size), opened(init)))
        assert far[0] < far[1]


@EVERY
async def test_mask_says_where(kind: type[Vendor], tmp_path: Path) -> None:
    """White is repainted, black is kept, by the pixels."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        if not declares(vendor, "inpaint"):
            await _is_refused(one, "inpaint", "init")
            return
        size = size_of(vendor)
        async with one.client() as client:
            inputs = [
                Input(role="init", upload=client.upload(flat(RED, size))),
                Input(role="mask", upload=client.upload(halves(size))),
            ]
            end = await one.end(await one.submit(client, "inpaint", inputs=inputs, seed=21))
        assert isinstance(end, Completed), end
        made = opened(await one.picture(end.images[0])).resize(size)
        was = opened(flat(RED, size))
        left, right = (0, 0, size[0] // 2 - 8, size[1]), (size[0] // 2 + 8, 0, *size)
        assert distance(made.crop(left), was.crop(left)) < 3
        assert distance(made.crop(right), was.crop(right)) > 3


async def _is_refused(one: Bench, task: str, role: str) -> None:
    """Check that a task that is not declared is refused by name, and nobody was called."""
    async with one.client() as client:
        upload = Input(role=role, upload=client.upload(flat(RED, (512, 512))))
        with pytest.raises(Refused) as caught:
            await one.submit(client, task, inputs=[upload])
    assert caught.value.error.code == "task_not_supported"
    assert one.vendor.calls == 0


async def _is_refused_by_name(one: Bench, task: str, **params: float) -> None:
    """Check that a param that is not declared is refused, and nobody was called."""
    async with one.client() as client:
        upload = Input(role="init", upload=client.upload(flat(RED, size_of(one.vendor))))
        with pytest.raises(Refused) as caught:
            await one.submit(client, task, inputs=[upload], **params)
    details = caught.value.error.details
    assert isinstance(details, dict)
    assert (caught.value.error.code, details["path"]) == ("invalid_param", f"params.{next(iter(params))}")
    assert one.vendor.calls == 0


@CORE
async def test_unknown_task_is_refused_before_any_call(kind: type[Vendor], tmp_path: Path) -> None:
    """With what there is."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one, one.client() as client:
        with pytest.raises(Refused) as caught:
            await one.submit(client, "knit")
        assert caught.value.error.code == "task_not_supported"
        details = caught.value.error.details
        assert isinstance(details, dict)
        assert details["allowed"] == sorted(vendor.model.tasks)
        assert vendor.calls == 0


@CORE
async def test_impossible_size_is_refused_with_the_possible_ones(kind: type[Vendor], tmp_path: Path) -> None:
    """Before any call; or brought to the nearest, with a notice, if the request allows."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        async with one.client() as client:
            with pytest.raises(Refused) as caught:
                await one.submit(client, width=16001, height=16001)
        assert caught.value.error.code in ("resolution_not_supported", "invalid_param")
        assert vendor.calls == 0
        if "width" in vendor.model.tasks["txt2img"]:
            width, height = size_of(vendor)
            end = await one.run(width=width + 1, height=height - 1, adjust=True)
            assert isinstance(end, Completed)
            assert "param_clamped" in [event.code for event in one.told(end.job, Notice)]


@EVERY
async def test_slow_user_slows_nobody(kind: type[Vendor], tmp_path: Path) -> None:
    """One who reads nothing does not keep the other's picture, nor the vendor, waiting."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=0.2, concurrency=2) as one:
        record = Record()
        async with one.client(record, window=262_144) as slow:
            slow_job = await one.submit(slow, n=2)
            record_of_fast = Record()
            async with one.client(record_of_fast) as fast:
                job = await one.submit(fast, seed=77)
                end = await one.end(job, record_of_fast)
            assert isinstance(end, Completed)
            assert isinstance(await one.end(slow_job, record), Completed)


@EVERY
async def test_client_that_comes_back_misses_nothing(kind: type[Vendor], tmp_path: Path) -> None:
    """Its connections break while the vendor works; every number is handled once."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=0.8) as one, one.client() as client:
        job = await one.submit(client)
        for _ in range(3):
            await asyncio.sleep(0.1)
            for session in list(one.running.gateway.node.sessions._open.values()):
                session.close("going_away")
        end = await one.end(job)
        assert isinstance(end, Completed)
        assert all(one.record.resumed[1:])


@CORE
async def test_models_tell_what_they_can_do(kind: type[Vendor], tmp_path: Path) -> None:
    """As the suite found it: progress, previews, cancel, price and health."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one, aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {one.running.key}"}
        async with http.get(f"{one.running.url}/v1/models/{vendor.model.id}", headers=headers) as answer:
            told = await answer.json()
        model = vendor.model
        assert (told["progress"], told["previews"], told["cancel"]) == (model.progress, model.previews, model.cancel)
        assert (told["tasks"], told["price_micros"], told["health"]) == (sorted(model.tasks), model.price_micros, "ok")
