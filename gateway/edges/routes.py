"""The edges put together: one ASGI application."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp

from gateway.core.routing import Health
from gateway.edges.assets import AssetRoutes
from gateway.edges.auth import AuthRoutes
from gateway.edges.events import EventRoutes, Streams
from gateway.edges.guard import Guard, Log
from gateway.edges.http import internal, refusal, refuse_client, refuse_routing
from gateway.edges.info import InfoRoutes
from gateway.edges.jobs import JobRoutes
from gateway.edges.tickets import TicketRoutes
from gateway.flow.gate import GateFacts
from gateway.flow.node import Node
from gateway.flow.sessions import Promises
from protocol.errors import ClientFault


def build_app(
    node: Node,
    stream: ASGIApp,
    *,
    public_url: str,
    promises: Promises,
    streams: Streams,
    gates: Callable[[], Mapping[str, Mapping[str, tuple[GateFacts, Health]]]],
    metrics: Callable[[], bytes],
    chance: random.Random,
    log: Log,
    bound_host: str,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    trust_forwarded: bool = False,
    busy: Sequence[type[Exception]] = (),
    more_routes: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """Return the application that answers everything a client may ask of `node`.

    `stream` is the WebSocket's edge. `streams` is kept by the caller, who drains it when the node stops. `busy` are
    exceptions of adapters that mean `overloaded`.
    """
    edges = (
        AuthRoutes(node),
        TicketRoutes(node),
        AssetRoutes(node),
        JobRoutes(node, public_url, chance),
        EventRoutes(node, public_url, streams),
        InfoRoutes(node, promises, gates, metrics),
    )
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", stream),
            *(route for edge in edges for route in edge.routes()),
            *more_routes,
        ],
        exception_handlers={
            ClientFault: refuse_client,
            HTTPException: refuse_routing,
            Exception: _fail,
            **dict.fromkeys(busy, _refuse_busy),
        },
    )
    app.router.redirect_slashes = False
    own = urlsplit(public_url)
    return Guard(
        app,
        node.clock,
        chance,
        node.meter,
        log,
        hosts=(bound_host, own.hostname or bound_host, *allowed_hosts),
        origins=(f"{own.scheme}://{own.netloc}", *allowed_origins),
        trust_forwarded=trust_forwarded,
    )


async def _fail(request: Request, _: Exception) -> Response:
    return internal(request.scope["safelight.request"])


async def _refuse_busy(_request: Request, _fault: Exception) -> Response:
    return refusal(ClientFault("overloaded", "too much is waiting to be written", retry_after_ms=1000))
