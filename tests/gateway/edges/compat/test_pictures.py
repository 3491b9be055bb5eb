"""Pictures that the doors make themselves."""

import io

import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.edges.compat.pictures import plain_png


@pytest.mark.parametrize("shade", [0, 128])
def test_what_stands_for_a_held_back_picture_is_plain(shade: int) -> None:
    """It has the picture's size, and any reader of PNG can read it."""
    content = plain_png(130, 70, shade)
    assert (measure(content).width, measure(content).height) == (130, 70)
    with Image.open(io.BytesIO(content)) as image:
        assert image.convert("RGB").getextrema() == ((shade, shade),) * 3
