"""What holds for every test of the adapter: a vendor at hand, and a key that nobody sees."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from tests.gateway.upstreams.stability_v2beta.vendor import KEY


@pytest.fixture(autouse=True)
def key_is_never_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the key is in no log record."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert KEY not in record.getMessage() + repr(record.args) + str(record.exc_info)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A vendor that answers at once."""
    async with StandIn(key={KEY}, limit=None) as running:
        yield running
