"""Wishes made to fit a model."""

import pytest

from gateway.core.aliases import Aliases
from gateway.edges.compat.dialect import Wish
from gateway.edges.compat.fitting import fitted
from tests.gateway.core.test_aliases import model

MODELS = {"words": model("words", "here", "txt2img"), "lines": model("lines", "there", "controlnet")}


@pytest.mark.parametrize("asked,anywhere,found", [
    ("words", True, "lines"),
    ("words", False, "words"),
    ("vendors", True, "lines"),
    ("vendors", False, "words"),
    ("unheard-of", True, "unheard-of"),
    ("lines", True, "lines"),
])  # fmt: skip
def test_wish_that_goes_anywhere_goes_to_whatever_can_do_it(asked: str, anywhere: bool, found: str) -> None:
    """Only where the name means a model; a name that means none is refused under that name."""
    wish = Wish("controlnet", {"prompt": "a house"}, asked, goes_anywhere=anywhere)
    assert fitted(wish, Aliases({"vendors": "words"}), MODELS)[0].model == found
