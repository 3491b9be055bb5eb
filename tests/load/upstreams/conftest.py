"""A plain client and a faultless stand-in, for all tests of stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from load.upstreams.stability_v1 import StabilityV1


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens as many connections as it likes."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def standin() -> AsyncIterator[StabilityV1]:
    """A stand-in without delay, limit or faults."""
    async with StabilityV1(limit=None) as running:
        yield running
