"""From a generation's body to its order, in whichever dialect; and what the log keeps of the body."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any

from load.upstreams.forms import FormError, parse_form
from load.upstreams.sdcpp import answers, dialects
from load.upstreams.sdcpp.answers import Headed
from load.upstreams.sdcpp.catalogue import Shop
from load.upstreams.sdcpp.json_text import BadRequest, NotJson, ServerError, parse
from load.upstreams.sdcpp.orders import Order, read_native, unknown_fields
from load.upstreams.standin import Exchange

_LONGEST_LOGGED_TEXT = 1000
_DEEPEST_LOGGED = 12
_THREAD_FROM_BYTES = 32 * 1024
_READERS: Mapping[str, Callable[..., Order]] = {
    "img_gen": read_native,
    "txt2img": functools.partial(dialects.read_webui, img2img=False),
    "img2img": functools.partial(dialects.read_webui, img2img=True),
    "generations": dialects.read_generation,
}


async def read(exchange: Exchange, shop: Shop, seeds: random.Random) -> tuple[object, Order]:
    """What the request says, and what the server makes of it; raises what `refusal` tells."""
    operation, body = exchange.asked.operation, exchange.body
    if operation == "edits":
        content_type = exchange.request.headers.get("Content-Type", "")
        exchange.call.fields = _form_fields(content_type, body)
        edit = functools.partial(dialects.read_edit, content_type, body, shop, seeds)
        return None, await _aside(body, edit)
    if not body:
        raise BadRequest("empty body")
    given = parse(body)
    exchange.call.fields = _abridged(given) if isinstance(given, dict) else {}
    if operation == "img_gen":
        exchange.call.unknown_fields = unknown_fields(given)
    return given, await _aside(body, functools.partial(_READERS[operation], given, shop, seeds))


def refusal(error: NotJson | BadRequest | ServerError, operation: str) -> Headed:
    """How a body that cannot be read is answered."""
    # Only the native dialect tells bad JSON from its own mishaps.
    if isinstance(error, NotJson) and operation == "img_gen":
        return answers.error(400, "invalid json", str(error))
    if isinstance(error, BadRequest):
        # An upload form that cannot be parsed is refused below the routes, without a text.
        return answers.error(400, str(error)) if str(error) else answers.empty(400)
    return answers.error(500, "server_error", str(error))


async def _aside(body: bytes, reader: Callable[[], Order]) -> Order:
    # Decoding an upload takes milliseconds, which other requests need not wait for.
    return reader() if len(body) < _THREAD_FROM_BYTES else await asyncio.to_thread(reader)


def _form_fields(content_type: str, body: bytes) -> dict[str, object]:
    try:
        parts = parse_form(content_type, body)
    except FormError:
        return {}
    fields: dict[str, list[object]] = {}
    for part in parts:
        value = part.data.decode("utf-8", "replace") if part.filename is None else _digest(part.data, "bytes")
        fields.setdefault(part.name, []).append(_abridged(value))
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def _abridged(value: Any, levels: int = _DEEPEST_LOGGED) -> Any:
    """The value with each long text replaced by its length and digest: the log is kept whole."""
    if isinstance(value, dict | list) and not levels:
        return "..."
    if isinstance(value, dict):
        return {name: _abridged(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_abridged(item, levels - 1) for item in value]
    if isinstance(value, str) and len(value) > _LONGEST_LOGGED_TEXT:
        return _digest(value.encode("utf-8", "surrogatepass"), "characters")
    return value


def _digest(data: bytes, unit: str) -> str:
    return f"<{len(data)} {unit}, sha256 {hashlib.sha256(data).hexdigest()}>"
