"""The vendor's own Python package against the gateway, with nothing changed but the address."""

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from PIL import Image

from gateway.core.images import measure
from gateway.core.reports import Outcome, UpstreamFault
from tests.gateway.edges.compat.conftest import Door
from tests.pictures import flat

GLASS = (0, 0, 0, 0)


async def test_a_picture_of_words(door: Door, vendor: AsyncOpenAI) -> None:
    """Two pictures in base64, with what the vendor says beside them; hints reach the model in its own words."""
    images = vendor.images
    made = await images.generate(
        model="gpt-image-1", prompt="a lighthouse", n=2, size="128x64", quality="low", style="vivid", user="u",
        moderation="low", background="opaque",
    )  # fmt: skip
    assert made.data is not None
    assert [_size(one.b64_json) for one in made.data] == [("png", 128, 64)] * 2
    assert (made.size, made.quality, made.background, made.output_format) == ("128x64", "low", "opaque", "png")
    assert made.usage is not None
    assert made.usage.total_tokens == 0
    request = door.easel.orders[0].request
    assert (request.prompt, request.steps, request.style, request.n) == ("a lighthouse", 5, "vivid", 2)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
async def test_the_asked_format(door: Door, vendor: AsyncOpenAI, kind: Any) -> None:
    """Made of the PNG that is stored, where that is another."""
    made = await vendor.images.generate(prompt="p", output_format=kind, output_compression=30)
    assert made.data is not None
    assert _size(made.data[0].b64_json) == (kind, 128, 128)
    assert made.output_format == kind


async def test_addresses_are_signed_and_have_the_asked_format(door: Door, vendor: AsyncOpenAI) -> None:
    """A dall-e answers addresses unless it is asked otherwise, and whoever has one needs no key."""
    made = await vendor.images.generate(model="dall-e-3", prompt="p", output_format="webp")
    assert made.data is not None
    url = made.data[0].url
    assert url is not None
    async with door.client.get(url) as response:
        assert response.headers["Content-Type"] == "image/webp"
        assert measure(await response.read()).format == "webp"
    inline = await vendor.images.generate(model="dall-e-3", prompt="p", response_format="b64_json")
    assert inline.data is not None
    assert inline.data[0].url is None


async def test_an_edit_of_one_picture(door: Door, vendor: AsyncOpenAI) -> None:
    """Without a mask the whole is painted anew, in the picture's size, as near to it as is asked."""
    image = flat("red", (72, 64))
    made = await vendor.images.edit(image=("a.png", image), prompt="blue", input_fidelity="high")
    assert made.data is not None
    assert _size(made.data[0].b64_json) == ("png", 72, 64)
    request = door.easel.orders[0].request
    assert (request.task, request.strength) == ("img2img", 0.35)
    assert [one.role for one in request.inputs] == ["init"]


async def test_an_edit_with_a_mask(door: Door, vendor: AsyncOpenAI) -> None:
    """What is transparent in the mask is white in ours: that is changed."""
    image, mask = flat("red", (64, 64)), flat(GLASS, (64, 64), "RGBA")
    await vendor.images.edit(image=("a.png", image), mask=("m.png", mask), prompt="blue")
    order = door.easel.orders[0]
    assert order.request.task == "inpaint"
    assert [one.role for one in order.request.inputs] == ["init", "mask"]
    asset = next(one.asset for one in order.request.inputs if one.role == "mask")
    stored = await door.ask("GET", f"/v1/assets/{asset}")
    assert _colours(stored.body) == [255]


async def test_the_oldest_model_takes_the_pictures_own_transparency(door: Door, vendor: AsyncOpenAI) -> None:
    """Where no mask is sent; newer models edit the whole."""
    image = flat(GLASS, (64, 64), "RGBA")
    await vendor.images.edit(model="dall-e-2", image=("a.png", image), prompt="p", size="64x64")
    assert door.easel.orders[0].request.task == "inpaint"


async def test_several_pictures_are_references(door: Door, vendor: AsyncOpenAI) -> None:
    """The package calls several `image[]`."""
    images = [(f"{index}.jpg", flat((index, 0, 0), (64, 64), format="JPEG")) for index in range(3)]
    await vendor.images.edit(image=images, prompt="together")
    assert [one.role for one in door.easel.orders[0].request.inputs] == ["reference"] * 3


async def test_a_size_that_is_left_to_the_model_is_near_to_the_pictures(door: Door, vendor: AsyncOpenAI) -> None:
    """70x61 is no size of this model, but what is nearest to it is."""
    image = flat("red", (70, 61))
    made = await vendor.images.edit(image=("a.png", image), prompt="p", size="auto")
    assert made.size == "72x64"


# ---------------------------------------------------------------------------------------------------------- streaming


@contextlib.asynccontextmanager
async def held(door: Door) -> AsyncIterator[None]:
    """Have the easel wait until a stream follows its job."""
    door.easel.hold = asyncio.Event()
    release = asyncio.create_task(_release(door, door.easel.hold))
    yield
    await release


