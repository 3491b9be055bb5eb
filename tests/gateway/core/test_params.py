import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.params import (
    CONTROLS,
    MAX_CONTROLS,
    MAX_REFERENCES,
    TASKS,
    Expand,
    Lora,
    Params,
    Task,
    WeightedPrompt,
    decode_params,
    split_prompts,
)
from protocol.codec import MAX_PARAMS
from protocol.errors import ClientFault

# -------------------------------------------------------------------------------------------------------------- tasks

ONE, MAYBE, PROMPT = (1, 1), (0, 1), frozenset({"prompt"})


def test_there_are_nine_tasks_with_their_roles_and_needs() -> None:
    """The table is a promise to clients: a change here is a change of the wire."""
    assert {
        "txt2img": Task({}, PROMPT, uses_strength=False),
        "img2img": Task({"init": ONE}, PROMPT, uses_strength=True),
        "inpaint": Task({"init": ONE, "mask": ONE}, PROMPT, uses_strength=True),
        "outpaint": Task({"init": ONE}, frozenset({"expand"}), uses_strength=False),
        "controlnet": Task({"init": MAYBE, "mask": MAYBE, "control": (1, 8)}, PROMPT, uses_strength=True),
        "reference": Task({"reference": (1, 8), "mask": MAYBE}, PROMPT, uses_strength=False),
        "upscale": Task({"init": ONE}, frozenset(), uses_strength=False),
        "remove_background": Task({"init": ONE}, frozenset(), uses_strength=False),
        "search_replace": Task({"init": ONE}, frozenset({"prompt", "search"}), uses_strength=False),
    } == TASKS
    assert (MAX_CONTROLS, MAX_REFERENCES) == (8, 8)


def test_every_need_of_a_task_is_a_param() -> None:
    """A need that no client could name would close the task."""
    assert {name for task in TASKS.values() for name in task.needs} <= set(Params.__struct_fields__)


def test_kinds_of_control_are_no_other_roles() -> None:
    """An image counts as one thing only; `control` itself is the upstream's own choice of a kind."""
    assert len(set(CONTROLS)) == len(CONTROLS)
    assert "control" in CONTROLS
    assert not set(CONTROLS) & {"init", "mask", "reference"}


# ----------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    "raw,code,path",
    [
        (b'{"prompt": 1}', "invalid_param", "params.prompt"),
        (b'{"prompt": null}', "invalid_param", "params.prompt"),
        (b'{"width": 0}', "invalid_param", "params.width"),
        (b'{"height": 16385}', "invalid_param", "params.height"),
        (b'{"steps": 0}', "invalid_param", "params.steps"),
        (b'{"n": 65}', "invalid_param", "params.n"),
        (b'{"seed": 9007199254740992}', "invalid_param", "params.seed"),
        (b'{"guidance": -0.1}', "invalid_param", "params.guidance"),
        (b'{"strength": 1.5}', "invalid_param", "params.strength"),
        (b'{"sampler": "' + b"x" * 65 + b'"}', "invalid_param", "params.sampler"),
        (b'{"prompts": []}', "invalid_param", "params.prompts"),
        (b'{"prompts": [{"text": ""}]}', "invalid_param", "params.prompts[0].text"),
        (b'{"prompts": [{"text": "x"}, {"weight": 1}]}', "invalid_param", "params.prompts[1].text"),
        (b'{"prompts": [{"text": "x", "weight": 10.5}]}', "invalid_param", "params.prompts[0].weight"),
        (b'{"prompts": [{"text": "x", "weigth": 1}]}', "invalid_param", "params.prompts[0].weigth"),
        (b'{"loras": [{"name": "x", "weight": -11}]}', "invalid_param", "params.loras[0].weight"),
        (b'{"loras": [{"name": "x", "weight": 1e999}]}', "invalid_param", "params.loras[0].weight"),
        (b'{"loras": [{"name": "x", "weight": NaN}]}', "bad_request", "params"),
        (b'{"loras": [{"name": ""}]}', "invalid_param", "params.loras[0].name"),
        (b'{"loras": [{"name": "x", "model": "y"}]}', "invalid_param", "params.loras[0].model"),
        (b'{"expand": {"left": -1}}', "invalid_param", "params.expand.left"),
        (b'{"expand": {"up": 8193}}', "invalid_param", "params.expand.up"),
        (b'{"expand": {"top": 8}}', "invalid_param", "params.expand.top"),
        (b'{"scale": 0.5}', "invalid_param", "params.scale"),
        (b'{"scale": 8.5}', "invalid_param", "params.scale"),
        (b'{"search": ""}', "invalid_param", "params.search"),
        (b'{"tiling": 1}', "invalid_param", "params.tiling"),
        (b'{"background": "white"}', "invalid_param", "params.background"),
        (b'{"adjust": 1}', "invalid_param", "params.adjust"),
        (b'{"cfg_scale": 7}', "invalid_param", "params.cfg_scale"),
        (b"[]", "invalid_param", "params"),
        (b"{", "bad_request", "params"),
        (b'{"prompt": "' + b"x" * MAX_PARAMS + b'"}', "payload_too_large", "params"),
    ],
)
def test_params_are_refused_by_name(raw: bytes, code: str, path: str) -> None:
    """A wrong or unknown field at any depth, a number that is none, or too many bytes."""
    with pytest.raises(ClientFault) as caught:
        decode_params(msgspec.Raw(raw))
    assert (caught.value.code, caught.value.details["path"]) == (code, path)


