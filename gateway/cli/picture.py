"""The commands that ask a gateway, `generate` and `models`: their options, in the order in which people need them."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli.basics import DEFAULT_FOLDER, FILE, FOLDER
from gateway.cli.values import ControlImage, LoraName, Sides, Size

_INPUT: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_PICTURE: Final = (
    "steps", "size", "seed", "n", "negative", "guidance", "sampler", "scheduler", "style", "loras", "tiling",
    "background",
)  # fmt: skip
_SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "The picture": _PICTURE,
    "Which model": ("model", "task", "adjust"),
    "From other pictures": ("init", "mask", "strength", "controls", "references"),
    "Other work on a picture": ("expand", "scale", "remove_background", "search"),
    "Output and gateway": ("output", "as_json", "url", "data"),
}
_BACKGROUNDS: Final = ("auto", "opaque", "transparent")
"""Those of `core.params`, which would be slow to import for `--help`."""

_url_option = click.option(
    "--url",
    envvar="SAFELIGHT_URL",
    default="http://127.0.0.1:8080",
    metavar="U",
    help="The gateway's address; else SAFELIGHT_URL, else http://127.0.0.1:8080.",
)
_key_folder_option = click.option(
    "--data",
    type=FOLDER,
    default=DEFAULT_FOLDER,
    metavar="DIR",
    help="The gateway's data folder, whose key is taken where SAFELIGHT_API_KEY is not set; ./var.",
)


def _key_in_environment() -> str:
    return os.environ.get("SAFELIGHT_API_KEY", "").strip()


class _InSections(click.Command):
    """A command whose `--help` tells its many options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        told = {
            str(one.name): one.get_help_record(ctx) for one in self.get_params(ctx) if isinstance(one, click.Option)
        }
        sections = [[told.pop(name) for name in names] for names in _SECTIONS.values()]
        for title, records in zip((*_SECTIONS, "Other"), (*sections, list(told.values())), strict=True):
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


_OPTIONS: Final = (
    click.option("--steps", type=int, metavar="N", help="Steps of denoising."),
    click.option("--size", type=Size(), metavar="WxH", help="Size in pixels."),
    click.option("--seed", type=int, metavar="N", help="Seed, to get the same picture again."),
    click.option("--n", type=int, metavar="N", help="How many pictures."),
    click.option("--negative", metavar="TEXT", help="What should not be seen."),
    click.option("--guidance", type=float, metavar="X", help="How closely to follow the prompt; often 1 to 12."),
    click.option("--sampler", metavar="NAME", help="One of the model's samplers."),
    click.option("--scheduler", metavar="NAME", help="One of the model's schedulers."),
    click.option("--style", metavar="NAME", help="One of the model's styles."),
    click.option(
        "--lora", "loras", type=LoraName(), multiple=True, metavar="NAME[:WEIGHT]", help="Add a LoRA; repeatable."
    ),
    click.option("--tiling", is_flag=True, help="Let the picture go on at its opposite edge: copies join seamlessly."),
    click.option(
        "--background",
        type=click.Choice(_BACKGROUNDS),
        help="What lies behind the figure; transparent gives a picture with an alpha channel.",
    ),
    click.option("--model", metavar="M", help="The model's name; else the gateway chooses. See: safelight models"),
    click.option("--task", metavar="T", help="The kind of work, where it should not follow from the options."),
    click.option(
        "--adjust", is_flag=True, help="Bring what the model cannot do to the nearest that it can, and say so."
    ),
    click.option("--init", type=_INPUT, metavar="FILE", help="Start from this picture (img2img)."),
    click.option(
        "--mask", type=_INPUT, metavar="FILE", help="Repaint only where this is white (inpaint); needs --init."
    ),
    click.option("--strength", type=float, metavar="X", help="0 keeps the --init picture, 1 ignores it."),
    click.option(
        "--control",
        "controls",
        type=ControlImage(),
        multiple=True,
        metavar="KIND=FILE[,...]",
        help="Guide it by a picture (controlnet); repeatable. KIND is canny, depth, pose ...; after FILE may come "
        "any of ,weight=W ,start=S ,end=E ,preprocessor=P.",
    ),
    click.option(
        "--reference",
        "references",
        type=_INPUT,
        multiple=True,
        metavar="FILE",
        help="Make it like this picture (reference); repeatable.",
    ),
    click.option(
        "--expand",
        type=Sides(),
        metavar="L,R,U,D",
        help="Paint beyond the --init picture by so many pixels left, right, up, down (outpaint).",
    ),
    click.option("--scale", type=float, metavar="X", help="Enlarge the --init picture X times (upscale)."),
    click.option("--remove-background", is_flag=True, help="Cut out what the --init picture shows."),
    click.option("--search", metavar="TEXT", help="Replace this in the --init picture by PROMPT (search_replace)."),
    click.option("-o", "--output", type=FILE, metavar="FILE", help="Where to write; else a name from the prompt."),
    click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON instead."),
    _url_option,
    _key_folder_option,
)


def _all_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(cls=_InSections)
@click.argument("prompt", required=False)
@_all_options
def generate(url: str, data: Path, *, as_json: bool, task: str | None, **wished: Any) -> None:
    """Make a picture from PROMPT, and watch it come.

    What kind of work it is follows from the options: --init alone starts from a picture, --mask repaints a part of
    it, --scale enlarges it. Which models can do it, and their names of samplers, styles and LoRAs: safelight models.

    The API key is taken from SAFELIGHT_API_KEY, else from the data folder of a gateway on this machine. Ctrl-C cancels
    the job and waits for its end; a second one leaves at once.
    """
    from gateway.cli.generate import generate_and_save  # noqa: PLC0415
    from gateway.cli.wish import Wish, WrongWish  # noqa: PLC0415

    wish = Wish(named_task=task, **wished)
    try:
        wish.check()
    except WrongWish as fault:
        raise click.UsageError(str(fault)) from None
    sys.exit(generate_and_save(wish, url=url, key=_key_in_environment(), folder=data, as_json=as_json))


@click.command()
@click.argument("name", required=False)
@_url_option
@_key_folder_option
@click.option("--json", "as_json", is_flag=True, help="Print what the gateway says as JSON instead.")
def models(name: str | None, url: str, data: Path, *, as_json: bool) -> None:
    """List the models of a gateway, or all that is known of the model NAME.

    A name from here goes to `safelight generate --model`. With NAME it tells also its sizes, samplers, styles, LoRAs
    and kinds of control images, and the options of `safelight generate` that have an effect.
    """
    from gateway.cli.models import show_models  # noqa: PLC0415

    sys.exit(show_models(name, url=url, key=_key_in_environment(), folder=data, as_json=as_json))
