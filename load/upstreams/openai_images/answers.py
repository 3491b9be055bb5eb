"""Successful answers: plain ones, streams of events, and spoilt ones."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pybase64

from load.upstreams.faults import Garbage
from load.upstreams.garbage import spoilt_body
from load.upstreams.openai_images.models import as_text
from load.upstreams.openai_images.orders import Order
from load.upstreams.openai_images.profiles import Profile
from load.upstreams.wire import Answer

_OUTPUT_TOKENS = {"low": 272, "medium": 1056, "high": 4160, "xhigh": 8320, "max": 16640}
_PIXELS_OF_THOSE = 1024 * 1024
_TOKENS_OF_A_PARTIAL = 100
_TOKENS_OF_AN_UPLOAD = 300
_CHARACTERS_OF_A_TOKEN = 4
_LAST_CHUNK = b"0\r\n\r\n"

JSON = (("Content-Type", "application/json"),)
EVENT_STREAM = (("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache"))


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream before it is rendered."""

    name: str
    data: bytes
    after: float
    """Its place in the work: 0 is the start, 1 the end."""

    @property
    def frame(self) -> bytes:
        return b"event: " + self.name.encode() + b"\ndata: " + self.data + b"\n\n"


@dataclass(frozen=True, slots=True)
class StreamAnswer(Answer):
    """An answer whose events leave one by one."""

    ends: tuple[int, ...] = ()
    """Where in the body each event ends."""

    def rest(self, events: int) -> int:
        """Bytes that come after so many events; never 0, for the last chunk always comes."""
        end = self.ends[min(events, len(self.ends)) - 1] if events > 0 and self.ends else 0
        return len(self.body) - end


def stream_answer(events: Sequence[Event], start: float, seconds: float) -> StreamAnswer:
    """The stream of these events, spread over the seconds from `start` on in their places."""
    body, ends, times = b"", [], []
    for event in events:
        times.append((len(body), start + seconds * event.after))
        body += _chunk(event.frame)
        ends.append(len(body))
    if not events:
        times.append((0, start + seconds))
    return StreamAnswer(200, EVENT_STREAM, body + _LAST_CHUNK, tuple(times), tuple(ends))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def partial_event(order: Order, picture: bytes, index: int) -> Event:
    """A picture that is not finished."""
    family = "image_edit" if order.operation == "edits" else "image_generation"
    name = f"{family}.partial_image"
    fields = {"type": name, "partial_image_index": index} | _event_fields(order)
    return Event(name, _with_picture(picture, fields), (index + 1) / (order.partials + 1))


def completed_event(order: Order, picture: bytes, partials: int) -> Event:
    """The finished picture; `partials` is how many were sent before."""
    family = "image_edit" if order.operation == "edits" else "image_generation"
    name = f"{family}.completed"
    fields: dict[str, object] = {"type": name} | _event_fields(order) | {"usage": usage(order, partials)}
    if order.safety_identifier is not None:
        fields["safety_identifier"] = order.safety_identifier
    return Event(name, _with_picture(picture, fields), 1.0)


def error_event(error: object, after: float) -> Event:
    """An error in the middle of a stream."""
    return Event("error", json.dumps({"type": "error", "error": error}).encode(), after)


def _event_fields(order: Order) -> dict[str, object]:
    return {"created_at": int(time.time())} | _description(order)


def _description(order: Order) -> dict[str, object]:
    return {
        "size": as_text(order.size),
        "quality": order.quality,
        "background": order.background,
        "output_format": order.output_format,
    }


def _with_picture(picture: bytes, fields: dict[str, object]) -> bytes:
    # Put together by hand: a JSON encoder would look at each of two million letters for something to escape.
    rest = json.dumps(fields).encode()[1:]
    return b'{"b64_json": "' + pybase64.b64encode(picture) + b'", ' + rest


def usage(order: Order, partials: int = 0) -> dict[str, object]:
    """What the vendor would put on the bill."""
    text = math.ceil(len(order.prompt) / _CHARACTERS_OF_A_TOKEN)
    uploaded = order.images * _TOKENS_OF_AN_UPLOAD
    share = order.size[0] * order.size[1] / _PIXELS_OF_THOSE
    each = round(_OUTPUT_TOKENS.get(order.quality, 0) * share)
    output = order.n * each + partials * _TOKENS_OF_A_PARTIAL
    return {
        "input_tokens": text + uploaded,
        "input_tokens_details": {"image_tokens": uploaded, "text_tokens": text},
        "output_tokens": output,
        "total_tokens": text + uploaded + output,
    }


def plain_answer(order: Order, profile: Profile, items: Sequence[bytes], number: int) -> Answer:
    """The JSON form; `items` are the rendered entries of `data`."""
    fields: dict[str, object] = {"created": int(time.time())}
    if profile.identified:
        fields["id"] = f"standin-{number}"
    if profile.describes and order.model.family == "gpt":
        fields |= _description(order) | {"usage": usage(order)}
        if order.safety_identifier is not None:
            fields["safety_identifier"] = order.safety_identifier
    body = json.dumps(fields).encode()[:-1] + b', "data": [' + b", ".join(items) + b"]}"
    return Answer(200, JSON, body)


def inline_item(order: Order, profile: Profile, picture: bytes) -> bytes:
    """An entry of `data` that holds the picture."""
    fields = _beside(order, profile) | ({"url": None} if profile.full_items else {})
    rest = json.dumps(fields).encode()[1:]
    return b'{"b64_json": "' + pybase64.b64encode(picture) + (b'", ' if fields else b'"') + rest


def url_item(order: Order, profile: Profile, url: str) -> bytes:
    """An entry of `data` that says where the picture lies."""
    fields = {"url": url} | _beside(order, profile) | ({"b64_json": None} if profile.full_items else {})
    return json.dumps(fields).encode()


def _beside(order: Order, profile: Profile) -> dict[str, object]:
    if order.model.family == "dall-e-3" or profile.revised_is_prompt:
        return {"revised_prompt": order.prompt}
    return {"revised_prompt": None} if profile.full_items else {}


def spoilt_plain(answer: Answer, fault: Garbage) -> Answer:
    """The plain answer with the body the fault asks for."""
    return Answer(answer.status, answer.headers, spoilt_body(answer.body, fault, _as_plain))


def spoilt_event(event: Event, fault: Garbage) -> Event:
    """The event with the data the fault asks for."""
    return Event(event.name, spoilt_body(event.data, fault, _as_event(event.name)), event.after)


def _as_plain(text: str) -> bytes:
    return json.dumps({"created": 1, "data": [{"b64_json": text}]}).encode()


@functools.cache
def _as_event(name: str) -> Callable[[str], bytes]:
    return lambda text: json.dumps({"type": name, "b64_json": text}).encode()
