"""What holds for every test of the adapter: a server at hand, quick looks, and a key that nobody sees."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.upstreams.sdcpp import adapter
from load.upstreams.sdcpp import SdCpp as StandIn
from tests.gateway.upstreams.sdcpp.vendor import KEY


@pytest.fixture(autouse=True)
def key_is_never_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the key is in no log record."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert KEY not in record.getMessage() + repr(record.args) + str(record.exc_info)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The double has no delayed acknowledgements: tests need not wait for them."""
    monkeypatch.setattr(adapter, "SHORTEST_POLL_SECONDS", 0.005)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A server that draws at once."""
    async with StandIn(step_seconds=0) as running:
        yield running
