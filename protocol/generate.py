"""Write what can be derived: the tables of PROTOCOL.md, the JSON Schema and the AsyncAPI document.

`python -m protocol.generate` rewrites them, `--check` only says whether they are fresh. `render` is pure;
files are read and written in `main` alone. A table stands between `<!-- generated: NAME -->` and
`<!-- end -->`. What a field means is told in `MEANINGS`, because a struct's field has no docstring at run
time; a test holds it complete.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from protocol.errors import CLOSES, ERRORS
from protocol.header import FORMAT_NAMES, HEADER_SIZE, Flag, Format, Kind
from protocol.ladder import EDGES, QUALITIES
from protocol.messages import (
    CLIENT_TYPES,
    SERVER_TYPES,
    SUBPROTOCOL,
    ClientMessage,
    ErrorBody,
    Have,
    Image,
    Input,
    Limits,
    Previews,
    ServerMessage,
    Timings,
)

PATH: Final = "/v1/stream"
DOCUMENT: Final = "PROTOCOL.md"
SCHEMA: Final = "schema/messages.schema.json"
ASYNCAPI: Final = "schema/asyncapi.json"
OBJECTS: Final = (Previews, Have, Input, ErrorBody, Image, Timings)
_MARKED: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

MEANINGS: Final[dict[str, str]] = {
    "ref": "your name for this request; the answer repeats it",
    "job": "the job's ULID, as `accepted` gave it",
    "seq": "the event's number in its job, from 1",
    "time_ms": "the server's clock when it was written, Unix time",
    "v": "protocol version, `1`",
    "previews": "preview and progress policy",
    "finals": "how finished images come: by `url` or `inline` as binary messages",
    "model": "model id, see `GET /v1/models`",
    "task": "`txt2img`, `img2img`, `inpaint` or another task that the model names",
    "asset": "content id of the image",
    "format": "encoding of the image bytes",
    "w": "width in pixels",
    "h": "height in pixels",
    "bytes": "size of the image file",
    "url": "where to GET the image, absolute and signed",
    "url_expires_in_ms": "how long `url` works",
    "seed": "the seed that makes this image again",
    "index": "which image of the job, from 0",
    "images": "the images delivered so far",
    "cost_micros": "what the job cost",
    "error": "what went wrong",
    "attempt": "1, and one more each time the work began anew",
    "step": "steps done",
    "steps": "steps in all; 0 if unknown",
    "eta_ms": "estimated time left",
    "code": "entry of the error registry",
    "message": "English, for logs; may change",
    "Hello.token": "API key or token; leave it out if the upgrade carried a credential",
    "Hello.agent": "name and version of the client, for the server's log",
    "Hello.max_message": "the largest WebSocket message that the client can take, in bytes",
    "Hello.window": "how many unacknowledged binary bytes may be under way; 0: no limit",
    "Hello.previews": "policy of the connection; absent: no previews",
    "Hello.resume": "`resume` of the newest `synced`",
    "Hello.have": "the last number handled of each job; only with `resume`",
    "Submit.ref": "idempotency key, unique for the subject for 24 h",
    "Submit.params": "what to draw; at most 32 KiB (section 8)",
    "Submit.inputs": "input images",
    "Submit.model": "model id; absent: the server's default for the task",
    "Submit.previews": "policy of this job; absent: the connection's",
    "Submit.finals": "as in `hello`, for this job; absent: the connection's",
    "Submit.priority": "order among the account's own waiting jobs; 1 is first",
    "Submit.max_cost_micros": "refuse the job if it might cost more",
    "Submit.deadline_ms": "from now; after that the job is canceled by `deadline`",
    "Submit.on_disconnect": "what becomes of the job when the *session* ends",
    "Cancel.grant": "needed where the job belongs to somebody else; must hold the right `cancel`",
    "Watch.after": "the last number you handled; events after it follow",
    "Watch.previews": "policy of this job; absent: the connection's",
    "Watch.finals": "as in `hello`, for this job; absent: the connection's",
    "Watch.grant": "needed where the job belongs to somebody else; must hold the right `watch`",
    "Prefs.job": "the job meant; absent: the connection",
    "Ack.bytes": "total size of all binary messages received on this connection, headers included",
    "Ping.t": "any number, comes back in `pong`",
    "Previews.max_fps": "previews per second and job; absent: every one, 0: none",
    "Previews.max_edge": "longest side in pixels",
    "Previews.format": "encoding; `raw` is RGBA8",
    "Previews.quality": "for jpeg and webp",
    "Previews.progress_max_hz": "`progress` per second and job; absent: every step",
    "Have.seq": "the last number handled",
    "Input.role": "`init`, `mask`, `control`, `reference`, `depth` or another role of the task",
    "Input.asset": "an image that the server has; this or `upload`",
    "Input.upload": "an upload sent before on this connection; this or `asset`",
    "Input.weight": "how strongly the input acts",
    "Input.start": "share of the steps where the input begins to act",
    "Input.end": "share of the steps where it stops",
    "Input.preprocessor": "what the server applies to the image first",
    "ErrorBody.retryable": "whether the same request may succeed later without change",
    "ErrorBody.retry_after_ms": "wait at least this long",
    "ErrorBody.details": "facts for programs: `path`, `allowed`, ...",
    "Image.seq": "number of the event that delivered it",
    "Timings.queue_ms": "waiting",
    "Timings.load_ms": "loading the model",
    "Timings.run_ms": "drawing",
    "Timings.total_ms": "from `accepted` to the end",
    "Welcome.session": "the session's ULID",
    "Welcome.resumed": "whether the session of `hello.resume` goes on",
    "Welcome.time_ms": "the server's clock, Unix time",
    "Welcome.heartbeat_ms": "the server is never silent for longer",
    "Welcome.session_ttl_ms": "how long a session outlives its connection",
    "Welcome.event_retention_ms": "how long a log outlives the job's end",
    "Welcome.asset_retention_ms": "how long an asset is kept after its last use",
    "Welcome.currency": "what `_micros` are millionths of",
    "Welcome.features": "optional parts that this server has, such as `upload`, `inline_finals`, `sse`",
    "Welcome.limits": "this server's limits (section 14)",
    "Synced.resume": "opaque; adopt it now, for the next `hello`",
    "Synced.replayed": "how many numbered events were replayed",
    "Ok.job": "the job that the request concerned",
    "Error.ref": "the request that was refused",
    "Error.job": "the job that it concerns",
    "Error.upload": "the upload that it concerns",
    "AssetStored.expires_in_ms": "how long it is kept from now, unless it is used",
    "AssetStored.upload": "the upload that it came from",
    "GoAway.reason": "why",
    "GoAway.retry_after_ms": "wait this long before reconnecting; another value for each connection",
    "ServerPing.time_ms": "the server's clock, Unix time",
    "Pong.t": "the `t` of the `ping`",
    "Accepted.seq": "always 1",
    "Accepted.duplicate": "whether the `ref` was known already: the job is the old one",
    "Accepted.cost_max_micros": "the most that the job can cost",
    "Accepted.events_url": "the job's events over SSE, signed, for whoever cannot send headers",
    "ImageReady.count": "how many images the job makes",
    "Notice.code": "what happened: `param_clamped`, `sampler_fallback`, `image_filtered`, ...",
    "Notice.index": "the image concerned, from 0",
    "Completed.timings": "where the time went",
    "Canceled.by": "who ended it",
    "Snapshot.seq": "set `last[job]` to this, even downwards",
    "Snapshot.state": "where the job stands",
    "Snapshot.reset": "whether what you held before is void",
    "Snapshot.reason": "`trimmed`: the log is past its retention; `store_reset`: the numbers began anew",
    "Queued.position": "place in the queue, from 1",
    "Queued.model_state": "whether the model must be loaded first",
    "Progress.phase": "what is being done",
    "Progress.step": "steps done of the current image",
    "Progress.ratio": "share of the whole job done",
    "Progress.estimated": "the gateway's estimate: the upstream reports nothing",
    "PreviewReady.frame": "the preview's counter",
    "PreviewReady.url": "where to GET the preview",
    "Limits.max_message": "largest message to the client, in bytes",
    "Limits.max_json": "largest JSON message from the client, in bytes",
    "Limits.max_chunk": "image bytes of one chunk from the client, at most",
    "Limits.max_upload_bytes": "largest input image, in bytes",
    "Limits.max_input_pixels": "largest input image after decoding, in pixels",
    "Limits.max_inputs": "input images of a job",
    "Limits.max_jobs": "live jobs of a subject",
    "Limits.max_watch": "jobs followed on one connection",
    "Limits.msgs_per_s": "JSON messages from the client per second, without `ack`; bursts of twice as many",
    "Limits.max_preview_fps": "previews per second and job",
    "Limits.max_preview_edge": "longest side of a preview, in pixels",
    "Limits.max_connections": "connections of a subject",
}
"""What a field means, by `Struct.field`, else by the field's name alone."""

