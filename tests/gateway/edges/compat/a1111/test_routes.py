"""The web UI's door: what is asked and answered, beside the recordings of a real one."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.core.records import NewJob
from load.upstreams import a1111 as standins
from tests.gateway.edges.compat.conftest import Door
from tests.pictures import flat

API = "/sdapi/v1"
ASKED: dict[str, Any] = {"prompt": "a red lighthouse", "width": 128, "height": 192, "steps": 10, "seed": 7}
DATA = Path(__file__).parents[4] / "data" / "a1111"


def b64(content: bytes) -> str:
    """Return a picture as a client sends it."""
    return base64.b64encode(content).decode()


INIT = b64(flat((200, 100, 0), (256, 128)))


def recorded(name: str, path: str) -> Any:
    """Return the first JSON that a recording answers a path with."""
    lines = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    ids = {line["id"] for line in lines if line["kind"] == "http_request" and line["path"].partition("?")[0] == path}
    return next(line["json"] for line in lines if line["kind"] == "http_response" and line["id"] in ids)


async def test_a_picture_of_words_is_answered_as_the_recorded_server_does(door: Door) -> None:
    """Key by key, in the same order, and with values of the same kinds where both have one."""
    answer = await door.ask("POST", f"{API}/txt2img", ASKED | {"n_iter": 2, "sampler_name": "Euler"})
    assert answer.status == 200
    assert "X-Job-Id" in answer.headers
    theirs = recorded("forge_txt2img_with_progress", f"{API}/txt2img")
    assert list(answer.json) == list(theirs) == ["images", "parameters", "info"]
    assert list(answer.json["parameters"]) == list(theirs["parameters"])
    info, their_info = json.loads(answer.json["info"]), json.loads(theirs["info"])
    assert list(info) == list(their_info)
    for name, value in their_info.items():
        assert value is None or info[name] is None or type(info[name]) is type(value), name
    assert (info["seed"], info["all_seeds"], len(info["infotexts"])) == (7, [7, 8], 2)
    facts = [measure(base64.b64decode(one)) for one in answer.json["images"]]
    assert [(one.format, one.width, one.height) for one in facts] == [("png", 128, 192)] * 2
    assert info["infotexts"][0].startswith("a red lighthouse\nSteps: 10, Sampler: Euler, CFG scale: 7.0, Seed: 7, Size")


async def test_a_picture_of_a_picture_is_answered_as_the_recorded_server_does(door: Door) -> None:
    """The same names; the init picture is not sent back."""
    answer = await door.ask("POST", f"{API}/img2img", ASKED | {"init_images": [f"data:image/png;base64,{INIT}"]})
    theirs = recorded("forge_img2img", f"{API}/img2img")
    assert list(answer.json["parameters"]) == list(theirs["parameters"])
    assert answer.json["parameters"]["init_images"] is None
    assert json.loads(answer.json["info"])["denoising_strength"] == 0.75


@pytest.mark.parametrize(
    "path, name",
    [
        ("samplers", "forge_discovery"),
        ("schedulers", "forge_discovery"),
        ("upscalers", "forge_discovery"),
        ("progress", "forge_txt2img_with_progress"),
        ("embeddings", "forge_discovery"),
        ("memory", "forge_discovery"),
        ("hypernetworks", "forge_discovery"),
    ],
)
async def test_lists_and_progress_have_the_recorded_keys(door: Door, path: str, name: str) -> None:
    """An entry of a list has the same names in the same order."""
    ours, theirs = (await door.ask("GET", f"{API}/{path}")).json, recorded(name, f"{API}/{path}")
    assert type(ours) is type(theirs)
    if isinstance(ours, list):
        ours, theirs = next(iter(ours), {}), next(iter(theirs), {})
    assert list(ours) == list(theirs)
    assert list(ours.get("state", {})) == list(theirs.get("state", {}))


async def test_the_stand_in_has_the_same_lists(door: Door) -> None:
    """Where nothing was recorded, our stand-in says what the names are."""
    async with standins.A1111(loras=("fog",)) as standin:
        for path in ("sd-models", "options", "scripts", "script-info", "cmd-flags"):
            ours = (await door.ask("GET", f"{API}/{path}")).json
            async with door.client.get(f"{standin.url}{API}/{path}") as response:
                theirs = await response.json()
            if isinstance(ours, list):
                assert list(ours[0]) == list(theirs[0]), path
            elif path == "options":
                assert theirs.keys() - ours.keys() <= {"jpeg_quality"}
            else:
                assert isinstance(theirs, dict), path
        for path in ("model_list", "module_list", "control_types", "settings", "version"):
            ours = (await door.ask("GET", f"/controlnet/{path}")).json
            async with door.client.get(f"{standin.url}/controlnet/{path}") as response:
                assert list(ours) == list(await response.json()), path


async def test_the_same_request_is_the_same_to_admission(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger is asked to write does not tell at which door it came in, but for ids and times."""
    jobs, seen = door.running.gateway.node.admission._ledger.jobs, []
    submit = jobs.submit

    async def noting(new: NewJob) -> Any:
        seen.append(new)
        return await submit(new)

    monkeypatch.setattr(jobs, "submit", noting)
    asked = ASKED | {"cfg_scale": 5.5, "sampler_name": "DPM++ 2M", "negative_prompt": "rain", "batch_size": 2}
    asked |= {"override_settings": {"sd_model_checkpoint": "easel"}}
    assert (await door.ask("POST", f"{API}/txt2img", asked)).status == 200
    params = {
        "prompt": "a red lighthouse", "width": 128, "height": 192, "steps": 10, "seed": 7, "guidance": 5.5,
        "sampler": "dpmpp_2m", "negative_prompt": "rain", "n": 2,
    }  # fmt: skip
    assert (await door.ask("POST", "/v1/jobs", {"task": "txt2img", "model": "easel", "params": params})).status == 202
    unlike = {"id", "run", "ref", "created_ms", "ref_expires_ms"}
    ours, theirs = ({name: getattr(one, name) for name in NewJob.__slots__ if name not in unlike} for one in seen)
    assert ours == theirs


