"""Which kind of work a person asks for, and what means nothing anywhere."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli.wish import Control, Lora, Wish, WrongWish
from gateway.core.params import TASKS, decode_params

PIC, MASK = Path("pic.png"), Path("mask.png")
CONTROL = Control("canny", Path("c.png"), weight=0.5, start=0.0, end=0.8, preprocessor="canny")
EACH_TASK: dict[str, dict[str, Any]] = {
    "txt2img": {"prompt": "x"},
    "img2img": {"prompt": "x", "init": PIC, "strength": 0.4},
    "inpaint": {"prompt": "x", "init": PIC, "mask": MASK, "strength": 0.4},
    "outpaint": {"init": PIC, "expand": (8, 0, 0, 16)},
    "controlnet": {"prompt": "x", "controls": (CONTROL, CONTROL), "init": PIC, "mask": MASK, "strength": 0.4},
    "reference": {"prompt": "x", "references": (PIC, PIC), "mask": MASK},
    "upscale": {"init": PIC, "scale": 2.0},
    "remove_background": {"init": PIC, "remove_background": True},
    "search_replace": {"prompt": "x", "init": PIC, "search": "y"},
}


def test_every_kind_of_work_follows_from_options() -> None:
    """Nobody needs to know the protocol's names of it."""
    assert list(EACH_TASK) == list(TASKS)
    for task, given in EACH_TASK.items():
        wish = Wish(**given)
        wish.check()
        assert wish.task == task


def test_kind_of_work_can_be_named() -> None:
    """Where the options would say something else, or nothing."""
    wish = Wish(named_task="upscale", init=PIC, size=(64, 64))
    wish.check()
    assert (wish.task, wish.params()) == ("upscale", {"width": 64, "height": 64})
    Wish(named_task="outpaint", init=PIC, expand=(1, 0, 0, 0), prompt="x").check()


def test_params_are_those_of_the_protocol() -> None:
    """Every option ends up under the name that the gateway knows, and what was left open is left out."""
    wish = Wish(
        prompt="x",
        negative="n",
        steps=3,
        size=(64, 32),
        seed=1,
        n=2,
        guidance=4.5,
        sampler="s",
        scheduler="k",
        style="t",
        loras=(Lora("a", 0.5), Lora("b")),
        tiling=True,
        background="opaque",
        adjust=True,
    )
    params = {
        "prompt": "x", "negative_prompt": "n", "steps": 3, "width": 64, "height": 32, "seed": 1, "n": 2,
        "guidance": 4.5, "sampler": "s", "scheduler": "k", "style": "t",
        "loras": [{"name": "a", "weight": 0.5}, {"name": "b"}], "tiling": True, "background": "opaque",
        "adjust": True,
    }  # fmt: skip
    assert wish.params() == params
    assert Wish(**EACH_TASK["outpaint"]).params() == {"expand": {"left": 8, "down": 16}}
    assert Wish(**EACH_TASK["search_replace"]).params() == {"prompt": "x", "search": "y"}
    assert Wish(**EACH_TASK["upscale"]).params() == {"scale": 2.0}
    for given in ({"expand": {"left": 8}}, params):
        decode_params(msgspec.json.encode(given))


def test_input_images_have_their_roles() -> None:
    """In the order of the roles; a control image takes its own options along."""
    wish = Wish(prompt="x", init=PIC, mask=MASK, controls=(CONTROL, Control("pose", PIC)), references=(MASK,))
    assert list(wish.pictures()) == [
        (PIC, {"role": "init"}),
        (MASK, {"role": "mask"}),
        (Path("c.png"), {"role": "canny", "weight": 0.5, "start": 0.0, "end": 0.8, "preprocessor": "canny"}),
        (PIC, {"role": "pose"}),
        (MASK, {"role": "reference"}),
    ]


def test_file_of_a_wish_without_prompt_is_named_after_its_picture() -> None:
    """The kind of work tells it from the picture itself."""
    assert Wish(prompt="A cat").title == "A cat"
    assert Wish(**EACH_TASK["upscale"]).title == "pic upscale"
    assert Wish(named_task="reference", references=(PIC,)).title == "reference"


@pytest.mark.parametrize(
    "given,told",
    [
        ({}, "txt2img needs a PROMPT"),
        ({"init": PIC}, "img2img needs a PROMPT; without one there are --scale X and --remove-background"),
        ({"prompt": "x", "mask": MASK}, "--mask needs the picture to repaint: --init FILE"),
        ({"scale": 2.0}, "upscale needs --init FILE"),
        ({"prompt": "x", "search": "y"}, "search_replace needs --init FILE"),
        ({"init": PIC, "search": "y"}, "search_replace needs a PROMPT"),
        ({"init": PIC, "scale": 2.0, "expand": (1, 1, 1, 1)}, "--expand and --scale ask for different kinds of work"),
        ({"prompt": "x", "init": PIC, "references": (PIC,)}, "reference takes no --init FILE; leave it out"),
        ({"init": PIC, "mask": MASK, "scale": 2.0}, "upscale takes no --mask FILE; leave it out"),
        ({"prompt": "x", "references": (PIC,) * 9}, "reference takes at most 8 of --reference FILE"),
        ({"prompt": "x", "init": PIC, "remove_background": True}, "remove_background takes no PROMPT; leave it out"),
        ({"prompt": "x", "strength": 0.5}, "--strength needs the picture to start from: --init FILE"),
        ({"init": PIC, "scale": 2.0, "strength": 0.5}, "--strength has no effect in upscale"),
        ({"init": PIC, "scale": 2.0, "size": (1, 1)}, "--size and --scale both say how large it becomes"),
        ({"init": PIC, "expand": (1, 1, 1, 1), "size": (1, 1)}, "--expand says how large it becomes; leave --size out"),
        ({"prompt": "x", "named_task": "txt2vid"}, "there is no task txt2vid; there are: txt2img, "),
        ({"prompt": "x", "named_task": "inpaint", "init": PIC}, "inpaint needs --mask FILE"),
        ({"named_task": "outpaint", "init": PIC}, "outpaint needs --expand LEFT,RIGHT,UP,DOWN"),
        (
            {"prompt": "x", "init": PIC, "named_task": "img2img", "scale": 2.0},
            "--scale means something in upscale only, not in img2img; leave it out",
        ),
        (
            {"prompt": "x", "init": PIC, "named_task": "img2img", "remove_background": True},
            "--remove-background is no part of img2img; leave it or --task out",
        ),
    ],
)
def test_contradictions_are_refused_with_what_to_do(given: dict[str, Any], told: str) -> None:
    """Before any picture is sent."""
    with pytest.raises(WrongWish) as refused:
        Wish(**given).check()
    assert str(refused.value).startswith(told)
