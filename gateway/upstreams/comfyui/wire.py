"""What a ComfyUI server's answers mean, without I/O: queue, history, refusals, and what is wrong with a graph.

What the server says of a failure is not for users: tracebacks, its own paths, whole tensors. Only an exception's type
and the first line of its message leave here, and what looks like a path is taken out of that line.
"""

import re
import struct
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.core.normal import Request
from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.upstreams.failures import COMMON, Failure, Told, fault_of, find
from protocol.ids import ALPHABET, is_ulid

TAG: Final = "safelight"
"""Under this name our id of a prompt goes along; a server that makes ids itself keeps it all the same."""
_MOST_MESSAGE: Final = 200
_MOST_TOLD: Final = 8
"""Wrong inputs of a graph that are told by name."""


def prompt_id_of(call: str) -> str:
    """Return the id under which a call is sent: a UUID of the call's own 128 bits, so that it can be found again."""
    if not is_ulid(call):
        return str(uuid.uuid5(uuid.NAMESPACE_OID, call))
    number = 0
    for letter in call:
        number = number << 5 | ALPHABET.index(letter)
    return str(uuid.UUID(int=number))


# ------------------------------------------------------------------------------------------------- queue and history


@dataclass(frozen=True, slots=True)
class Waiting:
    """A prompt that is in the queue; `client_id` is whom the server tells of it."""

    prompt_id: str
    is_running: bool
    client_id: str | None
    graph: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server keeps a result."""

    filename: str
    subfolder: str = ""
    type: str = "output"


@dataclass(frozen=True, slots=True)
class Entry:
    """A prompt that is in the history."""

    prompt_id: str
    is_good: bool
    places: tuple[Place, ...] = ()
    failure: Mapping[str, Any] | None = None
    """What `execution_error` said."""
    was_interrupted: bool = False
    graph: Mapping[str, Any] = field(default_factory=dict)


class _Extra(msgspec.Struct, frozen=True):
    client_id: str | None = None
    safelight: str | None = None


class _Queue(msgspec.Struct, frozen=True):
    queue_running: list[list[msgspec.Raw]]
    queue_pending: list[list[msgspec.Raw]]


class _Status(msgspec.Struct, frozen=True):
    status_str: str = "success"
    messages: list[list[Any]] = msgspec.field(default_factory=list)


class _Shown(msgspec.Struct, frozen=True):
    images: list[Place] = msgspec.field(default_factory=list)


class _Kept(msgspec.Struct, frozen=True):
    prompt: list[msgspec.Raw] = msgspec.field(default_factory=list)
    outputs: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    status: _Status | None = None


_QUEUE: Final = msgspec.json.Decoder(_Queue)
_HISTORY: Final = msgspec.json.Decoder(dict[str, _Kept])


def read_queue(body: bytes, prompt_id: str, tag: str) -> Waiting | None:
    """Return the prompt of that id, or with our tag, if it is in the queue. Raises `msgspec.DecodeError`."""
    queue = _QUEUE.decode(body)
    for is_running, items in ((True, queue.queue_running), (False, queue.queue_pending)):
        for item in items:
            name, extra = _name_of(item)
            if name == prompt_id or extra.safelight == tag:
                return Waiting(name, is_running, extra.client_id, _graph_of(item))
    return None


def read_history(body: bytes, prompt_id: str, tag: str) -> Entry | None:
    """Return the prompt of that id, or with our tag, if it is in the history. Raises `msgspec.DecodeError`."""
    for name, kept in _HISTORY.decode(body).items():
        if name == prompt_id or _name_of(kept.prompt)[1].safelight == tag:
            return _entry(name, kept)
    return None


def _name_of(item: list[msgspec.Raw]) -> tuple[str, _Extra]:
    if len(item) < 4:
        return "", _Extra()
    try:
        return msgspec.json.decode(item[1], type=str), msgspec.json.decode(item[3], type=_Extra)
    except msgspec.DecodeError:
        return "", _Extra()


def _graph_of(item: list[msgspec.Raw]) -> dict[str, Any]:
    with suppress(msgspec.DecodeError, IndexError):
        return msgspec.json.decode(item[2], type=dict[str, Any])
    return {}


def _entry(name: str, kept: _Kept) -> Entry:
    status = kept.status or _Status()  # very old servers kept none
    told = {str(one[0]): one[1] for one in status.messages if len(one) > 1 and isinstance(one[1], dict)}
    # The two look the same but for this message.
    return Entry(
        name,
        is_good=status.status_str == "success",
        places=_places(kept.outputs),
        failure=told.get("execution_error"),
        was_interrupted="execution_interrupted" in told,
        graph=_graph_of(kept.prompt),
    )


def _places(outputs: Mapping[str, msgspec.Raw]) -> tuple[Place, ...]:
    """The pictures that the nodes show: those meant to be kept, or else the passing ones."""
    places: list[Place] = []
    for shown in outputs.values():
        with suppress(msgspec.DecodeError):  # a node may show what it likes
            places += msgspec.json.decode(shown, type=_Shown).images
    return tuple([one for one in places if one.type == "output"] or places)


# ------------------------------------------------------------------------------------------------------ the submission


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the server says to a prompt that it took; `wrong` has the parts of the graph that it left out."""

    prompt_id: str
    wrong: tuple[str, ...]


class _Taken(msgspec.Struct, frozen=True):
    prompt_id: str
    node_errors: Any = None


