"""The store of unanswered requests."""

import pytest

from protocol.codec import encode
from protocol.messages import Cancel, Input, Watch
from protocol.replica_effects import Send
from protocol.unanswered import ClientBusy, Picture, Request, Unanswered
from tests.protocol.playbook import ASSET, JOB, OTHER, submit


def test_requests_are_kept_in_order_until_popped() -> None:
    """A second `pop` finds nothing."""
    unanswered = Unanswered(2, 10)
    first, second = Request("a", Cancel(job=JOB, ref="a")), Request("b", Cancel(job=JOB, ref="b"))
    unanswered.add(first)
    unanswered.add(second)
    assert list(unanswered) == [first, second]
    assert repr(unanswered) == "<Unanswered ['a', 'b']>"
    assert unanswered.find("a") is first
    assert unanswered.pop("a") is first
    assert unanswered.pop("a") is None
    assert unanswered.find("a") is None


def test_store_is_bounded_for_the_user_alone() -> None:
    """The machine's own requests are bounded by the jobs that it follows."""
    unanswered = Unanswered(1, 3)
    unanswered.add(Request("own", Watch(job=JOB, ref="own"), is_own=True))
    unanswered.add(Request("a", Picture("a", "png", b"abc")))
    with pytest.raises(ClientBusy) as busy:
        unanswered.add(Request("b", Cancel(job=JOB, ref="b")))
    assert (busy.value.what, busy.value.limit) == ("requests", 1)
    unanswered.pop("a")
    unanswered.add(Request("c", Picture("c", "png", b"xyz")))
    unanswered.pop("c")
    with pytest.raises(ClientBusy, match="over 3 bytes of uploads are unanswered"):
        unanswered.add(Request("d", Picture("d", "png", b"wxyz")))
    with pytest.raises(ValueError, match="under way"):
        unanswered.add(Request("own", Cancel(job=JOB, ref="own")))


def test_watches_of_a_job_are_popped_together() -> None:
    """Those of other jobs, and other requests, stay."""
    unanswered = Unanswered(9, 9)
    watch = Request("w", Watch(job=JOB, ref="w"))
    others = [Request("o", Watch(job=OTHER, ref="o")), Request("c", Cancel(job=JOB, ref="c"))]
    for request in (watch, *others):
        unanswered.add(request)
    assert unanswered.pop_watches(JOB) == [watch]
    assert list(unanswered) == others


def test_assets_are_known_for_the_newest_uploads() -> None:
    """An older upload is named by its id again, which the server then refuses by name."""
    unanswered = Unanswered(9, 9)
    for number in range(257):
        unanswered.note_asset(f"{number:026d}", ASSET)
    sent = [Input(role="init", upload=f"{number:026d}") for number in (0, 1)]
    got = [Input(role="init", upload=f"{0:026d}"), Input(role="init", asset=ASSET)]
    assert unanswered.sends(Request("s", submit("s", inputs=sent)), 99) == [Send(encode(submit("s", inputs=got)))]


def test_chunks_are_never_empty() -> None:
    """Even if the server announces a chunk smaller than a header."""
    assert len(list(Picture("0" * 26, "png", b"abc").chunks(1))) == 3


def test_requests_are_written_as_they_are() -> None:
    """Only a picture takes more than one message, and only a submit is changed."""
    unanswered = Unanswered(9, 9)
    assert unanswered.sends(Request("c", Cancel(job=JOB, ref="c")), 99) == [Send(encode(Cancel(job=JOB, ref="c")))]
    picture = Picture("0" * 26, "png", b"abcd")
    sends = [Send(chunk, binary=True) for chunk in picture.chunks(66)]
    assert unanswered.sends(Request("0" * 26, picture), 66) == sends
    assert len(sends) == 2
