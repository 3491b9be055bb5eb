"""Gateways to test whole: one in this process, one in a process of its own that may be killed at any moment.

Both are the real thing on the real ledger. The one in this process can be given an upstream of the test's own.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from gateway.app import Gateway, running
from gateway.cli.keys import ensure_dev_key
from gateway.clock import SystemClock
from gateway.config import Config, load
from gateway.ledger import open_ledger
from gateway.ports import Clock, Upstream
from gateway.serving import address_of, listen, serving

START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway of this process: its address, its key, its parts."""

    url: str
    key: str
    gateway: Gateway


@contextlib.asynccontextmanager
async def gateway_here(
    folder: Path, *, upstreams: Sequence[Upstream] | None = None, port: int = 0, **overrides: Any
) -> AsyncIterator[Running]:
    """Run a gateway in this process; `overrides` are settings such as `protocol__hello_timeout_ms=200`, and `clock`."""
    clock: Clock | None = overrides.pop("clock", None)
    settings = settings_for(folder, port=port, **overrides)
    folder.mkdir(parents=True, exist_ok=True)
    async with open_ledger(folder, exclusive=False) as ledger:
        key = await ensure_dev_key(ledger.accounts, folder, SystemClock())
    if upstreams is not None:
        engine = next(iter(settings.upstreams.values()))
        settings = replace(settings, upstreams={upstream.name: engine for upstream in upstreams})
    with listen(settings.server) as listener:
        url = address_of(settings.server.host, listener)
        opened = running(settings, url, clock=clock, upstreams=upstreams)
        async with opened as gateway, serving(gateway, listener, settings):
            yield Running(url, key.key or "", gateway)


def settings_for(folder: Path, **overrides: Any) -> Config:
    """Return settings for a gateway on `folder`; keys as in `protocol__heartbeat_ms`, `port` is the server's."""
    port = overrides.pop("port", 0)
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    config = named.pop("config", None)
    environ = named.pop("environ", {})
    return load(config, environ, {"server.port": port, "data.folder": folder, **named})


class GatewayProcess:
    """A gateway in a process of its own, which may be killed and started again on the same port and folder."""

    def __init__(self, folder: Path, port: int, config: str = "", environ: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._environ = {**os.environ, **(environ or {})}
        self._arguments = ["--port", str(port), "--data", str(folder / "data")]
        self._log = folder / "gateway.log"
        if config:
            path = folder / "safelight.toml"
            path.write_text(config)
            self._arguments += ["--config", str(path)]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def key(self) -> str:
        """The key that the first start made."""
        return (self.folder / "data" / "dev-key").read_text().strip()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None, "it was started"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote to its standard error so far."""
        return self._log.read_text()

    async def start(self) -> None:
        """Start it and wait until it answers."""
        code = "from gateway.cli.commands import main; main()"
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, "serve", *self._arguments,
                stdout=asyncio.subprocess.PIPE, stderr=log, env=self._environ,
            )  # fmt: skip
        assert self._process.stdout is not None, "it is piped"
        line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        assert line.startswith(b"http"), f"the gateway did not start: {line!r}\n{self.log}"

    async def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None, "it was started"
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        assert self._process is not None, "it was started"
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), START_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