HEADER: Final = (
    ("magic", 4, '`53 46 4c 31` = "SFL1"', "same"),
    ("kind", 1, "what it carries, see below", "16"),
    ("format", 1, "encoding of the image bytes, see below", "same"),
    ("data_offset", 2, "where the image bytes begin: at least 64, a multiple of 4", "64"),
    ("seq", 4, "kinds 2 and 3: the event's number; kind 1: the last number before this preview", "0"),
    ("frame", 4, "kind 1: the job's preview counter from 1, counted before merging, never restarts; else 0", "0"),
    ("total_size", 4, "bytes of the whole image, over all its chunks", "same"),
    ("chunk_offset", 4, "where this message's image bytes belong in the whole", "same"),
    ("width", 2, "pixels", "0 (raw formats: pixels)"),
    ("height", 2, "pixels", "0 (raw formats: pixels)"),
    ("step", 2, "steps done, 0 if unknown", "0"),
    ("steps", 2, "steps in all, 0 if unknown", "0"),
    ("image_index", 2, "which image of the job, from 0", "0"),
    ("image_count", 2, "images of the job", "0"),
    ("flags", 2, "bits, see below", "bit 0"),
    ("job_id", 26, "the job's ULID, ASCII", "the upload's id: 26 of `0-9A-Z`, ASCII"),
)
"""The header's fields in order: name, size in bytes, meaning from the server, value in an upload."""

