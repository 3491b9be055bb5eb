"""The gateway behind a socket, and the order of its end: drain first, exit last."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from gateway import config
from gateway.app import Gateway, running
from gateway.edges.socket import bounded_http, with_high_water
from gateway.observe import logs

UNSENT_LOW_WATER: Final = 32_768
"""How much the kernel may hold unsent (TCP_NOTSENT_LOWAT): the deeper it is, the older what a slow client sees."""


async def serve(settings: config.Config, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is told the address once requests are answered."""
    logs.configure(settings.log.level, settings.log.format)
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end.set)
    with listen(settings.server) as listener:
        url = settings.server.public_url or address_of(settings.server.host, listener)
        async with running(settings, url) as gateway, serving(gateway, listener, settings) as server:
            announce(url)
            await asked_to_end.wait()
            server.stop_accepting()
            await gateway.drain()


@contextlib.asynccontextmanager
async def serving(gateway: Gateway, listener: socket.socket, settings: config.Config) -> AsyncIterator["Server"]:
    """Answer requests on a bound socket while the context lasts."""
    high_water = settings.protocol.high_water
    server = Server(uvicorn_config(gateway.app, backlog=settings.server.backlog, high_water=high_water))
    # A task group would wrap whatever goes wrong inside the context; this one task is held here to its end.
    task = asyncio.create_task(server.serve(sockets=[listener]), name="server")  # noqa: TID251
    try:
        await server.settled.wait()
        yield server
    finally:
        server.should_exit = True
        await task


class Server(uvicorn.Server):
    """uvicorn's server without its signal handling: the gateway drains first and lets it exit last."""

    def __init__(self, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self.settled = asyncio.Event()
        """Requests are answered, or it could not begin."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.settled.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        for server in self.servers:
            server.close()


def uvicorn_config(app: ASGIApp, *, backlog: int, high_water: int) -> uvicorn.Config:
    """Return how uvicorn runs the gateway: our protocols, no deflate, no clocks (the guard's is ours), no logs."""
    return uvicorn.Config(
        app,
        http=bounded_http(),
        ws=with_high_water(high_water),
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=backlog,
        timeout_graceful_shutdown=5,
    )


def listen(settings: config.Server) -> socket.socket:
    """Return the bound socket; what it sets is inherited by every connection."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((settings.host, settings.port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """Return the address that a client on this machine uses."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - only named
    return f"http://{name}:{port}"
