"""The edges put together: one ASGI application."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp

from gateway.core.routing import Health
from gateway.edges.assets import AssetRoutes
from gateway.edges.auth import AuthRoutes
from gateway.edges.compat.a1111 import A1111Door
from gateway.edges.compat.dialect import Dialect, Trouble
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.openai_images import OpenaiImagesDoor
from gateway.edges.compat.refusing import Refusals
from gateway.edges.compat.stability_v1 import StabilityV1Door
from gateway.edges.compat.stability_v2beta import StabilityV2BetaDoor
from gateway.edges.events import EventRoutes, Streams
from gateway.edges.guard import Guard, Log
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
    doors: Doors,
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

    `stream` is the WebSocket's edge. `streams` and `doors` are kept by the caller, who drains them when the node stops.
    `busy` are exceptions of adapters that mean `overloaded`.
    """
    edges = (
        AuthRoutes(node),
        TicketRoutes(node),
        AssetRoutes(node),
        JobRoutes(node, public_url, chance),
        EventRoutes(node, public_url, streams),
        InfoRoutes(node, promises, gates, metrics),
    )
    dialects = dialects_of(doors, public_url)
    refusals = Refusals(doors, dialects)
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", stream),
            *(route for edge in edges for route in edge.routes()),
            *(route for dialect in dialects for route in dialect.routes()),
            *more_routes,
        ],
        exception_handlers={
            ClientFault: refusals.client,
            Trouble: refusals.client,
            HTTPException: refusals.routing,
            Exception: refusals.failure,
            **dict.fromkeys(busy, refusals.busy),
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
        tell=refusals.told,
    )


def dialects_of(doors: Doors, public_url: str) -> tuple[Dialect, ...]:
    """Return every dialect that is spoken at the doors."""
    return (StabilityV1Door(doors), StabilityV2BetaDoor(doors), OpenaiImagesDoor(doors, public_url), A1111Door(doors))