async def test_masks_are_white_where_the_picture_changes(door: Door) -> None:
    """Inverted, or drawn on nothing in any colour: what reaches the upstream is one kind of mask."""
    grey = Image.new("L", (256, 128), 0)
    grey.paste(255, (0, 0, 100, 128))
    drawn = Image.new("RGBA", (256, 128), (0, 0, 0, 0))
    drawn.paste((20, 20, 20, 255), (0, 0, 100, 128))
    opaque = Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, 255)))
    body = ASKED | {"init_images": [INIT], "mask_blur": 4, "inpainting_fill": 1}
    for mask, invert in ((grey, 0), (grey, 1), (drawn, 0), (drawn, 1), (opaque, 0)):
        asked = body | {"mask": _png(mask), "inpainting_mask_invert": invert}
        answer = await door.ask("POST", f"{API}/img2img", asked)
        assert answer.status == 200, answer.body
        assert answer.headers["X-Ignored"] == "inpainting_fill, mask_blur"
        order = door.easel.orders[-1]
        assert (order.request.task, order.request.width, order.request.height) == ("inpaint", 256, 128)
        with Image.open(io.BytesIO(order.inputs["mask"])) as seen:
            levels = [seen.convert("L").getpixel((x, 60)) for x in (50, 200)]
        assert levels == ([0, 255] if invert else [255, 0])
    await door.ask("POST", f"{API}/img2img", body | {"mask": _png(grey), "inpaint_full_res": False})
    assert (door.easel.orders[-1].request.width, door.easel.orders[-1].request.height) == (128, 192)


