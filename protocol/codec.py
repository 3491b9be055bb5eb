"""Bytes to message and back: JSON for control, told from pictures by the first byte.

Decoding is bounded before it begins (the caller gives the limit) and never raises anything but `ClientFault`
(the message is refused, the connection lives) or `ConnectionFault` (not JSON at all, the connection ends). A
refusal names the field and what is allowed there, read from the struct itself, so that text and check cannot
drift apart.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from protocol.errors import ClientFault, ConnectionFault
from protocol.messages import CLIENT_TYPES, ClientMessage, ErrorBody, ServerMessage, Submit

T = TypeVar("T")
MAX_PARAMS: Final = 32_768
MAX_SERVER_JSON: Final = 16_384

_encoder: Final = msgspec.json.Encoder()
_client_decoder: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)
_server_decoder: Final[msgspec.json.Decoder[ServerMessage]] = msgspec.json.Decoder(ServerMessage)
_MOST_TOLD: Final = 256
"""Characters of a client's own text in a refusal: a field's name may be as long as the message."""
_PATH: Final = re.compile(r" - at `(\$?[^`]*)`$")
_NAMED: Final = re.compile(r"(?:missing required|contains unknown) field `([^`]+)`")


class _Envelope(msgspec.Struct):
    """Just enough of a refused message to answer it."""

    ref: Any = None


class _Typed(msgspec.Struct):
    type: Any = None


def encode(message: msgspec.Struct) -> bytes:
    """Return the message as one JSON object."""
    return _encoder.encode(message)


def is_json(message: bytes | memoryview) -> bool:
    """Whether a WebSocket message is JSON: its first byte is `{`."""
    return len(message) > 0 and message[0] == 0x7B


def decode_client(raw: bytes, max_json: int) -> ClientMessage:
    """Return the client's message.

    Raises `ConnectionFault` when the bytes are too many or no JSON object, `ClientFault` when the type is
    unknown or a field is wrong.
    """
    if len(raw) > max_json:
        raise ConnectionFault("message_too_big", f"JSON has at most {max_json} bytes, not {len(raw)}")
    if not is_json(raw):
        raise ConnectionFault("bad_message", "the message is no JSON object")
    try:
        message = _client_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _explain(raw, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectionFault("bad_message", "the message is no JSON object") from error
    if isinstance(message, Submit) and not is_json(memoryview(message.params)):
        details = {"path": "params", "allowed": "object"}
        raise ClientFault("invalid_param", "Expected object", details=details)
    return message


def decode_server(raw: bytes) -> ServerMessage | None:
    """Return the server's message, or `None` for a type this client does not know (which it must ignore).

    Raises `ClientFault` when a known type has wrong fields and `ConnectionFault` when it is not JSON.
    """
    try:
        return _server_decoder.decode(raw)
    except msgspec.ValidationError as error:
        if "`$.type`" in str(error) and isinstance(_type_of(raw), str):
            return None
        raise ClientFault("bad_request", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectionFault("bad_message", "the message is no JSON object") from error


def ref_of(raw: bytes) -> str | None:
    """Return the `ref` of a refused message if it can still be read, so that the refusal can be answered."""
    try:
        ref = msgspec.json.decode(raw, type=_Envelope).ref
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return ref if isinstance(ref, str) and 0 < len(ref) <= 64 else None


def error_body(fault: ClientFault) -> ErrorBody:
    """Return the error object that tells a fault on the wire."""
    return ErrorBody(
        code=fault.code,
        message=fault.message,
        retryable=fault.entry.retryable if fault.retryable is None else fault.retryable,
        retry_after_ms=msgspec.UNSET if fault.retry_after_ms is None else fault.retry_after_ms,
        details=fault.details or msgspec.UNSET,
    )


def decode_fields(raw: bytes | msgspec.Raw, kind: type[T], prefix: str) -> T:
    """Return `raw` as a struct of `kind`; `ClientFault` names the wrong field as `prefix.field`."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind, prefix) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientFault("bad_request", "not a JSON object", details={"path": prefix or "body"}) from error


def convert_fields(texts: Mapping[str, Any], kind: type[T]) -> T:
    """Return the texts of a form as a struct of `kind`, numbers read from theirs; `ClientFault` as `decode_fields`."""
    try:
        return msgspec.convert(texts, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind, "") from error


def _type_of(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw, type=_Typed).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _explain(raw: bytes, text: str) -> ClientFault:
    """Return the refusal of a message that is JSON but not one of ours."""
    name = _type_of(raw)
    kind = next((struct for struct in CLIENT_TYPES if struct.__struct_config__.tag == name), None)
    if kind is not None:
        return _invalid(text, kind, "")
    if isinstance(name, str):
        return ClientFault("unknown_type", "no client message has this type", details={"path": "type"})
    return ClientFault("bad_request", "a message is an object with a string `type`", details={"path": "type"})


def _invalid(text: str, kind: Any, prefix: str) -> ClientFault:
    """Return the refusal for msgspec's sentence `text`, with the path and what is allowed there."""
    found = _PATH.search(text)
    path = found.group(1).removeprefix("$").removeprefix(".") if found else ""
    named = _NAMED.search(text)
    if named:
        path = f"{path}.{named.group(1)}".removeprefix(".")
    told = ".".join(part for part in (prefix, path) if part)[:_MOST_TOLD]
    details: dict[str, Any] = {"path": told or "body"}
    details |= _allowed(kind, path)
    return ClientFault("invalid_param", _PATH.sub("", text).replace("`", "")[:_MOST_TOLD], details=details)


def _allowed(kind: Any, path: str) -> dict[str, Any]:
    """Return what the struct `kind` allows at `path`, as far as its type says."""
    node: inspect.Type | None = inspect.type_info(kind)
    for part in re.findall(r"[^.\[\]]+", path):
        node = _child(node, part)
    return _describe(node)


def _child(node: inspect.Type | None, part: str) -> inspect.Type | None:
    if isinstance(node, inspect.StructType):
        return next((field.type for field in node.fields if field.encode_name == part), None)
    return node.item_type if isinstance(node, inspect.ListType) else None


def _describe(node: inspect.Type | None) -> dict[str, Any]:
    if isinstance(node, inspect.Metadata):
        node = node.type
    if isinstance(node, inspect.LiteralType):
        return {"allowed": list(node.values)}
    if isinstance(node, inspect.IntType | inspect.FloatType):
        return {"allowed": _interval(node)}
    if isinstance(node, inspect.StrType) and node.pattern:
        return {"pattern": node.pattern}
    if isinstance(node, inspect.StrType | inspect.ListType):
        bounds = {"min_length": node.min_length, "max_length": node.max_length}
        return {name: bound for name, bound in bounds.items() if bound is not None}
    return {"allowed": "object"} if isinstance(node, inspect.StructType | inspect.RawType) else {}


def _interval(node: inspect.IntType | inspect.FloatType) -> str:
    kind = "integer" if isinstance(node, inspect.IntType) else "number"
    bounds = [(">=", node.ge), (">", node.gt), ("<=", node.le), ("<", node.lt)]
    return " ".join([kind, *(f"{sign} {bound}" for sign, bound in bounds if bound is not None)])
