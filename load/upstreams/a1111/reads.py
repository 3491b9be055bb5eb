"""The paths that make no picture: progress, flags, options and what there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from load.upstreams.a1111 import answers, controlnet, fields, images, listings
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.engine import Engine
from load.upstreams.a1111.errors import Json
from load.upstreams.a1111.generation import set_options
from load.upstreams.a1111.progress import Progress
from load.upstreams.a1111.sdnext_ws import Tickets
from load.upstreams.a1111.setup import Setup
from load.upstreams.standin import Exchange

_PAGE = answers.answer(200, b"<!doctype html><title>WebUI</title>", "text/html; charset=utf-8")


class Reads:
    """Answers these paths from what the server is doing and has."""

    def __init__(self, setup: Setup, engine: Engine, tickets: Tickets, port: int) -> None:
        self._setup, self._engine, self._tickets, self._port = setup, engine, tickets, port
        progress = Progress(engine)
        # What each path answers as JSON, by its operation; a listing that is not here is told as it was recorded.
        self._values: Mapping[str, Callable[[Exchange, object], object]] = {
            "progress": lambda exchange, _body: progress.shared(exchange.request),
            "internal/progress": lambda _, body: progress.of_task(fields.read(fields.PROGRESS, body)),
            "internal/pending-tasks": lambda _, _body: progress.waiting(),
            "options": lambda _, _body: dict(engine.options),
            "options/set": lambda _, body: self._set_options(dict(fields.as_object(body))),
            "png-info": lambda _, body: _png_info(fields.read(fields.PNG_INFO, body)["image"]),
            "controlnet/detect": lambda _, body: controlnet.detect(fields.read(fields.DETECT, body)),
            "ws-ticket": lambda _, _body: {"ticket": tickets.new()},
            "refresh-checkpoints": lambda _, _body: None,
            "refresh-loras": lambda _, _body: None,
            "sd-models": lambda _, _body: listings.sd_models(setup.models),
            "loras": lambda _, _body: listings.loras(setup.loras),
            "upscalers": lambda _, _body: listings.upscalers(setup.upscalers),
            "script-info": lambda _, _body: listings.script_info(),
            "cmd-flags": lambda _, _body: self._cmd_flags(),
        }

    def answer(self, exchange: Exchange, body: object) -> UvicornAnswer:
        """The answer to a request for one of these paths."""
        operation = exchange.asked.operation
        if operation in {"interrupt", "skip"}:
            return self._raise_flag(operation)
        if operation == "page":
            return _PAGE
        value = self._values.get(operation)
        told = value(exchange, body) if value is not None else _listing(operation)
        return answers.answer(200, answers.to_json(told))

    def _raise_flag(self, operation: str) -> UvicornAnswer:
        state = self._engine.state
        if operation == "interrupt":
            state.interrupted = True
        else:
            state.skipped = True
        if self._setup.flavour == "sdnext" and self._setup.no_content:
            return answers.empty(204)
        return answers.answer(200, b"{}" if operation == "interrupt" else b"null")

    def _set_options(self, given: dict[str, Any]) -> Json | None:
        strict = self._setup.flavour != "sdnext"
        changed = set_options(self._engine.options, given, self._setup.models, strict=strict)
        if strict:
            return None
        return {"updated": [{name: one} for name, one in zip(given, changed, strict=True)]}

    def _cmd_flags(self) -> Json:
        return {"api": True, "nowebui": not self._setup.web, "api_auth": None, "port": self._port or None}


def _listing(operation: str) -> object:
    if operation.startswith("controlnet/"):
        return controlnet.listing(operation.removeprefix("controlnet/"))
    return listings.LISTINGS.get(operation, {})


def _png_info(text: str) -> Json:
    picture = images.decode(text.strip())
    told_in = str(picture.info.get("parameters", ""))
    return {"info": told_in, "items": {}, "parameters": {}}
