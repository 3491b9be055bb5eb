"""What holds for every test of the adapter: a vendor at hand, and a key that nobody sees."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from load.upstreams.openai_images import OpenAIImages as StandIn
from tests.gateway.upstreams.openai_images.vendor import KEY


@pytest.fixture(autouse=True)
def key_is_never_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the key is in no log record."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "PIL")
    yield
    for record in caplog.records:
        assert KEY not in record.getMessage() + repr(record.args) + str(record.exc_info)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """The vendor, which answers at once."""
    async with StandIn(key=KEY) as running:
        yield running
