"""Sorts icons into kinds, and tells which may be mirrored; the rules stand in `tables/kinds.toml`."""

import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gateway.engine.atlas import Kind

_TABLE = Path(__file__).parent / "tables" / "kinds.toml"


@dataclass(frozen=True, slots=True)
class Kinds:
    """The rules, read once."""

    groups: dict[str, Kind]
    """By Unicode's subgroup."""
    names: dict[str, Kind]
    """By the icon's name, against its group."""
    fixed_groups: frozenset[str]
    """Groups that may not be mirrored."""
    fixed_names: re.Pattern[str]
    free_names: frozenset[str]
    """Icons that may be mirrored though their group may not."""

    def kind(self, name: str, group: str) -> Kind:
        """Return an icon's kind; raises KeyError if no rule names it."""
        return self.names[name] if name in self.names else self.groups[group]

    def flip(self, name: str, group: str) -> bool:
        """Return whether mirroring an icon is harmless."""
        fixed = group in self.fixed_groups or self.fixed_names.search(name) is not None
        return name in self.free_names or not fixed


def kinds() -> Kinds:
    """Read the rules."""
    rules = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return Kinds(
        groups={group: kind for kind, groups in rules["groups"].items() for group in groups.split()},
        names={name: kind for kind, names in rules["names"].items() for name in names.split()},
        fixed_groups=frozenset(rules["fixed"]["groups"].split()),
        fixed_names=re.compile(rules["fixed"]["names"]),
        free_names=frozenset(rules["fixed"]["except"].split()),
    )


def is_head(name: str, every: Collection[str]) -> bool:
    """Whether the icon shows only the head of something that another icon shows whole, or that needs no face."""
    whole = re.sub(r"-(with-)?face$", "", name)
    return whole != name and whole in every
