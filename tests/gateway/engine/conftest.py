"""The atlas and what is built on it, once for all tests."""

import pytest

from gateway.engine.atlas import Atlas
from gateway.engine.sketch.retrieve import Index
from gateway.engine.sketch.sketcher import IconSketcher


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    """Return the icons."""
    return Atlas()


@pytest.fixture(scope="session")
def index(atlas: Atlas) -> Index:
    """Return the icons by word."""
    return Index(atlas)


@pytest.fixture(scope="session")
def sketcher(atlas: Atlas) -> IconSketcher:
    """Return a sketcher, which keeps what it has drawn."""
    return IconSketcher(atlas)
