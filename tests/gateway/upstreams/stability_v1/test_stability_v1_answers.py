"""The contents of an answer: which are pictures, and which make it no answer."""

import pytest

from gateway.core.reports import UpstreamFault
from gateway.upstreams.stability_v1.wire import from_vendor
from tests.gateway.upstreams.stability_v1.vendor import PNG, answer, artifact, flat, order


@pytest.mark.parametrize("nested", [False, True])
def test_artifacts_are_read_flat_and_nested(nested: bool) -> None:
    """The specification shows one, the sample code the other."""
    made = from_vendor(order(count=2), answer(artifact(seed=3), artifact(seed=4), nested=nested))
    assert [(image.seed, image.picture.content) for image in made] == [(3, PNG), (4, PNG)]


@pytest.mark.parametrize(
    "body",
    [
        answer(artifact()),
        answer(artifact(), {**artifact(), "base64": 5}),
        answer(artifact(), artifact(finishReason="ODD")),
        answer(artifact(), artifact(base64="Ä")),
        answer(artifact(), artifact(base64="\ud800x")),
        answer(artifact(), artifact(base64=artifact()["base64"].rstrip("=")[:-1])),
        answer(artifact(), artifact(base64=artifact()["base64"].replace("i", " "))),
        answer(artifact(), artifact(flat("red", format="JPEG"))),
        answer(artifact(), artifact(flat(0, (5000, 4000), "1"))),
        answer(artifact(), artifact(base64=None)),
        answer(artifact(), artifact(seed="x")),
        b'{"artifacts":[{"base64":"\xff"}]}',
        b"[]",
        b"{}",
        b"",
    ],
)
def test_answer_that_is_not_whole_is_no_answer(body: bytes) -> None:
    """Too few pictures, or one that is none: invalid, and paid for."""
    with pytest.raises(UpstreamFault) as caught:
        from_vendor(order(count=2), body)
    assert (caught.value.code, caught.value.charged) == ("invalid_output", True)


def test_pictures_beyond_the_asked_are_left_out() -> None:
    """The port promises exactly as many as were asked for."""
    assert len(from_vendor(order(count=1), answer(artifact(), artifact()))) == 1


def test_base64_with_escaped_slashes_is_read() -> None:
    """JSON may escape a slash."""
    body = answer(artifact()).replace(b"/", b"\\/")
    assert b"\\/" in body
    assert from_vendor(order(), body)[0].picture.content == PNG


def test_seed_that_is_not_told_is_counted_on() -> None:
    """Without the vendor's word the seeds are those that were asked for."""
    made = from_vendor(order(count=2, seed=9), answer(artifact(seed=None), artifact(seed=None)))
    assert [image.seed for image in made] == [9, 10]


@pytest.mark.parametrize("held_back", ["", None])
def test_filtered_picture_may_be_missing(held_back: str | None) -> None:
    """A picture that was held back has no bytes, and takes nothing from the others of its batch."""
    held = artifact(base64=held_back, finishReason="CONTENT_FILTERED")
    made = from_vendor(order(count=2), answer(held, artifact()))
    assert [(image.filtered, len(image.picture.content)) for image in made] == [(True, 0), (False, len(PNG))]
