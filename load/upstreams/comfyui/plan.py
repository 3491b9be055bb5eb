"""In which order the nodes of a graph run, and what of it is cached.

The order is the server's: outputs first if they are ready, then what an output waits for, then what such a
node waits for, else the first that is ready.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]


def is_link(value: object) -> bool:
    """Whether an input's value is a link `[node, output]` and no plain value."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def links(node: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The links among a node's inputs, in order."""
    for value in node["inputs"].values():
        if is_link(value):
            yield value[0], int(value[1])


class Plan:
    """The nodes still to run."""

    def __init__(self, graph: Graph, is_cached: Callable[[str], bool], is_output: Callable[[str], bool]) -> None:
        self._graph, self._is_cached, self._is_output = graph, is_cached, is_output
        self._waits_for: dict[str, set[str]] = {}
        self._blocks: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    def add(self, output: str) -> None:
        """Put an output node and all that it needs on the plan."""
        names, found = [output], []
        while names:
            name = names.pop()
            if name in self._waits_for:
                continue
            self._waits_for[name], self._blocks[name] = set(), {}
            for source, _ in links(self._graph[name]):
                if not self._is_cached(source):
                    names.append(source)
                    found.append((source, name))
        for source, name in found:
            self._blocks[source][name] = None
            self._waits_for[name].add(source)

    def pick(self) -> str:
        """The node to run next."""
        ready = [name for name, sources in self._waits_for.items() if not sources]
        for depth in range(3):
            for name in ready:
                if self._leads_to_output(name, depth):
                    return name
        return ready[0]

    def done(self, name: str) -> None:
        """Take a finished node off the plan."""
        for blocked in self._blocks.pop(name):
            self._waits_for[blocked].discard(name)
        del self._waits_for[name]

    def _leads_to_output(self, name: str, depth: int) -> bool:
        if depth == 0:
            return self._is_output(name)
        return any(self._leads_to_output(blocked, depth - 1) for blocked in self._blocks[name])


class Signatures:
    """What decides whether a node's result may be used again: its class, its inputs and all before it."""

    def __init__(self, graph: Graph, fingerprint: Callable[[str], str]) -> None:
        self._graph, self._fingerprint = graph, fingerprint
        self._known: dict[str, str] = {}
        self._open: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._known:
            self._open.add(name)
            self._known[name] = self._make(name)
            self._open.discard(name)
        return self._known[name]

    def _make(self, name: str) -> str:
        node = self._graph[name]
        inputs = {key: self._told(value) for key, value in sorted(node["inputs"].items())}
        text = json.dumps([node["class_type"], inputs, self._fingerprint(name)])
        return hashlib.sha256(text.encode()).hexdigest()

    def _told(self, value: object) -> object:
        if not (isinstance(value, list) and is_link(value)):
            return [value]
        source = value[0]
        # Parts of a graph that no valid output needs may be broken; they never run.
        if source not in self._graph or source in self._open:
            return ["broken", source]
        return {"of": self.of(source), "output": value[1]}
