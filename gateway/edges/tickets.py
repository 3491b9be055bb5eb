"""`/v1/tickets` and `/v1/tokens`: short-lived credentials for those who must not hold a lasting one.

Both only narrow what the asker has. Whose they are, only who has the scope `admin` may choose.
"""

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.records import Identity
from gateway.core.scopes import END_USER, Restriction, named
from gateway.edges.http import answer, authenticate, read_fields
from gateway.flow.node import Node

TOKEN_MS: Final = 3_600_000
MAX_BODY: Final = 16_384
Subject = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.@:-]{1,128}(?![\s\S])")]
Scopes = Annotated[list[str], Meta(min_length=1, max_length=32)]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]


class NewToken(Struct, frozen=True):
    """The body of `POST /v1/tokens`."""

    subject: Subject | UnsetType = UNSET
    ttl_ms: Annotated[int, Meta(ge=1, lt=2**53)] = TOKEN_MS
    scopes: Scopes | UnsetType = UNSET


class NewTicket(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/tickets`. A misspelt restriction would restrict nothing, so it is refused."""

    subject: Subject | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    models: Annotated[list[ModelName], Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    max_cost_micros: Annotated[int, Meta(ge=0, lt=2**53)] | UnsetType = UNSET


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
        """Give a ticket for one WebSocket connection, with what the body leaves of the bearer's rights."""
        identity = await authenticate(request, self._node, None)
        wanted = await read_fields(request, NewTicket, MAX_BODY)
        subject = None if wanted.subject is UNSET else _subject(identity, wanted.subject)
        scopes = None if wanted.scopes is UNSET else tuple(sorted(named(wanted.scopes, identity.scopes & END_USER)))
        restriction = Restriction(
            scopes=scopes,
            models=None if wanted.models is UNSET else tuple(dict.fromkeys(wanted.models)),
            max_cost_micros=None if wanted.max_cost_micros is UNSET else wanted.max_cost_micros,
        )
        issued = self._node.access.make_ticket(identity, subject, restriction)
        return answer({"ticket": issued.ticket, "expires_in_ms": issued.expires_in_ms})

    async def token(self, request: Request) -> Response:
        """Give a token for an end user of the account; `ttl_ms` over a day is a day."""
        identity = await authenticate(request, self._node, "admin")
        wanted = await read_fields(request, NewToken, MAX_BODY)
        subject = identity.subject if wanted.subject is UNSET else wanted.subject
        allowed = identity.scopes & END_USER
        scopes = allowed if wanted.scopes is UNSET else named(wanted.scopes, allowed)
        token, ttl_ms = self._node.access.make_token(identity, subject, wanted.ttl_ms, scopes)
        return answer({"token": token, "expires_in_ms": ttl_ms})


def _subject(identity: Identity, subject: str) -> str:
    """Return the subject that a ticket is for. Raises `ClientFault` if it is not the asker's to choose."""
    if subject != identity.subject:
        identity.require("admin")
    return subject
