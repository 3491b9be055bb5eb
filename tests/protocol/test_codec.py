"""The codec: what is refused, in which words, and that nothing else ever escapes."""

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import (
    convert_fields,
    decode_client,
    decode_fields,
    decode_server,
    encode,
    error_body,
    is_json,
    ref_of,
)
from protocol.errors import ERRORS, ClientFault, ConnectionFault
from protocol.messages import (
    CLIENT_TYPES,
    ULID_PATTERN,
    Ack,
    Bye,
    ErrorBody,
    Hello,
    Input,
    Ok,
    Ping,
    Submit,
)

JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
LIMIT = 65_536
DEEP = 200_000
HAVE = f'{{"job":"{JOB}","seq":1}}'
SUBMIT = '{"type":"submit","ref":"a","task":"t","params":{}'


def refusal(raw: str | bytes) -> ClientFault:
    """Return the fault that this message is refused with."""
    with pytest.raises(ClientFault) as caught:
        decode_client(raw.encode() if isinstance(raw, str) else raw, LIMIT)
    return caught.value


def outcome(raw: bytes) -> msgspec.Struct | ClientFault | ConnectionFault:
    """Return the message, or how it is refused; anything else is raised."""
    try:
        return decode_client(raw, LIMIT)
    except (ClientFault, ConnectionFault) as fault:
        return fault


def test_client_message_is_decoded_to_its_struct() -> None:
    """The tag chooses the struct; what is absent has its default; what is unknown is ignored."""
    assert decode_client(b'{"type":"ack","bytes":18406,"colour":"red"}', LIMIT) == Ack(bytes=18406)
    assert decode_client(b'{"type":"hello","v":1}', LIMIT) == Hello(v=1)


def test_message_over_the_limit_ends_the_connection() -> None:
    """Size is checked before anything is read."""
    with pytest.raises(ConnectionFault, match="4506 message_too_big: JSON has at most 13 bytes, not 14"):
        decode_client(b"{{{{{{{{{{{{{{", 13)
    assert decode_client(b'{"type":"bye"}', 14) == Bye()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[1]",
        b"5",
        b'"hello"',
        b"null",
        b' {"type":"bye"}',
        b'\xef\xbb\xbf{"type":"bye"}',
        b'{"type":"bye"',
        b'{"type":"bye"}x',
        b'{"type":"bye",}',
        b"{type:1}",
        b'{"type":"\xff"}',
        b'{"type":"hello","v":1,"agent":"\xff"}',
        rb'{"type":"hello","v":1,"agent":"\ud800"}',
        b'{"type":"hello","v":1,"previews":{"max_fps":NaN}}',
        b'{"type":"hello","v":Infinity}',
        SUBMIT.encode().replace(b"{}", b"{,}") + b"}",
        SUBMIT.encode().replace(b"{}", b"[" * 40_000),
    ],
)
def test_bytes_that_are_no_json_object_end_the_connection(raw: bytes) -> None:
    """The first byte must be a brace, and the rest must parse."""
    with pytest.raises(ConnectionFault, match="4500 bad_message"):
        decode_client(raw, LIMIT)


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b'{"type":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"zz":' + b"[" * DEEP + b"]" * DEEP + b',"type":"bye"}',
        b'{"type":"nope","zz":' + b"[" * DEEP + b"]" * DEEP + b"}",
        SUBMIT.encode().replace(b"{}", b'{"a":' * DEEP + b"1" + b"}" * DEEP) + b"}",
    ],
)
def test_depth_bomb_is_refused(bomb: bytes) -> None:
    """Two hundred thousand levels end in a fault on every way into the codec, never in a crash."""
    with pytest.raises((ClientFault, ConnectionFault)):
        decode_client(bomb, len(bomb))
    with pytest.raises((ClientFault, ConnectionFault)):
        decode_server(bomb)
    with pytest.raises(ClientFault):
        decode_fields(bomb, Input, "inputs")
    assert ref_of(bomb) is None


