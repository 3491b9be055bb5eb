"""The options of `generate`, read from the command line: what they become in the submit, and how they are refused."""

import json
from pathlib import Path

import pytest
from click.testing import Result

from gateway.cli.picture import _BACKGROUNDS
from gateway.core.params import BACKGROUNDS
from protocol.messages import Submit
from tests.gateway.cli.scripted import PNG, Peer, ScriptedGateway, completed, final, image, run


def asked(*arguments: str) -> tuple[Submit, Result]:
    """Run `generate` with these arguments; return what it submits, and the run."""
    submits: list[Submit] = []

    async def script(peer: Peer) -> None:
        submits.append(await peer.accept())
        await peer.say(final(2), completed(3, image(seq=2)))
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = run("generate", *arguments, "--url", scripted.url, env={"SAFELIGHT_API_KEY": "k"})
    assert done.exit_code == 0, done.output
    return submits[0], done


@pytest.fixture(autouse=True)
def pictures() -> None:
    """Let there be pictures to work on, one with a comma in its name."""
    for name in ("i.png", "c.png", "a,b.png"):
        Path(name).write_bytes(PNG)


def test_control_images_take_their_options_along() -> None:
    """A comma in a file's name ends nothing, and a LoRA's name may have a colon."""
    submit, _ = asked(
        "x", "--control", "canny=c.png,weight=0.5,start=0.1,end=0.9,preprocessor=canny", "--control", "pose=a,b.png",
        "--lora", "detail:0.7", "--lora", "v:two", "--lora", "plain", "--negative", "n", "--guidance", "3.5",
        "--sampler", "s", "--scheduler", "k", "--style", "t", "--tiling",
        "--background", "transparent", "--adjust",
    )  # fmt: skip
    assert submit.task == "controlnet"
    assert json.loads(bytes(submit.params)) == {
        "prompt": "x", "negative_prompt": "n", "guidance": 3.5, "sampler": "s", "scheduler": "k", "style": "t",
        "loras": [{"name": "detail", "weight": 0.7}, {"name": "v:two"}, {"name": "plain"}], "tiling": True,
        "background": "transparent", "adjust": True,
    }  # fmt: skip
    canny, pose = submit.inputs
    assert (canny.role, canny.weight, canny.start, canny.end) == ("canny", 0.5, 0.1, 0.9)
    assert canny.preprocessor == "canny"
    assert pose.role == "pose"


def test_picture_without_prompt_is_named_after_the_one_it_was_made_of() -> None:
    """An upscale needs no prompt."""
    submit, done = asked("--init", "i.png", "--scale", "2")
    assert (submit.task, json.loads(bytes(submit.params))) == ("upscale", {"scale": 2.0})
    assert done.stdout.startswith("i-upscale.png")


def test_other_work_is_asked_for() -> None:
    """Each by the options that it needs."""
    submit, _ = asked("--init", "i.png", "--expand", "8,0,0,16")
    assert (submit.task, json.loads(bytes(submit.params))) == ("outpaint", {"expand": {"left": 8, "down": 16}})
    assert asked("--init", "i.png", "--remove-background")[0].task == "remove_background"
    assert asked("y", "--init", "i.png", "--search", "x")[0].task == "search_replace"
    submit, _ = asked("y", "--reference", "i.png", "--reference", "c.png")
    assert (submit.task, [one.role for one in submit.inputs]) == ("reference", ["reference", "reference"])


@pytest.mark.parametrize(
    "arguments,told",
    [
        ("x --size 12", "'12' is no size; write it as 512x768"),
        ("--init i.png --expand 1,2,3", "'1,2,3' is not four numbers of pixels; write them as 128,128,0,64"),
        ("--init i.png --expand 0,0,0,0", "no side grows"),
        ("x --lora :0.5", "it has no name; write it as NAME or NAME:0.8"),
        ("x --control canyn=c.png", "'canyn' is no kind of control image; there are: control, canny"),
        ("x --control canny=d.png", "there is no file 'd.png'; write it as KIND=FILE"),
        ("x --control canny=c.png,wieght=1", "there is no file 'c.png,wieght=1'; write it as KIND=FILE"),
        ("x --control canny=c.png,weight=much", "weight=much is no number"),
        ("x --init gone.png", "File 'gone.png' does not exist"),
        ("x --background white", "'white' is not one of 'auto', 'opaque', 'transparent'"),
        ("--init i.png", "img2img needs a PROMPT"),
        ("x --mask i.png", "--mask needs the picture to repaint"),
    ],
)
def test_wrong_options_are_refused_with_what_to_do(arguments: str, told: str) -> None:
    """With status 2, and nothing is asked of anybody."""
    done = run("generate", *arguments.split())
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())


def test_help_tells_every_option_in_sections() -> None:
    """What was added and has no place is still told."""
    told = run("generate", "--help").stdout
    sections = [line for line in told.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == [
        "The picture:", "Which model:", "From other pictures:", "Other work on a picture:", "Output and gateway:",
        "Other:",
    ]  # fmt: skip
    for option in ("--negative", "--lora", "--control", "--reference", "--expand", "--scale", "--adjust", "--task"):
        assert f"  {option}" in told


def test_backgrounds_are_those_of_the_protocol() -> None:
    """They are written down twice, because the command line does not import the other place for its help."""
    assert BACKGROUNDS == _BACKGROUNDS
