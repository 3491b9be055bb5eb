"""`/v1/stream`: from an upgrade to a connection.

A bad credential, a wrong origin or a used ticket is told by accepting the upgrade and closing with 45xx, because
browsers and most engines cannot read the status of a refused upgrade.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from gateway.core.records import Identity
from gateway.edges.socket import WireProtocol
from gateway.flow.access import CLOSES as CREDENTIAL_CLOSES
from gateway.flow.connection import Connection
from gateway.flow.node import Node
from protocol.errors import CLOSES, ClientFault
from protocol.messages import SUBPROTOCOL

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MESSAGES_AT_ONCE: Final = 8
"""A client may have sent a thousand before anybody looked; after so many the others have their turn."""


class Stream:
    """The ASGI application of the WebSocket edge."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        offered: list[str] = scope["subprotocols"]
        wire: WireProtocol = scope["safelight.wire"]
        if offered and SUBPROTOCOL not in offered:
            await _refuse_upgrade(send)
            wire.handshake_complete = True  # uvicorn does not note it, and would log that we had not answered
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if offered else None})
        try:
            identity = await self._identify(scope)
        except ClientFault as fault:
            _close(wire, CREDENTIAL_CLOSES[fault.code])
            return
        except TicketInvalid:
            _close(wire, "ticket_invalid")
            return
        await self._converse(wire, identity, receive)

    async def _identify(self, scope: Message) -> Identity | None:
        """Return who the upgrade comes from; `None` leaves it to `hello.token`. Exactly one way counts, in order."""
        if scope.get("safelight.refused"):
            raise ClientFault("forbidden", "this host or origin is not allowed")
        bearer = _bearer(scope["headers"])
        if bearer is not None:
            return await self._node.access.identify(bearer)
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=16)
        except ValueError:
            raise TicketInvalid from None  # too many fields to look for one
        tickets = query.get("ticket")
        if tickets is None:
            return None
        identity = self._node.access.take_ticket(tickets[0])
        if identity is None or not await self._node.access.stands(identity):
            raise TicketInvalid
        return identity

    async def _converse(self, wire: WireProtocol, identity: Identity | None, receive: Receive) -> None:
        """Hand each message to the connection until the socket is closed."""
        connection = wire.connection = Connection(self._node, wire, identity)
        handled = 0
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await connection.receive(message["bytes"])
                handled += 1
                if handled % MESSAGES_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except Exception:
            connection.close("internal")
            raise
        finally:
            wire.connection = None
            await connection.gone()


class TicketInvalid(Exception):
    """The ticket was used, is over its time, or never was."""


def _bearer(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
    return None


def _close(wire: WireProtocol, name: str) -> None:
    wire.close(CLOSES[name].number, name)


async def _refuse_upgrade(send: Send) -> None:
    """Answer 400: the client offered only subprotocols that are not spoken here."""
    body = f"this server speaks {SUBPROTOCOL}".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": 400, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
