"""The stand-in of the WebUI family: requests, pixels, the queue and progress."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from PIL import Image

from load.upstreams.a1111 import A1111, words_of
from load.upstreams.a1111.drawing import FOREIGN_COLOUR
from load.upstreams.a1111.errors import Flavour
from load.upstreams.a1111.images import GREY, on_the_way
from load.upstreams.pictures import colour_of
from tests.load.upstreams.a1111_talk import COLOUR, SMALL, coded, draw, edit, get, opened, pixel, post, shown, until
from tests.load.upstreams.talk import flat
from tests.pictures import encoded

Client = aiohttp.ClientSession
RED = (200, 10, 10)


def half_mask(width: int = 64, height: int = 64) -> bytes:
    """White on the left half."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    return encoded(mask)


# Pixels


async def test_prompt_and_seed_decide_the_colour_and_seeds_count_on(client: Client) -> None:
    """batch_size times n_iter pictures come in order, each of the asked size and in its seed's colour."""
    async with A1111() as standin:
        reply = await draw(client, standin, batch_size=2, n_iter=2, width=72, height=64)
    pictures = shown(reply)
    assert [pixel(one) for one in pictures] == [colour_of(7 + number, "a cat") for number in range(4)]
    assert {one.size for one in pictures} == {(72, 64)}
    info = json.loads(reply.json["info"])
    assert info["all_seeds"] == [7, 8, 9, 10]
    assert pictures[0].info["parameters"] == info["infotexts"][0]


async def test_random_seed_is_drawn_and_told(client: Client) -> None:
    """Seed -1 becomes another one each time, which the answer names."""
    async with A1111() as standin:
        seeds = [json.loads((await draw(client, standin, seed=-1)).json["info"])["seed"] for _ in range(2)]
        assert seeds[0] != seeds[1]
        assert [call.seeds[0] for call in standin.log] == seeds


@pytest.mark.parametrize("strength,expected", [(0, RED), (1, COLOUR)])
async def test_strength_has_the_documented_direction(
    client: Client, strength: float, expected: tuple[int, int, int]
) -> None:
    """0 keeps the init picture, 1 ignores it."""
    async with A1111() as standin:
        reply = await edit(client, standin, flat(64, 64, RED), denoising_strength=strength)
    assert pixel(shown(reply)[0]) == expected


async def test_strength_mixes_linearly(client: Client) -> None:
    """Half strength is half of each."""
    async with A1111() as standin:
        got = pixel(shown(await edit(client, standin, flat(64, 64, RED), denoising_strength=0.5))[0])
    assert all(abs(one - (a + b) / 2) <= 1 for one, a, b in zip(got, RED, COLOUR, strict=True))


@pytest.mark.parametrize("invert,left,right", [(0, COLOUR, RED), (1, RED, COLOUR)])
async def test_white_is_repainted_unless_inverted(
    client: Client, invert: int, left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    """Pixels outside the mask are the init picture's own."""
    more = {"mask": coded(half_mask()), "mask_blur": 0, "denoising_strength": 1, "inpainting_mask_invert": invert}
    async with A1111() as standin:
        made = shown(await edit(client, standin, flat(64, 64, RED), **more))[0]
    assert (pixel(made, 31), pixel(made, 32)) == (left, right)


async def test_blur_softens_the_masks_edge_only(client: Client) -> None:
    """With the default blur of 4 the edge is mixed and what is far off is exact."""
    async with A1111() as standin:
        mask = coded(half_mask())
        made = shown(await edit(client, standin, flat(64, 64, RED), mask=mask, denoising_strength=1))[0]
    assert (pixel(made, 2), pixel(made, 61)) == (COLOUR, RED)
    assert pixel(made, 32) not in (COLOUR, RED)


async def test_alpha_of_a_mask_counts_if_it_is_not_opaque(client: Client) -> None:
    """An RGBA mask is read by its alpha."""
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 32, 64))
    more = {"mask": coded(encoded(mask)), "mask_blur": 0, "denoising_strength": 1}
    async with A1111() as standin:
        made = shown(await edit(client, standin, flat(64, 64, RED), **more))[0]
    assert (pixel(made, 31), pixel(made, 32)) == (COLOUR, RED)