@pytest.mark.parametrize(
    "raw,code,details",
    [
        ('{"type":"nope"}', "unknown_type", {"path": "type"}),
        ('{"type":"hello","type":"nope"}', "unknown_type", {"path": "type"}),
        ('{"type":"nope","type":"ping"}', "invalid_param", {"path": "type"}),
        ("{}", "bad_request", {"path": "type"}),
        ('{"type":5}', "bad_request", {"path": "type"}),
        ('{"type":null}', "bad_request", {"path": "type"}),
        ('{"type":"hello"}', "invalid_param", {"path": "v", "allowed": "integer >= 1 < 65536"}),
        ('{"type":"hello","v":1.0}', "invalid_param", {"path": "v", "allowed": "integer >= 1 < 65536"}),
        ('{"type":"hello","v":true}', "invalid_param", {"path": "v", "allowed": "integer >= 1 < 65536"}),
        (
            '{"type":"ack","bytes":9007199254740992}',
            "invalid_param",
            {"path": "bytes", "allowed": "integer >= 0 < 9007199254740992"},
        ),
        (
            '{"type":"ack","bytes":1e400}',
            "invalid_param",
            {"path": "bytes", "allowed": "integer >= 0 < 9007199254740992"},
        ),
        (
            '{"type":"ping","t":99999999999999999999999999}',
            "invalid_param",
            {"path": "t", "allowed": "integer >= 0 < 9007199254740992"},
        ),
        ('{"type":"ping","t":1,"t":-1}', "invalid_param", {"path": "t", "allowed": "integer >= 0 < 9007199254740992"}),
        (
            '{"type":"hello","v":1,"previews":{"max_fps":1e400}}',
            "invalid_param",
            {"path": "previews.max_fps", "allowed": "number >= 0 <= 240"},
        ),
        (
            '{"type":"prefs","previews":{"format":"gif"}}',
            "invalid_param",
            {"path": "previews.format", "allowed": ["jpeg", "png", "raw", "webp"]},
        ),
        ('{"type":"prefs","previews":null}', "invalid_param", {"path": "previews", "allowed": "object"}),
        ('{"type":"prefs","finals":"x"}', "invalid_param", {"path": "finals", "allowed": ["inline", "url"]}),
        ('{"type":"watch","job":"x"}', "invalid_param", {"path": "job", "pattern": ULID_PATTERN}),
        ('{"type":"watch","job":null}', "invalid_param", {"path": "job", "pattern": ULID_PATTERN}),
        ('{"type":"hello","v":1,"agent":5}', "invalid_param", {"path": "agent", "max_length": 256}),
        ('{"type":"hello","v":1,"have":{}}', "invalid_param", {"path": "have", "max_length": 256}),
        (
            f'{{"type":"hello","v":1,"have":[{",".join([HAVE] * 257)}]}}',
            "invalid_param",
            {"path": "have", "max_length": 256},
        ),
        (
            f'{{"type":"hello","v":1,"have":[{HAVE},{{"job":"{JOB}"}}]}}',
            "invalid_param",
            {"path": "have[1].seq", "allowed": "integer >= 0 < 4294967296"},
        ),
        (
            SUBMIT + ',"inputs":[{"role":"init","weight":11}]}',
            "invalid_param",
            {"path": "inputs[0].weight", "allowed": "number >= -10 <= 10"},
        ),
        (SUBMIT.replace('"t"', '""') + "}", "invalid_param", {"path": "task", "min_length": 1, "max_length": 64}),
        (SUBMIT.replace("{}", "5") + "}", "invalid_param", {"path": "params", "allowed": "object"}),
        (SUBMIT.replace("{}", " null") + "}", "invalid_param", {"path": "params", "allowed": "object"}),
        ('{"type":"submit","ref":"a","task":"t"}', "invalid_param", {"path": "params", "allowed": "object"}),
        (SUBMIT + ',"priority":2}', "invalid_param", {"path": "priority", "allowed": "integer >= -1 <= 1"}),
    ],
)
def test_refusal_names_the_field_and_what_is_allowed(raw: str, code: str, details: dict[str, Any]) -> None:
    """The details are read from the struct, so that they are what the decoder checks."""
    fault = refusal(raw)
    assert fault.code == code
    assert fault.details == details


def test_refusal_by_pattern_tells_the_pattern() -> None:
    """A newline at the end is not let through, as `$` would."""
    fault = refusal(SUBMIT.replace('"a"', r'"a\n"') + "}")
    assert fault.details["path"] == "ref"
    assert "A-Za-z0-9_-" in fault.details["pattern"]


