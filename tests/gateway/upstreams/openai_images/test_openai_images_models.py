"""What is offered, from settings and from the server's own list; and what a probe finds."""

from typing import Any

import pytest

from gateway.core.models import AS_IT_IS, Sizes
from gateway.core.reports import Outcome, UpstreamFault
from gateway.upstreams.openai_images import ImageModel, OpenAIImages
from gateway.upstreams.openai_images.models import DIALECTS, offered, short_name
from load.upstreams.faults import Cut, Refuse, Rule
from load.upstreams.openai_images import OpenAIImages as StandIn
from load.upstreams.openai_images.models import ALL
from load.upstreams.openai_images.models import Model as TheirModel
from load.upstreams.pictures import colour_of
from protocol.errors import ClientFault
from tests.gateway.upstreams.openai_images.vendor import (
    GPT,
    KEY,
    MODELS,
    adapter,
    answering,
    images,
    order,
    pixel,
    raw_server,
)

FOUND = tuple(
    TheirModel(name, "local", sizes=())
    for name in ("Qwen/Qwen-Image", "sd/juggernaut.safetensors", "other/Qwen-Image", "chat-7b")
)


def made(**options: Any) -> OpenAIImages:
    """An adapter that is not opened."""
    return OpenAIImages(**{"name": "main", "base_url": "http://x/v1", "models": MODELS, **options})


# ------------------------------------------------------------------------------------------------------- settings


def test_vendors_models_tell_what_they_can_do() -> None:
    """5.2, section 10: billed, with partial pictures for progress, edits of the gpt models."""
    gpt, free, dall3, dall2 = made().models
    assert (gpt.id, gpt.upstream, gpt.vendor_model, gpt.price_micros, gpt.billed) == (GPT, "main", GPT, 40_000, True)
    assert (gpt.progress, gpt.previews, gpt.cancel, gpt.images_per_call, gpt.max_n) == ("estimated", True, "no", 10, 10)
    assert sorted(gpt.tasks) == ["img2img", "inpaint", "reference", "txt2img"]
    assert gpt.bounds == {"reference": AS_IT_IS}
    assert sorted(gpt.params) == ["background", "height", "n", "negative_prompt", "prompt", "width"]
    assert (gpt.backgrounds, free.backgrounds) == (("auto", "opaque", "transparent"), ("auto", "opaque"))
    assert not {"background"} & (dall3.params | dall2.params)
    assert (gpt.steps, gpt.default_steps, gpt.max_prompt, gpt.max_references) == ((3, 3), 3, 32_000, 8)
    assert (sorted(dall3.tasks), dall3.styles, dall3.images_per_call) == (["txt2img"], ("vivid", "natural"), 1)
    assert (dall3.max_prompt, dall3.previews, dall3.steps, "style" in dall3.params) == (4000, False, (1, 1), True)
    assert (sorted(dall2.tasks), dall2.max_prompt) == (["inpaint", "txt2img"], 1000)
    assert not free.sizes.listed


@pytest.mark.parametrize(
    "size,allowed",
    [
        ((1024, 1024), True),
        ((3840, 2160), True),
        ((3840, 1280), True),
        ((480, 1440), True),
        ((3840, 1264), False),
        ((640, 640), False),
        ((1000, 1024), False),
        ((3856, 2048), False),
        ((3840, 3840), False),
    ],
)
def test_free_sizes_are_the_vendors(size: tuple[int, int], allowed: bool) -> None:
    """5.2: multiples of 16, 1:3 to 3:1, neither too few nor too many pixels; what is nearest is allowed."""
    sizes = made().models[1].sizes
    if allowed:
        sizes.check(*size)
        assert sizes.nearest(*size) == size
        return
    with pytest.raises(ClientFault):
        sizes.check(*size)
    sizes.check(*sizes.nearest(*size))


def test_self_hosted_models_are_free_and_have_a_seed() -> None:
    """5.5: each dialect's own words; what needs an editing model is offered only if the settings say so."""
    for dialect in ("vllm", "sglang", "localai", "aquiles"):
        (model,) = made(dialect=dialect, models={"m": ImageModel()}).models
        assert (sorted(model.tasks), model.billed, model.previews, model.images_per_call) == (
            ["txt2img"],
            False,
            False,
            1,
        )
        assert {"seed", "steps"} <= model.params
        assert not {"guidance", "background"} & model.params
        assert (model.default_steps, model.default_size) == (
            DIALECTS[dialect].default_steps,
            DIALECTS[dialect].default_size,
        )
    (named,) = made(dialect="vllm", models={GPT: ImageModel()}).models
    assert (sorted(named.tasks), named.previews) == (["txt2img"], False)  # a name is no family there
    (edits,) = made(dialect="vllm", models={"m": ImageModel(tasks=("img2img", "inpaint"), guidance=4.0)}).models
    assert (sorted(edits.tasks), "guidance" in edits.params, edits.default_guidance) == (
        ["img2img", "inpaint"],
        True,
        4.0,
    )