def test_params_at_their_limit_pass() -> None:
    """32 KiB to the byte."""
    raw = b'{"prompt": "x"}' + b" " * (MAX_PARAMS - 15)
    assert decode_params(raw).prompt == "x"


def test_params_are_typed() -> None:
    """Lists and objects inside come out as what they are, with their defaults."""
    raw = b"""{"prompts": [{"text": "a fox"}, {"text": "fog", "weight": -1}], "loras": [{"name": "ink"}],
        "expand": {"left": 8}, "scale": 4, "tiling": true, "background": "opaque", "adjust": true}"""
    assert decode_params(raw) == Params(
        prompts=[WeightedPrompt("a fox", 1.0), WeightedPrompt("fog", -1.0)],
        loras=[Lora("ink", 1.0)],
        expand=Expand(left=8, right=0, up=0, down=0),
        scale=4.0,
        tiling=True,
        background="opaque",
        adjust=True,
    )
    assert decode_params(b"{}") == Params()


# ---------------------------------------------------------------------------------------------------- weighted prompts

PARTS = some.lists(
    some.builds(WeightedPrompt, some.text("ab c", min_size=1), some.floats(-10, 10, allow_nan=False)), max_size=8
)


@pytest.mark.parametrize(
    "weight,prompt,negative",
    [
        (1.0, "fog", ""),
        (1.5, "(fog:1.5)", ""),
        (0.0, "(fog:0)", ""),
        (10.0, "(fog:10)", ""),
        (-0.0, "(fog:0)", ""),
        (0.00001, "(fog:0)", ""),
        (0.0001, "(fog:0.0001)", ""),
        (1.23456, "(fog:1.2346)", ""),
        (0.99999999, "fog", ""),
        (-1.0, "", "fog"),
        (-0.25, "", "(fog:0.25)"),
    ],
)
def test_part_is_written_with_its_weight(weight: float, prompt: str, negative: str) -> None:
    """A weight of 1 needs no notation, a negative one is turned round, none is written with an exponent."""
    assert split_prompts([WeightedPrompt("fog", weight)]) == (prompt, negative)


@given(PARTS)
def test_every_part_stands_on_its_side_in_its_order(parts: list[WeightedPrompt]) -> None:
    """Nothing is lost between the two, and every weight can be read back to four places."""
    for text, sign in zip(split_prompts(parts), (1, -1), strict=True):
        ours = [part for part in parts if (part.weight >= 0) == (sign > 0)]
        written = [found for found in text.split(", ") if found]
        assert len(written) == len(ours)
        for found, part in zip(written, ours, strict=True):
            matched = re.fullmatch(r"\((.+):(\d+(?:\.\d+)?)\)", found)
            read = (matched[1], float(matched[2])) if matched else (found, 1.0)
            assert read[0] == part.text
            assert read[1] == pytest.approx(sign * part.weight, abs=0.000051)
