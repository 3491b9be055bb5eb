"""Names that do no harm, and files that are written whole or not at all."""

from pathlib import Path

import pytest

from gateway.cli.files import Target, slug, write_whole
from gateway.cli.job import Picture
from gateway.cli.wish import Wish
from tests.gateway.cli.scripted import PNG


@pytest.mark.parametrize(
    "prompt,stem",
    [("A cat!", "a-cat"), ("../../etc/passwd", "etc-passwd"), ("雪", "picture"), ("x" * 99, "x" * 48)],
)
def test_slug_is_a_harmless_name(prompt: str, stem: str) -> None:
    """A prompt never chooses a folder, and never makes a name too long."""
    assert slug(prompt) == stem


def test_name_of_our_own_never_replaces_a_file(tmp_path: Path) -> None:
    """The second picture of a prompt gets another name; with -o the person has chosen."""
    Path("a.png").touch()
    pictures = {0: Picture(format="png")}
    assert Target.of(Wish(prompt="a")).paths(pictures, 1) == {0: Path("a-v2.png")}
    assert Target.of(Wish(prompt="a", output=Path("a.png"))).paths(pictures, 1) == {0: Path("a.png")}


def test_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    """Half a picture is worse than none."""
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "x.png", PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
