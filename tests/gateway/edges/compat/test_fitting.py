"""Wishes made to fit a model."""

from dataclasses import replace

import pytest

from gateway.core.aliases import Aliases
from gateway.edges.compat.dialect import Wish
from gateway.edges.compat.fitting import fitted
from tests.gateway.core.test_aliases import model

MODELS = {"words": model("words", "here", "txt2img"), "lines": model("lines", "there", "controlnet")}


@pytest.mark.parametrize("guidance,taken,hints", [
    (35.0, 30.0, frozenset({"guidance"})),
    (0.0, 1.0, frozenset({"guidance"})),
    (7.5, 7.5, frozenset({"guidance"})),
    (100.5, 100.5, frozenset({"guidance"})),
    (-1.0, -1.0, frozenset({"guidance"})),
    (35.0, 35.0, frozenset[str]()),
])  # fmt: skip
def test_guidance_that_is_a_hint_is_brought_to_what_the_model_takes(
    guidance: float, taken: float, hints: frozenset[str]
) -> None:
    """Vendors' scales go further than some models; where it is no hint, admission refuses it."""
    able = replace(MODELS["words"], guidance=(1.0, 30.0), tasks={"txt2img": frozenset({"prompt", "guidance"})})
    wish = Wish("txt2img", {"prompt": "a house", "guidance": guidance}, "words", hints=hints)
    assert fitted(wish, Aliases({}), {"words": able})[0].params["guidance"] == taken


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
