"""What the tests of the HTTP edges share: a served application and a client that speaks to it."""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from gateway.core.aliases import ANY, Aliases
from gateway.core.breaker import State
from gateway.core.routing import Health
from gateway.edges.compat.doors import Doors, Terms
from gateway.edges.events import Streams
from gateway.edges.guard import Guard
from gateway.edges.routes import build_app
from gateway.flow.gate import GateFacts
from tests.answers import Answer
from tests.gateway.node import UPSTREAM, NodeUnderTest, node, serve
from tests.gateway.parts import PROMISES, PUBLIC_URL

__all__ = ["node"]

FRIENDLY_PAGE = "https://gallery.example"


@dataclass
class FailureLog:
    """Fills the `Log` of the edges; `errors` has what was told."""

    errors: list[dict[str, Any]] = field(default_factory=list)

    def error(self, event: str, **facts: Any) -> None:
        self.errors.append({"event": event, **facts})


class LedgerIsFull(Exception):
    """Stands for the ledger's own word for it, which the edges do not know."""


@dataclass
class Site:
    """The application of a node behind a socket, and a client of it."""

    test: NodeUnderTest
    url: str
    client: aiohttp.ClientSession
    streams: Streams
    doors: Doors
    log: FailureLog
    gates: dict[str, dict[str, tuple[GateFacts, Health]]]
    key: str
    """An API key of the tenant `acme`."""
    routes: list[BaseRoute]

    async def ask(self, method: str, path: str, *, key: str | None = "", data: Any = None, **headers: str) -> Answer:
        """Ask with `key` (empty = acme's, `None` = none); header names are written with `_` for `-`."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            told["Authorization"] = f"Bearer {key or self.key}"
        body = json.dumps(data).encode() if isinstance(data, dict) else data
        path = path.removeprefix(PUBLIC_URL)
        async with self.client.request(method, self.url + path, data=body, headers=told) as response:
            return Answer(response.status, response.headers, await response.read())

    async def token(self, subject: str, key: str = "") -> str:
        """Return a token for an end user."""
        answer = await self.ask("POST", "/v1/tokens", key=key, data={"subject": subject})
        return str(answer.json["token"])


async def no_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for the WebSocket's edge."""


@pytest.fixture
async def site(node: NodeUnderTest) -> AsyncIterator[Site]:
    """A served node."""
    log, streams = FailureLog(), Streams()
    gates = {UPSTREAM: {"default": (GateFacts(0, 1, 4, 150, 149, None, State.CLOSED), Health.OK)}}
    doors = Doors(node.node, Terms(Aliases({"stable-diffusion-v1-6": ANY})), node.transcoder, random.Random(2))
    app = build_app(
        node.node,
        no_socket,
        public_url=PUBLIC_URL,
        promises=PROMISES,
        streams=streams,
        doors=doors,
        gates=lambda: gates,
        metrics=lambda: b"safelight_up 1\n",
        chance=random.Random(1),
        log=log,
        bound_host="127.0.0.1",
        allowed_origins=(FRIENDLY_PAGE,),
        busy=(LedgerIsFull,),
    )
    assert isinstance(app, Guard)
    assert isinstance(app._app, Starlette)
    async with serve(app) as url, aiohttp.ClientSession() as client:
        yield Site(node, url, client, streams, doors, log, gates, await node.add_key(), app._app.routes)
