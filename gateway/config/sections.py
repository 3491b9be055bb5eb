"""Sections built from what was given: every value converted and checked, with the default in place of what is wrong."""

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from gateway.config.describe import describe, is_limit, settings_of
from gateway.config.faults import Faults
from gateway.config.fields import SettingPath
from gateway.config.given import Given, Node, collapse, nearest, place
from gateway.config.upstreams import Bucket, Window
from gateway.config.values import convert, dotted, shown, takes

_Section = TypeVar("_Section")

KEY_PLACES: Final = ("api_key_env", "api_key_file")
"""Where people paste a key by mistake; what stands there is not printed."""
_KEYS_TO_KEEP_OUT: Final = frozenset({"api_key", "credentials", "key", "token", "secret", "password"})


class Sections:
    """Builds sections, notes their faults, and keeps where each setting came from."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.origins: dict[SettingPath, str] = {}

    def build(self, section: type[_Section], node: Node | Given, path: SettingPath) -> _Section:
        """Return a section made of what was given for it."""
        if isinstance(node, Given):
            self.faults.add(path, node.where, f"{dotted(path)} is no table", "a table of settings")
            node = {}
        hints = settings_of(section)
        for name in [name for name in node if name not in hints]:
            self.unknown((*path, name), node[name], hints)
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            if name in node:
                self._take(values, hint, node[name], (*path, name))
        return section(**values)

    def unknown(self, path: SettingPath, node: Node | Given, known: Iterable[str]) -> None:
        """Note a name that is no setting; `known` are the names beside it."""
        where = place(node, path)
        if path[-1] in _KEYS_TO_KEEP_OUT:
            wrong = f"{dotted(path)} is no setting: a key is never written here"
            self.faults.note(f"{where}: {wrong}; name its place with {' or '.join(KEY_PLACES)}")
            return
        self.faults.note(f"{where}: there is no setting {dotted(path)}{_hint(path, known)}")

    def _take(self, values: dict[str, Any], hint: Any, node: Node | Given, path: SettingPath) -> None:
        """Put the value of a field among `values`, unless it is wrong."""
        if is_limit(hint):
            values[path[-1]] = self._limit(node, path)
        elif dataclasses.is_dataclass(hint):
            values[path[-1]] = self.build(typing.cast("type[Any]", hint), node, path)
        else:
            self._leaf(values, hint, collapse(node, path), path)

    def _leaf(self, values: dict[str, Any], hint: Any, given: Given, path: SettingPath) -> None:
        try:
            values[path[-1]] = convert(given.value, hint, is_text=given.is_text)
            self.origins[path] = given.origin
        except ValueError:
            wrong = "wrong" if path[-1] in KEY_PLACES else shown(given.value)
            self.faults.add(path, given.where, f"{dotted(path)} is {wrong}", takes(hint))

    def _limit(self, node: Node | Given, path: SettingPath) -> Window | Bucket:
        names = node.keys() if isinstance(node, dict) else set()
        is_bucket = not names.isdisjoint({"bucket_per_s", "burst"})
        if is_bucket and not names.isdisjoint({"window", "period_ms"}):
            wrong = f"{dotted(path)} is a window and a bucket"
            self.faults.add(path, place(node, path), wrong, "one of them")
            return Window()
        return self.build(Bucket, node, path) if is_bucket else self.build(Window, node, path)


def _hint(path: SettingPath, known: Iterable[str]) -> str:
    """Say what may have been meant: a name beside it, one that another kind of upstream has, or one elsewhere."""
    meant = nearest(path[-1], known)
    if meant is not None:
        return f"; did you mean {dotted((*path[:-1], meant))}?"
    alike = [row for row in describe() if row.path.rpartition(".")[2] == path[-1]]
    kinds = [kind for row in alike for kind in row.kinds]
    if path[0] == "upstreams" and kinds:
        return f"; it is for {', '.join(kinds)}"
    return next((f"; did you mean {row.path}?" for row in alike), "")
