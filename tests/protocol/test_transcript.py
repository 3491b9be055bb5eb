"""The examples of PROTOCOL.md are messages of this protocol, to the letter."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import protocol
from protocol.codec import decode_client, decode_server, encode
from protocol.header import HEADER_SIZE, Header, Kind, metadata, parse
from protocol.messages import Ack, Completed, Hello, Limits, Synced, Welcome

DOCUMENT = (Path(protocol.__file__).parent / "PROTOCOL.md").read_text("utf-8")
LINES = re.findall(r"^([CS])> (\{.*\})$", DOCUMENT, re.MULTILINE)
SHOWN = re.findall(r"^(\{\"type\":.*\})$", DOCUMENT, re.MULTILINE)


def _decode(side: str, raw: str) -> msgspec.Struct | None:
    return decode_client(raw.encode(), 65_536) if side == "C" else decode_server(raw.encode())


def _says(value: Any, wanted: Any) -> bool:
    """Whether a decoded value holds all that the JSON says, defaults included."""
    if isinstance(value, msgspec.Struct) and isinstance(wanted, dict):
        fields = {key: part for key, part in wanted.items() if key != "type"}
        return all(_says(getattr(value, key, msgspec.UNSET), part) for key, part in fields.items())
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_says, value, wanted))
    if isinstance(value, msgspec.Raw):
        return bool(json.loads(bytes(value)) == wanted)
    return bool(value == wanted)


def _dumps() -> list[bytes]:
    """The hex dumps of the document, as bytes."""
    dumps = re.findall(r"```hex\n(.*?)```", DOCUMENT, re.DOTALL)
    return [bytes.fromhex("".join(line[6:53] for line in dump.splitlines()).replace(" ", "")) for dump in dumps]


def test_transcript_is_found() -> None:
    """Both sides speak, so that the tests below don't pass on nothing."""
    assert [side for side, _ in LINES].count("C") == 8
    assert [side for side, _ in LINES].count("S") == 17
    assert len(SHOWN) == 2


@pytest.mark.parametrize("side,raw", LINES)
def test_line_of_the_transcript_is_a_message_and_comes_back(side: str, raw: str) -> None:
    """Every field shown is known and kept; encoded, the message decodes to the equal object."""
    message = _decode(side, raw)
    assert message is not None
    assert _says(message, json.loads(raw))
    assert _decode(side, encode(message).decode()) == message


@pytest.mark.parametrize("raw", SHOWN)
def test_example_of_the_first_section_is_a_client_message(raw: str) -> None:
    """A reader may copy it."""
    assert _says(decode_client(raw.encode(), 65_536), json.loads(raw))


def test_transcript_numbers_its_events_without_a_hole() -> None:
    """The job's log is 1 to 5, across the cut, and the end event lists both images."""
    messages = [message for side, raw in LINES if side == "S" and (message := _decode(side, raw)) is not None]
    numbered = [message for message in messages if hasattr(message, "seq")]
    assert [message.seq for message in numbered] == [1, 2, 3, 4, 5]
    done = numbered[-1]
    assert isinstance(done, Completed)
    assert [image.seq for image in done.images] == [3, 4]


def test_transcript_resumes_with_what_the_first_connection_gave() -> None:
    """The second `hello` bears the first `synced`'s text, and the welcome says that the session goes on."""
    decoded = [_decode(side, raw) for side, raw in LINES]
    hellos = [one for one in decoded if isinstance(one, Hello)]
    synced = [one for one in decoded if isinstance(one, Synced)]
    welcomes = [one for one in decoded if isinstance(one, Welcome)]
    assert hellos[1].resume == synced[0].resume
    assert [one.resumed for one in welcomes] == [False, True]
    assert {one.session for one in welcomes} == {welcomes[0].session}
    assert all(one.limits == Limits() for one in welcomes)


def test_transcript_acknowledges_header_and_image() -> None:
    """The total is that of the whole message whose header the document dumps."""
    (ack,) = [one for side, raw in LINES if isinstance(one := _decode(side, raw), Ack)]
    preview = parse(_dumps()[0])
    assert ack.bytes == HEADER_SIZE + preview.total_size == 18406


def test_dumped_headers_are_what_the_text_below_them_says() -> None:
    """A reader who parses the two dumps finds the figures that stand there."""
    preview, final = _dumps()
    job = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
    assert parse(preview) == Header(
        kind=Kind.PREVIEW,
        format=1,
        job_id=job,
        total_size=18342,
        seq=2,
        frame=7,
        width=256,
        height=256,
        step=12,
        steps=30,
        image_count=2,
        flags=1,
    )
    assert parse(final) == Header(
        kind=Kind.FINAL,
        format=2,
        job_id=job,
        total_size=1183744,
        chunk_offset=1048000,
        data_offset=104,
        seq=3,
        width=1024,
        height=1024,
        step=30,
        steps=30,
        image_count=2,
        flags=1,
    )
    assert metadata(final, parse(final)) == {"asset": "sha256:9f2c", "seed": 421337}
    assert "104 + 135744 bytes" in DOCUMENT
    assert 1048000 + 135744 == 1183744
