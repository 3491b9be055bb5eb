"""`/v2beta/stable-image` and `/v2beta/results`: Stability AI's v2beta."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.models import Model
from gateway.core.reports import Picture
from gateway.edges.compat.dialect import Trouble, Wish
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.stability_v2beta import answers
from gateway.edges.compat.stability_v2beta.asks import Ask
from gateway.edges.compat.stability_v2beta.fields import Form
from gateway.edges.compat.stability_v2beta.services import SERVICES, Service
from gateway.edges.compat.stability_v2beta.tables import FIELDS, UNKNOWN
from gateway.edges.compat.stability_v2beta.views import RESULTS, view_of, wants_json
from gateway.edges.http import answer
from protocol.codec import convert_fields
from protocol.errors import ClientFault

_BASE: Final = "/v2beta/stable-image/"
_CLIENT: Final = ("stability-client-id", "stability-client-user-id", "stability-client-version")
"""Headers that say who asks by which program: bounded and ignored."""
_MOST_CLIENT: Final = 256
_OWN_KIND: Final = "style"
"""The kind of control image that a model must know by this very name: as any other kind it would mean lines."""


class StabilityV2BetaDoor:
    """See `gateway.edges.compat.dialect.Dialect`."""

    prefixes: tuple[str, ...] = ("/v2beta/",)
    challenge: str = "Bearer"
    names: Mapping[str, str] = FIELDS
    tells_x_ratelimit: bool = False

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def routes(self) -> list[BaseRoute]:
        """Return the dialect's routes."""
        holding = self._doors.bodies.holding
        services = ((one.path, holding(partial(self.generate, service=one))) for one in SERVICES)
        return [
            *(Route(_BASE + path, handler, methods=["POST"]) for path, handler in services),
            *(Route(_BASE + path, partial(self.unknown, path=path), methods=["POST"]) for path in UNKNOWN),
            Route(f"{RESULTS}{{job}}", self.result, methods=["GET"]),
            Route(f"{_BASE}upscale/creative/result/{{job}}", self.result, methods=["GET"]),
        ]

    def refusal(self, trouble: Trouble, reference: str) -> Response:
        """See `Dialect.refusal`: `{"id", "name", "errors"}`, whatever the client accepts."""
        status, body = answers.error(trouble, reference)
        return answer(body, status)

    async def generate(self, request: Request, service: Service) -> Any:
        """Do what a service does."""
        identity = await self._doors.identify(request, "generate")
        _check_client(request)
        if not service.is_async:  # those look at no `Accept`
            wants_json(request)
        form, pictures = await self._form(request, service)
        ask = service.read(form, pictures)
        wish, ignored = self._fitted(ask)
        view = view_of(request, self._doors, form.output_format) if not service.is_async else None
        try:
            begun = await self._doors.begin(request, identity, wish, self, ignored=ignored)
        except ClientFault as fault:
            if fault.code == "resolution_not_supported" and wish.sent:
                fault.details = {**fault.details, "path": wish.sent[0].name}  # its size is what was asked for
            raise
        if view is None:
            return answer({"id": answers.id_of(begun.job, form.output_format)}, headers=begun.headers)
        return await self._doors.answer(request, begun, self, view)

    async def unknown(self, request: Request, path: str) -> Any:
        """Refuse what the vendor does and nothing here can."""
        await self._doors.identify(request, "generate")
        raise ClientFault("task_not_supported", UNKNOWN[path])

    async def result(self, request: Request) -> Response:
        """Tell that a picture is not there yet, or the picture. Raises `Trouble` if there will be none."""
        identity = await self._doors.identify(request, "read")
        told = request.path_params["job"]
        job, shown = answers.read_id(told)
        view = view_of(request, self._doors, shown)
        record = await self._doors.own_job(identity, job)
        if not record.has_ended:
            response = answer(answers.unfinished(told), 202)
        else:
            response = await self._doors.told(identity, record.id, view.finished)
        response.headers["X-Job-Id"] = record.id
        return response

    # --- inside ---

    async def _form(self, request: Request, service: Service) -> tuple[Form, dict[str, Picture]]:
        parts = await self._doors.bodies.form(request)
        # A field that is sent twice counts as it was sent last, and a file without a byte was not sent.
        texts = {part.name: part.text for part in parts if part.name in service.form.__struct_fields__}
        files = {part.name: part.content for part in parts if part.name in service.pictures and part.content}
        form = convert_fields(texts, service.form)
        pictures = {name: self._doors.pictures.measured(content, name) for name, content in files.items()}
        if service.is_masked and "image" in pictures and "mask" not in pictures:
            mask = await self._doors.pictures.mask(files["image"], "transparent", "image")
            pictures["mask"] = self._doors.pictures.measured(mask, "mask")
        return form, pictures

    def _fitted(self, ask: Ask) -> tuple[Wish, tuple[str, ...]]:
        """The first wish that a model can do, in a size of its; and what has no effect."""
        for wish in ask.wishes:
            name = self._able(wish, is_named=ask.is_named)
            if name is not None:
                size = {} if ask.size is None else ask.size(self._doors.node.models[name], wish.task)
                unheard = () if size or ask.sized_by is None else (ask.sized_by,)
                return replace(wish, model=name, params={**wish.params, **size}), (*ask.ignored, *unheard)
        if ask.is_named:
            return ask.wishes[0], ask.ignored  # admission says why not
        raise ClientFault("task_not_supported", "no model here can do this")

    def _able(self, wish: Wish, *, is_named: bool) -> str | None:
        """The model that the wish means, or else whatever does it if the client named none; `None` if nothing does."""
        models, aliases = self._doors.node.models, self._doors.terms.aliases
        names = (wish.model,) if is_named else (wish.model, None)
        found = (aliases.find(name, wish.task, models) for name in names)
        return next((name for name in found if name is not None and name in models and _can(models[name], wish)), None)


def _can(model: Model, wish: Wish) -> bool:
    kinds = {one.role for one in wish.sent} & {_OWN_KIND}
    return wish.task in model.tasks and kinds <= set(model.controls)


def _check_client(request: Request) -> None:
    for name in _CLIENT:
        if len(request.headers.get(name, "")) > _MOST_CLIENT:
            message = f"must have at most {_MOST_CLIENT} characters"
            raise ClientFault("bad_request", message, details={"path": name})
