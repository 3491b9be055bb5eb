"""The derived files: fresh, complete, and sound."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

import protocol
from protocol.errors import CLOSES, ERRORS
from protocol.generate import (
    ASYNCAPI,
    DOCUMENT,
    FLAGS,
    FORMATS,
    HEADER,
    KINDS,
    MEANINGS,
    OBJECTS,
    SCHEMA,
    main,
    meaning,
    render,
)
from protocol.header import HEADER_SIZE, Flag, Format, Header, Kind, pack
from protocol.ladder import EDGES, QUALITIES
from protocol.messages import CLIENT_TYPES, SERVER_TYPES, Limits

FOLDER = Path(protocol.__file__).parent
TEXT = (FOLDER / DOCUMENT).read_text("utf-8")
DERIVED = render(TEXT)


@pytest.mark.parametrize("name", [DOCUMENT, SCHEMA, ASYNCAPI])
def test_derived_file_is_fresh(name: str) -> None:
    """Run `python -m protocol.generate` if this fails."""
    assert (FOLDER / name).read_text("utf-8") == DERIVED[name]


def test_rendering_twice_changes_nothing() -> None:
    """The tables replace themselves and nothing around them."""
    assert render(DERIVED[DOCUMENT]) == DERIVED


def test_unknown_table_is_refused() -> None:
    """A mark with a typing error is found, not left empty."""
    with pytest.raises(KeyError, match="tabels"):
        render("<!-- generated: tabels -->\n<!-- end -->")


def test_document_marks_every_table_once() -> None:
    """Each table that can be made stands in the document, and each mark is closed."""
    marks = re.findall(r"<!-- generated: ([a-z-]+) -->", TEXT)
    tables = "client-messages server-messages objects limits error-codes close-codes header kinds formats flags ladder"
    assert sorted(marks) == sorted(tables.split())
    assert TEXT.count("<!-- end -->") == len(marks)


def test_document_tells_every_message_field_code_and_limit() -> None:
    """What the code knows, a client author can read."""
    for kind in (*CLIENT_TYPES, *SERVER_TYPES, *OBJECTS):
        assert f"#### `{kind.__struct_config__.tag or kind.__name__}`" in TEXT
        for field in msgspec.structs.fields(kind):
            assert f"| `{field.encode_name}` |" in TEXT
    for name in (*ERRORS, *CLOSES, *(field.name for field in msgspec.structs.fields(Limits))):
        assert f"`{name}`" in TEXT
    for rungs in (EDGES, QUALITIES):
        assert ", ".join(map(str, rungs)) in TEXT


def test_every_field_has_a_meaning_and_every_meaning_a_field() -> None:
    """`MEANINGS` holds what is used and nothing else."""
    used = set()
    for kind in (*CLIENT_TYPES, *SERVER_TYPES, *OBJECTS, Limits):
        for field in msgspec.structs.fields(kind):
            own = f"{kind.__name__}.{field.name}"
            used.add(own if own in MEANINGS else field.name)
            assert meaning(kind.__name__, field.name)
    assert used == set(MEANINGS)
    with pytest.raises(KeyError):
        meaning("Hello", "colour")


def test_header_table_is_the_layout_that_is_packed() -> None:
    """Each field, set alone to its largest value, changes just the bytes that the table gives it."""
    names = [name for name, *_ in HEADER]
    sizes = {name: size for name, size, *_ in HEADER}
    assert sum(sizes.values()) == HEADER_SIZE
    zero = dict.fromkeys(set(names) - {"magic", "data_offset", "job_id"}, 0)
    base = pack(Header(job_id="0" * 26, **zero))
    for name in zero:
        largest = pack(Header(job_id="0" * 26, **zero | {name: 256 ** sizes[name] - 1}))
        changed = [at for at in range(HEADER_SIZE) if largest[at] != base[at]]
        begin = sum(sizes[before] for before in names[: names.index(name)])
        assert changed == list(range(begin, begin + sizes[name]))
        assert begin % sizes[name] == 0, "every number is naturally aligned"
    assert base[6:8] == struct.pack("<H", HEADER_SIZE)
    assert base[38:] == b"0" * 26


def test_every_kind_format_and_flag_is_told() -> None:
    """The tables cannot forget a member."""
    assert list(KINDS) == list(Kind)
    assert list(FORMATS) == list(Format)
    assert list(FLAGS) == list(Flag)


def test_schema_is_a_schema_and_knows_every_message() -> None:
    """It is valid 2020-12, and each message stands in `$defs` under its struct's name."""
    schema = json.loads(DERIVED[SCHEMA])
    Draft202012Validator.check_schema(schema)
    assert {kind.__name__ for kind in (*CLIENT_TYPES, *SERVER_TYPES)} < set(schema["$defs"])
    assert schema["$defs"]["Submit"]["properties"]["params"] == {"type": "object"}


def test_asyncapi_refers_only_to_what_exists() -> None:
    """Every `$ref` resolves, in the document or in the schema beside it."""
    files = {"": json.loads(DERIVED[ASYNCAPI]), "./messages.schema.json": json.loads(DERIVED[SCHEMA])}
    found = list(_references(files[""]))
    assert len(found) > 60
    for reference in found:
        file, _, pointer = reference.partition("#")
        node = files[file]
        for part in pointer.strip("/").split("/"):
            node = node[part]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [node["$ref"]] if "$ref" in node else [one for part in node.values() for one in _references(part)]
    return [one for part in node for one in _references(part)] if isinstance(node, list) else []


def test_asyncapi_gives_each_message_one_direction() -> None:
    """One channel, and what the gateway receives it does not send."""
    document = json.loads(DERIVED[ASYNCAPI])
    directions = [
        {reference["$ref"].rsplit("/", 1)[1] for reference in operation["messages"]}
        for operation in document["operations"].values()
    ]
    assert document["channels"]["stream"]["address"] == "/v1/stream"
    assert directions[0] | directions[1] == set(document["components"]["messages"])
    assert not directions[0] & directions[1]


def test_check_names_what_is_stale_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a run without `--check` writes, and after it all is fresh."""
    (tmp_path / DOCUMENT).write_text(TEXT.replace("| `queue_full` | 302 |", "| `queue_full` | 999 |"), "utf-8")
    assert main(["--check"], tmp_path) == 1
    assert not (tmp_path / SCHEMA).exists()
    assert "protocol/PROTOCOL.md is stale" in capsys.readouterr().err
    assert main([], tmp_path) == 0
    assert (tmp_path / DOCUMENT).read_text("utf-8") == TEXT
    assert "protocol/schema/messages.schema.json written" in capsys.readouterr().err
    assert main(["--check"], tmp_path) == 0
    assert capsys.readouterr().err == ""


def test_command_checks_this_checkout() -> None:
    """`python -m protocol.generate --check` is what a gate runs."""
    command = [sys.executable, "-B", "-m", "protocol.generate", "--check"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
