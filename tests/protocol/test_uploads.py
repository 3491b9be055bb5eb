"""Uploads over the socket: chunks in order become one picture, or one refusal that leaves nothing behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ClientFault
from protocol.header import Flag, Format, Header, Kind
from protocol.messages import Limits
from protocol.uploads import IDLE_SECONDS, MAX_KNOWN, MAX_OPEN, MAX_UNREFERENCED, Upload, Uploads

LIMITS = Limits(max_chunk=100, max_upload_bytes=MAX_UNREFERENCED)


def name(number: int) -> str:
    """Return an upload's id as a client makes it up."""
    return f"{number:026d}"


def send(
    uploads: Uploads, data: bytes, *, at: int = 0, total: int | None = None, now: float = 0, **more: int
) -> Upload | None:
    """Hand over one chunk; it is the last one where it reaches the total, unless `flags` say otherwise."""
    whole = len(data) if total is None else total
    number, kind, form = more.get("number", 1), more.get("kind", Kind.UPLOAD), more.get("form", Format.PNG)
    flags = more.get("flags", Flag.LAST_CHUNK if at + len(data) == whole else 0)
    header = Header(kind=kind, format=form, job_id=name(number), total_size=whole, chunk_offset=at, flags=flags)
    return uploads.receive(header, memoryview(data), now)


def refused(uploads: Uploads, data: bytes, **chunk: int) -> str:
    """Hand over a chunk that is refused; return the code."""
    with pytest.raises(ClientFault) as fault:
        send(uploads, data, **chunk)
    return fault.value.code


@given(st.binary(min_size=1, max_size=600), st.integers(1, 100))
def test_chunks_in_order_become_the_picture(picture: bytes, step: int) -> None:
    """Whatever size the client cuts, the bytes come out as they were."""
    uploads = Uploads(LIMITS)
    parts = [(at, picture[at : at + step]) for at in range(0, len(picture), step)]
    results = [send(uploads, data, at=at, total=len(picture)) for at, data in parts]
    assert results == [*[None] * (len(parts) - 1), Upload(name(1), picture)]
    assert uploads.deadline() is None


def test_two_uploads_may_interleave() -> None:
    """Each has its own bytes."""
    uploads = Uploads(LIMITS)
    assert send(uploads, b"ab", total=4, number=1) is None
    assert send(uploads, b"cd", total=3, number=2) is None
    assert send(uploads, b"e", at=2, total=3, number=2) == Upload(name(2), b"cde")
    assert send(uploads, b"xy", at=2, total=4, number=1) == Upload(name(1), b"abxy")


@pytest.mark.parametrize(
    "chunk",
    [
        {"at": 1},
        {"at": 3},
        {"at": 2, "total": 9},
        {"at": 2, "flags": int(Flag.LAST_CHUNK)},
    ],
    ids=["overlap", "gap", "other total", "last before the end"],
)
def test_chunk_out_of_place_drops_the_upload(chunk: dict[str, int]) -> None:
    """The client is told once and begins again from 0."""
    uploads = Uploads(LIMITS)
    send(uploads, b"ab", total=6)
    assert refused(uploads, b"c", **({"total": 6} | chunk)) == "bad_chunk"
    assert uploads.deadline() is None
    assert send(uploads, b"abcdef") == Upload(name(1), b"abcdef")


def test_chunk_that_ends_the_picture_must_be_marked_last() -> None:
    """The client and we must agree on the end."""
    assert refused(Uploads(LIMITS), b"ab", flags=0) == "bad_chunk"


def test_first_chunk_must_begin_at_zero_and_have_bytes() -> None:
    """An upload of nothing is no picture."""
    uploads = Uploads(LIMITS)
    assert refused(uploads, b"a", at=1, total=2) == "bad_chunk"
    assert refused(uploads, b"", number=2) == "bad_chunk"
    assert refused(uploads, b"", total=9, number=3) == "bad_chunk"