KINDS: Final = {
    Kind.PREVIEW: "preview (server to client); always one message",
    Kind.FINAL: "final image (server to client); one or more messages",
    Kind.AUXILIARY: "reserved: auxiliary final, such as a control map or a mask (server to client)",
    Kind.UPLOAD: "input image (client to server); one or more messages",
}
FORMATS: Final = {
    Format.OTHER: "see metadata `mime`",
    Format.JPEG: "JPEG",
    Format.PNG: "PNG",
    Format.WEBP: "WebP",
    Format.RGBA8: "raw, 4 bytes a pixel, straight alpha, sRGB, top row first",
    Format.RGB8: "raw, 3 bytes a pixel, sRGB, top row first",
}
FLAGS: Final = {
    Flag.LAST_CHUNK: "last chunk: the image is whole after this message",
    Flag.ALPHA: "the image has an alpha channel",
    Flag.APPROXIMATE: "approximate preview, made from latents without the decoder",
}


def render(document: str) -> dict[str, str]:
    """Return every derived file, by its path under `protocol/`; `document` is PROTOCOL.md as it stands.

    Raises `KeyError` if the document marks a table that nobody makes.
    """
    tables = _tables()
    return {
        DOCUMENT: _MARKED.sub(lambda found: f"{found[1]}\n{tables[found[2]]}\n\n{found[3]}", document),
        SCHEMA: _json(_schema()),
        ASYNCAPI: _json(_asyncapi()),
    }


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


# Tables of PROTOCOL.md.


