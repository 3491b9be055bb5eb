"""What is wrong with the settings, collected so that all of it is told at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config.fields import SettingPath
from gateway.config.given import Node, place
from gateway.config.values import dotted


class ConfigFaults(Exception):
    """The settings cannot be used; `faults` has one line each: where, what is wrong, what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


class Faults:
    """The faults that were found so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._paths: set[SettingPath] = set()

    def note(self, line: str) -> None:
        """Add a fault of a source or of a name that is no setting."""
        self.lines.append(line)

    def add(self, path: SettingPath, where: str, wrong: str, allowed: str) -> None:
        """Add a fault of a setting: the place that gave it, what is wrong, and what is allowed instead."""
        self._paths.add(path)
        self.lines.append(f"{where}: {wrong}; allowed: {allowed}")

    def concern(self, *paths: SettingPath) -> bool:
        """Whether one of these settings is wrong, so that a default stands in for it."""
        return not self._paths.isdisjoint(paths)


@dataclass(frozen=True, slots=True)
class Table:
    """What was given for one section, for whoever checks it further."""

    node: Node
    path: SettingPath
    faults: Faults

    def name(self, field: str | None = None) -> str:
        """Return how the section, or a field of it, is named."""
        return dotted(self.path if field is None else (*self.path, field))

    def fault(self, wrong: str, allowed: str, field: str | None = None) -> None:
        """Note what is wrong with a field, or with the section as a whole."""
        self.tell(f"{self.name(field)} {wrong}", allowed, field)

    def tell(self, wrong: str, allowed: str, field: str | None = None) -> None:
        """Note a fault in a sentence of its own."""
        path = self.path if field is None else (*self.path, field)
        given = self.node if field is None else self.node.get(field, self.node)
        self.faults.add(path, place(given, path), wrong, allowed)

    def concerns(self, *fields: str) -> bool:
        """Whether one of these fields is wrong already."""
        return self.faults.concern(*((*self.path, field) for field in fields))