async def test_a_unit_without_image_takes_the_init_picture(door: Door) -> None:
    """As the extension does."""
    unit = {"model": "control_v11p_sd15_openpose [cab727d4]", "threshold_a": 5}
    asked = ASKED | {"init_images": [INIT], "alwayson_scripts": {"controlnet": {"args": [unit]}}}
    answer = await door.ask("POST", f"{API}/img2img", asked)
    assert answer.headers["X-Ignored"] == "controlnet"
    [order] = door.easel.orders
    assert order.request.task == "controlnet"
    assert order.inputs["init"] == order.inputs["pose"] == base64.b64decode(INIT)


async def test_formats_and_pictures_that_are_not_sent(door: Door) -> None:
    """The one setting of a request that is about its answer, and the one field."""
    asked = ASKED | {"override_settings": {"samples_format": "jpg", "sd_vae": "Automatic"}}
    answer = await door.ask("POST", f"{API}/txt2img", asked)
    assert answer.headers["X-Ignored"] == "override_settings"
    assert measure(base64.b64decode(answer.json["images"][0])).format == "jpeg"
    silent = await door.ask("POST", f"{API}/txt2img", ASKED | {"send_images": False})
    assert (silent.status, silent.json["images"]) == (200, [])


async def test_a_picture_that_was_held_back_is_black_and_told(door: Door) -> None:
    """The web UI's own filter makes it black; `info` says which."""
    door.easel.filtered = frozenset({1})
    answer = await door.ask("POST", f"{API}/txt2img", ASKED | {"batch_size": 2})
    with Image.open(io.BytesIO(base64.b64decode(answer.json["images"][1]))) as image:
        assert image.size == (128, 192)
        assert image.convert("L").getextrema() == (0, 0)
    assert json.loads(answer.json["info"])["extra_generation_params"] == {"Content filtered": "2"}


async def test_large_answers_are_whole(door: Door) -> None:
    """They are put together in a thread."""
    door.easel._padding = 1_100_000
    answer = await door.ask("POST", f"{API}/txt2img", ASKED)
    assert measure(base64.b64decode(answer.json["images"][0])).width == 128


async def test_numbers_may_come_as_texts_and_null_is_not_given(door: Door) -> None:
    """The web UI reads bodies as leniently."""
    asked = ASKED | {"steps": "12", "cfg_scale": "3.5", "tiling": None, "styles": None, "width": 128.0, "unknown": []}
    assert (await door.ask("POST", f"{API}/txt2img", asked)).status == 200
    [order] = door.easel.orders
    assert (order.request.steps, order.request.guidance, order.request.width) == (12, 3.5, 128)


async def test_who_does_not_wait_asks_by_the_id(door: Door) -> None:
    """202 with the id and where to ask, progress while it runs, the pictures when it has ended; nobody else's."""
    answer = await door.ask("POST", f"{API}/txt2img", ASKED, prefer="respond-async")
    assert answer.status == 202
    path = answer.headers["Location"]
    assert path == f"{API}/jobs/{answer.json['id']}"
    while (told := await door.ask("GET", path)).status == 202:
        assert told.json["state"]["job_count"] == 1
    assert (told.status, len(told.json["images"])) == (200, 1)
    other = await door.ask("GET", path, Authorization=basic("somebody", door.running.key), key=None)
    assert (other.status, other.json) == (404, {"detail": "there is no such job"})


async def test_an_end_that_is_committed_and_not_yet_told_is_the_end(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks between the two gets the pictures, and not a failure of ours."""
    feeds = door.running.gateway.node.feeds
    late: list[tuple[Any, ...]] = []
    monkeypatch.setattr(feeds, "appended", lambda *news: late.append(news))
    answer = await door.ask("POST", f"{API}/txt2img", ASKED, prefer="respond-async")
    path = answer.headers["Location"]
    while (told := await door.ask("GET", path)).status == 202:
        await asyncio.sleep(0.01)
    assert (told.status, len(told.json["images"])) == (200, 1)
    monkeypatch.undo()
    for job, events in late:
        feeds.appended(job, events)


def basic(user: str, password: str) -> str:
    """Return the header of a user and a password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _png(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return b64(out.getvalue())
