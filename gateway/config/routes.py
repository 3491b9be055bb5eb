"""The names that clients ask for, and the routes to each, read from what was given."""

import re
from collections.abc import Collection
from typing import Final

from gateway.config.faults import Table
from gateway.config.fields import MODEL_NAME, MODEL_NAME_ALLOWED
from gateway.config.given import Given, Node, as_node, place
from gateway.config.sections import Sections
from gateway.config.settings import Model, Route
from gateway.config.values import dotted, shown

_NAME: Final = re.compile(MODEL_NAME)
_NEEDED: Final = ("upstream", "model")
_ROUTES_ALLOWED: Final = "a list of one table or more, each with `upstream` and `model`"


def read_models(given: Node | Given, upstreams: Collection[str], sections: Sections) -> dict[str, Model]:
    """Return the models; `upstreams` are the names that a route may go to."""
    if isinstance(given, Given):
        sections.faults.add(("models",), given.where, "models is no table", "a table of models by name")
        return {}
    models: dict[str, Model] = {}
    for name, node in given.items():
        path = ("models", name)
        if not _NAME.match(name):
            sections.faults.add(path, place(node, path), f"{shown(name)} is no name", MODEL_NAME_ALLOWED)
        elif isinstance(node, Given):
            sections.faults.add(path, node.where, f"{dotted(path)} is no table", "a table with `routes`")
        else:
            models[name] = _model(Table(node, path, sections.faults), upstreams, sections)
    return models


def _model(table: Table, upstreams: Collection[str], sections: Sections) -> Model:
    for name in [name for name in table.node if name != "routes"]:
        sections.unknown((*table.path, name), table.node[name], ["routes"])
    given = table.node.get("routes", Given([], place(table.node, table.path), ""))
    value = given.value if isinstance(given, Given) else None
    if not (isinstance(value, list) and value and all(isinstance(one, dict) for one in value)):
        table.fault("is no list of routes", _ROUTES_ALLOWED, "routes")
        return Model()
    where = place(given, table.path)
    sections.origins[*table.path, "routes"] = where
    found = [
        _route(Table(as_node(one, where), (*table.path, f"routes[{index}]"), table.faults), upstreams, sections)
        for index, one in enumerate(value)
    ]
    named = [route.upstream for route in found if route.upstream]
    if len(set(named)) < len(named):
        table.fault("goes to one upstream twice", "one route to each upstream", "routes")
    return Model(tuple(found))


def _route(table: Table, upstreams: Collection[str], sections: Sections) -> Route:
    for name in _NEEDED:
        if name not in table.node:
            table.fault(f"has no {name}", _ROUTES_ALLOWED)
    route = sections.build(Route, table.node, table.path)
    if route.upstream and route.upstream not in upstreams:
        wrong = f"is {shown(route.upstream)}, which is no upstream"
        table.fault(wrong, f"one of {', '.join(upstreams)}", "upstream")
    return route