async def _release(door: Door, hold: asyncio.Event) -> None:
    feeds = door.running.gateway.node.feeds
    while not any(feed.watchers for feed in feeds._feeds.values()):
        await asyncio.sleep(0.005)
    hold.set()


@pytest.mark.parametrize("partials", [0, 1, 2, 3])
async def test_partial_pictures_come_spread_and_in_order(door: Door, vendor: AsyncOpenAI, partials: int) -> None:
    """Each is the first preview of its part of the work: the paper's red tells the step."""
    async with held(door):
        stream = await vendor.images.generate(
            prompt="p", stream=True, partial_images=partials, size="128x128", quality="high"
        )
        events = [event async for event in stream]
    *shown, last = events
    assert [event.type for event in shown] == ["image_generation.partial_image"] * partials
    assert [getattr(event, "partial_image_index", None) for event in shown] == list(range(partials))
    assert [_red(event.b64_json) for event in shown] == [-(-15 * part // (partials + 1)) for part in _after_0(partials)]
    assert last.type == "image_generation.completed"
    assert (last.size, last.quality, last.output_format, last.background) == ("128x128", "high", "png", "opaque")
    assert last.usage.total_tokens == 0
    assert _size(last.b64_json) == ("png", 128, 128)


async def test_an_edit_streams_events_of_its_own(door: Door, vendor: AsyncOpenAI) -> None:
    """By their own names, in the asked format."""
    image = flat("red", (64, 64))
    async with held(door):
        stream = await vendor.images.edit(
            image=("a.png", image), prompt="p", stream=True, partial_images=2, output_format="jpeg"
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_edit.partial_image", "image_edit.partial_image", "image_edit.completed",
    ]  # fmt: skip
    assert {_size(event.b64_json)[0] for event in events} == {"jpeg"}


async def test_what_goes_wrong_in_a_stream_is_raised(door: Door, vendor: AsyncOpenAI) -> None:
    """The head has gone with 200: the last event is an error, which the package raises."""
    door.easel.fault = UpstreamFault(Outcome.FAILED, "content_filtered", "the vendor does not draw this")
    stream = await vendor.images.generate(prompt="p", stream=True)
    with pytest.raises(openai.APIError) as told:
        [event async for event in stream]
    assert told.value.code == "moderation_blocked"


async def test_a_stream_of_several_pictures_is_refused(door: Door, vendor: AsyncOpenAI) -> None:
    """As at the vendor."""
    with pytest.raises(openai.BadRequestError) as told:
        await vendor.images.generate(prompt="p", stream=True, n=2)
    assert told.value.param == "stream"


# ------------------------------------------------------------------------------------------------- models and errors


async def test_models_are_listed_for_both_kinds_of_clients(door: Door, vendor: AsyncOpenAI) -> None:
    """The vendor's fields stand beside our own: one answer that both understand."""
    listed = [model async for model in vendor.models.list()]
    assert [(model.id, model.object, model.owned_by) for model in listed] == [("easel", "model", "easel")]
    assert (await vendor.models.retrieve("easel")).created == listed[0].created
    with pytest.raises(openai.NotFoundError) as told:
        await vendor.models.retrieve("unheard-of")
    assert told.value.code == "model_not_found"


async def test_errors_are_the_packages_exceptions(door: Door, vendor: AsyncOpenAI) -> None:
    """Each class with the vendor's code and the field."""
    images = vendor.images
    with pytest.raises(openai.AuthenticationError) as refused:
        await vendor.with_options(api_key="sk-wrong").images.generate(prompt="p")
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as unknown:
        await images.generate(prompt="p", model="unheard-of")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as odd:
        await images.generate(prompt="p", size="65x64")
    assert (odd.value.code, odd.value.param) == ("invalid_value", "size")
    with pytest.raises(openai.BadRequestError) as surplus:
        await images.generate(prompt="p", extra_body={"seed": 7})
    assert (surplus.value.code, surplus.value.param) == ("unknown_parameter", "seed")
    door.easel.fault = UpstreamFault(Outcome.FAILED, "content_filtered", "the vendor does not draw this")
    with pytest.raises(openai.BadRequestError) as filtered:
        await images.generate(prompt="p")
    assert filtered.value.code == "moderation_blocked"
    assert filtered.value.type == "image_generation_user_error"


async def test_a_timeout_is_the_clients_own(door: Door, vendor: AsyncOpenAI) -> None:
    """No white space comes before the silence is over, and the job goes on."""
    door.easel.hold = asyncio.Event()
    with pytest.raises(openai.APITimeoutError):
        await vendor.with_options(timeout=0.05).images.generate(prompt="p")
    door.easel.hold.set()


def _after_0(partials: int) -> range:
    return range(1, partials + 1)


def _red(picture: str) -> int:
    pixel = _opened(base64.b64decode(picture)).convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def _size(picture: str | None) -> tuple[str, int, int]:
    assert picture is not None
    facts = measure(base64.b64decode(picture))
    return facts.format, facts.width, facts.height


def _colours(content: bytes) -> list[Any]:
    return [colour for _, colour in _opened(content).getcolors() or []]


def _opened(content: bytes) -> Any:
    return Image.open(io.BytesIO(content))
