"""OpenAI's requests as wishes, without I/O."""

import contextlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.models import Sizes
from gateway.edges.compat.dialect import Sent
from gateway.edges.compat.forms import Part
from gateway.edges.compat.openai_images import pictures, wire
from gateway.edges.compat.openai_images.tables import MAX_IMAGES
from protocol.codec import decode_fields
from protocol.errors import ClientFault
from tests.gateway.edges.compat.openai_images.conftest import MODEL

CLEAR = replace(MODEL, tasks={"txt2img": frozenset({"prompt", "background"})})


@given(st.integers(1, 99_999), st.integers(1, 99_999))
def test_every_size_is_read(width: int, height: int) -> None:
    """Which of them a model draws is for it to say."""
    asked = wire.Generation(prompt="p", size=f"{width}x{height}")
    params = wire.wished(asked, "txt2img", MODEL).wish.params
    assert (params["width"], params["height"]) == (width, height)


@given(st.text(max_size=32))
def test_no_text_is_a_size_by_accident(text: str) -> None:
    """It is refused, or it says these very edges."""
    asked = wire.Generation(prompt="p", size=text)
    try:
        params = wire.wished(asked, "txt2img", MODEL).wish.params
    except ClientFault:
        assert text not in ("", "auto")
    else:
        assert text in ("", "auto") or f"{params['width']}x{params['height']}" == text


@given(st.integers(1, 16384), st.integers(1, 16384))
def test_a_size_that_is_left_to_us_is_one_of_the_models(width: int, height: int) -> None:
    """Whatever picture came along."""
    model = replace(MODEL, sizes=Sizes(smallest=64, largest=2048, multiple_of=16, max_aspect=3))
    params = wire.wished(wire.EditForm(prompt="p"), "img2img", model, (), (width, height)).wish.params
    model.sizes.check(params["width"], params["height"])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(sorted(wire.EditJson.__struct_fields__)) | st.text(), x), max_leaves=12))  # fmt: skip
def test_bodies_are_read_or_refused(body: Any) -> None:
    """Whatever comes: there is no other exception."""
    with contextlib.suppress(ClientFault):
        wire.check(decode_fields(msgspec.json.encode(body), wire.EditJson, ""))


@given(st.lists(st.tuples(st.sampled_from(["image", "image[]", "image[3]", "mask", "n", "prompt"]), st.binary())))
def test_forms_are_read_or_refused(parts: list[tuple[str, bytes]]) -> None:
    """Whatever comes, in whatever order."""
    try:
        texts, uploads = pictures.of_form([Part(name, content) for name, content in parts])
    except ClientFault:
        assert not all(name.startswith("image") for name, _ in parts) or not 0 < len(parts) <= MAX_IMAGES
    else:
        assert len(uploads.images) == sum(name.startswith("image") for name, _ in parts) > 0
        assert texts.keys() <= {"n", "prompt"}


@pytest.mark.parametrize("quality,steps", [
    (None, None), ("auto", None), ("medium", None), ("standard", None), ("low", 5), ("high", 15), ("hd", 15),
    ("xhigh", 20), ("max", 20),
])  # fmt: skip
def test_quality_is_steps(quality: Any, steps: int | None) -> None:
    """Within what the model takes."""
    asked = wire.Generation(prompt="p", quality=quality)
    assert wire.wished(asked, "txt2img", MODEL).wish.params.get("steps") == steps
    told = wire.wished(asked, "txt2img", replace(MODEL, steps=(7, 8))).wish.params.get("steps")
    assert told == (None if steps is None else min(max(steps, 7), 8))


def test_background_is_a_hint_to_models_that_have_it() -> None:
    """And told as left out by those that have not."""
    asked = wire.Generation(prompt="p", background="transparent")
    clear, plain = wire.wished(asked, "txt2img", CLEAR), wire.wished(asked, "txt2img", MODEL)
    assert (clear.wish.params["background"], clear.ignored, clear.shape.background) == (
        "transparent",
        (),
        "transparent",
    )
    assert ("background" in plain.wish.params, plain.ignored, plain.shape.background) == (
        False, ("background",), "opaque",
    )  # fmt: skip


def test_background_is_no_hint_beside_a_picture_that_fills_the_frame() -> None:
    """A model may take it in a task, but not with everything."""
    model = replace(
        MODEL, tasks={"reference": frozenset({"prompt", "background"})},
        idle_beside={"background": frozenset({"mask"})},
    )  # fmt: skip
    asked = wire.EditForm(prompt="p", background="transparent")
    sent = tuple(Sent(role, b"", "image") for role in ("reference", "mask"))
    alone, masked = wire.wished(asked, "reference", model, sent[:1]), wire.wished(asked, "reference", model, sent)
    assert (alone.wish.params["background"], alone.ignored) == ("transparent", ())
    assert ("background" in masked.wish.params, masked.ignored, masked.shape.background) == (
        False, ("background",), "opaque",
    )  # fmt: skip


@pytest.mark.parametrize("images,has_mask,tasks", [
    (1, False, ("img2img", "reference")), (1, True, ("inpaint", "reference")), (2, False, ("reference",)),
    (2, True, ("reference",)),
])  # fmt: skip
def test_what_an_edit_may_be(images: int, has_mask: bool, tasks: tuple[str, ...]) -> None:
    """The first that a model can do is taken."""
    assert wire.tasks_of(images, has_mask=has_mask) == tasks
