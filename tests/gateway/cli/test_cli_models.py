"""`safelight models` against a server that answers as a gateway does."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest

from tests.gateway.cli.scripted import run

EASEL: Final[dict[str, Any]] = {
    "id": "easel", "object": "model", "tasks": ["img2img", "txt2img"],
    "task_params": [
        {"task": "img2img", "params": ["prompt", "strength"], "sizes": {}, "price_micros": 9000},
        {"task": "txt2img", "params": ["height", "loras", "negative_prompt", "prompt", "width"], "price_micros": 400},
    ],
    "sizes": {"min": 64, "max": 1024, "multiple_of": 8, "max_pixels": 4_194_304}, "default_size": "512x512",
    "steps": {"min": 1, "max": 50, "default": 20}, "max_n": 4, "samplers": ["euler", "ddim"], "loras": [],
    "progress": "steps", "previews": True, "cancel": "yes", "billed": True, "price_micros": 400, "currency": "USD",
    "health": "ok",
}  # fmt: skip
POSTER: Final[dict[str, Any]] = {
    **EASEL, "id": "some/poster", "tasks": ["txt2img"], "sizes": {"listed": ["1024x1024", "1152x896"]},
    "task_params": [], "billed": False, "price_micros": 0, "previews": False, "progress": "none", "health": "down",
}  # fmt: skip
ENVIRONMENT: Final = {"SAFELIGHT_API_KEY": "sk-sl-test"}


@contextlib.contextmanager
def answering(status: int, body: object) -> Iterator[str]:
    """Answer every request so while the context lasts; yields the address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ours = (self.path, self.headers["Authorization"]) == ("/v1/models", "Bearer sk-sl-test")
            self.send_response(status if is_ours else 418)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_models_are_a_table() -> None:
    """A line each, whose cells stand under their headings."""
    with answering(200, {"data": [EASEL, POSTER]}) as url:
        done = run("models", "--url", url, env=ENVIRONMENT)
    assert done.exit_code == 0, done.output
    header, easel, poster = done.stdout.splitlines()
    assert header.split() == ["NAME", "TASKS", "SIZES", "PRICE", "PROGRESS", "PREVIEWS", "CANCEL", "HEALTH"]
    for name, first, second in (("PRICE", "0.0004-0.009 USD", "free"), ("HEALTH", "ok", "down"), ("NAME", "e", "s")):
        assert easel[header.index(name) :].startswith(first)
        assert poster[header.index(name) :].startswith(second)


def test_one_model_is_told_with_the_names_to_ask_for() -> None:
    """Samplers and their like, and the options that have an effect in each kind of work."""
    with answering(200, {"data": [EASEL, POSTER]}) as url:
        done = run("models", "easel", "--url", url.replace("http", "ws") + "/v1/stream", env=ENVIRONMENT)
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "easel"
    assert "samplers euler, ddim" in lines
    assert "txt2img takes PROMPT --lora --negative --size" in lines
    assert "sizes 64-1024 by 8; 512x512 if not asked" in lines
    assert not [line for line in lines if line.startswith("loras")]


def test_json_is_what_the_gateway_says() -> None:
    """Whole, also what the table leaves out."""
    with answering(200, {"data": [EASEL, POSTER]}) as url:
        assert json.loads(run("models", "--json", "--url", url, env=ENVIRONMENT).stdout) == [EASEL, POSTER]
        one = run("models", "some/poster", "--json", "--url", url, env=ENVIRONMENT)
    assert json.loads(one.stdout) == POSTER


def test_gateway_without_models_is_told_as_such() -> None:
    """Its upstreams have not told yet what they have."""
    with answering(200, {"data": []}) as url:
        done = run("models", "--url", url, env=ENVIRONMENT)
    assert done.exit_code == 0
    assert "offers no models now" in done.stdout


@pytest.mark.parametrize(
    "arguments,status,body,exit_code,told",
    [
        (["nope"], 200, {"data": [EASEL]}, 2, "there is no model nope; there are: easel"),
        ([], 401, {}, 2, "the gateway does not accept the key from SAFELIGHT_API_KEY"),
        ([], 500, {}, 1, "is no gateway, or not well (HTTP 500)"),
        ([], 200, b"<html>", 1, "is no gateway of this version; name its address with --url"),
        ([], 200, {"data": [{"id": "gpt"}]}, 1, "is no gateway of this version; name its address with --url"),
    ],
)
def test_wrong_answers_are_one_sentence(
    arguments: list[str], status: int, body: object, exit_code: int, told: str
) -> None:
    """What it was, what to do, and no traceback."""
    with answering(status, body) as url:
        done = run("models", *arguments, "--url", url, env=ENVIRONMENT)
    assert done.exit_code == exit_code
    assert told in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "url,exit_code,told",
    [
        ("http://127.0.0.1:9", 1, "no gateway answers at http://127.0.0.1:9; start one with: make run"),
        ("ftp://x", 2, "a gateway's address begins with http, https, ws or wss, not 'ftp://x'"),
        ("http://", 2, "a gateway's address begins with"),
    ],
)
def test_missing_gateway_is_told(url: str, exit_code: int, told: str) -> None:
    """As for `generate`."""
    done = run("models", "--url", url, env=ENVIRONMENT)
    assert done.exit_code == exit_code
    assert done.stderr.startswith(f"safelight: {told}")
    assert run("models", "--url", url).exit_code == 2
