"""The stand-in of ComfyUI says what a real server said: each recording played again and compared."""

from __future__ import annotations

from typing import Any

import pytest

from tests.load.upstreams.comfyui_replay import Replay, read, recorded

COLD: list[str] = []
"""A server that has run nothing yet."""

CASES: dict[str, dict[str, Any]] = {
    "normal_txt2img_512_20steps": {"cached": COLD},
    "normal_txt2img_128": {"cached": COLD},
    "cached_second_run": {},
    "two_prompts_queued": {},
    "interrupt_running": {},
    "queue_delete_pending": {},
    "invalid_graph": {"cached": ["5"]},
    "node_error_runtime": {},
    "reconnect_same_client_id": {},
    "same_client_id_twice_old_closes_late": {},
    "save_image_websocket": {},
    "img2img_upload": {},
    "feature_flags_metadata_true": {},
    "feature_flags_metadata_false": {},
    "feature_flags_not_first": {},
    "no_client_id": {"cached": ["5"]},
    "odd_prompts": {},
    "previews_off": {"cached": COLD, "previews": False},
    "http_errors_and_housekeeping": {"cached": COLD},
    "server_ends_sigint": {"cached": COLD},
    "server_ends_sigterm": {"cached": COLD},
    "server_ends_sigkill": {"cached": COLD},
}


@pytest.mark.parametrize("name", CASES)
async def test_recording_is_said_again(name: str) -> None:
    """Messages in their order, their keys, types, nodes and prompts, and all answers are the real server's."""
    lines = read(name)
    theirs = recorded(lines).plain()
    ours = (await Replay(lines, **CASES[name]).run()).plain()
    assert ours["messages"] == theirs["messages"]
    assert ours["statuses"] == theirs["statuses"]
    assert ours["answers"] == theirs["answers"]
    assert ours["closes"] == theirs["closes"]
