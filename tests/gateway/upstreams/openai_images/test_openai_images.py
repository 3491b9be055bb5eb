"""The adapter against the stand-in, over real sockets: what is asked, and the pixels that come."""

import asyncio
import hashlib
from typing import Any

import pytest

from gateway.core.images import measure
from gateway.core.params import WeightedPrompt
from gateway.core.reports import ImageMade, Outcome, PreviewMade, UpstreamFault, WorkBegun
from gateway.ports import Upstream
from gateway.upstreams.openai_images import ImageModel, OpenAIImages
from load.upstreams.faults import Rule
from load.upstreams.openai_images import OpenAIImages as StandIn
from load.upstreams.openai_images.artist import partial_colour
from load.upstreams.pictures import colour_of
from tests.gateway.upstreams.openai_images.vendor import (
    GPT,
    KEY,
    MODELS,
    adapter,
    encoded,
    fault,
    flat,
    half_white,
    images,
    near,
    order,
    pixel,
    reports,
    until,
)

ORANGE = (200, 100, 0)
BLIND = {GPT: ImageModel(partial_images=0)}


def painted(standin: StandIn, wish: str = "a lamp", index: int = 0) -> tuple[int, ...]:
    """The colour of a picture of the latest call."""
    return colour_of(standin.log[-1].seeds[index], wish)


# ---------------------------------------------------------------------------------------------------- text to image


async def test_single_picture_comes_as_a_stream_with_its_partials(standin: StandIn) -> None:
    """5.3: partial pictures are previews, counted as steps of which the finished picture is the last."""
    async with adapter(standin.url) as upstream:
        begun, first, second, made = await reports(upstream, order(upstream))
    assert begun == WorkBegun(3)
    colour = colour_of(standin.log[0].seeds[0], "a lamp")
    for index, preview in enumerate((first, second)):
        assert isinstance(preview, PreviewMade)
        assert (preview.step, preview.steps, preview.index, preview.approximate) == (index + 1, 3, 0, False)
        assert pixel(preview.picture) == partial_colour(colour, index, 2)
    assert isinstance(made, ImageMade)
    assert (made.index, made.seed, made.filtered, pixel(made.picture)) == (0, 7, False, colour)
    assert (made.picture.format, made.picture.width, made.picture.height) == ("png", 1024, 1024)
    (call,) = standin.log
    assert (call.client, call.unknown_fields, call.outcome) == ("safelight", (), "answered")
    assert call.fields == {
        "model": GPT,
        "prompt": "a lamp",
        "n": 1,
        "size": "1024x1024",
        "stream": True,
        "partial_images": 2,
    }


async def test_several_pictures_are_one_plain_call(standin: StandIn) -> None:
    """5.2: the vendor streams single pictures only."""
    async with adapter(standin.url) as upstream:
        begun, *made = await reports(upstream, order(upstream, count=4, seed=50))
    assert begun == WorkBegun(3)
    assert [(one.index, one.seed) for one in made if isinstance(one, ImageMade)] == [(i, 50 + i) for i in range(4)]
    assert [pixel(one.picture) for one in made if isinstance(one, ImageMade)] == [
        painted(standin, index=index) for index in range(4)
    ]
    assert (standin.calls, standin.log[0].fields["n"], "stream" in standin.log[0].fields) == (1, 4, False)


async def test_no_partials_are_asked_where_none_are_set(standin: StandIn) -> None:
    """A stream without partial pictures is one event."""
    async with adapter(standin.url, models={GPT: ImageModel(partial_images=0)}) as upstream:
        assert [type(one) for one in await reports(upstream, order(upstream))] == [WorkBegun, ImageMade]
        assert not upstream.models[0].previews
    assert standin.log[0].fields["partial_images"] == 0


async def test_every_size_of_every_family_is_drawn(standin: StandIn) -> None:
    """5.2: the sizes that the models allow are the vendor's."""
    free = [(1008, 656), (3840, 2160), (480, 1440), (2048, 2048)]
    async with adapter(standin.url) as upstream:
        for model in upstream.models:
            for width, height in model.sizes.listed or free:
                model.sizes.check(width, height)
                asked = order(upstream, model.id, width=width, height=height)
                (made,) = await images(upstream, asked)
                assert (made.picture.width, made.picture.height) == (width, height)
    assert [len(model.sizes.listed) for model in upstream.models] == [3, 0, 3, 3]
    assert all(call.unknown_fields == () for call in standin.log)


