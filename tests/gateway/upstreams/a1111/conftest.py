"""What holds for every test of the adapter: a server at hand, and a password that nobody sees."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.gateway.upstreams.a1111.server import PASSWORD, StandIn


@pytest.fixture(autouse=True)
def password_is_never_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the password is in no log record."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert PASSWORD not in record.getMessage() + repr(record.args) + str(record.exc_info)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A Forge with its web page, which takes a millisecond a step."""
    async with StandIn(web=True, service_time=0.001) as running:
        yield running
