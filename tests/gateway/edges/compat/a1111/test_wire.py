"""The web UI's words read and written, without a gateway."""

import base64
from typing import Any

import msgspec
import pytest

from gateway.core.params import CONTROLS
from gateway.edges.compat.a1111 import answers, progress, tables, wire
from gateway.edges.compat.a1111.controls import read_units
from gateway.edges.compat.a1111.fields import (
    COMMON,
    EXTRAS,
    IMG2IMG,
    LAST,
    TABLES,
    TXT2IMG,
    Extras,
    ImageToImage,
    TextToImage,
    refuse,
    told,
)
from gateway.edges.compat.dialect import CODES, Trouble
from gateway.upstreams.a1111.models import CONTROL_WORDS
from gateway.upstreams.a1111.models import SAMPLERS as ASKED_OF_VENDORS
from load.upstreams.a1111.fields import generation_fields
from protocol.errors import ClientFault
from protocol.messages import Progress

JOB = "01JD0000000000000000000000"


def test_every_code_has_its_word() -> None:
    """A code without a row would be an error about an error."""
    assert tables.ERRORS.keys() == CODES


@pytest.mark.parametrize("operation", ["txt2img", "img2img"])
def test_every_field_of_the_web_ui_has_its_treatment(operation: str) -> None:
    """No field is forgotten, and a default is the web UI's own."""
    known = {field.name: field.default for field in generation_fields(operation, "forge")}
    table = {name: default for name, (_, default) in TABLES[operation].items()}
    if operation == "img2img":
        known["denoising_strength"] = None  # the default is ours to give, where the model has a use for it
    assert table == known


def test_what_has_an_effect_is_read_and_nothing_else() -> None:
    """A field that is said to have an effect is in the struct, and the other way round."""
    for struct, table in (
        (TextToImage, COMMON | LAST),
        (ImageToImage, COMMON | IMG2IMG | LAST),
        (Extras, EXTRAS),
    ):
        assert {name for name, (treatment, _) in table.items() if treatment == "effect"} == set(
            struct.__struct_fields__
        )
    assert "effect" not in {treatment for treatment, _ in TXT2IMG.values()}


def test_samplers_are_those_that_we_ask_vendors_for() -> None:
    """A gateway in front of a gateway has the same names."""
    assert tables.SAMPLERS == ASKED_OF_VENDORS
    assert set(tables.ALIASES.values()) <= tables.SAMPLERS.keys()


def test_kinds_of_control_images_are_ours() -> None:
    """What a model's name means is a role that exists, and the names that we list are read back as their kind."""
    assert {kind for _, kind in tables.CONTROLS} == set(CONTROLS) - {"control"}
    for kind in CONTROL_WORDS:
        [unit] = read_units({"controlnet": {"args": [{"model": f"control_{kind}"}]}})
        assert unit.kind == kind


@pytest.mark.parametrize(
    "text, prompt, loras",
    [
        ("a cat", "a cat", []),
        (" a cat ", " a cat ", []),
        ("a cat <lora:fog:0.5>", "a cat", [("fog", 0.5)]),
        ("<lora:fog> a cat <lora:rain wet:-1:2>", "a cat", [("fog", 1.0), ("rain wet", -1.0)]),
        ("a <b> cat <lora:>", "a <b> cat <lora:>", []),
        ("(a cat:1.2)", "(a cat:1.2)", []),
    ],
)
def test_loras_are_tags_in_the_prompt(text: str, prompt: str, loras: list[tuple[str, float]]) -> None:
    """A tag is taken out of the prompt; what is none stays."""
    assert wire.read_prompt(text) == (prompt, [{"name": name, "weight": weight} for name, weight in loras])


def test_a_weight_that_is_no_number_is_refused() -> None:
    """The web UI would fail in the middle of its work."""
    with pytest.raises(ClientFault, match="number") as caught:
        wire.read_prompt("<lora:fog:much>")
    assert caught.value.details == {"path": "prompt"}


@pytest.mark.parametrize(
    "sampler, scheduler, found",
    [
        (None, None, (None, None)),
        ("", "automatic", (None, None)),
        ("Default", "Automatic", (None, None)),
        ("Euler a", "Karras", ("euler_a", "karras")),
        ("k_euler_ancestral", None, ("euler_a", None)),
        ("k_dpm_2_a", None, ("dpm2_a", None)),
        ("DPM++ 2M Karras", None, ("dpmpp_2m", "karras")),
        ("DPM++ 2M Karras", "SGM Uniform", ("dpmpp_2m", "sgm_uniform")),
        ("DPM++ 2M SDE", "sgm_uniform", ("DPM++ 2M SDE", "sgm_uniform")),
        ("Something Karras", "Own One", ("Something Karras", "Own One")),
        ("LCM", None, ("LCM", None)),
    ],
)
def test_names_of_samplers_and_schedulers(
    sampler: str | None, scheduler: str | None, found: tuple[str | None, str | None]
) -> None:
    """Labels, aliases and the old names with a scheduler behind them mean ours; others are the model's own."""
    assert wire.read_sampler(sampler, scheduler) == found