async def test_retired_models_are_asked_for_inline_pictures(standin: StandIn) -> None:
    """5.2: only they have `response_format`, and dall-e-3 has styles."""
    async with adapter(standin.url) as upstream:
        for style in ("vivid", "natural"):
            await images(upstream, order(upstream, "dall-e-3", style=style))
        assert len(await images(upstream, order(upstream, "dall-e-2", count=10))) == 10
    assert [call.fields["response_format"] for call in standin.log] == ["b64_json"] * 3
    assert [call.fields.get("style") for call in standin.log] == ["vivid", "natural", None]


async def test_background_goes_along_where_it_is_wished(standin: StandIn) -> None:
    """5.2: a transparent picture has an alpha channel, also one that is edited; `auto` is the vendor's own default."""
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, GPT, background="transparent"))
        edited = order(upstream, GPT, "img2img", background="transparent", inputs={"init": flat("red")})
        (changed,) = await images(upstream, edited)
        for background in ("opaque", "auto"):
            await images(upstream, order(upstream, "gpt-image-2", background=background))
    assert [measure(one.picture.content).has_alpha for one in (made, changed)] == [True, True]
    assert [call.fields.get("background") for call in standin.log] == ["transparent", "transparent", "opaque", None]


@pytest.mark.parametrize(
    "prompts,negative,sent",
    [
        ((), "", "a lamp"),
        ((), "fog", "a lamp\n\nDo not show: fog"),
        ((("a lamp", 1.0), ("a cat", 2.5)), "", "a lamp, a cat"),
        ((("a lamp", 1.0), ("fog", -1.0), ("rain", -0.5), ("dust", 0.0)), "", "a lamp\n\nDo not show: fog, rain"),
        ((("a lamp", 1.0), ("fog", -2.0)), "(fog:2), mist", "a lamp\n\nDo not show: fog, mist"),
    ],
)
async def test_weights_are_dropped_and_negatives_put_into_words(
    standin: StandIn, prompts: tuple[tuple[str, float], ...], negative: str, sent: str
) -> None:
    """Section 11: the vendor has neither a negative prompt nor weights."""
    parts = tuple(WeightedPrompt(text, weight) for text, weight in prompts)
    async with adapter(standin.url) as upstream:
        await reports(upstream, order(upstream, prompts=parts, negative_prompt=negative))
    assert standin.log[0].fields["prompt"] == sent


async def test_further_fields_of_the_settings_go_along(standin: StandIn) -> None:
    """Each only where the vendor knows it; the format that comes is the one that was set."""
    fields = {"quality": "low", "output_format": "webp", "moderation": "low", "input_fidelity": "high"}
    async with adapter(standin.url, models={GPT: ImageModel(fields=fields)}) as upstream:
        (drawn,) = await images(upstream, order(upstream))
        (edited,) = await images(upstream, order(upstream, task="img2img", inputs={"init": flat(ORANGE)}))
    assert (drawn.picture.format, edited.picture.format) == ("webp", "webp")
    first, second = (call.fields for call in standin.log)
    assert (first["quality"], first["moderation"], "input_fidelity" in first) == ("low", "low", False)
    assert (second["quality"], second["input_fidelity"], "moderation" in second) == ("low", "high", False)


async def test_large_pictures_are_decoded_beside_the_loop() -> None:
    """Answers and events as large as real ones come through whole."""
    async with StandIn(key=KEY, picture_bytes=1_500_000) as standin, adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream))
        several = await images(upstream, order(upstream, count=3))
    pictures = [one.picture for one in (*told[1:], *several) if isinstance(one, PreviewMade | ImageMade)]
    assert [len(picture.content) >= 1_500_000 for picture in pictures] == [True] * 6


# ------------------------------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize("format,size", [("PNG", (1024, 1024)), ("JPEG", (300, 200)), ("WEBP", (64, 64))])
async def test_init_image_of_any_kind_gives_the_asked_size(
    standin: StandIn, format: str, size: tuple[int, int]
) -> None:
    """The stand-in mixes the init image half and half with the prompt's colour."""
    init = flat(ORANGE, size, format=format)
    async with adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream, task="img2img", width=1536, inputs={"init": init}))
    made = told[-1]
    assert isinstance(made, ImageMade)
    assert [type(one) for one in told] == [WorkBegun, PreviewMade, PreviewMade, ImageMade]
    assert (made.picture.width, made.picture.height) == (1536, 1024)
    expected = tuple((a + b) / 2 for a, b in zip(ORANGE, painted(standin), strict=True))
    assert near(pixel(made.picture), expected, 4)
    # As it is: no pixel was decoded without need.
    assert hashlib.sha256(init).hexdigest() in str(standin.log[0].fields["image"])
    assert standin.log[0].unknown_fields == ()