@pytest.mark.parametrize("name", [one.id for one in ALL if one.family == "gpt"])
def test_transparent_is_offered_where_the_vendor_makes_it(name: str) -> None:
    """5.2: not by gpt-image-2 in all its dates, and never as JPEG, which has no alpha channel."""
    can = next(one.transparent for one in ALL if one.id == name)
    for one, expected in ((ImageModel(), can), (ImageModel(fields={"output_format": "jpeg"}), False)):
        (model,) = made(models={name: one}).models
        assert ("transparent" in model.backgrounds) is expected


def test_settings_change_what_is_offered() -> None:
    """One model of the vendor's at two qualities; a size, a stream and a price of one's own."""
    models = {
        "cheap": ImageModel(vendor_model=GPT, price_micros=11_000, task_prices={"inpaint": 20_000}, max_n=2),
        "good": ImageModel(vendor_model=GPT, price_micros=167_000, fields={"quality": "high"}, partial_images=3),
        "new": ImageModel(
            vendor_model="openai/gpt-image-9",
            sizes=Sizes(multiple_of=32),
            default_size=(768, 768),
            images_per_call=1,
            max_prompt=99,
            streams=False,
            description="d",
        ),
    }
    cheap, good, new = made(models=models).models
    assert (cheap.vendor_model, good.vendor_model, cheap.price("inpaint"), cheap.max_n) == (GPT, GPT, 20_000, 2)
    assert good.steps == (4, 4)
    assert (new.sizes.multiple_of, new.default_size, new.max_prompt, new.previews) == (32, (768, 768), 99, False)
    assert (new.images_per_call, new.description, new.billed, "reference" in new.tasks) == (1, "d", False, True)


