"""What was given before anybody knows what it means: a tree of values, each with its place."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.config.fields import SettingPath
from gateway.config.values import dotted


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it."""

    value: object
    where: str
    """How a fault names the place."""
    origin: str
    is_text: bool = False
    """It comes from the environment, where everything is text."""


Node = dict[str, "Node | Given"]


def as_node(table: Mapping[str, object], where: str) -> Node:
    """Return a table of a file as a tree."""
    return {
        name: as_node(value, where) if isinstance(value, dict) else Given(value, where, where)
        for name, value in table.items()
    }


def place(node: Node | Given, path: SettingPath) -> str:
    """Return the place of a tree's first value, or the path of a table that has none."""
    return next(places(node), dotted(path))


def places(node: Node | Given) -> Iterator[str]:
    """Yield the place of each value of a tree."""
    if isinstance(node, Given):
        yield node.where
    else:
        for inner in node.values():
            yield from places(inner)


def collapse(node: Node | Given, path: SettingPath) -> Given:
    """Return a table that is one value, as the prices are, as what was given."""
    if isinstance(node, Given):
        return node
    inner = {name: collapse(value, (*path, name)) for name, value in node.items()}
    origin = next((one.origin for one in inner.values()), "")
    where = next((one.where for one in inner.values()), dotted(path))
    return Given({name: one.value for name, one in inner.items()}, where, origin)


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """Return what was probably meant; `None` if nothing known is near."""
    return next(iter(difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.7)), None)
