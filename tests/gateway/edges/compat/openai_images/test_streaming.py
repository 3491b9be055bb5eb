"""Streams of which nothing is to be told for a long time. In virtual time, on a real ledger."""

from pathlib import Path
from typing import Final

import pytest

from gateway.edges.compat.openai_images.streaming import COMMENT
from tests.gateway.edges.compat.test_patience import Call, open_hall
from tests.gateway.flow.studio import ScriptedUpstream, paints, patiently

PATH: Final = "/v1/images/generations"


@patiently
async def test_silent_stream_keeps_proxies_open_with_comments(tmp_path: Path) -> None:
    """At once, and after each 25 s without a byte: steps that nobody asked to see are none."""
    async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=7), steps=10)) as hall:
        call = Call()
        await hall.ask(call, PATH, {"prompt": "p", "stream": True})
        comments = [round(at) for at, message in call.came if message.get("body") == COMMENT]
        assert (call.status, comments) == (200, [0, 25, 50])
        assert call.came[-1][0] == pytest.approx(70, abs=1)
        assert call.body.removeprefix(3 * COMMENT).startswith(b"event: image_generation.completed\n")
