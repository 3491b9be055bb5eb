"""`/v1/generation`, `/v1/engines`, `/v1/user`: Stability AI's REST v1, and the routes that guides have beside it."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.edges.compat.dialect import Trouble, Wish
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.stability_v1 import answers, asks
from gateway.edges.compat.stability_v1.account import AccountRoutes
from gateway.edges.compat.stability_v1.status import StatusRoute
from gateway.edges.compat.stability_v1.tables import FIELDS
from gateway.edges.compat.stability_v1.views import JsonView, PngView, wants_png
from gateway.edges.http import answer
from gateway.ports import MaskSource
from protocol.errors import ClientFault

_Asked = TypeVar("_Asked", bound=msgspec.Struct)
_MADE: Final[Mapping[str, tuple[str, MaskSource]]] = {
    "MASK_IMAGE_BLACK": ("mask_image", "inverted"),
    "INIT_IMAGE_ALPHA": ("init_image", "transparent"),
}
"""Masks that are made: of which picture, and how."""
_INIT: Final = ("init_image",)
_INIT_AND_MASK: Final = ("init_image", "mask_image")


class StabilityV1Door:
    """See `gateway.edges.compat.dialect.Dialect`."""

    prefixes: tuple[str, ...] = ("/v1/generation/", "/v1/engines/", "/v1/user/")
    challenge: str = "Bearer"
    names: Mapping[str, str] = FIELDS
    tells_x_ratelimit: bool = False

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def routes(self) -> list[BaseRoute]:
        """Return the dialect's routes."""
        generations = {
            "text-to-image": self.text_to_image,
            "text-to-image-controlnet": self.controlnet,
            "image-to-image-inpainting": self.inpainting,
            "image-to-image": self.image_to_image,
            "image-to-image/masking": self.masking,
            "image-to-image/upscale": self.upscale,
        }
        base, holding = "/v1/generation/{engine}/", self._doors.bodies.holding
        return [
            *(Route(base + path, holding(one), methods=["POST"]) for path, one in generations.items()),
            *StatusRoute(self._doors).routes(),
            *AccountRoutes(self._doors).routes(),
        ]

    def refusal(self, trouble: Trouble, reference: str) -> Response:
        """See `Dialect.refusal`: `{"id", "name", "message"}`."""
        status, body = answers.error(trouble, reference)
        return answer(body, status)

    async def text_to_image(self, request: Request) -> Any:
        """Make pictures of words."""
        return await self._generate(
            request, asks.TextToImage, (), lambda engine, asked, _: asks.text_to_image(engine, asked)
        )

    async def controlnet(self, request: Request) -> Any:
        """Make pictures of words and of a picture's edges, depth ..."""
        return await self._generate(request, asks.Controlled, _INIT, asks.controlled)

    async def inpainting(self, request: Request) -> Any:
        """Make a picture anew where a mask is white."""
        return await self._generate(request, asks.Inpainted, _INIT_AND_MASK, asks.inpainted)

    async def image_to_image(self, request: Request) -> Any:
        """Make pictures that begin from a picture."""
        return await self._generate(request, asks.ImageToImage, _INIT, asks.image_to_image)

    async def masking(self, request: Request) -> Any:
        """Make a picture anew where its mask says, whichever way round that is."""
        return await self._generate(request, asks.Masked, _INIT_AND_MASK, asks.masked)

    async def upscale(self, request: Request) -> Any:
        """Make a picture larger."""
        return await self._generate(request, asks.Upscaled, ("image",), asks.upscaled)

    # --- inside ---

    async def _generate(
        self,
        request: Request,
        kind: type[_Asked],
        pictures: tuple[str, ...],
        read: Callable[[str, _Asked, dict[str, bytes]], Wish],
    ) -> Any:
        identity = await self._doors.identify(request, "generate")
        asked, files = await self._doors.bodies.either(request, kind, pictures, asks.nested)
        view = PngView if wants_png(request, getattr(asked, "samples", None)) else JsonView
        if isinstance(asked, asks.Masked):
            await self._make_mask(asked.mask_source, files)
        self._check_mask(files)
        wish = read(request.path_params["engine"], asked, files)
        try:
            return await self._doors.run(request, identity, wish, self, view(self._doors))
        except ClientFault as fault:
            if fault.code == "resolution_not_supported" and wish.sent and wish.params.get("width") is None:
                fault.details = {**fault.details, "path": wish.sent[0].name}  # its size is what was asked for
            raise

    async def _make_mask(
        self, source: Literal["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK", "INIT_IMAGE_ALPHA"], files: dict[str, bytes]
    ) -> None:
        name, how = _MADE.get(source, ("", "inverted"))
        if name in files:
            files["mask_image"] = await self._doors.pictures.mask(files[name], how, name)

    def _check_mask(self, files: Mapping[str, bytes]) -> None:
        """A mask has its picture's size: the vendor refuses what it would have to guess."""
        if not set(_INIT_AND_MASK) <= files.keys():
            return
        init, mask = (self._doors.pictures.measured(files[name], name) for name in _INIT_AND_MASK)
        if (init.width, init.height) != (mask.width, mask.height):
            message = f"must have the size of init_image, {init.width}x{init.height}"
            raise ClientFault("invalid_param", message, details={"path": "mask_image"})
