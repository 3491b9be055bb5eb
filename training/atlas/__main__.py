"""Makes the atlas anew: `python -m training.atlas --out gateway/engine/data`."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from training.atlas.choose import chosen
from training.atlas.describe import describe
from training.atlas.fetch import drawings
from training.atlas.pack import pack_index, pack_large, pack_pictures
from training.atlas.render import halved, render


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the results.")
@click.option(
    "--sources",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/atlas"),
    show_default=True,
    help="Folder of the packages; what is not there is fetched with npm.",
)
@click.option(
    "--large",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the icons at 128 pixels to this file, for `training.network`.",
)
def main(out: Path, sources: Path, large: Path | None) -> None:
    """Draw the icons and weigh their words."""
    console = Console()
    with console.status("fetching and reading the packages"):
        every = {drawing.name: drawing for drawing in drawings(sources)}
    kept = [every[name] for name in chosen(every)]
    rendered = {
        drawing.name: render(drawing.body) for drawing in track(kept, f"drawing {len(kept)} icons", console=console)
    }
    pixels = {name: halved(picture) for name, picture in rendered.items()}
    if large is not None:
        with console.status("packing the large icons"):
            pack_large(rendered, {drawing.name: drawing.category for drawing in kept}, large)
    out.mkdir(parents=True, exist_ok=True)
    with console.status("packing pictures and index"):
        pack_pictures(pixels, out / "icons.zip")
        icons = describe(kept, pixels)
        pack_index(icons, out / "icons.json")
    words = len({word for icon in icons for word in icon.en}), len({word for icon in icons for word in icon.zh})
    size = (out / "icons.zip").stat().st_size
    console.print(
        f"{len(icons)} icons, {words[0]} English and {words[1]} Chinese words, {size / 1e6:.2f} MB of pictures"
    )


main()