class _Refused(msgspec.Struct, frozen=True):
    error: Any = None
    """An object; text from old servers."""
    node_errors: Any = None
    """An object; a list from old servers when it is empty."""


def read_accepted(body: bytes) -> Accepted:
    """Read an answer with status 200. Raises `msgspec.DecodeError`."""
    taken = msgspec.json.decode(body, type=_Taken)
    return Accepted(taken.prompt_id, wrong_inputs(taken.node_errors))


def wrong_inputs(node_errors: Any) -> tuple[str, ...]:
    """Return what is wrong with a graph as `class.input: type`; their own sentences list the server's files."""
    if not isinstance(node_errors, dict):
        return ()
    told = [line for node in node_errors.values() if isinstance(node, dict) for line in _wrong(node)]
    return tuple(told[:_MOST_TOLD])


def _wrong(node: Mapping[str, Any]) -> Iterable[str]:
    kind, errors = _plain(node.get("class_type")), node.get("errors")
    for error in errors if isinstance(errors, list) else ():
        if isinstance(error, dict):
            extra = error.get("extra_info")
            name = _plain(extra.get("input_name")) if isinstance(extra, dict) else ""
            yield f"{kind}{'.' if name else ''}{name}: {_plain(error.get('type'))}"


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.-]", "", str(value or ""))[:60]


_MISSING_MODEL: Final = re.compile(r"\.(ckpt_name|lora_name|control_net_name|model_name): value_not_in_list$")
_FAILURES: Final[dict[int | str, Failure]] = {
    **COMMON,
    413: Failure(Outcome.FAILED, "payload_too_large", "the server takes no body of that size"),
}


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    told, wrong = _told(body)
    row = find(_FAILURES, status, told.name)
    found = fault_of(row, told, status=status, headers=headers, secret=secret, upstream=upstream)
    return _named(found, wrong) if status == 400 else found


def graph_fault(wrong: tuple[str, ...], upstream: str) -> UpstreamFault:
    """Return the fault of a graph of which the server took only a part."""
    found = UpstreamFault(Outcome.FAILED, "upstream_error", "", details={"upstream": upstream, "status": 400})
    return _named(found, wrong)


def _named(fault: UpstreamFault, wrong: tuple[str, ...]) -> UpstreamFault:
    fault.details |= {"retryable": False, "node_errors": list(wrong)}
    fault.message = "the server does not accept the graph"
    if any(_MISSING_MODEL.search(line) for line in wrong):
        fault.code, fault.message = "model_not_found", "the server no longer has a model file that this needs"
    return fault


def _told(body: bytes) -> tuple[Told, tuple[str, ...]]:
    try:
        refused = msgspec.json.decode(body, type=_Refused)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Told(), ()
    wrong = wrong_inputs(refused.node_errors)
    if isinstance(refused.error, dict):
        message = "; ".join(wrong) or short_message(refused.error.get("message"))
        return Told(_plain(refused.error.get("type")), message), wrong
    return Told(message=short_message(refused.error)), wrong


# -------------------------------------------------------------------------------------------------------- failed work

_QUOTED_PATH: Final = re.compile(r"(['\"])[^'\"]*[\\/][^'\"]*\1")
_PATH: Final = re.compile(r"(?:\b[A-Za-z]:[\\/]|\\\\|(?<!\w)~?/)[^\s'\",;)\]]+")


def short_message(message: Any) -> str:
    """Return the first line of a message, cut short, without paths and tensors."""
    line = str(message or "").strip().partition("\n")[0].partition("tensor(")[0]
    line = _PATH.sub("...", _QUOTED_PATH.sub("'...'", line))
    return line.strip()[:_MOST_MESSAGE]


def failed(entry: Entry, request: Request, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault of a prompt that did not end well, though nobody here cancelled it."""
    details: dict[str, Any] = {"upstream": upstream}
    if entry.failure is None:
        ours = "the work was interrupted at the server" if entry.was_interrupted else "the work failed at the server"
        return UpstreamFault(Outcome.FAILED, "upstream_error", ours, details={**details, "retryable": True})
    kind = _plain(entry.failure.get("exception_type"))
    details["vendor_code"] = kind
    details["vendor_message"] = secret.redact(short_message(entry.failure.get("exception_message")))
    # The type's module differs with version and device.
    if kind.rpartition(".")[2] == "OutOfMemoryError":
        details["suggest"] = _smaller(request)
        return UpstreamFault(Outcome.FAILED, "out_of_memory", "the server ran out of memory", details=details)
    details["retryable"] = False
    return UpstreamFault(Outcome.FAILED, "upstream_error", "a node failed at the server", details=details)


def _smaller(request: Request) -> dict[str, int]:
    """About half the pixels, in steps that each model takes."""
    return {
        "width": max(64, int(request.width * 0.7) // 64 * 64),
        "height": max(64, int(request.height * 0.7) // 64 * 64),
    }


# ------------------------------------------------------------------------------------------------------------ pictures

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_TELLING: Final = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})


def without_texts(content: bytes) -> bytes:
    """Return a PNG without what is written beside its pixels: the server puts the whole prompt there. No decoding."""
    if not content.startswith(_PNG):
        return content
    view, at = memoryview(content), len(_PNG)
    kept: list[bytes | memoryview] = [_PNG]
    while at + 8 <= len(view):
        length, kind = struct.unpack(">I4s", view[at : at + 8])
        end = at + 12 + length
        if kind not in _TELLING:
            kept.append(view[at:end])
        at = end
    return b"".join(kept)
