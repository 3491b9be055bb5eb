"""`/v1/tickets` and `/v1/tokens`: short-lived credentials for those who must not hold a lasting one."""

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edges.http import answer, authenticate, read_fields
from gateway.flow.access import TOKEN_MAX_MS
from gateway.flow.node import Node
from protocol.errors import ClientFault

TOKEN_MS: Final = 3_600_000
MAX_BODY: Final = 4096
SCOPES: Final[tuple[str, ...]] = ()
"""No edge knows a scope yet; a token that named one would allow all the same, so every name is refused."""


class NewToken(Struct, frozen=True):
    """The body of `POST /v1/tokens`."""

    subject: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.@:-]{1,128}(?![\s\S])")] | UnsetType = UNSET
    ttl_ms: Annotated[int, Meta(ge=1, lt=2**53)] = TOKEN_MS
    scopes: Annotated[list[str], Meta(max_length=32)] = []


class TicketRoutes:
    """Gives tickets and tokens."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """Return the edge's routes."""
        return [
            Route("/v1/tickets", self.ticket, methods=["POST"]),
            Route("/v1/tokens", self.token, methods=["POST"]),
        ]

    async def ticket(self, request: Request) -> Response:
        """Give a ticket for one WebSocket connection."""
        issued = self._node.access.make_ticket(await authenticate(request, self._node))
        return answer({"ticket": issued.ticket, "expires_in_ms": issued.expires_in_ms})

    async def token(self, request: Request) -> Response:
        """Give a token for an end user of the account; `ttl_ms` over a day is a day."""
        identity = await authenticate(request, self._node)
        if identity.expires_ms is not None:
            raise ClientFault("forbidden", "tokens are given for API keys only")
        wanted = await read_fields(request, NewToken, MAX_BODY)
        if set(wanted.scopes) - set(SCOPES):
            details = {"path": "scopes", "allowed": list(SCOPES)}
            raise ClientFault("invalid_param", "there is no such scope", details=details)
        subject = identity.subject if wanted.subject is UNSET else wanted.subject
        token, ttl_ms = self._node.access.make_token(identity, subject, min(wanted.ttl_ms, TOKEN_MAX_MS), wanted.scopes)
        return answer({"token": token, "expires_in_ms": ttl_ms})
