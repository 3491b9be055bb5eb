"""The pictures that come along with a request, read and put right before anything is submitted."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.core.images import measure
from gateway.core.params import Params
from gateway.edges.compat.a1111.controls import PATH, read_units
from gateway.edges.compat.dialect import Sent, Wish
from gateway.edges.compat.doors import Doors
from protocol.errors import ClientFault

_PARAMS: Final = frozenset(Params.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Units:
    """The control images of a request, and what they say that is ignored."""

    sent: tuple[Sent, ...] = ()
    ignored: dict[str, Any] = field(default_factory=dict)


class Inputs:
    """Reads pictures out of bodies."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def init(self, images: list[str] | None) -> bytes:
        """Return the one init picture. Raises `ClientFault`."""
        if not images:
            raise ClientFault("asset_not_found", "Init image not found", details={"path": "init_images"})
        if len(images) > 1:
            raise ClientFault("invalid_param", "one init image at most", details={"path": "init_images"})
        return await self._doors.bodies.picture(images[0], "init_images")

    async def mask(self, text: str | None, *, inverted: bool) -> bytes | None:
        """Return the mask, white where the picture changes. Raises `ClientFault`."""
        if not text:
            return None
        content = await self._doors.bodies.picture(text, "mask")
        self._doors.pictures.measured(content, "mask")
        if measure(content).has_alpha:
            content = await self._doors.pictures.mask(content, "opaque", "mask")
        return await self._doors.pictures.mask(content, "inverted", "mask") if inverted else content

    async def units(self, scripts: dict[str, Any] | None, init: bytes | None) -> Units:
        """Return the control images; a unit without one takes the init picture. Raises `ClientFault`."""
        units = read_units(scripts)
        sent = []
        for unit in units:
            image = init if unit.image is None else await self._doors.bodies.picture(unit.image, f"{PATH}.image")
            if image is None:
                raise ClientFault("invalid_param", "a unit needs an image", details={"path": f"{PATH}.image"})
            sent.append(Sent(unit.kind, image, f"{PATH}.image", unit.weight, unit.start, unit.end, unit.module))
        return Units(tuple(sent), {"controlnet": True} if any(unit.has_idle for unit in units) else {})

    def fitting(self, wish: Wish) -> Wish:
        """Return the wish without names that only the web UI has, if the doors do not leave them out by themselves.

        They leave hints out for a model that does the task; one that cannot is refused, and for that alone.
        """
        given = {name: value for name, value in wish.params.items() if value is not None}
        fitted, _ = self._doors.fitted(replace(wish, params=given))
        if not fitted.params.keys() <= _PARAMS:
            given = {name: value for name, value in given.items() if name in _PARAMS}
        return replace(wish, params=given)