@pytest.mark.parametrize(
    "models,dialect,why",
    [
        ({"m": ImageModel(tasks=())}, "openai", "no task"),
        ({"m": ImageModel(tasks=("upscale",))}, "openai", "can only do"),
        ({"m": ImageModel(tasks=("inpaint",))}, "sglang", "can only do"),
        ({"m": ImageModel(tasks=("img2img",))}, "localai", "can only do"),
        ({GPT: ImageModel(partial_images=4)}, "openai", "0 to 3"),
        ({GPT: ImageModel(price_micros=-1)}, "openai", "price"),
        ({GPT: ImageModel(fields={"n": 4})}, "openai", "must not hold n"),
        ({GPT: ImageModel(model="a"), "dall-e-3": ImageModel(model="a")}, "openai", "same name"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(models: Any, dialect: Any, why: str) -> None:
    """At once, and by name."""
    with pytest.raises(ValueError, match=why):
        made(models=models, dialect=dialect)


@pytest.mark.parametrize(
    "vendor_model,name",
    [
        ("Qwen/Qwen-Image", "Qwen-Image"),
        ("a/b/juggernautXL_v9.safetensors", "juggernautXL_v9"),
        ("model.GGUF", "model"),
        ("gpt-image-1.5", "gpt-image-1.5"),
        (".bin", ".bin"),
        ("folder/", "folder"),
    ],
)
def test_names_are_short_and_readable(vendor_model: str, name: str) -> None:
    """Without folder and suffix."""
    assert short_name(vendor_model) == name


# ------------------------------------------------------------------------------------------------------ discovery


async def test_models_are_discovered_by_pattern() -> None:
    """What the server lists is offered where a pattern fits; what the settings name stays as it is."""
    discover = {"*Qwen*": ImageModel(steps=8), "sd/*": ImageModel(tasks=("txt2img", "img2img"))}
    async with (
        StandIn(profile="vllm", models=FOUND) as standin,
        adapter(standin.url, models={"mine": ImageModel()}, discover=discover, dialect="vllm") as upstream,
    ):
        assert [model.id for model in upstream.models] == ["mine"]
        for _ in range(2):
            await upstream.refresh()
            offers = [(model.id, model.vendor_model, model.default_steps) for model in upstream.models]
            assert offers == [
                ("mine", "mine", 50),
                ("Qwen-Image", "Qwen/Qwen-Image", 8),
                ("juggernaut", "sd/juggernaut.safetensors", 50),
                ("other/Qwen-Image", "other/Qwen-Image", 8),
            ]
        (picture,) = await images(upstream, order(upstream, "juggernaut", seed=9))
    assert pixel(picture.picture) == colour_of(9, "a lamp")
    assert standin.log[-1].fields["model"] == "sd/juggernaut.safetensors"


def test_discovered_model_never_takes_a_name_that_is_taken() -> None:
    """Nor is one offered twice."""
    any_model = {"*": ImageModel(model="unused")}
    configured = {"a": ImageModel(vendor_model="x/b"), "b": ImageModel()}
    offers = offered("up", "vllm", configured, any_model, ["x/b", "a", "b", "c/a", "c/d", "c/d"])
    assert [(one.model.id, one.model.vendor_model) for one in offers] == [
        ("a", "x/b"), ("b", "b"), ("c/a", "c/a"), ("d", "c/d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "what,outcome",
    [
        (Refuse(401), Outcome.FAILED),
        (Refuse(503), Outcome.REFUSED),
        (Cut(0), Outcome.UNKNOWN),
    ],
)
async def test_models_stay_when_the_list_cannot_be_had(standin: StandIn, what: Any, outcome: Outcome) -> None:
    """The fault is told; what was offered before still is."""
    async with adapter(standin.url, discover={"gpt-image-2*": ImageModel()}) as upstream:
        await upstream.refresh()
        before = upstream.models
        standin.script(Rule(do=what, operation="models"))
        with pytest.raises(UpstreamFault) as caught:
            await upstream.refresh()
    assert caught.value.outcome is outcome
    assert upstream.models == before
    assert len(before) > len(MODELS)


async def test_all_that_is_for_pictures_can_be_discovered() -> None:
    """The vendor lists its models for talk as well; a server of one's own has what its owner put there."""
    listed = (*ALL, *FOUND)
    async with StandIn(models=listed, key=KEY) as standin:
        async with adapter(standin.url, models={}, discover=True) as upstream:
            await upstream.refresh()
            assert [model.id for model in upstream.models] == [model.id for model in ALL]
        async with adapter(standin.url, models={}, discover=True, dialect="vllm") as upstream:
            await upstream.refresh()
            assert len(upstream.models) == len(listed)


@pytest.mark.parametrize(
    "base_url,dialect,whole",
    [
        ("https://a.example", "openai", "https://a.example/v1"),
        ("https://a.example/", "openai", "https://a.example/v1"),
        ("https://a.example/v1/", "openai", "https://a.example/v1"),
        ("https://a.example/openai/v1", "openai", "https://a.example/openai/v1"),
        ("http://a.example:5500", "aquiles", "http://a.example:5500"),
    ],
)
def test_address_without_a_path_gets_the_dialects(base_url: str, dialect: Any, whole: str) -> None:
    """Both ways of writing it are common."""
    assert repr(made(base_url=base_url, dialect=dialect)) == f"<OpenAIImages main at {whole}>"


async def test_nothing_is_asked_where_nothing_is_discovered() -> None:
    """The settings say all; opening needs nobody either."""
    async with adapter("http://127.0.0.1:1") as upstream:
        await upstream.refresh()
    assert [model.id for model in upstream.models] == list(MODELS)


# ---------------------------------------------------------------------------------------------------------- probe


async def test_probe_tells_what_is_there(standin: StandIn) -> None:
    """It costs nothing, and names what the settings have wrong."""
    async with adapter(standin.url, models={**MODELS, "gpt-image-7": ImageModel()}) as upstream:
        findings = await upstream.probe()
    assert findings.server == "OpenAI Images API"
    assert findings.facts[0] == "14 models listed"
    assert "dall-e-2, dall-e-3, gpt-image-1" in findings.facts[1]
    assert findings.problems == ("the server does not list the model gpt-image-7: see whether the name is right",)
    assert standin.calls == 0


async def test_probe_tells_that_nothing_is_offered() -> None:
    """Neither a model nor a pattern that fits."""
    async with (
        StandIn(profile="vllm", models=FOUND) as standin,
        adapter(standin.url, models={}, discover={"flux*": ImageModel()}, dialect="vllm") as upstream,
    ):
        findings = await upstream.probe()
    assert findings.server == "vLLM-Omni"
    assert "chat-7b" in findings.facts[1]
    assert findings.problems == ("no model is offered: name one in `models`, or a pattern in `discover` that fits one",)


async def test_probe_tells_of_a_wrong_address(standin: StandIn) -> None:
    """Most often it lacks the version."""
    async with adapter(standin.url, root="/v2") as upstream:
        (problem,) = (await upstream.probe()).problems
    assert "404" in problem
    assert "/v1" in problem


@pytest.mark.parametrize("what", [Refuse(401), Cut(0)], ids=str)
async def test_probe_fails_as_a_call_would(standin: StandIn, what: Any) -> None:
    """A key that is not accepted, or nobody there."""
    standin.script(Rule(do=what, operation="models"))
    async with adapter(standin.url) as upstream:
        with pytest.raises(UpstreamFault):
            await upstream.probe()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data":[{}]}', b'{"data":' + b" " * 2_000_000 + b"[]}"])
async def test_list_that_is_none_changes_nothing(body: bytes) -> None:
    """Neither is it believed in part, nor read without end."""
    async with raw_server(answering(body)) as url, adapter(url, discover={"*": ImageModel()}) as upstream:
        with pytest.raises(UpstreamFault) as caught:
            await upstream.refresh()
    assert (caught.value.code, caught.value.charged) == ("invalid_output", False)
    assert [model.id for model in upstream.models] == list(MODELS)


def test_vendor_without_a_price_is_a_problem() -> None:
    """Calls that count as free are repeated when an answer is lost."""
    upstream = made(base_url="https://api.openai.com/v1", models={GPT: ImageModel(), "b": ImageModel(price_micros=1)})
    assert upstream._price_problems() == [
        f"{GPT} has no price: its calls count as free, and are repeated when an answer is lost"
    ]
