"""`/sdapi/v1` and `/controlnet`: the API of AUTOMATIC1111's web UI, which its relatives speak as well.

A web UI has one queue for all, and its `progress` and `interrupt` are about whatever runs. Here they are about the
caller's own job, and a checkpoint that is set by `options` is set for the caller alone.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.records import Identity
from gateway.core.scopes import Scope
from gateway.edges.compat.a1111 import answers, lists, wire
from gateway.edges.compat.a1111.callers import Chosen, identify
from gateway.edges.compat.a1111.fields import EXTRAS, TABLES, Extras, ImageToImage, TextToImage, bound, refuse, told
from gateway.edges.compat.a1111.inputs import Inputs
from gateway.edges.compat.a1111.tables import NAMES
from gateway.edges.compat.a1111.views import EnlargedView, PicturesView
from gateway.edges.compat.a1111.work import OwnWork
from gateway.edges.compat.dialect import Trouble
from gateway.edges.compat.doors import Doors
from gateway.edges.http import answer
from protocol.codec import convert_fields
from protocol.errors import ClientFault

_API: Final = "/sdapi/v1"
_NOTHING: Final = ("refresh-checkpoints", "refresh-vae", "refresh-loras")
"""What a web UI does again by hand happens here by itself."""
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


class A1111Door:
    """See `gateway.edges.compat.dialect.Dialect`."""

    prefixes: tuple[str, ...] = ("/sdapi/", "/controlnet/")
    challenge = "Basic"
    names: Mapping[str, str] = NAMES
    tells_x_ratelimit = False

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._inputs = Inputs(doors)
        self._chosen = Chosen()
        self._work = OwnWork(doors)

    def routes(self) -> list[BaseRoute]:
        """Return the dialect's routes."""
        lists_of = [
            Route(f"/{name}" if "/" in name else f"{_API}/{name}", partial(self.listed, name), methods=["GET"])
            for name in lists.NAMES
        ]
        holding = self._doors.bodies.holding
        return [
            Route(f"{_API}/txt2img", holding(self.text_to_image), methods=["POST"]),
            Route(f"{_API}/img2img", holding(self.image_to_image), methods=["POST"]),
            Route(f"{_API}/extra-single-image", holding(self.enlarge), methods=["POST"]),
            Route(f"{_API}/progress", self.progress, methods=["GET"]),
            Route(f"{_API}/interrupt", self.interrupt, methods=["POST"]),
            Route(f"{_API}/skip", self.skip, methods=["POST"]),
            Route(f"{_API}/jobs/{{job}}", self.job, methods=["GET"]),
            Route(f"{_API}/options", self.options, methods=["GET"]),
            Route(f"{_API}/options", holding(self.set_options), methods=["POST"]),
            *lists_of,
            *(Route(f"{_API}/{name}", self.nothing, methods=["POST"]) for name in _NOTHING),
        ]

    def refusal(self, trouble: Trouble, reference: str) -> Response:
        """See `Dialect.refusal`: `{"detail"}`, or the four names of a failure; an interrupted job is none."""
        found = self._work.unfinished(trouble.job) if trouble.code == "canceled" else None
        if found is not None:
            return Response(answers.unfinished(*found), media_type="application/json")
        status, body = answers.error(trouble)
        return answer(body, status)

    # --- pictures ---

    async def text_to_image(self, request: Request) -> Any:
        """Make pictures of words."""
        identity, fields = await self._asked(request, TABLES["txt2img"])
        asked = convert_fields(fields, TextToImage)
        units = await self._inputs.units(asked.alwayson_scripts, None)
        ignored = told(fields, TABLES["txt2img"]) | wire.other_settings(asked.override_settings) | units.ignored
        wish = wire.text_to_image(asked, self._model(identity, asked), units.sent, ignored)
        view = PicturesView(self._doors, _echo("txt2img", fields, asked))
        return await self._doors.run(request, identity, self._inputs.fitting(wish), self, view)

    async def image_to_image(self, request: Request) -> Any:
        """Make pictures of a picture, of a part of it, or with control images."""
        identity, fields = await self._asked(request, TABLES["img2img"])
        asked = convert_fields(fields, ImageToImage)
        init = await self._inputs.init(asked.init_images)
        mask = await self._inputs.mask(asked.mask, inverted=bool(asked.inpainting_mask_invert))
        units = await self._inputs.units(asked.alwayson_scripts, init)
        ignored = told(fields, TABLES["img2img"]) | wire.other_settings(asked.override_settings) | units.ignored
        wish = wire.image_to_image(asked, self._model(identity, asked), init, mask, units.sent, ignored)
        view = PicturesView(self._doors, _echo("img2img", fields, asked))
        return await self._doors.run(request, identity, self._inputs.fitting(wish), self, view)

    async def enlarge(self, request: Request) -> Any:
        """Make a picture larger."""
        identity, fields = await self._asked(request, EXTRAS)
        asked = convert_fields(fields, Extras)
        if asked.upscaler_1 in (None, "", "None"):
            raise ClientFault("invalid_param", "name one of /sdapi/v1/upscalers", details={"path": "upscaler_1"})
        image = await self._doors.bodies.picture(asked.image or "", "image")
        wish = wire.enlarge(asked, asked.upscaler_1 or "", image)
        return await self._doors.run(request, identity, wish, self, EnlargedView(self._doors))

    # --- the caller's own job ---

    async def progress(self, request: Request) -> Response:
        """Tell how far the caller's job is, and show its newest preview."""
        identity = await self._identify(request, "read")
        skips = request.query_params.get("skip_current_image", "").lower() not in _FALSE
        return answer(await self._work.told(identity, with_image=not skips))

    async def interrupt(self, request: Request) -> Response:
        """End the caller's job."""
        await self._work.interrupt(await self._identify(request, "cancel"))
        return answer({})

    async def skip(self, request: Request) -> Response:
        """End the caller's picture, if no other comes after it."""
        await self._work.skip(await self._identify(request, "cancel"))
        return _null()

    async def job(self, request: Request) -> Response:
        """Tell what became of a job that the client did not wait for: 202 and its progress until it has ended."""
        identity = await self._identify(request, "read")
        record = await self._doors.own_job(identity, request.path_params["job"])
        if not record.has_ended:
            return answer(await self._work.told_of(record, with_image=True), 202)
        view = PicturesView(self._doors, answers.Asked())
        return await self._doors.told(identity, record.id, view.finished)

    # --- settings and lists ---

    async def options(self, request: Request) -> Response:
        """Tell the settings; the checkpoint is the caller's."""
        return answer(lists.options(self._checkpoint(await self._identify(request, "read"))))

    async def set_options(self, request: Request) -> Response:
        """Set the caller's checkpoint; clients send the other settings back as they got them."""
        identity = await self._identify(request, "generate")
        fields = await self._fields(request)
        known = lists.options(None) | {wire.CHECKPOINT: fields.get(wire.CHECKPOINT)}
        for name, value in fields.items():
            if name not in known or known[name] != value:
                message = f"only {wire.CHECKPOINT} can be set, and only for yourself"
                raise ClientFault("invalid_param", message, details={"path": name if name in known else "body"})
        wanted = wire.checkpoint_of(fields)
        if wanted is not None:
            models = self._doors.node.models
            if self._doors.terms.aliases.find(wanted, "txt2img", models) not in models:
                raise ClientFault("model_not_found", "there is no such checkpoint", details={"path": wire.CHECKPOINT})
            self._chosen.set(identity, wanted)
        return _null()

    async def listed(self, name: str, request: Request) -> Response:
        """Tell what there is to choose from."""
        identity = await self._identify(request, "read")
        told_of = lists.listing(name, self._doors.node.models, self._checkpoint(identity))
        return Response(msgspec.json.encode(told_of), media_type="application/json")

    async def nothing(self, request: Request) -> Response:
        """Do nothing."""
        await self._identify(request, "read")
        return _null()

    # --- inside ---

    async def _fields(self, request: Request) -> dict[str, Any]:
        """Return the body as it came: its types are looked at more leniently than a struct would."""
        kind: Any = dict[str, Any]
        fields: dict[str, Any] = await self._doors.bodies.json(request, kind)
        return fields

    async def _identify(self, request: Request, scope: Scope) -> Identity:
        return await self._doors.identify(request, scope, identify)

    async def _asked(self, request: Request, table: Any) -> tuple[Identity, dict[str, Any]]:
        """Return who asks, and the fields of the body that say something."""
        identity = await self._identify(request, "generate")
        body = await self._fields(request)
        fields = {name: value for name, value in body.items() if value is not None}
        refuse(fields, table)
        bound(fields, table)
        return identity, fields

    def _model(self, identity: Identity, asked: TextToImage | ImageToImage) -> str | None:
        return wire.checkpoint_of(asked.override_settings) or self._chosen.get(identity)

    def _checkpoint(self, identity: Identity) -> str | None:
        """The model that the caller's next picture is made with, if they name none."""
        return self._doors.terms.aliases.find(self._chosen.get(identity), "txt2img", self._doors.node.models)


def _echo(operation: str, fields: dict[str, Any], asked: TextToImage | ImageToImage) -> answers.Asked:
    return answers.Asked(
        answers.parameters_of(operation, fields),
        wire.format_of(asked.override_settings),
        asked.batch_size or 1,
        asked.send_images is not False,
    )


def _null() -> Response:
    return Response(b"null", media_type="application/json")
