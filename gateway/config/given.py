"""What was given before anybody knows what it means: a tree of values, each with its place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.config.settings import SettingPath


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


def as_node(table: Mapping[str, object], file: str, path: SettingPath) -> Node:
    """Return a table of a file as a tree."""
    node: Node = {}
    for name, value in table.items():
        inner = (*path, name)
        if isinstance(value, dict):
            node[name] = as_node(value, file, inner)
        else:
            node[name] = Given(value, file, file)
    return node


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
    where = next((one.where for one in inner.values()), ".".join(path))
    return Given({name: one.value for name, one in inner.items()}, where, origin)