def test_later_chunks_of_a_refused_upload_are_ignored() -> None:
    """They were under way; one upload has one answer."""
    uploads = Uploads(LIMITS)
    assert refused(uploads, b"ab", total=6, form=Format.RGBA8) == "unsupported_media"
    assert send(uploads, b"cd", at=2, total=6) is None
    assert send(uploads, b"ef", at=4, total=6) is None
    assert uploads.deadline() is None


def test_only_so_many_refusals_are_remembered() -> None:
    """The oldest is forgotten, and answered once more."""
    uploads = Uploads(LIMITS)
    for number in range(MAX_KNOWN + 1):
        assert refused(uploads, b"a", at=1, total=3, number=number) == "bad_chunk"
    assert send(uploads, b"a", at=1, total=3, number=1) is None
    assert refused(uploads, b"a", at=1, total=3, number=0) == "bad_chunk"


def test_other_kinds_and_formats_are_refused() -> None:
    """A client sends uploads only, and those as files."""
    uploads = Uploads(LIMITS)
    assert refused(uploads, b"a", kind=Kind.PREVIEW) == "bad_request"
    assert refused(uploads, b"a", form=Format.RGB8) == "unsupported_media"
    assert refused(uploads, b"a", form=77) == "unsupported_media"
    assert send(uploads, b"a", form=Format.OTHER) == Upload(name(1), b"a")


def test_chunk_over_the_limit_drops_the_upload() -> None:
    """Also in the middle of one."""
    uploads = Uploads(LIMITS)
    send(uploads, b"a" * 100, total=300)
    assert refused(uploads, b"a" * 101, at=100, total=300) == "payload_too_large"
    assert uploads.deadline() is None


def test_upload_over_the_limit_is_refused_at_its_first_chunk() -> None:
    """Before a byte is kept."""
    uploads = Uploads(Limits(max_upload_bytes=10))
    assert refused(uploads, b"a", total=11) == "payload_too_large"
    assert send(uploads, b"a" * 10) is not None


def test_open_uploads_are_bounded() -> None:
    """The fifth is refused until one is whole."""
    uploads = Uploads(LIMITS)
    for number in range(MAX_OPEN):
        send(uploads, b"a", total=2, number=number)
    assert refused(uploads, b"a", number=9) == "concurrency_limit"
    send(uploads, b"b", at=1, total=2, number=0)
    assert send(uploads, b"a", number=9) is not None


def test_bytes_that_wait_for_a_submit_are_bounded() -> None:
    """Open and finished uploads count with their announced size until a submit names them."""
    uploads = Uploads(LIMITS)
    send(uploads, b"a" * 100)
    assert refused(uploads, b"a", total=MAX_UNREFERENCED - 99, number=2) == "payload_too_large"
    assert send(uploads, b"a", total=MAX_UNREFERENCED - 100, number=2) is None
    assert refused(uploads, b"a", number=3) == "payload_too_large"
    uploads.referenced(name(1))
    uploads.referenced(name(8))
    assert send(uploads, b"a", number=3) is not None


def test_finished_uploads_that_nobody_names_are_forgotten() -> None:
    """What is remembered of them is bounded in count too."""
    uploads = Uploads(LIMITS)
    for number in range(MAX_KNOWN + 5):
        send(uploads, b"ab", number=number)
    assert repr(uploads) == f"Uploads(open=0, unreferenced={2 * MAX_KNOWN})"


def test_upload_without_a_chunk_for_30_s_is_dropped() -> None:
    """Each chunk begins its time anew; what comes after the drop is ignored."""
    uploads = Uploads(LIMITS)
    send(uploads, b"a", total=9, number=1, now=100)
    send(uploads, b"a", total=9, number=2, now=110)
    assert uploads.deadline() == 100 + IDLE_SECONDS
    send(uploads, b"b", at=1, total=9, number=1, now=125)
    assert uploads.deadline() == 110 + IDLE_SECONDS
    assert uploads.expire(139.9) == []
    assert uploads.expire(140) == [name(2)]
    assert send(uploads, b"b", at=1, total=9, number=2, now=141) is None
    assert uploads.expire(155) == [name(1)]
    assert repr(uploads) == "Uploads(open=0, unreferenced=0)"