@pytest.mark.parametrize(
    "init_size,mask_size,mask_format",
    [
        ((1024, 1024), (1024, 1024), "PNG"),
        ((640, 400), (64, 64), "PNG"),
        ((100, 80), (100, 80), "WEBP"),
        ((64, 64), (512, 512), "JPEG"),
    ],
)
async def test_white_is_repainted_and_black_is_kept(
    standin: StandIn, init_size: tuple[int, int], mask_size: tuple[int, int], mask_format: str
) -> None:
    """5.2: there, transparent means edit, and the mask must have the init image's size."""
    inputs = {"init": flat(ORANGE, init_size), "mask": encoded(half_white(mask_size), mask_format, quality=100)}
    async with adapter(standin.url, models=BLIND) as upstream:
        (made,) = await images(upstream, order(upstream, task="inpaint", inputs=inputs))
    assert near(pixel(made.picture, 0.1), painted(standin))
    assert near(pixel(made.picture, 0.9), ORANGE)
    assert (made.picture.width, made.picture.height) == (1024, 1024)


@pytest.mark.parametrize("grey", [0, 64, 255])
async def test_grey_in_a_mask_is_partly_transparent(standin: StandIn, grey: int) -> None:
    """Alpha is 255 less the mask's value."""
    inputs = {"init": flat(ORANGE, (64, 64)), "mask": flat(grey, (64, 64), mode="L")}
    async with adapter(standin.url, models=BLIND) as upstream:
        (made,) = await images(upstream, order(upstream, task="inpaint", inputs=inputs))
    share = grey / 255
    expected = tuple(a * (1 - share) + b * share for a, b in zip(ORANGE, painted(standin), strict=True))
    assert near(pixel(made.picture), expected)


async def test_references_go_into_one_edit_in_order(standin: StandIn) -> None:
    """The first is the picture that is worked on; the others colour the wish."""
    more = [flat("blue", (64, 64)), flat("green", (32, 96), format="JPEG")]
    inputs = {"reference": flat(ORANGE, (512, 512)), "reference-2": more[0], "reference-3": more[1]}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, task="reference", inputs=inputs))
    wish = "a lamp" + "".join(f"\n{hashlib.sha256(content).hexdigest()}" for content in more)
    expected = tuple((a + b) / 2 for a, b in zip(ORANGE, painted(standin, wish), strict=True))
    assert near(pixel(made.picture), expected)
    assert len(standin.log[0].fields["image[]"]) == 3  # type: ignore[arg-type]


async def test_mask_of_references_has_the_first_ones_size(standin: StandIn) -> None:
    """5.2: a mask applies to the first image."""
    mask = encoded(half_white((100, 100)))
    inputs = {"mask": mask, "reference": flat(ORANGE, (512, 256)), "reference-2": flat("blue", (64, 64))}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, task="reference", inputs=inputs))
    assert near(pixel(made.picture, 0.9), ORANGE)
    assert not near(pixel(made.picture, 0.1), ORANGE, 20)


async def test_oldest_model_is_given_square_pngs(standin: StandIn) -> None:
    """It refuses any other; its results are squares, so the init image becomes one of the result's size."""
    inputs = {"init": flat(ORANGE, (300, 200), format="JPEG"), "mask": encoded(half_white((30, 20)))}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "dall-e-2", "inpaint", width=512, height=512, inputs=inputs))
    assert near(pixel(made.picture, 0.1), painted(standin))
    assert near(pixel(made.picture, 0.9), ORANGE, 4)


BAD_INPUTS: dict[str, tuple[dict[str, bytes], str]] = {
    "no image": ({"init": b"GIF89a" + bytes(50)}, "unsupported_media"),
    "a broken header": ({"init": b"\x89PNG\r\n\x1a\n" + bytes(50)}, "image_decode_failed"),
    "too many pixels": ({"init": flat(0, (5000, 4000), "1")}, "payload_too_large"),
    "a broken mask": ({"init": flat(ORANGE), "mask": flat("red", (900, 900))[:200]}, "image_decode_failed"),
    "a mask of too many pixels": ({"init": flat(ORANGE), "mask": flat(0, (5000, 4000), "1")}, "payload_too_large"),
    "too many bytes": ({"init": flat(ORANGE) + bytes(50 * 1024 * 1024)}, "payload_too_large"),
}


