"""The stand-in of the WebUI family against recordings of a running Forge, event by event."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from load.upstreams.a1111 import A1111, JobError
from load.upstreams.faults import Rule
from tests.load.upstreams.a1111_replay import Place, Replay, events

Client = aiohttp.ClientSession
# The recorded server had no checkpoint file: its model was made in memory.
BARE: dict[str, Any] = {"models": (), "service_time": 0.001}
EARLY = JobError("RuntimeError", "made-up failure before sampling")
LATE = JobError("RuntimeError", "made-up failure in step 3", 3)


@pytest.mark.parametrize(
    "name,places,more",
    [
        ("forge_discovery", {}, {}),
        ("forge_txt2img_with_progress", {}, {"answer_delay": 0.03}),
        ("forge_two_requests_and_task_ids", {}, {}),
        ("forge_interrupt_and_skip", {2: (0, 5), 9: (0, 4), 14: (0, 4)}, {}),
        ("forge_img2img", {}, {}),
        (
            "forge_errors",
            {},
            {"script": [Rule(EARLY, requests=frozenset({8})), Rule(LATE, requests=frozenset({9}))]},
        ),
        ("forge_webui_internal_progress", {}, {"web": True}),
        ("forge_webui_internal_progress_after_error", {}, {"web": True, "script": [Rule(LATE, last=1)]}),
    ],
)
async def test_answers_are_the_recorded_ones(
    client: Client, name: str, places: dict[int, Place], more: dict[str, Any]
) -> None:
    """Status, headers and JSON of each answer are the recorded ones but for pictures, times and chance."""
    async with A1111(**(BARE | more)) as standin:
        # Set once, while the paths were discovered, and in force ever since.
        standin.options["show_progress_every_n_steps"] = 1
        replay = Replay(standin, client, name, places)
        await replay.run()
    assert replay.compared == sum(event["kind"] == "http_response" for event in events(name))
