"""Inline images from chunks, within bounds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.assembly import Assembly, Outcome, format_name, read_metadata
from protocol.header import parse
from protocol.replica_effects import ImageBytes
from tests.protocol.playbook import JOB, OTHER, chunk


def add(assembly: Assembly, message: bytes) -> ImageBytes | Outcome:
    """Add a whole message."""
    return assembly.add(parse(message), message)


def test_parts_of_two_jobs_do_not_mix() -> None:
    """Each job has its own image under way."""
    assembly = Assembly(100)
    assert add(assembly, chunk(b"ab", total=3)) is Outcome.MORE
    assert add(assembly, chunk(b"xy", total=3, job=OTHER)) is Outcome.MORE
    done = add(assembly, chunk(b"c", total=3, offset=2, last=True))
    assert isinstance(done, ImageBytes)
    assert (done.job, done.data) == (JOB, b"abc")


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"c", total=3, offset=1),
        chunk(b"ab", total=3),
        chunk(b"c", total=4, offset=2),
        chunk(b"", total=3, offset=2, last=True),
    ],
    ids=["overlap", "begins anew", "other size", "ends early"],
)
def test_part_that_does_not_fit_is_discarded(bad: bytes) -> None:
    """A gap leaves nothing behind: the image may begin anew."""
    assembly = Assembly(3)
    add(assembly, chunk(b"ab", total=3))
    assert add(assembly, bad) is Outcome.GAP
    assert isinstance(add(assembly, chunk(b"abc", total=3, last=True)), ImageBytes)


def test_announced_sizes_are_reserved() -> None:
    """All parts together stay under the limit, before their bytes have come."""
    assembly = Assembly(10)
    assert add(assembly, chunk(b"a", total=6)) is Outcome.MORE
    assert add(assembly, chunk(b"a", total=5, job=OTHER)) is Outcome.TOO_BIG
    assert repr(assembly) == "<Assembly of 1 images, 6 of 10 bytes>"
    assembly.discard(JOB)
    assembly.discard(JOB)
    assert add(assembly, chunk(b"a", total=10, job=OTHER)) is Outcome.MORE
    assembly.clear()
    assert add(assembly, chunk(b"a", total=10)) is Outcome.MORE


def test_broken_metadata_is_left_out() -> None:
    """It only adds to the header."""
    message = chunk(b"x", total=1, metadata={"seed": 7})
    spoiled = message.replace(b"{", b"!")
    assert read_metadata(message, parse(message)) == {"seed": 7}
    assert read_metadata(spoiled, parse(spoiled)) == {}
    assert (format_name(1), format_name(0), format_name(77)) == ("jpeg", "other", "other")


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_any_cutting_gives_the_same_bytes(data: bytes, cuts: list[int]) -> None:
    """An image is what was sent, however it was cut."""
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    assembly = Assembly(1000)
    done: ImageBytes | Outcome = Outcome.MORE
    for begin, end in pairwise(edges):
        assert done is Outcome.MORE
        done = add(assembly, chunk(data[begin:end], total=len(data), offset=begin, last=end == len(data)))
    assert isinstance(done, ImageBytes)
    assert done.data == data