def _tables() -> dict[str, str]:
    formats = {number: name for name, number in FORMAT_NAMES.items()}
    return {
        "client-messages": _structs(CLIENT_TYPES),
        "server-messages": _structs(SERVER_TYPES),
        "objects": _structs(OBJECTS),
        "limits": _table(
            ("Limit", "Default", "Meaning"),
            ((f"`{f.name}`", f"{f.default}", meaning("Limits", f.name)) for f in msgspec.structs.fields(Limits)),
        ),
        "error-codes": _table(
            ("Code", "Number", "Group", "HTTP", "Retryable", "Meaning", "What to do"),
            (
                (f"`{e.name}`", f"{e.number}", e.group, f"{e.http}", _yes(e.retryable), e.meaning, e.advice)
                for e in ERRORS.values()
            ),
        ),
        "close-codes": _table(
            ("Code", "Name", "Reconnect", "Meaning"),
            ((f"{c.number}", f"`{c.name}`", _yes(c.reconnect), c.meaning) for c in CLOSES.values()),
        ),
        "header": _table(("Offset", "Size", "Field", "From the server", "In an upload"), _header_rows()),
        "kinds": _table(("`kind`", "Meaning"), ((f"{kind:d}", text) for kind, text in KINDS.items())),
        "formats": _table(
            ("`format`", "Name in JSON", "Meaning"),
            ((f"{form:d}", f"`{formats[form]}`" if form else "-", text) for form, text in FORMATS.items()),
        ),
        "flags": _table(
            ("Bit", "Value", "Meaning"),
            ((f"{flag.bit_length() - 1}", f"{flag:d}", text) for flag, text in FLAGS.items()),
        ),
        "ladder": _table(
            ("What", "Rungs"),
            (("longest side, pixels", _listed(EDGES)), ("quality, jpeg and webp", _listed(QUALITIES))),
        ),
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _header_rows() -> Iterator[Sequence[str]]:
    offset = 0
    for name, size, meant, uploaded in HEADER:
        yield f"{offset}", f"{size}", f"`{name}`", meant, uploaded
        offset += size
    yield (
        f"{offset}",
        "any",
        "metadata",
        "optional JSON object up to `data_offset`, padded with spaces",
        "none",
    )


def _yes(true: bool) -> str:  # noqa: FBT001 (it is what is told)
    return "yes" if true else "no"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _structs(kinds: Iterable[Any]) -> str:
    return "\n\n".join(_struct(kind) for kind in kinds)


def _struct(kind: Any) -> str:
    """Return one struct as a heading, its sentence and the table of its fields."""
    tag = kind.__struct_config__.tag
    intro = f"#### `{tag or kind.__name__}`\n\n{kind.__doc__}"
    fields = sorted(msgspec.structs.fields(kind), key=lambda field: not field.required)
    types = {f.encode_name: f.type for f in _struct_type(kind).fields}
    rows = [
        (
            f"`{f.encode_name}`",
            _type(types[f.encode_name]),
            _yes(f.required),
            _limit(types[f.encode_name], f),
            meaning(kind.__name__, f.name),
        )
        for f in fields
    ]
    return f"{intro}\n\n{_table(('Field', 'Type', 'Required', 'Allowed', 'Meaning'), rows)}"


def _struct_type(kind: Any) -> inspect.StructType:
    node = inspect.type_info(kind)
    assert isinstance(node, inspect.StructType), "only structs are told"
    return node


def meaning(struct: str, field: str) -> str:
    """Return what a field means; `KeyError` if nobody wrote it down."""
    own = f"{struct}.{field}"
    return MEANINGS[own if own in MEANINGS else field]


def _type(node: inspect.Type) -> str:
    if isinstance(node, inspect.Metadata):
        return _type(node.type)
    if isinstance(node, inspect.ListType):
        return f"array of {_type(node.item_type)}"
    if isinstance(node, inspect.StructType):
        return f"object `{node.cls.__name__}`"
    names: dict[type[inspect.Type], str] = {
        inspect.IntType: "integer",
        inspect.FloatType: "number",
        inspect.BoolType: "boolean",
        inspect.StrType: "string",
        inspect.LiteralType: "string",
        inspect.RawType: "object",
        inspect.DictType: "object",
    }
    return names[type(node)]


def _limit(node: inspect.Type, field: msgspec.structs.FieldInfo) -> str:
    told = [_bounds(node)]
    if field.default not in (msgspec.NODEFAULT, msgspec.UNSET, ""):
        told.append(f"default `{msgspec.json.encode(field.default).decode()}`")
    return "; ".join(text for text in told if text)


def _bounds(node: inspect.Type) -> str:
    if isinstance(node, inspect.Metadata):
        return str((node.extra_json_schema or {})["description"])
    if isinstance(node, inspect.LiteralType):
        return ", ".join(f"`{value}`" for value in node.values)
    if isinstance(node, inspect.IntType | inspect.FloatType):
        return _interval(node)
    if isinstance(node, inspect.StrType) and node.max_length is not None:
        return f"{node.min_length or 0} to {node.max_length} characters"
    if isinstance(node, inspect.ListType) and node.max_length is not None:
        return f"at most {node.max_length}"
    return ""


def _interval(node: inspect.IntType | inspect.FloatType) -> str:
    """Return the bounds; every integer is below 2^53, so that bound alone is not told."""
    highest = node.le if node.lt is None else node.lt - 1
    if highest is None or highest == 2**53 - 1:
        return "" if node.ge is None else f"from {node.ge}"
    return f"{node.ge} to {highest}"


# Schemas.


def _schema() -> dict[str, Any]:
    """Return the JSON Schema of both directions; unknown fields are allowed, as on the wire."""
    (client, server), shared = msgspec.json.schema_components(
        [ClientMessage, ServerMessage], ref_template="#/$defs/{name}"
    )
    shared["Submit"]["properties"]["params"] = {"type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Safelight wire protocol, {SUBPROTOCOL}: JSON messages",
        "anyOf": [{"$ref": "#/$defs/ClientMessage"}, {"$ref": "#/$defs/ServerMessage"}],
        "$defs": {"ClientMessage": client, "ServerMessage": server, **shared},
    }


def _asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document, seen from the gateway: it receives what clients send."""
    messages = {kind.__name__: _message(kind) for kind in (*CLIENT_TYPES, *SERVER_TYPES)}
    messages["Picture"] = _binary("picture", "Preview or final image", [Kind.PREVIEW, Kind.FINAL, Kind.AUXILIARY])
    messages["Upload"] = _binary("upload", "Input image", [Kind.UPLOAD])
    received = [*(kind.__name__ for kind in CLIENT_TYPES), "Upload"]
    sent = [*(kind.__name__ for kind in SERVER_TYPES), "Picture"]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Safelight", "version": "1", "description": "See PROTOCOL.md, which rules."},
        "defaultContentType": "application/json",
        "servers": {"gateway": {"host": "{host}", "protocol": "wss", "variables": {"host": {"default": "localhost"}}}},
        "channels": {
            "stream": {
                "address": PATH,
                "description": f"One WebSocket, subprotocol `{SUBPROTOCOL}`; no extension is negotiated.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "receive": _operation("receive", "What a client sends.", received),
            "send": _operation("send", "What the gateway sends.", sent),
        },
        "components": {"messages": messages},
    }


def _operation(action: str, summary: str, names: Iterable[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/stream"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/stream/messages/{name}"} for name in names],
    }


def _message(kind: Any) -> dict[str, Any]:
    return {
        "name": kind.__struct_config__.tag,
        "summary": kind.__doc__,
        "contentType": "application/json",
        "payload": {"$ref": f"./messages.schema.json#/$defs/{kind.__name__}"},
    }


def _binary(name: str, summary: str, kinds: Iterable[Kind]) -> dict[str, Any]:
    fields = [
        {"offset": int(offset), "size": int(size), "name": field.strip("`"), "meaning": meant}
        for offset, size, field, meant, _ in list(_header_rows())[:-1]
    ]
    return {
        "name": name,
        "summary": summary,
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary", "minLength": HEADER_SIZE},
        "x-header": {"byteOrder": "little-endian", "size": HEADER_SIZE, "fields": fields},
        "x-kinds": [int(kind) for kind in kinds],
    }


def main(arguments: Sequence[str], folder: Path) -> int:
    """Write what is stale under `folder`, or with `--check` only name it; return the exit status."""
    checking = "--check" in arguments
    wanted = render((folder / DOCUMENT).read_text(encoding="utf-8"))
    stale = [name for name, text in wanted.items() if _read(folder / name) != text]
    for name in stale:
        sys.stderr.write(f"protocol/{name} {'is stale: run python -m protocol.generate' if checking else 'written'}\n")
        if not checking:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(wanted[name], encoding="utf-8")
    return int(checking and bool(stale))


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":  # pragma: no cover (run by a test in a process of its own)
    sys.exit(main(sys.argv[1:], Path(__file__).parent))
