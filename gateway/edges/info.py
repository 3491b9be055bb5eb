"""What the gateway tells of itself: models, limits, health and metrics."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.models import Model, Sizes
from gateway.core.params import TASKS
from gateway.core.routing import Health
from gateway.edges.http import answer, authenticate
from gateway.flow.gate import GateFacts
from gateway.flow.node import Node
from gateway.flow.sessions import FEATURES, Promises
from protocol.errors import ClientFault

LEDGER_SECONDS: Final = 2.0
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NO_JOB: Final = "0" * 26
Gates = Mapping[str, Mapping[str, tuple[GateFacts, Health]]]
"""How each credential of each upstream stands."""


class InfoRoutes:
    """Tells what can be asked for, within which limits, and whether the node is well."""

    def __init__(
        self,
        node: Node,
        promises: Promises,
        gates: Callable[[], Gates],
        metrics: Callable[[], bytes],
    ) -> None:
        self._node = node
        self._promises = promises
        self._gates = gates
        self._metrics = metrics
        self._made_s = node.clock.time_ms() // 1000

    def routes(self) -> list[Route]:
        """Return the edge's routes."""
        return [
            Route("/", self.welcome, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/limits", self.limits, methods=["GET"]),
            Route("/healthz", self.alive, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.counted, methods=["GET"]),
        ]

    async def welcome(self, request: Request) -> Response:
        """Say what this is to whoever opens the bare address."""
        return answer(
            {"name": "safelight", "stream": "/v1/stream", "models": "/v1/models", "docs": "protocol/PROTOCOL.md"}
        )

    async def models(self, request: Request) -> Response:
        """List the models in the envelope that OpenAI's clients expect."""
        await authenticate(request, self._node, "read")
        gates = self._gates()
        told = [self._model(name, gates) for name in self._node.models]
        return answer({"object": "list", "data": told})

    async def model(self, request: Request) -> Response:
        """Tell one model."""
        await authenticate(request, self._node, "read")
        name = request.path_params["model"]
        if name not in self._node.models:
            raise ClientFault("model_not_found", "there is no such model", details={"path": "model"})
        return answer(self._model(name, self._gates()))

    async def limits(self, request: Request) -> Response:
        """Tell what `welcome` tells, what the account's plan allows, and how the upstreams stand."""
        identity = await authenticate(request, self._node, "read")
        plan = msgspec.structs.asdict(identity.plan)
        promises = self._promises
        return answer(
            {
                "limits": self._node.limits,
                "heartbeat_ms": promises.heartbeat_ms,
                "session_ttl_ms": promises.session_ttl_ms,
                "event_retention_ms": promises.event_retention_ms,
                "asset_retention_ms": promises.asset_retention_ms,
                "currency": promises.currency,
                "features": FEATURES,
                "plan": {name: value for name, value in plan.items() if value is not None},
                "upstreams": [
                    {"upstream": name, "account": number, **_gate(*facts)}
                    for name, accounts in self._gates().items()
                    for number, facts in enumerate(accounts.values(), start=1)
                ],
            }
        )

    async def alive(self, request: Request) -> Response:
        """Answer, which is all there is to say while the loop runs."""
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Tell whether new clients should come here."""
        checks = {"accepting": not self._node.sessions.draining, "ledger": await self._ledger_answers()}
        is_ready = all(checks.values())
        return answer({"ready": is_ready, "checks": checks}, 200 if is_ready else 503)

    async def counted(self, request: Request) -> Response:
        """Give the metrics in Prometheus' text format."""
        return Response(self._metrics(), media_type=METRICS_TYPE)

    async def _ledger_answers(self) -> bool:
        try:
            async with asyncio.timeout(LEDGER_SECONDS):
                await self._node.jobs.find(_NO_JOB)
        except Exception:  # noqa: BLE001 - whatever it is, the answer is that the ledger does not answer
            return False
        return True

    def _model(self, name: str, gates: Gates) -> dict[str, Any]:
        """Tell a model: its first route's abilities, and the health of the best."""
        routes = self._node.models.routes(name)
        model = routes[0].model
        healths = [health for route in routes for _, health in gates.get(route.model.upstream, {}).values()]
        return {
            "id": model.id,
            "object": "model",
            "created": self._made_s,
            "owned_by": model.upstream,
            "tasks": sorted(model.tasks),
            "params": sorted(model.params),
            "task_params": [
                {
                    "task": task,
                    "params": sorted(params),
                    "sizes": _sizes(model.sizes_of(task)),
                    "price_micros": model.price(task),
                }
                for task, params in sorted(model.tasks.items())
            ],
            "sizes": _sizes(model.sizes),
            "default_size": f"{model.default_size[0]}x{model.default_size[1]}",
            "steps": {"min": model.steps[0], "max": model.steps[1], "default": model.default_steps},
            **_guidance(model),
            "max_n": model.max_n,
            "samplers": model.samplers,
            "schedulers": model.schedulers,
            "styles": model.styles,
            "loras": model.loras,
            "controls": model.controls,
            "max_controls": model.max_controls if model.controls else 0,
            "preprocessors": model.preprocessors if model.controls else (),
            "bounds": _bounds(model),
            "backgrounds": model.backgrounds if "background" in model.params else (),
            "idle_beside": [{"param": name, "roles": sorted(roles)} for name, roles in model.idle_beside.items()],
            "max_prompt": model.max_prompt,
            "progress": model.progress,
            "previews": model.previews,
            "cancel": model.cancel,
            "billed": model.billed,
            "price_micros": model.price_micros,
            "currency": self._promises.currency,
            "description": model.description,
            "upstreams": len(routes),
            "health": _TOLD[min(healths, default=Health.DOWN)],
        }


def _guidance(model: Model) -> dict[str, Any]:
    if "guidance" not in model.params:
        return {}
    low, high = model.guidance
    return {"guidance": {"min": low, "max": high, "default": model.default_guidance}}


def _bounds(model: Model) -> list[dict[str, Any]]:
    """What options of input images may be, of the roles that its tasks take."""
    roles = {role for task in TASKS.keys() & model.tasks for role in TASKS[task].roles}
    return [
        {"role": role, "option": option, "min": low, "max": high}
        for role, options in model.bounds.items()
        if role in roles
        for option, (low, high) in options.items()
    ]


def _sizes(sizes: Sizes) -> dict[str, Any]:
    if sizes.listed:
        return {"listed": [f"{width}x{height}" for width, height in sizes.listed]}
    told: dict[str, Any] = {
        "min": sizes.smallest,
        "max": sizes.largest,
        "multiple_of": sizes.multiple_of,
        "max_pixels": sizes.max_pixels,
    }
    if sizes.min_pixels:
        told["min_pixels"] = sizes.min_pixels
    if sizes.max_aspect:
        told["max_aspect"] = sizes.max_aspect
    return told


_TOLD: Final = {health: health.name.lower() for health in Health}


def _gate(facts: GateFacts, health: Health) -> dict[str, Any]:
    told = {
        "health": _TOLD[health],
        "waiting": facts.waiting,
        "running": facts.running,
        "concurrency": facts.concurrency,
        "limit": facts.limit,
        "free": facts.free,
        "locked_until_ms": facts.locked_until_ms,
    }
    return {name: value for name, value in told.items() if value is not None}