@pytest.mark.parametrize("fill,expected", [(0, RED), (1, (0, 0, 255)), (3, GREY)])
async def test_fill_decides_what_lies_under_the_mask(client: Client, fill: int, expected: tuple[int, int, int]) -> None:
    """At strength 0 the filling itself shows: the surroundings, the original, or nothing."""
    init = Image.new("RGB", (64, 64), RED)
    init.paste((0, 0, 255), (0, 0, 32, 64))
    more = {"mask": coded(half_mask()), "mask_blur": 0, "denoising_strength": 0, "inpainting_fill": fill}
    async with A1111() as standin:
        made = shown(await edit(client, standin, encoded(init), **more))[0]
    assert (pixel(made, 10), pixel(made, 50)) == (expected, RED)


@pytest.mark.parametrize("only_masked,size", [(True, (128, 96)), (False, (64, 64))])
async def test_repainting_only_what_is_masked_keeps_the_inits_size(
    client: Client, only_masked: bool, size: tuple[int, int]
) -> None:
    """`inpaint_full_res`, the default, answers in the init picture's size, not in the asked one."""
    more = {"mask": coded(half_mask(128, 96)), "inpaint_full_res": only_masked}
    async with A1111() as standin:
        assert shown(await edit(client, standin, flat(128, 96, RED), **more))[0].size == size


@pytest.mark.parametrize("mode,corner,middle", [(0, RED, RED), (1, (0, 0, 255), RED), (2, RED, RED)])
async def test_resize_modes(
    client: Client, mode: int, corner: tuple[int, int, int], middle: tuple[int, int, int]
) -> None:
    """Cropping alone cuts a wide picture's ends off."""
    init = Image.new("RGB", (128, 64), (0, 0, 255))
    init.paste(RED, (0, 0, 8, 64))
    init.paste(RED, (56, 0, 72, 64))
    async with A1111() as standin:
        made = shown(await edit(client, standin, encoded(init), resize_mode=mode, denoising_strength=0))[0]
    assert made.size == (64, 64)
    assert pixel(made, 32, 32) == middle
    if mode != 2:
        assert pixel(made, 0, 32) == corner


async def test_second_pass_enlarges_and_doubles_the_jobs(client: Client) -> None:
    """Hires runs the sampler twice and gives the larger picture."""
    async with A1111() as standin:
        standin.hold(1, 1)
        asking = asyncio.create_task(draw(client, standin, enable_hr=True, hr_scale=1.5))
        await standin.held()
        told = (await get(client, standin, "progress")).json
        standin.release()
        assert (told["state"]["job_no"], told["state"]["job_count"]) == (1, 2)
        assert shown(await asking)[0].size == (96, 96)


async def test_loras_and_model_leave_their_trace(client: Client) -> None:
    """A known network changes the picture, an unknown one is ignored without a word."""
    async with A1111(loras=("sketch",)) as standin:
        tagged = shown(await draw(client, standin, prompt="a cat <lora:sketch:0.5>"))
        unknown = shown(await draw(client, standin, prompt="a cat <lora:nope:0.5>"))
        listed = (await get(client, standin, "loras")).json
    assert pixel(tagged[0]) == colour_of(7, words_of("a cat <lora:sketch:0.5>", loras=("sketch",))) != COLOUR
    assert pixel(unknown[0]) == COLOUR
    assert [one["name"] for one in listed] == ["sketch"]


