"""How long the server keeps a connection: to the first error, so many requests, or so long without any."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from aiohttp import web

from load.upstreams.sdcpp.answers import Headed


@dataclass(slots=True)
class _Life:
    served: int = 0
    idle: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None


class Connections:
    """The open connections; call `arrived` with each request and `answered` with its answer."""

    def __init__(self, most_requests: int, idle_seconds: float) -> None:
        self._most_requests, self._idle_seconds = most_requests, idle_seconds
        self._lives: dict[asyncio.BaseProtocol, _Life] = {}

    def arrived(self, request: web.BaseRequest) -> None:
        """The connection is in use."""
        life = self._lives.setdefault(request.protocol, _Life())
        life.wake()
        life.served += 1

    def answered(self, request: web.BaseRequest, answer: Headed) -> Headed:
        """The answer fit for its connection, which ends with it or is left to its idle time."""
        life = self._lives.setdefault(request.protocol, _Life())
        answer = replace(answer, origin=request.headers.get("Origin") or "*", last=life.served >= self._most_requests)
        if answer.closes:
            self._lives.pop(request.protocol, None)
            # It takes effect when the answer has been written.
            request.protocol.close()
        else:
            life.wake()
            life.idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._close, request.protocol)
        return answer

    def forget(self) -> None:
        """All connections are gone."""
        for life in self._lives.values():
            life.wake()
        self._lives.clear()

    def _close(self, protocol: web.RequestHandler) -> None:
        self._lives.pop(protocol, None)
        protocol.force_close()
