"""A whole gateway behind a socket, with an easel that can do everything: what the doors are tested at."""

import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from gateway.core.models import Model, Sizes
from gateway.core.records import Plan
from gateway.core.reports import ImageMade, Picture, Report, UpstreamFault
from gateway.ports import CallOrder
from tests.answers import Answer
from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.gateway.parts import add_key, migrated

_SIZED: Final = frozenset({"width", "height"})
_ALL: Final = _SIZED | {"prompt", "negative_prompt", "steps", "guidance", "sampler", "seed", "n", "strength", "style"}
EASEL: Final = Model(
    id="easel",
    upstream="easel",
    vendor_model="easel",
    tasks=dict.fromkeys(("txt2img", "img2img", "inpaint", "controlnet"), _ALL) | {"upscale": _SIZED | {"scale"}},
    sizes=Sizes(smallest=64, largest=2048, multiple_of=8, max_pixels=2048 * 1024),
    default_size=(128, 128),
    default_steps=10,
    images_per_call=4,
    samplers=("euler", "dpmpp_2m"),
    styles=("photographic",),
    controls=("canny", "pose"),
    preprocessors=("none", "canny"),
    price_micros=400,
)


class Easel(PaperUpstream):
    """Paints at once whatever is asked for, and keeps the orders."""

    def __init__(self, model: Model = EASEL) -> None:
        super().__init__(model.id)
        self.models = (model,)
        self.orders: list[CallOrder] = []
        self.fault: UpstreamFault | None = None
        """What ends the next calls."""
        self.filtered: frozenset[int] = frozenset()
        """Which pictures are held back."""
        self.picture: Picture | None = None
        """What every picture is, instead of one of the asked size."""

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Paint `order.count` pictures."""
        self.orders.append(order)
        if self.fault is not None:
            order.sent()
            raise self.fault
        async with contextlib.aclosing(super().run(order)) as reports:
            async for report in reports:
                if isinstance(report, ImageMade):
                    picture = self.picture or report.picture
                    yield replace(report, picture=picture, filtered=report.index in self.filtered)
                else:
                    yield report


@dataclass
class Door:
    """A gateway and a client of its doors."""

    running: Running
    easel: Easel
    client: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, data: Any = None, *, key: str | None = "", **headers: str) -> Answer:
        """Ask with `key` (empty = the gateway's, `None` = none); a dict is sent as JSON, `_` in names is `-`."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            told.setdefault("Authorization", f"Bearer {key or self.running.key}")
        if isinstance(data, dict):
            data = msgspec.json.encode(data)
            told.setdefault("Content-Type", "application/json")
            data = io.BytesIO(data)  # which aiohttp sends in pieces, however large
        async with self.client.request(method, self.running.url + path, data=data, headers=told) as response:
            return Answer(response.status, response.headers, await response.read())

    async def key_of(self, tenant: str, plan: Plan) -> str:
        """Return a key of another account with a plan of its own."""
        return await add_key(self.running.gateway.ledger, self.running.gateway.node.clock, tenant, plan)

    async def token_of(self, subject: str, **more: Any) -> str:
        """Return a token for an end user of the gateway's account; `scopes` leaves it less."""
        answer = await self.ask("POST", "/v1/tokens", {"subject": subject, **more})
        return str(answer.json["token"])


@contextlib.asynccontextmanager
async def open_door(folder: Path, easel: Easel | None = None, **settings: Any) -> AsyncIterator[Door]:
    """Run a gateway with one easel."""
    (folder / "ledger.db").write_bytes(migrated())
    easel = easel or Easel()
    async with gateway_here(folder, upstreams=[easel], **settings) as running, aiohttp.ClientSession() as client:
        yield Door(running, easel, client)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway that paints at once; its names of models are those of the settings' defaults."""
    async with open_door(tmp_path) as door:
        yield door