@pytest.mark.parametrize("what", BAD_INPUTS)
async def test_bad_input_costs_no_call(standin: StandIn, what: str) -> None:
    """What can't be used is refused by name before a byte goes out."""
    inputs, code = BAD_INPUTS[what]
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order(upstream, task="inpaint" if "mask" in inputs else "img2img", inputs=inputs))
    assert (found.outcome, found.code, found.details["path"]) == (Outcome.FAILED, code, "inputs")
    assert standin.calls == 0


async def test_prompts_that_are_too_long_together_cost_no_call(standin: StandIn) -> None:
    """5.2: both go into one prompt there."""
    long = {"prompt": "x" * 20_000, "negative_prompt": "y" * 20_000}
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order(upstream, **long))
    assert (found.code, found.details["max_length"], standin.calls) == ("prompt_too_long", 32_000, 0)


# --------------------------------------------------------------------------------------------------- cancel, sent


async def test_sent_is_told_once_and_before_the_answer(standin: StandIn) -> None:
    """`sent` comes when the request is out, while the vendor still works; WorkBegun follows it."""
    standin.script(Rule(service_seconds=0.2))
    sent: list[None] = []
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order(upstream, sent=lambda: sent.append(None)))
        assert await anext(reported) == WorkBegun(3)
        assert (len(sent), [call.ended for call in standin.log]) in [(1, []), (1, [None])]
        assert [type(report) async for report in reported] == [PreviewMade, PreviewMade, ImageMade]
    assert len(sent) == 1


@pytest.mark.parametrize("how", ["task", "generator", "in mid-stream", "before anything"])
async def test_cancelling_drops_the_connection(standin: StandIn, how: str) -> None:
    """The vendor sees the client go, however that is done; that others work on is told (behaviour 5, point 5)."""
    standin.script(Rule(service_seconds=30 if how != "in mid-stream" else 0.6))
    async with adapter(standin.url) as upstream:
        assert {model.cancel for model in upstream.models} == {"no"}
        reported = upstream.run(order(upstream))
        if how == "before anything":
            await reported.aclose()
            assert standin.calls == 0
            return
        assert isinstance(await anext(reported), WorkBegun)
        await until(lambda: standin.calls == 1)
        if how == "in mid-stream":
            assert isinstance(await anext(reported), PreviewMade)
        if how == "task":
            with pytest.raises(TimeoutError):
                await _soon(reported)
        else:
            await reported.aclose()
        await until(lambda: standin.log[0].outcome == "dropped")


async def _soon(reported: Any) -> None:
    async with asyncio.timeout(0.01):
        await anext(reported)


async def test_cancel_after_the_end_changes_nothing(standin: StandIn) -> None:
    """The race in which the work was faster: what was made stands."""
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order(upstream, count=2))
        assert [type(await anext(reported)) for _ in range(2)] == [WorkBegun, ImageMade]
        await reported.aclose()
    assert standin.log[0].outcome == "answered"


async def test_closing_the_adapter_ends_its_calls_as_unknown(standin: StandIn) -> None:
    """A drain that closes under a call leaves it with an outcome."""
    standin.script(Rule(service_seconds=30))
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order(upstream))
        await anext(reported)
        await until(lambda: standin.calls == 1)
        await upstream.close()
        with pytest.raises(UpstreamFault) as caught:
            await anext(reported)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_call_that_was_lost_cannot_be_looked_up(standin: StandIn) -> None:
    """Section 10: the vendor has no way to ask."""
    async with adapter(standin.url) as upstream:
        assert not upstream.can_find(None)
        with pytest.raises(UpstreamFault) as caught:
            await anext(upstream.resume(order(upstream), None))
    assert (caught.value.outcome, standin.calls) == (Outcome.UNKNOWN, 0)


async def test_adapter_opens_again_and_closes_twice(standin: StandIn) -> None:
    """Open and close come in any order that `app` may need; the key is in no text."""
    upstream = OpenAIImages(name="images", base_url=f"{standin.url}/v1/", api_key=KEY, models=MODELS)
    filled: Upstream = upstream  # mypy holds this assignment to the protocol
    await filled.close()
    for _ in range(2):
        await upstream.open()
        assert len(await images(upstream, order(upstream))) == 1
        await upstream.close()
        await upstream.close()
    assert repr(upstream) == f"<OpenAIImages images at {standin.url}/v1>"
    assert KEY not in repr(upstream) + repr(vars(upstream))


async def test_account_is_named_and_the_environment_is_not_asked(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment would see the key."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with StandIn(key=KEY, organizations=("org-1",)) as strict:
        async with adapter(strict.url, organization="org-1", project="p") as upstream:
            assert len(await images(upstream, order(upstream))) == 1
        async with adapter(strict.url, organization="org-2") as upstream:
            assert (await fault(upstream, order(upstream))).credential
