"""The structs of the wire: round trips of all of them, and one verdict with the JSON Schema."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import inspect

from protocol import messages
from protocol.codec import MAX_SERVER_JSON, decode_client, decode_server, encode
from protocol.errors import ClientFault, ConnectionFault
from protocol.generate import SCHEMA, render
from protocol.messages import (
    CLIENT_TYPES,
    END_TYPES,
    NUMBERED_TYPES,
    SERVER_TYPES,
    ClientMessage,
    ServerMessage,
)

JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
ASSET = "sha256:" + "5b" * 32
SCHEMAS: dict[str, Any] = json.loads(render("")[SCHEMA])
FROM_CLIENT = Draft202012Validator({**SCHEMAS, "anyOf": [{"$ref": "#/$defs/ClientMessage"}]})
FROM_SERVER = Draft202012Validator({**SCHEMAS, "anyOf": [{"$ref": "#/$defs/ServerMessage"}]})

texts = st.text(st.characters(codec="utf-8"), max_size=12)
objects = st.dictionaries(texts, st.one_of(st.integers(0, 2**53), texts, st.booleans()), max_size=3)


def values(node: inspect.Type) -> st.SearchStrategy[Any]:
    """Return a strategy for what a field of this type may hold."""
    match node:
        case inspect.Metadata():
            return values(node.type)
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(node.ge, node.lt - 1 if node.lt is not None else node.le)
        case inspect.FloatType():
            return st.floats(node.ge, node.le)
        case inspect.LiteralType():
            return st.sampled_from(node.values)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern.replace(r"(?![\s\S])", r"\Z"))
        case inspect.StrType():
            highest = 12 if node.max_length is None else min(12, node.max_length)
            return st.text(st.characters(codec="utf-8"), min_size=node.min_length or 0, max_size=highest)
        case inspect.ListType():
            return st.lists(values(node.item_type), max_size=3)
        case inspect.StructType():
            return structs(node.cls)
        case inspect.RawType():
            return objects.map(lambda found: msgspec.Raw(msgspec.json.encode(found)))
        case inspect.DictType():
            return objects
    pytest.fail(f"no message has had a {node} yet")


def structs(kind: type) -> st.SearchStrategy[Any]:
    """Return a strategy for a struct, each field that may be absent sometimes being so."""
    node = inspect.type_info(kind)
    assert isinstance(node, inspect.StructType)
    required = {field.name: values(field.type) for field in node.fields if field.required}
    optional = {field.name: values(field.type) for field in node.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind(**fields))


client_messages = st.one_of([structs(kind) for kind in CLIENT_TYPES])
server_messages = st.one_of([structs(kind) for kind in SERVER_TYPES])


@given(client_messages)
def test_any_client_message_survives_a_round_trip_and_fits_the_schema(message: ClientMessage) -> None:
    """What is encoded decodes to the equal object, and the schema accepts it."""
    raw = encode(message)
    assert decode_client(raw, len(raw)) == message
    FROM_CLIENT.validate(json.loads(raw))


@given(server_messages)
def test_any_server_message_survives_a_round_trip_and_fits_the_schema(message: ServerMessage) -> None:
    """The same in the other direction; nothing on the wire is null."""
    raw = encode(message)
    assert decode_server(raw) == message
    assert None not in json.loads(raw).values()
    FROM_SERVER.validate(json.loads(raw))


@settings(max_examples=300)
@given(st.one_of(client_messages, server_messages), st.data())
def test_message_with_a_spoilt_field_gets_one_verdict(message: Any, data: st.DataObject) -> None:
    """Codec and schema agree on every message with one field lost or replaced."""
    fields = json.loads(encode(message))
    name = data.draw(st.sampled_from(sorted(set(fields) - {"type"}) or ["ref"]))
    odd = st.sampled_from([None, True, -1, 0, 2**53, 0.5, "", "x", "x" * 5000, [], [1], {}, {"x": 1}])
    spoilt = {**fields, name: data.draw(odd)}
    if data.draw(st.booleans()):
        del spoilt[name]
    from_client = isinstance(message, CLIENT_TYPES)
    assert _decodes(spoilt, from_client) is (FROM_CLIENT if from_client else FROM_SERVER).is_valid(spoilt)


def _decodes(fields: dict[str, Any], from_client: bool) -> bool:
    raw = json.dumps(fields).encode()
    try:
        return (decode_client(raw, len(raw)) if from_client else decode_server(raw)) is not None
    except (ClientFault, ConnectionFault):
        return False


SUBMIT = {"type": "submit", "ref": "a", "task": "t", "params": {}}
HELLO = {"type": "hello", "v": 1}
DONE = {"type": "completed", "job": JOB, "seq": 5, "time_ms": 1, "images": []}
TIMES = {"queue_ms": 0, "load_ms": 0, "run_ms": 0, "total_ms": 0}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"type": "nope"},
        {"type": 5},
        {"type": "hello"},
        {**HELLO, "v": 0},
        {**HELLO, "v": "1"},
        {**HELLO, "max_message": 16383},
        {**HELLO, "window": -1},
        {**HELLO, "window": 2**53},
        {**HELLO, "agent": "x" * 257},
        {**HELLO, "resume": "x" * 513},
        {**HELLO, "finals": "both"},
        {**HELLO, "previews": {"max_edge": 63}},
        {**HELLO, "previews": {"max_edge": 1025}},
        {**HELLO, "previews": {"max_fps": 241}},
        {**HELLO, "previews": {"quality": 0}},
        {**HELLO, "previews": {"progress_max_hz": 0.5}},
        {**HELLO, "previews": []},
        {**HELLO, "have": [{"job": JOB}]},
        {**HELLO, "have": [{"job": JOB, "seq": 2**32}]},
        {**HELLO, "have": [{"job": JOB, "seq": 1}] * 257},
        {**SUBMIT, "ref": ""},
        {**SUBMIT, "ref": "a b"},
        {**SUBMIT, "ref": "a\n"},
        {**SUBMIT, "ref": "x" * 65},
        {**SUBMIT, "task": ""},
        {**SUBMIT, "params": []},
        {**SUBMIT, "params": None},
        {**SUBMIT, "priority": 2},
        {**SUBMIT, "deadline_ms": 0},
        {**SUBMIT, "on_disconnect": "stop"},
        {**SUBMIT, "inputs": [{"asset": ASSET}]},
        {**SUBMIT, "inputs": [{"role": "init", "asset": "sha256:5b1e"}]},
        {**SUBMIT, "inputs": [{"role": "init", "upload": "a" * 26}]},
        {**SUBMIT, "inputs": [{"role": "init"}] * 9},
        {"type": "submit", "task": "t", "params": {}},
        {"type": "cancel"},
        {"type": "watch", "job": JOB.lower()},
        {"type": "watch", "job": JOB, "after": -1},
        {"type": "watch", "job": JOB, "grant": "x" * 513},
        {"type": "ack"},
        {"type": "ack", "bytes": 0.5},
        {"type": "ping", "t": True},
    ],
    ids=json.dumps,
)
def test_bad_client_message_is_refused_by_codec_and_schema(bad: dict[str, Any]) -> None:
    """A client author who tests against the schema learns what the server would say."""
    assert not FROM_CLIENT.is_valid(bad)
    assert not _decodes(bad, from_client=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "nope"},
        {"type": "synced", "resume": "r"},
        {"type": "ok"},
        {"type": "goaway", "reason": "fun", "retry_after_ms": 1},
        {"type": "progress", "job": JOB, "phase": "denoising", "step": 1, "steps": 2, "ratio": 1.5},
        {"type": "queue", "job": JOB, "position": 0},
        DONE,
        {**DONE, "timings": {**TIMES, "run_ms": -1}},
        {**DONE, "timings": TIMES, "images": [{"index": 0}]},
        {**DONE, "timings": TIMES, "seq": 2**32},
        {**DONE, "timings": TIMES, "job": "x"},
    ],
    ids=json.dumps,
)
def test_bad_server_message_is_refused_by_codec_and_schema(bad: dict[str, Any]) -> None:
    """A type that a client does not know is no message to it, and no valid one to the schema."""
    assert not FROM_SERVER.is_valid(bad)
    assert not _decodes(bad, from_client=False)


def test_integer_with_a_fraction_is_refused_by_the_codec_alone() -> None:
    """JSON Schema can't tell 1.0 from 1; the wire asks for integers without a fraction."""
    assert FROM_CLIENT.is_valid({**HELLO, "v": 1.0})
    assert not _decodes({**HELLO, "v": 1.0}, from_client=True)


