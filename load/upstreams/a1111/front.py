"""What stands between the wire and the handlers: the body's JSON, credentials, errors and the middleware."""

from __future__ import annotations

import asyncio
import base64

from aiohttp import web

from load.upstreams.a1111 import answers, fields, routes
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.errors import Invalid, Raised, Refused, scripted, told
from load.upstreams.a1111.setup import Setup
from load.upstreams.faults import Garbage, Refuse
from load.upstreams.standin import Asked, Exchange

_GZIP_IN_THREAD = 64 * 1024
_GZIP_FROM = {"forge": 1000, "a1111": 1000, "sdnext": 2048}


class Front:
    """The web framework around the handlers."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._routes = routes.table(setup.flavour, web=setup.web)

    def asked(self, request: web.BaseRequest) -> Asked:
        """What a request's head asks for."""
        operation = routes.operation(self._routes, request.method, request.path, self._setup.flavour)
        return Asked(operation, operation in routes.GENERATIONS, key=self._user(request))

    def body(self, exchange: Exchange) -> object:
        """The body as JSON; raises what comes before credentials are looked at."""
        fault, asked, request = exchange.fault, exchange.asked, exchange.request
        if isinstance(fault, Refuse) and not (asked.generation and exchange.begun(fault.status)):
            raise scripted(fault)
        if asked.operation == "unknown":
            raise routes.refuse(self._routes, request.path, self._setup.flavour)
        # The framework parses a body before it looks at credentials, and checks its fields after that.
        if asked.operation not in routes.WITH_BODY:
            return None
        return fields.parse(exchange.body, request.headers.get("Content-Type", ""))

    def authorize(self, exchange: Exchange) -> None:
        """Raise `Refused` unless whoever asks may ask this."""
        operation, path, flavour = exchange.asked.operation, exchange.request.path, self._setup.flavour
        # Forge leaves its progress open.
        is_open = not path.startswith("/sdapi/") or (operation == "progress" and flavour == "forge")
        if not self._setup.users or is_open or exchange.asked.key is not None:
            return
        given = exchange.request.headers.get("Authorization", "").lower().startswith("basic ")
        detail = "Incorrect username or password" if given else "Not authenticated"
        # The other two rewrite the error and lose its header.
        headers = [("www-authenticate", "Basic")] if flavour == "forge" else []
        raise Refused(401, "Unauthorized" if flavour == "sdnext" and given else detail, *headers)

    def error(self, error: Invalid | Refused | Raised) -> UvicornAnswer:
        """How this flavour tells of an error."""
        status, body = told(error, self._setup.flavour)
        headers = error.headers if isinstance(error, Refused) else ()
        return answers.answer(status, answers.to_json(body), first=headers)

    async def dressed(self, exchange: Exchange, made: UvicornAnswer) -> UvicornAnswer:
        """The answer with what the middleware adds."""
        if self._setup.flavour != "forge":
            now = asyncio.get_running_loop().time()
            timed = (("x-process-time", str(round(now - exchange.started, 4))),)
            made = UvicornAnswer(made.status, made.headers + timed, made.body)
        if isinstance(exchange.fault, Garbage) or not self._zips(exchange.request, made):
            return made
        if len(made.body) < _GZIP_IN_THREAD:
            return answers.zipped(made)
        return await asyncio.to_thread(answers.zipped, made)

    def _zips(self, request: web.BaseRequest, made: UvicornAnswer) -> bool:
        flavour = self._setup.flavour
        if flavour == "forge" and self._setup.web:
            return False
        return len(made.body) >= _GZIP_FROM[flavour] and "gzip" in request.headers.get("Accept-Encoding", "")

    def _user(self, request: web.BaseRequest) -> str | None:
        scheme, _, coded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except ValueError:
            return None
        users = self._setup.users
        return user if user in users and users[user] == password else None
