"""The control paths of this stand-in alone, below the shared ones.

`GET /__standin/comfyui/prompts` lists what was accepted; `POST` to `prompts` or `sockets` sets rules in their
JSON form; `POST` to `crash`, with an object that may hold `restart_after`, breaks all connections.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from load.upstreams.comfyui.answers import json_answer
from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.troubles import PromptRule, SocketRule
from load.upstreams.faults import ScriptError
from load.upstreams.wire import Answer


class Controlled(Protocol):
    """What the control paths turn and look at."""

    @property
    def jobs(self) -> list[Job]: ...

    def counters(self) -> dict[str, object]: ...

    def script_prompts(self, *rules: PromptRule | Mapping[str, Any]) -> None: ...

    def script_sockets(self, *rules: SocketRule | Mapping[str, Any]) -> None: ...

    def crash_soon(self, restart_after: float | None = None) -> None: ...


async def control(standin: Controlled, method: str, path: str, body: bytes) -> Answer:
    """Answer one of the control paths."""
    try:
        match method, path.rpartition("/")[2]:
            case "GET", "prompts":
                return json_answer({"prompts": [job.told() for job in standin.jobs], "counters": standin.counters()})
            case "POST", "prompts":
                standin.script_prompts(*json.loads(body))
                return json_answer({})
            case "POST", "sockets":
                standin.script_sockets(*json.loads(body))
                return json_answer({})
            case "POST", "crash":
                standin.crash_soon(json.loads(body or b"{}").get("restart_after"))
                return json_answer({})
    except (ScriptError, ValueError, TypeError, AttributeError) as error:
        return json_answer({"message": str(error)}, 400)
    return json_answer({"message": "no such control path"}, 404)
