"""`/v1/auth`: a key for a token of a day, and tokens revoked; and the public keys of all tokens.

Trying keys is bounded for each address, before anything is looked up: an attempt counts when it begins and comes back
when the key was right.
"""

import math
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.attempts import Attempts
from gateway.core.records import Identity
from gateway.core.scopes import ALL, named
from gateway.core.tokens import MAX_CHARS, BadToken, refused
from gateway.edges.http import answer, authenticate, read_fields
from gateway.flow.node import Node
from gateway.flow.tokens import TOKEN_MAX_MS
from protocol.errors import ClientFault

MAX_BODY: Final = 16_384
"""Bytes: a token has half of it at most."""
JWKS_SECONDS: Final = 60
"""For how long others may keep our public keys: a rotated one signs at once, and a verifier asks for what it lacks."""
_PART: Final = "[A-Za-z0-9_-]"
_TOKEN: Final = rf"^({_PART}{{1,64}}|{_PART}+\.{_PART}+\.{_PART}+)(?![\s\S])"
Scopes = Annotated[list[str], Meta(min_length=1, max_length=32)]


class KeyGiven(Struct, frozen=True):
    """The body of `POST /v1/auth/token`."""

    api_key: str
    scopes: Scopes | UnsetType = UNSET


class TokenGiven(Struct, frozen=True):
    """A token in the shape of OAuth 2.0 (RFC 6749, section 5.1); seconds."""

    access_token: str
    expires_in: int
    token_type: str = "bearer"  # noqa: S105 - what kind it is


class Revocation(Struct, frozen=True):
    """The body of `POST /v1/auth/revoke`: one token, or all of the key."""

    token: Annotated[str, Meta(max_length=MAX_CHARS, pattern=_TOKEN)] | UnsetType = UNSET
    """The token itself, or its `jti`."""
    all: bool = False


class AuthRoutes:
    """Exchanges keys, revokes tokens, shows the public keys."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._attempts = Attempts()

    def routes(self) -> list[Route]:
        """Return the edge's routes."""
        return [
            Route("/v1/auth/token", self.token, methods=["POST"]),
            Route("/v1/auth/revoke", self.revoke, methods=["POST"]),
            Route("/.well-known/jwks.json", self.jwks, methods=["GET"]),
        ]

    async def token(self, request: Request) -> Response:
        """Give a token of a day for an API key, so that the key itself goes over the wire once a day."""
        given = await read_fields(request, KeyGiven, MAX_BODY)
        identity = await self._by_key(request, given.api_key)
        scopes = ALL if given.scopes is UNSET else named(given.scopes, ALL)
        token, ttl_ms = self._node.access.make_token(identity, "", TOKEN_MAX_MS, scopes)
        return answer(TokenGiven(token, ttl_ms // 1000))

    async def revoke(self, request: Request) -> Response:
        """Revoke a token, the asker's own or another of its key, or all of the key; it may be repeated (RFC 7009)."""
        identity = await authenticate(request, self._node, None)
        wanted = await read_fields(request, Revocation, MAX_BODY)
        if wanted.all == (wanted.token is not UNSET):
            raise ClientFault("invalid_param", "give either `token` or `all`", details={"path": "token"})
        if wanted.all:
            identity.require("admin")
            await self._node.access.tokens.revoke_all(identity.key)
        elif wanted.token is not UNSET:
            await self._node.access.tokens.revoke(identity, wanted.token)
        await self._node.sessions.recheck()
        return Response(status_code=204)

    async def jwks(self, request: Request) -> Response:
        """Give the public keys, so that others can check our tokens."""
        headers = {"Cache-Control": f"public, max-age={JWKS_SECONDS}"}
        return answer(self._node.access.tokens.jwks(), headers=headers)

    async def _by_key(self, request: Request, key: str) -> Identity:
        address, now = request.scope["safelight.address"], self._node.clock.now()
        wait = self._attempts.begin(address, now)
        if wait > 0:
            message = "too many wrong keys from this address"
            raise ClientFault("rate_limited", message, retry_after_ms=math.ceil(wait * 1000))
        try:
            identity = await self._node.access.by_key(key)
        except BadToken as bad:
            raise refused(bad.reason, self._node.clock.time_ms()) from bad
        self._attempts.right(address)
        return identity
