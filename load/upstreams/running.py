"""Running a stand-in as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable

from load.upstreams.standin import CONTROL, StandIn


async def run_until_told(make: Callable[[], StandIn]) -> None:
    """Serve until SIGTERM or SIGINT; prints one line of JSON with the address once requests are taken.

    `make` is called inside the event loop.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with make() as standin:
        print(json.dumps({"url": standin.url, "control": standin.url + CONTROL}), flush=True)
        await told.wait()