async def test_control_units_count_only_when_enabled(client: Client) -> None:
    """A unit without `enabled` is ignored; one with it shines through and sends its map along."""
    unit = {"module": "none", "model": "None", "weight": 2, "image": coded(flat(64, 64, RED))}
    async with A1111() as standin:
        without = shown(await draw(client, standin, alwayson_scripts={"ControlNet": {"args": [unit]}}))
        unit["enabled"] = True
        shining = shown(await draw(client, standin, alwayson_scripts={"controlnet": {"args": [unit]}}))
        unit["save_detected_map"] = False
        mapless = shown(await draw(client, standin, alwayson_scripts={"controlnet": {"args": [unit]}}))
        bad = await draw(client, standin, alwayson_scripts={"controlnet": {"args": [unit | {"model": "nope"}]}})
    assert [pixel(one) for one in without] == [COLOUR]
    assert len(shining) == 2
    assert pixel(shining[1]) == RED
    assert pixel(shining[0]) != COLOUR
    assert len(mapless) == 1
    assert (bad.status, bad.json["error"]) == (500, "ValueError")


@pytest.mark.parametrize("kind,form", [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
async def test_option_decides_the_pictures_format(client: Client, kind: str, form: str) -> None:
    """`samples_format` is global; an override is taken back before pictures are encoded."""
    async with A1111(flavour="a1111") as standin:
        made = shown(await draw(client, standin, override_settings={"samples_format": kind}))
        assert made[0].format == "PNG"
        assert (await post(client, standin, "options", {"samples_format": kind})).json is None
        assert shown(await draw(client, standin))[0].format == form


async def test_grid_comes_first_when_pictures_are_saved(client: Client) -> None:
    """With `save_images` and more than one picture the first image is a grid."""
    async with A1111() as standin:
        reply = await draw(client, standin, batch_size=2, save_images=True)
    assert len(shown(reply)) == 3
    assert json.loads(reply.json["info"])["index_of_first_image"] == 1


async def test_upscale(client: Client) -> None:
    """An upscaler repeats pixels; none leaves the picture as it is; an unknown one raises."""
    async with A1111() as standin:
        ask = {"image": coded(flat(30, 20, RED)), "upscaling_resize": 3}
        large = await post(client, standin, "extra-single-image", ask | {"upscaler_1": "Lanczos"})
        same = await post(client, standin, "extra-single-image", ask)
        bad = await post(client, standin, "extra-single-image", ask | {"upscaler_1": "nope"})
        assert standin.tally.billed == 3
    # Sides are rounded down to a multiple of eight.
    assert (opened(large.json["image"]).size, pixel(opened(large.json["image"]))) == ((88, 56), RED)
    assert opened(same.json["image"]).size == (30, 20)
    assert (bad.status, bad.json["error"]) == (500, "AssertionError")


# The queue, interrupt and progress


async def test_interrupt_answers_200_with_the_unfinished_picture(client: Client) -> None:
    """Two of four steps done: half way from grey to the colour."""
    async with A1111() as standin:
        standin.hold(0, 1)
        asking = asyncio.create_task(draw(client, standin))
        await standin.held()
        assert (await post(client, standin, "interrupt")).json == {}
        standin.release()
        made = shown(await asking)
        assert [job.ending for job in standin.jobs] == ["interrupted"]
    assert [pixel(one) for one in made] == [on_the_way(COLOUR, 0.5)]


async def test_a_waiting_request_survives_interrupt_and_its_clients_leaving(client: Client) -> None:
    """Only the running one stops; the waiting one runs although its client has gone."""
    async with A1111() as standin:
        standin.hold(0, 1, 1)
        first = asyncio.create_task(draw(client, standin, steps=50))
        await standin.held()
        second = asyncio.create_task(draw(client, standin))
        await until(lambda: len(standin.jobs) == 2)
        second.cancel()
        await until(lambda: standin.log[1].outcome == "dropped")
        await post(client, standin, "interrupt")
        standin.release()
        await first
        await standin.jobs[1].over.wait()
        assert [job.ending for job in standin.jobs] == ["interrupted", "done"]
        assert standin.tally.billed == 2


async def test_progress_may_be_somebody_elses(client: Client) -> None:
    """With a foreign job on the card, progress and preview are its own and ours waits."""
    async with A1111(web=True) as standin:
        standin.options["show_progress_every_n_steps"] = 1
        standin.hold(0, 5, 1)
        foreign = standin.foreign_job(steps=10)
        await standin.held()
        asking = asyncio.create_task(draw(client, standin, force_task_id="task(ours)"))
        await until(lambda: len(standin.jobs) == 2)
        told = (await get(client, standin, "progress")).json
        ours = (await post(client, standin, "/internal/progress", {"id_task": "task(ours)"})).json
        standin.release()
        assert (await asking).status == 200
        await foreign.over.wait()
        assert standin.tally.billed == 1
    assert told["progress"] == pytest.approx(0.51)
    shade = pixel(opened(told["current_image"]))
    assert shade == on_the_way(FOREIGN_COLOUR, 0.6)
    assert (ours["active"], ours["queued"], ours["textinfo"]) == (False, True, "In queue: 1/1")


async def test_progress_falls_to_zero_before_the_answer(client: Client) -> None:
    """Between a job's end and its answer progress is 0 and the rest stays as the job left it."""
    async with A1111(answer_delay=0.1) as standin:
        asking = asyncio.create_task(draw(client, standin, n_iter=2))
        await until(lambda: standin.state.job_no == 2 and standin.state.job_count == 0)
        told = (await get(client, standin, "progress")).json
        assert not asking.done()
        await asking
    assert (told["progress"], told["state"]["job_no"], told["state"]["sampling_steps"]) == (0.0, 2, 4)


@pytest.mark.parametrize("how", ["constructor", "option"])
async def test_previews_can_be_off(client: Client, how: str) -> None:
    """Then no progress answer has a picture."""
    async with A1111(previews=how != "constructor") as standin:
        if how == "option":
            await post(client, standin, "options", {"live_previews_enable": False})
        standin.options["show_progress_every_n_steps"] = 1
        standin.hold(0, 2)
        asking = asyncio.create_task(draw(client, standin))
        await standin.held()
        told = (await get(client, standin, "progress")).json
        standin.release()
        await asking
    assert (told["current_image"], told["progress"]) == (None, 0.51)


async def test_progress_can_stay_at_its_start(client: Client) -> None:
    """Some builds tell 0.01 and no picture for the whole job."""
    async with A1111(frozen_progress=True) as standin:
        asking = asyncio.create_task(draw(client, standin, steps=200))
        await until(lambda: bool(standin.jobs) and standin.jobs[0].steps_done > 20)
        told = (await get(client, standin, "progress")).json
        await post(client, standin, "interrupt")
        await asking
    assert (told["progress"], told["current_image"]) == (0.01, None)


# Bodies, errors and access


@pytest.mark.parametrize("flavour,status", [("forge", 200), ("a1111", 400), ("sdnext", 404)])
async def test_unknown_sampler(client: Client, flavour: Flavour, status: int) -> None:
    """Forge takes another one; the two others refuse, each with a status of its own."""
    async with A1111(flavour=flavour) as standin:
        reply = await draw(client, standin, sampler_name="nope")
        fine = await draw(client, standin, sampler_name="DPM++ 2M Karras")
        assert standin.tally.billed == 1 + (status == 200)
    assert (reply.status, fine.status) == (status, 200)


async def test_errors_of_a1111_have_its_own_form(client: Client) -> None:
    """Handlers' refusals and validation look otherwise than Forge's, and each answer tells its time."""
    async with A1111(flavour="a1111") as standin:
        missing = await post(client, standin, "img2img", {"prompt": "x"})
        wrong = await draw(client, standin, steps="many")
        nowhere = await get(client, standin, "nope")
    assert (missing.status, missing.json) == (
        404,
        {"error": "HTTPException", "detail": "Init image not found", "body": "", "errors": ""},
    )
    assert wrong.json["detail"][0]["type"] == "type_error.integer"
    assert (nowhere.status, nowhere.json) == (404, {"detail": "Not Found"})
    assert float(nowhere.headers["X-Process-Time"]) >= 0


@pytest.mark.parametrize(
    "body,problem",
    [
        ({"steps": 1.5}, "int_from_float"),
        ({"cfg_scale": "x"}, "float_parsing"),
        ({"prompt": 3}, "string_type"),
        ({"send_images": "perhaps"}, "bool_parsing"),
        ({"override_settings": []}, "dict_type"),
        ({"styles": "one"}, "list_type"),
        ([], "model_attributes_type"),
    ],
)
async def test_validation_names_the_problem(client: Client, body: object, problem: str) -> None:
    """422 with a list, and nothing was begun."""
    async with A1111() as standin:
        reply = await post(client, standin, "txt2img", body)
        assert standin.tally.billed == 0
    assert (reply.status, reply.json["detail"][0]["type"]) == (422, problem)


async def test_values_are_taken_leniently_and_echoed(client: Client) -> None:
    """Numbers may come as text; the answer repeats all fields, and the log names those it did not know."""
    async with A1111() as standin:
        reply = await draw(client, standin, steps="2", cfg_scale=5, made_up=1)
        assert standin.log[0].unknown_fields == ("made_up",)
        assert standin.requests[0].json["made_up"] == 1
    told = reply.json["parameters"]
    assert (told["steps"], told["cfg_scale"], "made_up" in told) == (2, 5.0, False)


@pytest.mark.parametrize("flavour,kept", [("forge", "other"), ("a1111", "tiny")])
async def test_options_are_global_and_lasting(client: Client, flavour: Flavour, kept: str) -> None:
    """What one sets, the other sees; Forge keeps a request's overrides, AUTOMATIC1111 takes them back."""
    async with A1111(flavour=flavour) as standin:
        reply = await draw(client, standin, override_settings={"sd_model_checkpoint": "other"})
        now = (await get(client, standin, "options")).json["sd_model_checkpoint"]
    assert json.loads(reply.json["info"])["sd_model_name"] == "other"
    assert now.startswith(f"{kept}.safetensors [")


async def test_unknown_checkpoint(client: Client) -> None:
    """Forge raises, AUTOMATIC1111 raises for the option and ignores it in a request."""
    ask = {"sd_model_checkpoint": "nope"}
    async with A1111() as standin:
        reply = await draw(client, standin, override_settings=ask)
    assert (reply.status, reply.json["message"]) == (500, "model 'nope' not found")
    async with A1111(flavour="a1111") as standin:
        assert (await draw(client, standin, override_settings=ask)).status == 200
        reply = await post(client, standin, "options", ask)
    assert (reply.status, reply.json["errors"]) == (500, "model 'nope' not found")


async def test_basic_auth_guards_sdapi_alone(client: Client) -> None:
    """No or wrong credentials are 401; the web page's paths, and Forge's progress, stay open."""
    good, bad = aiohttp.encode_basic_auth("me", "pw"), aiohttp.encode_basic_auth("me", "no")
    async with A1111(auth="me:pw", web=True) as standin:
        replies = [
            await get(client, standin, "samplers"),
            await get(client, standin, "samplers", headers={"Authorization": bad}),
            await get(client, standin, "samplers", headers={"Authorization": good}),
            await get(client, standin, "progress"),
            await get(client, standin, "/internal/pending-tasks"),
        ]
    assert [reply.status for reply in replies] == [401, 401, 200, 200, 200]
    assert replies[0].headers["WWW-Authenticate"] == "Basic"
    assert [reply.json["detail"] for reply in replies[:2]] == ["Not authenticated", "Incorrect username or password"]


async def test_too_large_a_batch_is_out_of_memory(client: Client) -> None:
    """A size beyond the card fails inside the job."""
    async with A1111() as standin:
        reply = await draw(client, standin, width=16384, height=16384)
    assert (reply.status, reply.json["error"]) == (500, "OutOfMemoryError")


async def test_undecodable_init_fails_in_its_turn_and_stays_pending(client: Client) -> None:
    """The server decodes under the lock and forgets to take the task off its list."""
    async with A1111(web=True) as standin:
        body = SMALL | {"init_images": ["???"], "force_task_id": "task(bad)"}
        reply = await post(client, standin, "img2img", body)
        assert (reply.status, standin.tally.billed) == (500, 0)
        assert (await get(client, standin, "/internal/pending-tasks")).json == {"size": 1, "tasks": ["task(bad)"]}