def test_every_field_of_every_client_message_is_named_when_it_is_wrong() -> None:
    """A value that fits no field is refused by path and with something allowed, for each of them."""
    base: dict[str, dict[str, Any]] = {
        "hello": {"v": 1},
        "submit": {"ref": "a", "task": "t", "params": {}},
        "ack": {"bytes": 1},
    }
    for kind in CLIENT_TYPES:
        tag = str(kind.__struct_config__.tag)
        good = base.get(tag, {"job": JOB})
        for field in msgspec.structs.fields(kind):
            message = {"type": tag, **good, field.encode_name: True}
            details = refusal(json.dumps(message)).details
            assert details["path"] == field.encode_name
            assert len(details) > 1, f"{tag}.{field.encode_name} does not tell what is allowed"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({field.encode_name for kind in CLIENT_TYPES for field in msgspec.structs.fields(kind)})
TAGS = [str(kind.__struct_config__.tag) for kind in CLIENT_TYPES]


@given(st.sampled_from([*TAGS, "nope"]), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5))
def test_any_json_gives_a_message_or_a_fault(tag: str, fields: dict[str, Any]) -> None:
    """Known names with any values decode, or are refused with a code of the registry."""
    found = outcome(json.dumps({"type": tag, **fields}).encode())
    if isinstance(found, ClientFault):
        assert found.code in ERRORS
        assert found.details["path"]
        assert encode(error_body(found))
    elif isinstance(found, ConnectionFault):
        assert found.close == "bad_message"


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_bytes_give_a_message_or_a_fault(noise: bytes, at: int) -> None:
    """Noise alone, behind a brace, and inside a good message never raises anything else."""
    good = b'{"type":"submit","ref":"a","task":"t","params":{"a":[1]},"priority":0}'
    for raw in (noise, b"{" + noise, good[:at] + noise + good[at + len(noise) :]):
        for decode in (lambda r: decode_client(r, LIMIT), decode_server):
            try:
                decode(raw)
            except (ClientFault, ConnectionFault):
                continue
        ref_of(raw)


def test_server_message_of_unknown_type_is_nothing() -> None:
    """Version 1 may grow: a client skips what it does not know, whatever else it holds."""
    assert decode_server(b'{"type":"aurora","job":5}') is None


def test_server_message_is_decoded_to_its_struct() -> None:
    """`ping` means another struct in this direction."""
    assert decode_server(b'{"type":"ok","ref":"a"}') == Ok(ref="a")


@pytest.mark.parametrize(
    "raw",
    [b'{"type":5}', b"{}", b"[]", b'{"type":"progress"}', b'{"type":"goaway","reason":"x","retry_after_ms":1}'],
)
def test_server_message_with_wrong_fields_is_refused(raw: bytes) -> None:
    """A known type that does not hold what it must is a fault of the server, told like any other."""
    with pytest.raises(ClientFault, match="bad_request"):
        decode_server(raw)


@pytest.mark.parametrize("raw", [b"", b"x", b'{"type":"ok","ref":"\xff"}', b'{"type":"ok","ref":"\\ud800"}'])
def test_server_bytes_that_are_no_json_end_the_connection(raw: bytes) -> None:
    """A client can't go on with a server that does not speak JSON."""
    with pytest.raises(ConnectionFault, match="bad_message"):
        decode_server(raw)


def test_second_type_in_broken_utf8_is_refused() -> None:
    """A message refused by its first `type` is read again for its last; that may fail in its own way."""
    assert refusal(b'{"type":"nope","type":"\xff"}').code == "bad_request"
    with pytest.raises((ClientFault, ConnectionFault)):
        decode_server(b'{"type":"nope","type":"\xff"}')


def test_first_byte_tells_json() -> None:
    """A brace and nothing else, in a view as well."""
    assert is_json(b"{")
    assert is_json(memoryview(b"{}"))
    assert not is_json(b"")
    assert not is_json(b"SFL1")
    assert not is_json(b" {")


