"""The two paths that tell how far the running job is: the shared state's, and the web page's of one task."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from load.upstreams.a1111 import images
from load.upstreams.a1111.engine import Engine
from load.upstreams.a1111.errors import Invalid, Json, Problem


class Progress:
    """What the engine's state looks like from outside."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._state, self._options = engine, engine.state, engine.options

    def shared(self, request: web.BaseRequest) -> Json:
        """The answer of `/sdapi/v1/progress`, which tells of whatever job runs."""
        skip = _skip_image(request.query.get("skip_current_image", "false"))
        state = self._state
        idle = state.global_progress() == (0.0, 0.0) and state.job_count == 0
        progress, remaining = state.global_progress()
        if not idle:
            state.refresh_image(self._options)
        image = None if idle or skip else self._preview(self._options["samples_format"])
        numbered: Json = {"id": state.id} if state.flavour == "sdnext" else {}
        return {
            **numbered,
            "progress": progress,
            "eta_relative": remaining,
            "state": state.as_json(),
            "current_image": image,
            "textinfo": state.textinfo,
        }

    def of_task(self, asked: Mapping[str, Any]) -> Json:
        """The answer of `/internal/progress`."""
        tasks, task = self._engine.tasks, asked["id_task"]
        flags = {
            "active": task == tasks.current,
            "queued": task in tasks.pending,
            "completed": task in tasks.finished,
        }
        if not flags["active"]:
            return _inactive(flags, task, tasks.pending)
        progress = self._state.fraction()
        elapsed = self._state.clock() - self._state.started
        number, shown = asked["id_live_preview"], None
        if asked["live_preview"] and self._options["live_previews_enable"]:
            number, shown = self._new_preview(number)
        return {
            **flags,
            "progress": progress,
            "eta": elapsed / progress - elapsed if progress > 0 else None,
            "live_preview": shown,
            "id_live_preview": number,
            "textinfo": self._state.textinfo,
        }

    def waiting(self) -> Json:
        """The answer of `/internal/pending-tasks`."""
        waiting = self._engine.tasks.pending
        return {"size": len(waiting), "tasks": list(waiting)}

    def _preview(self, kind: str) -> str | None:
        shown = self._state.image
        if shown is None:
            return None
        return base64.b64encode(images.encode_preview(shown.size, shown.colour, kind)).decode()

    def _new_preview(self, seen: int) -> tuple[int, str | None]:
        """The number and picture of a preview, if it is another than the one seen."""
        self._state.refresh_image(self._options)
        if self._state.image_number == seen or self._state.image is None:
            return seen, None
        kind = self._options["live_previews_image_format"]
        return self._state.image_number, f"data:image/{kind};base64,{self._preview(kind)}"


def _skip_image(text: str) -> bool:
    if text.lower() in {"true", "1", "on", "yes"}:
        return True
    if text.lower() in {"false", "0", "off", "no"}:
        return False
    message = "Input should be a valid boolean, unable to interpret input"
    raise Invalid([Problem("bool_parsing", ("query", "skip_current_image"), message, text)])


def _inactive(flags: dict[str, bool], task: object, pending: list[str]) -> Json:
    place = f"In queue: {pending.index(str(task)) + 1}/{len(pending)}" if flags["queued"] else "Waiting..."
    nothing = {"progress": None, "eta": None, "live_preview": None, "id_live_preview": -1}
    return {**flags, **nothing, "textinfo": place}
