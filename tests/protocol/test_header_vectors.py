"""Every line of vectors/headers.jsonl, which clients in other languages run too."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import protocol
from protocol.header import Flag, Format, HeaderFault, Kind, metadata, pack, parse, payload

LINES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(protocol.__file__).parent / "vectors" / "headers.jsonl").read_text("utf-8").splitlines()
]
GOOD = [line for line in LINES if "expect" in line]
BAD = [line for line in LINES if "error" in line]


def _name(line: dict[str, Any]) -> str:
    return str(line["name"])


@pytest.mark.parametrize("line", GOOD, ids=_name)
def test_parser_reads_a_good_vector(line: dict[str, Any]) -> None:
    """Fields, image bytes and metadata are what the vector says."""
    message = bytes.fromhex(line["hex"])
    header = parse(message)
    assert asdict(header) == line["expect"]
    assert payload(message, header).hex() == line["data"]
    assert metadata(message, header) == line.get("metadata", {})


@pytest.mark.parametrize("line", GOOD, ids=_name)
def test_packer_writes_a_good_vector_again(line: dict[str, Any]) -> None:
    """Header fields survive; the metadata's spelling may differ, so only its meaning is compared."""
    message = bytes.fromhex(line["hex"])
    header = parse(message)
    head = pack(header, metadata(message, header) or None)
    again = parse(head + payload(message, header))
    assert asdict(again) | {"data_offset": 0} == line["expect"] | {"data_offset": 0}
    if "metadata" not in line:
        assert head + payload(message, header) == message


@pytest.mark.parametrize("line", BAD, ids=_name)
def test_parser_refuses_a_bad_vector(line: dict[str, Any]) -> None:
    """The refusal names what the vector says is wrong."""
    with pytest.raises(HeaderFault, match=line["error"]):
        parse(bytes.fromhex(line["hex"]))


def test_vectors_cover_every_kind_format_and_flag() -> None:
    """There are at least sixty, named once each, and no known value is left out."""
    assert len(LINES) >= 60
    assert len({_name(line) for line in LINES}) == len(LINES) == len(GOOD) + len(BAD)
    assert {line["expect"]["kind"] for line in GOOD} >= set(Kind)
    assert {line["expect"]["format"] for line in GOOD} >= set(Format)
    assert {line["expect"]["flags"] for line in GOOD} >= set(Flag)
