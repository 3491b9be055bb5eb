"""Which model a name of somebody else's API means here.

Programs that were written for another API name its models. A name that an upstream offers is that upstream's; any other
is looked up in the table of aliases, where it means a model, or whatever does the task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.models import Model

ANY: Final = "*"
"""As the meaning of an alias: whatever does the task, the embedded engine first."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """What names mean; `embedded` are the upstreams that come with the gateway."""

    names: Mapping[str, str]
    """Name -> the model that it means, or `ANY`."""
    embedded: frozenset[str] = frozenset()

    def find(self, name: str | None, task: str, models: Mapping[str, Model]) -> str | None:
        """Return the model that `name` means for a task; no name means whatever does it.

        A model that exists and does the task counts before any alias. What cannot be resolved comes back as it is (or
        as `None`), so that admission refuses it in its own words.
        """
        if name is not None and name in models and task in models[name].tasks:
            return name
        meaning = ANY if name is None else self.names.get(name, name)
        return (self._able(task, models) or name) if meaning == ANY else meaning

    def _able(self, task: str, models: Mapping[str, Model]) -> str | None:
        """The first model that does the task; the embedded engine's before others, and if none does, its first."""
        own = [name for name, model in models.items() if model.upstream in self.embedded]
        ordered = [*own, *(name for name in models if name not in own)]
        return next((name for name in ordered if task in models[name].tasks), next(iter(own), None))
