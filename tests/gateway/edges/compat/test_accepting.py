"""What the two dialects that have pictures without JSON make of `Accept`; an answer is a `bool`, or a refusal."""

import pytest
from starlette.requests import Request

from gateway.edges.compat.stability_v1.views import wants_png
from gateway.edges.compat.stability_v2beta.views import wants_json
from protocol.errors import ClientFault


def accepting(*accept: str) -> Request:
    """Return a request with these headers."""
    return Request({"type": "http", "headers": [(b"accept", one.encode()) for one in accept]})


@pytest.mark.parametrize("accept,is_png", [
    ("", False),
    ("*/*", False),
    ("application/json", False),
    ("image/png", True),
    ("IMAGE/PNG", True),
    ("image/*", True),
    ("image/png, */*", True),
    ("image/png, application/json", False),
    ("application/json, image/png;q=0.1", False),
    ("application/json;q=0.2, image/png;q=0.9", True),
    ("application/json;q=0.2, image/*; Q=0.9", True),
    ("image/png;q=0, application/json", False),
    ("image/png;q=0.000, */*", False),
    ("application/json;q=0, */*", True),
    ("text/html, */*;q=0.8", False),
    ("image/png;q=2", True),
    (", ,image/png", True),
])  # fmt: skip
def test_v1_gives_what_is_wanted_more(accept: str, is_png: bool) -> None:
    """JSON where both are wanted alike, but if the picture alone is named."""
    assert wants_png(accepting(accept), 1) is is_png


@pytest.mark.parametrize("accept,is_json", [
    ("", False),
    ("*/*", False),
    ("image/*", False),
    ("image/*, */*", False),
    ("application/json", True),
    ("application/json, */*", True),
    ("application/json, image/*", True),
    ("application/json;q=0.5, image/*", False),
    ("application/json;q=0, */*", False),
    ("image/*;q=0, */*", True),
])  # fmt: skip
def test_v2beta_gives_what_is_wanted_more(accept: str, is_json: bool) -> None:
    """The picture where both are wanted alike, but if JSON is named."""
    assert wants_json(accepting(accept)) is is_json


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "*/*;q=0", "application/json;q=0.0", "image/webp"])
def test_what_is_not_wanted_is_not_given(accept: str) -> None:
    """Nothing that could be answered is left."""
    with pytest.raises(ClientFault, match="accept"):
        wants_png(accepting(accept), 1)
    with pytest.raises(ClientFault, match="accept"):
        wants_json(accepting(accept))


def test_accept_may_come_in_several_headers() -> None:
    """They are one list."""
    assert wants_png(accepting("application/json;q=0.5", "image/png"), 1)
