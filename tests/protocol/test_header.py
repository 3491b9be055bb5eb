"""The binary header: round trips, truncation, flipped bits, metadata."""

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.header import (
    FIRST_BYTE,
    FORMAT_NAMES,
    HEADER_SIZE,
    Flag,
    Format,
    Header,
    HeaderFault,
    Kind,
    metadata,
    pack,
    parse,
    payload,
)

JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
HEADER = Header(kind=Kind.PREVIEW, format=Format.JPEG, job_id=JOB, total_size=4, seq=2, frame=7, flags=1)
DATA = b"\xff\xd8\xff\xd9"
MESSAGE = pack(HEADER) + DATA

u8, u16, u32 = st.integers(0, 2**8 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
job_ids = st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=26, max_size=26)
headers = st.builds(
    Header,
    kind=u8,
    format=u8,
    job_id=job_ids,
    total_size=u32,
    seq=u32,
    frame=u32,
    width=u16,
    height=u16,
    step=u16,
    steps=u16,
    image_index=u16,
    image_count=u16,
    flags=u16,
)
objects = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=20)), max_size=4
)


@given(headers, objects, st.data())
def test_any_header_survives_a_round_trip(header: Header, extra: dict[str, Any], data: st.DataObject) -> None:
    """What is packed parses to the same fields, metadata and image bytes."""
    image = data.draw(st.binary(max_size=min(64, header.total_size)))
    header = replace(header, chunk_offset=data.draw(st.integers(0, header.total_size - len(image))))
    message = pack(header, extra) + image
    parsed = parse(message)
    assert asdict(parsed) == asdict(header) | {"data_offset": len(message) - len(image)}
    assert metadata(message, parsed) == extra
    assert bytes(payload(message, parsed)) == image
    assert parse(memoryview(message)) == parsed


@pytest.mark.parametrize("length", range(HEADER_SIZE))
def test_header_cut_short_is_refused(length: int) -> None:
    """Each truncation from 0 to 63 bytes is too short, and nothing worse."""
    with pytest.raises(HeaderFault, match="at least 64 bytes"):
        parse(MESSAGE[:length])


@pytest.mark.parametrize("bit", range(HEADER_SIZE * 8))
def test_flipped_bit_gives_a_header_or_a_fault(bit: int) -> None:
    """A single wrong bit either parses to a message within its bounds or is refused."""
    flipped = bytearray(MESSAGE)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        header = parse(bytes(flipped))
    except HeaderFault:
        return
    assert header != HEADER
    assert header.chunk_offset + len(payload(bytes(flipped), header)) <= header.total_size


@given(st.binary(max_size=200))
def test_any_bytes_give_a_header_or_a_fault(noise: bytes) -> None:
    """Noise behind a right magic never raises anything but `HeaderFault`, in the metadata neither."""
    for message in (noise, b"SFL1" + noise, MESSAGE[:6] + b"\x80\x00" + MESSAGE[8:64] + noise):
        try:
            metadata(message, parse(message))
        except HeaderFault:
            continue


def test_first_byte_and_size_are_those_of_the_contract() -> None:
    """A binary message begins with `S`, and its header has 64 bytes."""
    assert MESSAGE[0] == FIRST_BYTE == ord("S")
    assert len(pack(HEADER)) == HEADER_SIZE == 64


def test_format_names_are_those_of_json() -> None:
    """Every format but 0 has a name, which JSON uses."""
    assert FORMAT_NAMES == {"jpeg": 1, "png": 2, "webp": 3, "rgba8": 4, "rgb8": 5}


def test_last_chunk_is_told_by_its_flag() -> None:
    """Bit 0 says that the image is whole, whatever the other bits say."""
    assert replace(HEADER, flags=Flag.LAST_CHUNK | Flag.ALPHA).is_last_chunk
    assert not replace(HEADER, flags=Flag.ALPHA | Flag.APPROXIMATE).is_last_chunk


@pytest.mark.parametrize(
    "wrong",
    [{"seq": 2**32}, {"seq": -1}, {"width": 2**16}, {"kind": 256}, {"flags": 2**16}, {"total_size": 2**32}],
)
def test_packer_refuses_what_does_not_fit(wrong: dict[str, int]) -> None:
    """A field over its width is the caller's mistake."""
    with pytest.raises(ValueError, match="does not fit its width"):
        pack(replace(HEADER, **wrong))  # type: ignore[arg-type]  # each is an integer field


@pytest.mark.parametrize("job_id", ["", JOB[:-1], JOB + "0", JOB.lower(), "Ä" + JOB[1:], " " + JOB[1:]])
def test_packer_refuses_an_id_that_no_parser_would_take(job_id: str) -> None:
    """A short id would be padded and a long one cut, so neither is written."""
    with pytest.raises(ValueError, match="job_id is not 26 characters"):
        pack(replace(HEADER, job_id=job_id))


def test_packer_refuses_metadata_over_four_kibibytes() -> None:
    """What no parser would take is not written."""
    assert len(pack(HEADER, {"x": "y" * 4088})) == HEADER_SIZE + 4096
    with pytest.raises(ValueError, match="over 4096 bytes"):
        pack(HEADER, {"x": "y" * 4089})


def test_largest_data_offset_is_parsed() -> None:
    """The header may grow up to the field's width."""
    message = MESSAGE[:6] + (65532).to_bytes(2, "little") + MESSAGE[8:64] + bytes(65532 - 64) + DATA
    assert parse(message).data_offset == 65532
    assert bytes(payload(message, parse(message))) == DATA


@pytest.mark.parametrize(
    "raw",
    [b"[1] ", b"nope", b"{\xff} ", b'{"a":', b"\0\0\0\0", b'"a" ', b'{"a":"\xff"}   ', b'{"a":1e400}  '],
)
def test_metadata_that_is_no_object_is_refused(raw: bytes) -> None:
    """The header is good, its metadata not."""
    raw += b" " * (-len(raw) % 4)
    message = MESSAGE[:6] + (64 + len(raw)).to_bytes(2, "little") + MESSAGE[8:64] + raw
    with pytest.raises(HeaderFault, match="no JSON object"):
        metadata(message, parse(message))


def test_metadata_that_is_too_long_or_too_deep_is_refused() -> None:
    """Neither size nor depth can be used against the parser."""
    for raw, reason in (
        (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", "over 4096"),
        (b'{"a":' + b"[" * 2000, "no JSON"),
    ):
        padded = raw + b" " * (-len(raw) % 4)
        message = MESSAGE[:6] + (64 + len(padded)).to_bytes(2, "little") + MESSAGE[8:64] + padded
        with pytest.raises(HeaderFault, match=reason):
            metadata(message, parse(message))