@pytest.mark.parametrize(
    "raw,ref",
    [
        (b'{"type":"nope","ref":"a-1"}', "a-1"),
        (b'{"type":"cancel","ref":"a-1","job":5}', "a-1"),
        (b'{"ref":"%s"}' % (b"x" * 64), "x" * 64),
        (b'{"ref":"%s"}' % (b"x" * 65), None),
        (b'{"ref":""}', None),
        (b'{"ref":5}', None),
        (b'{"type":"bye"}', None),
        (b"[]", None),
        (b"{", None),
        (b'{"ref":"\xff"}', None),
    ],
)
def test_ref_is_read_from_a_refused_message(raw: bytes, ref: str | None) -> None:
    """What can be answered is answered by its ref; the rest has none."""
    assert ref_of(raw) == ref


def test_error_body_tells_a_fault() -> None:
    """Registry and fault together make the object on the wire; what is not set is absent."""
    assert error_body(ClientFault("queue_full", "full", retry_after_ms=1500, details={"limit": 3})) == ErrorBody(
        code="queue_full", message="full", retryable=True, retry_after_ms=1500, details={"limit": 3}
    )
    plain = ErrorBody(code="upstream_error", message="no", retryable=False)
    assert error_body(ClientFault("upstream_error", "no", retryable=False)) == plain
    assert encode(plain) == b'{"code":"upstream_error","message":"no","retryable":false}'


def test_fields_of_a_body_are_decoded_or_refused_by_path() -> None:
    """HTTP bodies and `params` have no `type`; the prefix says where they stand."""
    assert decode_fields(b'{"role":"init"}', Input, "inputs") == Input(role="init")
    with pytest.raises(ClientFault) as caught:
        decode_fields(msgspec.Raw(b'{"role":"init","end":2}'), Input, "inputs")
    assert caught.value.details == {"path": "inputs.end", "allowed": "number >= 0 <= 1"}
    with pytest.raises(ClientFault) as caught:
        decode_fields(b"[]", Input, "")
    assert caught.value.details == {"path": "body", "allowed": "object"}
    for broken in (b"{", b'{"role":"\xff"}'):
        with pytest.raises(ClientFault) as caught:
            decode_fields(broken, Input, "")
        assert caught.value.details == {"path": "body"}


class Odd(msgspec.Struct, forbid_unknown_fields=True):
    """Shapes that no client message has, but a body may."""

    flag: bool = False
    free: str = ""
    above: Annotated[int, msgspec.Meta(gt=3, le=9)] = 4
    rows: list[list[int]] = []
    named: dict[str, int] = {}


@pytest.mark.parametrize(
    "raw,details",
    [
        ('{"flag":1}', {"path": "x.flag"}),
        ('{"free":1}', {"path": "x.free"}),
        ('{"above":3}', {"path": "x.above", "allowed": "integer > 3 <= 9"}),
        ('{"rows":[[1],["a"]]}', {"path": "x.rows[1][0]", "allowed": "integer"}),
        ('{"named":{"a":"b"}}', {"path": "x.named[...]"}),
        ('{"colour":1}', {"path": "x.colour"}),
    ],
)
def test_field_without_bounds_is_refused_by_its_path_alone(raw: str, details: dict[str, Any]) -> None:
    """Where a type says nothing about its values, nothing is claimed."""
    with pytest.raises(ClientFault) as caught:
        decode_fields(raw.encode(), Odd, "x")
    assert caught.value.details == details


def test_encoded_message_is_one_object_without_null() -> None:
    """Absent is absent, and the type comes first."""
    assert encode(Ping(t=3)) == b'{"type":"ping","t":3}'
    submit = Submit(ref="a", task="t", params=msgspec.Raw(b'{"p":1}'))
    assert encode(submit) == b'{"type":"submit","ref":"a","task":"t","params":{"p":1}}'


def test_texts_of_a_form_become_fields_or_name_the_wrong_one() -> None:
    """A form has no numbers: they are read from their texts; faults are those of JSON."""
    assert convert_fields({"role": "control", "weight": "0.5"}, Input) == Input(role="control", weight=0.5)
    for texts, path in (({"role": "init", "end": "2"}, "end"), ({}, "role")):
        with pytest.raises(ClientFault) as fault:
            convert_fields(texts, Input)
        assert (fault.value.code, fault.value.details["path"]) == ("invalid_param", path)
