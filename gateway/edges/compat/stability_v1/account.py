"""`/v1/engines/list`, `/v1/user/account`, `/v1/user/balance`: what clients of the vendor ask before they begin."""

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.models import Model
from gateway.edges.compat.doors import Doors

UNLIMITED: Final = 1_000_000.0
"""Credits of an account that no budget bounds: a number, because clients compare it with prices."""
NOBODY: Final = "account@example.com"
"""No address is kept; clients check that it has the form of one."""


class AccountRoutes:
    """Tells engines and accounts."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/v1/engines/list", self.engines, methods=["GET"]),
            Route("/v1/user/account", self.account, methods=["GET"]),
            Route("/v1/user/balance", self.balance, methods=["GET"]),
        ]

    async def engines(self, request: Request) -> Response:
        """List every name that `{engine}` may be: the models there are, and the aliases that mean one of them."""
        await self._doors.identify(request, "read")
        models, aliases = self._doors.node.models, self._doors.terms.aliases
        told = {name: _engine(name, model) for name, model in models.items()}
        for alias in aliases.names:
            meant = next((found for task in _TASKS if (found := aliases.find(alias, task, models)) in models), None)
            if alias not in told and meant is not None:
                told[alias] = _engine(alias, models[meant])
        return _listed(list(told.values()))

    async def account(self, request: Request) -> Response:
        """Tell who asks, as the one organization that the account is."""
        identity = await self._doors.identify(request, "read")
        organization = {"id": identity.tenant, "name": identity.tenant, "role": "MEMBER", "is_default": True}
        return _listed(
            {
                "id": identity.subject or identity.tenant,
                "email": NOBODY,
                "profile_picture": "",
                "organizations": [organization],
            }
        )

    async def balance(self, request: Request) -> Response:
        """Tell the credits."""
        await self._doors.identify(request, "read")
        return _listed({"credits": UNLIMITED})


_TASKS: Final = ("txt2img", "img2img", "inpaint", "controlnet", "upscale")


def _engine(name: str, model: Model) -> dict[str, str]:
    shown = name.replace("-", " ").title()
    return {"id": name, "name": shown, "description": model.description or model.id, "type": "PICTURE"}


def _listed(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
