"""Bodies that are wrong, for vendors whose pictures come as base64 in JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pybase64

from load.upstreams.faults import Garbage

Render = Callable[[str], bytes]
"""A body of the vendor's that has this text where a picture should be; the same function for the same form."""


def spoilt_body(body: bytes, fault: Garbage, render: Render) -> bytes:
    """What stands in a body's place."""
    match fault.what:
        case "not_json":
            return b"<html><body>upstream went for a walk</body></html>"
        case "truncated_json":
            return body[: len(body) // 2]
        case "wrong_base64":
            return render("@@@ this is *not* base64 @@@")
        case "not_png":
            return render(pybase64.b64encode_as_string(b"these bytes are no picture"))
        case "empty":
            return b""
        case "huge":
            return _huge(render, fault.size_bytes)


@functools.lru_cache(maxsize=2)
def _huge(render: Render, size: int) -> bytes:
    # Kept, so that many huge answers at once share one body.
    return render("A" * max(0, size - len(render(""))))