@pytest.mark.parametrize(
    "settings, checkpoint, format, others",
    [
        (None, None, "png", False),
        ({}, None, "png", False),
        ({"sd_model_checkpoint": "xl.safetensors [0123abcdef]"}, "xl.safetensors", "png", False),
        ({"sd_model_checkpoint": "xl", "samples_format": "jpg"}, "xl", "jpeg", False),
        ({"sd_model_checkpoint": "", "samples_format": "WebP", "sd_vae": "x"}, None, "webp", True),
    ],
)
def test_settings_of_a_request(settings: Any, checkpoint: str | None, format: str, others: bool) -> None:
    """The checkpoint and the format count; any other is told as ignored."""
    assert wire.checkpoint_of(settings) == checkpoint
    assert wire.format_of(settings) == format
    assert bool(wire.other_settings(settings)) is others


def test_wrong_settings_are_refused() -> None:
    """They name their field."""
    with pytest.raises(ClientFault) as caught:
        wire.checkpoint_of({"sd_model_checkpoint": 7})
    assert caught.value.details == {"path": "override_settings"}
    with pytest.raises(ClientFault) as caught:
        wire.format_of({"samples_format": "gif"})
    assert caught.value.details == {"path": "override_settings"}


REFUSED: list[tuple[str, Any]] = [
    ("subseed_strength", 0.5),
    ("seed_resize_from_h", 64),
    ("seed_resize_from_w", 64),
    ("restore_faces", True),
    ("refiner_checkpoint", "other"),
    ("firstpass_image", "aGk="),
    ("enable_hr", True),
    ("latent_mask", "aGk="),
    ("script_name", "x/y/z plot"),
    ("infotext", "Steps: 3"),
]


def test_what_nothing_here_can_do_is_refused_by_name() -> None:
    """All of it, and not where it says nothing."""
    every = COMMON | TXT2IMG | IMG2IMG | LAST
    assert {name for name, _ in REFUSED} == {name for name, (one, _) in every.items() if one == "refused"}
    for name, value in REFUSED:
        with pytest.raises(ClientFault) as caught:
            refuse({"steps": 3, name: value}, every)
        assert caught.value.details == {"path": name}
        refuse({name: every[name][1]} | dict.fromkeys(every, None), every)
        refuse(dict.fromkeys(every, "None") | dict.fromkeys(every, 0), every)


def test_what_is_ignored_is_told_where_it_says_something() -> None:
    """A client that sends the defaults is told nothing."""
    fields = {"mask_blur": 8, "resize_mode": 0, "inpainting_fill": 1, "eta": 0, "steps": 3, "unknown": 1}
    assert told(fields, TABLES["img2img"]) == {"mask_blur": 8, "inpainting_fill": 1}


@pytest.mark.parametrize(
    "unit, place",
    [
        ({"model": "ip-adapter"}, "model"),
        ({}, "model"),
        ({"model": 7}, "model"),
        ({"module": ["canny"]}, "module"),
        ({"model": "canny", "weight": "much"}, "weight"),
        ({"model": "canny", "guidance_end": True}, "guidance_end"),
        ({"model": "canny", "control_mode": 2}, "control_mode"),
        ({"model": "canny", "mask": "aGk="}, "mask"),
        ({"model": "canny", "image": {"image": "aGk=", "mask": "aGk="}}, "image"),
        ({"model": "canny", "image": 7}, "image"),
    ],
)
def test_units_that_cannot_be_understood_are_refused(unit: dict[str, Any], place: str) -> None:
    """They name their field, and the kind of control image must follow from a name."""
    with pytest.raises(ClientFault) as caught:
        read_units({"ControlNet": {"args": [unit]}})
    assert caught.value.details == {"path": f"alwayson_scripts.controlnet.{place}"}


def test_units_by_their_many_forms() -> None:
    """Deprecated names count, disabled ones do not, and a picture comes in three forms."""
    given = [
        {"model": "t2i_canny", "input_image": "YQ==", "guidance": 0.5, "lowvram": True, "control_mode": 0},
        {"model": "canny", "enabled": False},
        {"module": "openpose_full", "model": "None", "image": {"image": "Yg==", "mask": None}, "threshold_a": 64},
        {"model": "canny", "image": ["Yw=="], "module": "None", "processor_res": -1, "enabled": True},
        {"model": "canny", "image": [], "weight": 2},
        "no unit",
    ]
    units = read_units({"controlnet": {"args": given}, "seed": {"args": []}, "adetailer": {"args": [False]}})
    assert [unit.kind for unit in units] == ["canny", "pose", "canny", "canny"]
    assert [unit.image for unit in units] == ["YQ==", "Yg==", "Yw==", None]
    assert [unit.module for unit in units] == [None, "openpose_full", "none", None]
    assert [unit.has_idle for unit in units] == [False, True, False, False]
    assert (units[0].end, units[3].weight) == (0.5, 2.0)
    assert read_units(None) == []


