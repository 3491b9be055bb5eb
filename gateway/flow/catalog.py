"""Which models there are, and which upstreams serve them; brought up to date as upstreams tell what they have."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.models import Model
from gateway.core.reports import UpstreamFault
from gateway.core.routing import Route
from gateway.flow.supervise import Supervisor
from gateway.ports import Upstream

REFRESH_SECONDS: Final = 30.0
REFRESH_AT_FIRST_SECONDS: Final = 2.0
"""How often an upstream is asked that has never answered: it may just be starting."""


@dataclass(frozen=True, slots=True)
class Way:
    """A configured route: a model of an upstream, by the upstream's own name of it in the catalogue."""

    upstream: str
    model: str
    weight: float = 1.0
    group: int = 1


class Catalog(Mapping[str, Model]):
    """The models by the name that clients ask for; as a mapping, each with its first route's abilities.

    A model that two upstreams offer under one name has two routes. `ways` are the configured names with theirs; what a
    way takes is not offered under its own name as well.
    """

    def __init__(self, upstreams: Sequence[Upstream], ways: Mapping[str, Sequence[Way]] | None = None) -> None:
        self._upstreams = upstreams
        self._ways = ways or {}
        self._routes: dict[str, tuple[Route, ...]] = {}
        self.rebuild()

    def __getitem__(self, name: str) -> Model:
        return self._routes[name][0].model

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def routes(self, name: str) -> tuple[Route, ...]:
        """Return the ways to a model; none if there is no such model now."""
        return self._routes.get(name, ())

    def served(self, name: str, upstream: str) -> Model | None:
        """Return a model as one upstream serves it."""
        return next((route.model for route in self.routes(name) if route.model.upstream == upstream), None)

    def rebuild(self) -> None:
        """Take up what the upstreams offer now."""
        offered = {(one.name, model.id): model for one in self._upstreams for model in one.models}
        routes: dict[str, list[Route]] = {}
        taken = set()
        for name, ways in self._ways.items():
            for way in ways:
                model = offered.get((way.upstream, way.model))
                if model is not None:
                    taken.add((way.upstream, way.model))
                    routes.setdefault(name, []).append(Route(replace(model, id=name), way.weight, way.group))
        for key, model in offered.items():
            if key not in taken:
                routes.setdefault(model.id, []).append(Route(model))
        self._routes = {name: tuple(sorted(found, key=lambda route: route.group)) for name, found in routes.items()}

    def keep_fresh(self, supervisor: Supervisor) -> None:
        """Ask the upstreams again and again; the supervisor holds the loops."""
        for one in self._upstreams:
            supervisor.keep(lambda one=one: self._refresh_forever(one), f"models of {one.name}")  # type: ignore[misc]

    async def refresh(self, upstream: Upstream) -> bool:
        """Ask one upstream what it offers; whether it answered."""
        try:
            await upstream.refresh()
        except UpstreamFault:
            return False
        self.rebuild()
        return True

    async def _refresh_forever(self, upstream: Upstream) -> None:
        has_answered = False
        while True:
            has_answered = await self.refresh(upstream) or has_answered
            await asyncio.sleep(REFRESH_SECONDS if has_answered else REFRESH_AT_FIRST_SECONDS)
