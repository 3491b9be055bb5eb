"""What holds for every test of the adapter: a token that nobody sees, and no task that is left over."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.gateway.upstreams.comfyui.vendor import TOKEN


@pytest.fixture(autouse=True)
def token_is_never_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the token is in no log record."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert TOKEN not in record.getMessage() + repr(record.args) + str(record.exc_info)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Whatever a test does, nothing of the adapter's runs on."""
    yield
    await asyncio.sleep(0)
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("comfy")]
    assert left == []