@pytest.mark.parametrize("scripts", [{"roop": {"args": [1]}}, {"controlnet": {"args": [{"model": "canny"}] * 9}}])
def test_other_scripts_and_too_many_units_are_refused(scripts: dict[str, Any]) -> None:
    """Nothing is left out in silence."""
    with pytest.raises(ClientFault):
        read_units(scripts)


def test_enlarging_to_a_size_crops() -> None:
    """The other way to a size is not one that models here have."""
    whole = wire.enlarge(Extras(resize_mode=1, upscaling_resize_w=64), "up", b"x")
    assert whole.params == {"width": 64, "height": 512}
    assert wire.enlarge(Extras(), "up", b"x").params == {"scale": 2.0}
    with pytest.raises(ClientFault, match="only true"):
        wire.enlarge(Extras(resize_mode=1, upscaling_crop=False), "up", b"x")


def work(**more: Any) -> progress.Work:
    """A job of two pictures of ten steps, at work."""
    given: dict[str, Any] = {
        "task": "txt2img", "has_init": False, "count": 2, "steps": 10, "created_ms": 0, "is_interrupted": False,
        "is_waiting": False,
    }  # fmt: skip
    return progress.Work(**(given | more))


@pytest.mark.parametrize(
    "ratio, place, step", [(0.0, 0, 0), (0.05, 0, 1), (0.45, 0, 9), (0.5, 1, 0), (0.75, 1, 5), (1.0, 1, 10)]
)
def test_progress_counts_each_picture_anew(ratio: float, place: int, step: int) -> None:
    """However many pictures a call makes, the place follows from how much is done."""
    answer = progress.told(work(), Progress(job=JOB, phase="denoising", step=1, steps=10, ratio=ratio), None)
    state = answer["state"]
    assert (state["job_no"], state["sampling_step"], state["sampling_steps"]) == (place, step, 10)
    assert answer["progress"] == max(0.01, ratio)


def test_progress_of_nothing_and_of_what_waits() -> None:
    """An idle server says so by its count; what waits is there and has done nothing."""
    assert progress.told(None, None, None)["state"]["job_count"] == 0
    waiting = progress.told(work(is_waiting=True, is_interrupted=True), None, None)
    assert (waiting["progress"], waiting["textinfo"], waiting["state"]["job_count"]) == (0.0, "Waiting...", 2)
    assert waiting["state"]["interrupted"] is True
    eta = Progress(job=JOB, phase="denoising", step=1, steps=10, ratio=0.5, eta_ms=1500)
    assert progress.told(work(), eta, None)["eta_relative"] == 1.5
    names = [("upscale", True), ("controlnet", True), ("controlnet", False), ("inpaint", True)]
    told = [progress.told(work(task=one, has_init=init), None, None)["state"]["job"] for one, init in names]
    assert told == ["extras", "scripts_img2img", "scripts_txt2img", "scripts_img2img"]


def test_errors_have_one_of_three_forms() -> None:
    """A sentence, a list of one, or the four names of a failure."""
    forms = set()
    for code in CODES:
        status, body = answers.error(Trouble(code, "words", details={"path": "params.guidance"}))
        assert status == tables.ERRORS[code][0]
        forms.add(tuple(body))
        match body:
            case {"error": name, "detail": "", "body": "", "errors": _}:
                assert status >= 500, name
            case {"detail": [{"type": _, "loc": ["body", "cfg_scale"], "msg": "words"}]}:
                assert status == 422
            case {"detail": str()}:
                assert 400 <= status < 500
            case _:
                pytest.fail(f"{code}: {body}")
    assert forms == {("detail",), ("error", "detail", "body", "errors")}


@pytest.mark.parametrize(
    "path, place",
    [("", []), ("body", []), ("steps", ["steps"]), ("styles[0]", ["styles", 0]), ("params.n", ["batch_size"])],
)
def test_the_place_of_an_error(path: str, place: list[Any]) -> None:
    """Names and numbers in a list, as the web UI's framework has it."""
    _, body = answers.error(Trouble("invalid_param", "Expected int, got str", details={"path": path}))
    assert body["detail"][0] == {"type": "int_type", "loc": ["body", *place], "msg": "Expected int, got str"}


def test_an_interrupted_request_is_answered_with_what_there_is() -> None:
    """One picture, or none."""
    assert msgspec.json.decode(answers.unfinished(b"x"))["images"] == [base64.b64encode(b"x").decode()]
    assert msgspec.json.decode(answers.unfinished(None)) == {"images": [], "parameters": {}, "info": "{}"}
