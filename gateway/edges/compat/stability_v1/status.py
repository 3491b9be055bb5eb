"""`GET /v1/generation/{id}/status`: how far a job is, for clients that do not wait or were cut."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.jobs import State
from gateway.core.records import JobRecord
from gateway.edges.compat.dialect import Trouble
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.stability_v1 import answers
from gateway.edges.compat.stability_v1.views import JsonView
from gateway.edges.http import answer

_ENDS: Final = {State.COMPLETED: "completed", State.FAILED: "failed", State.CANCELED: "canceled"}


class StatusRoute:
    """Tells of one job."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def routes(self) -> list[BaseRoute]:
        """Return the one route."""
        return [Route("/v1/generation/{job}/status", self.status, methods=["GET"])]

    async def status(self, request: Request) -> Response:
        """Tell how far a job is, and its artifacts once it has ended well."""
        identity = await self._doors.identify(request, "read")
        record = await self._doors.own_job(identity, request.path_params["job"])
        told, headers = await self._told(record), {"X-Job-Id": record.id}
        if record.state is not State.COMPLETED:
            error = await self._error(record, request) if record.has_ended else {}
            return answer({"id": record.id, **told, **error, "artifacts": []}, headers=headers)
        try:
            view = JsonView(self._doors)
            body = await self._doors.told(identity, record.id, lambda result: view.body(result, told))
        except Trouble as trouble:  # its pictures are past their time, and that is all that is left to say
            error = {"error": answers.error(trouble, request.scope["safelight.request"])[1]}
            return answer({"id": record.id, **told, **error, "artifacts": []}, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    async def _told(self, record: JobRecord) -> dict[str, Any]:
        """How far a job is; what nobody knows is null."""
        is_done = record.state is State.COMPLETED
        now = self._doors.progress(record.id)
        asked = await self._doors.node.jobs.request(record.id)
        steps = now.steps if now is not None else None if asked is None else asked.steps
        eta_ms = now.eta_ms if now is not None and isinstance(now.eta_ms, int) else None
        return {
            "state": _ENDS.get(record.state, "running" if record.attempt else "queued"),
            "step": steps if is_done else record.step if now is None else now.step,
            "steps": steps,
            "ratio": 1.0 if is_done else 0.0 if now is None else now.ratio,
            "eta_ms": 0 if is_done else eta_ms,
        }

    async def _error(self, record: JobRecord, request: Request) -> dict[str, Any]:
        try:
            await self._doors.result(record.id)
        except Trouble as trouble:
            return {"error": answers.error(trouble, request.scope["safelight.request"])[1]}
        return {}