def test_every_type_is_listed_once_in_each_direction() -> None:
    """Tags are unique within a direction, and the unions hold just what the tuples list."""
    for kinds, union in ((CLIENT_TYPES, ClientMessage), (SERVER_TYPES, ServerMessage)):
        tags = [kind.__struct_config__.tag for kind in kinds]
        assert len(tags) == len(set(tags))
        assert set(kinds) == set(union.__args__)


def test_numbered_messages_begin_with_their_place_in_the_log() -> None:
    """Job, number and time are required of each; passing messages have no number."""
    for kind in SERVER_TYPES:
        required = {field.name for field in msgspec.structs.fields(kind) if field.required}
        assert (kind in NUMBERED_TYPES or kind is messages.Snapshot) is ({"job", "seq", "time_ms"} <= required)
    assert set(END_TYPES) < set(NUMBERED_TYPES)


def test_end_event_of_the_largest_job_fits_the_servers_limit() -> None:
    """Thirty-two images with long URLs still stay under 16 KiB."""
    image = messages.Image(
        index=31,
        format="png",
        w=1024,
        h=1024,
        bytes=10**7,
        asset=ASSET,
        seed=2**53 - 1,
        url=f"https://gateway.example/v1/assets/{'5b' * 32}?sig={'x' * 64}",
        url_expires_in_ms=3_600_000,
        seq=2**32 - 1,
    )
    done = messages.Completed(
        job=JOB, seq=1, time_ms=1, images=[image] * 32, timings=messages.Timings(0, 0, 0, 0), cost_micros=1
    )
    assert len(encode(done)) <= MAX_SERVER_JSON


def test_no_object_has_data_as_keys() -> None:
    """Several engines can't read maps, so only `details` is one."""
    for kind in SERVER_TYPES:
        node = inspect.type_info(kind)
        assert isinstance(node, inspect.StructType)
        assert not any(isinstance(field.type, inspect.DictType) for field in node.fields)
