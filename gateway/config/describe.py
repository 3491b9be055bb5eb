"""What settings there are, and what values they have: the dataclasses, looked at."""

import ast
import dataclasses
import functools
import inspect
import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config import settings, upstreams
from gateway.config.fields import SettingPath
from gateway.config.settings import PREFIX, Config, Issuer, Route
from gateway.config.upstreams import KINDS, Breaker, Bucket, HttpUpstream, Window
from gateway.config.values import dotted, takes, toml_text
from gateway.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Setting:
    """A row in the table of settings."""

    path: str
    """As in the file: section and field. `NAME` stands for the name of an upstream or a model."""
    type: str
    """What is allowed."""
    default: str
    doc: str
    env: str
    """The environment variable that sets it; empty: none does."""
    kinds: tuple[str, ...] = ()
    """Of a setting of upstreams: the kinds that have it, with this default."""


@dataclass(frozen=True, slots=True)
class Effective:
    """The value a setting has, and who said so."""

    path: str
    value: Any
    """`None` is unset; a secret is redacted."""
    origin: str
    """`default`, the file's name, the variable's name or `command line`."""

    def line(self) -> str:
        """Return the setting as a line of TOML with its origin; what a file cannot say is all comment."""
        if isinstance(self.value, Secret):
            return f"# {self.path} = ***  # {self.origin}"
        if self.value is None:
            return f"# {self.path} is not set  # {self.origin}"
        return f"{self.path} = {toml_text(self.value)}  # {self.origin}"


def describe() -> list[Setting]:
    """Return every setting, in the order of the sections, those that have names last."""
    rows = [row for name, hint in plain_sections().items() for row in _describe(hint, (name,))]
    named = [*_in_files(Route, ("models", "NAME", "routes[]")), *_in_files(Issuer, ("issuers", "NAME"))]
    return [*rows, *_of_upstreams(), *named]


def _in_files(section: type[Any], path: SettingPath) -> Iterator[Setting]:
    """Yield the settings of a section that no variable can set."""
    for row in _describe(section, path):
        yield dataclasses.replace(row, env="", default="" if row.default == '""' else row.default)


def _of_upstreams() -> list[Setting]:
    """Return the settings of all kinds; those that several kinds have in the same way are told once."""
    own = ("upstreams", "NAME")
    kind = (*own, "kind")
    told: dict[str, dict[Setting, list[str]]] = {}
    for name, section in KINDS.items():
        for row in _describe(section, own):
            told.setdefault(row.path, {}).setdefault(row, []).append(name)
    del told[dotted(kind)]
    rows = [Setting(dotted(kind), f"one of {', '.join(KINDS)}", "", "Who serves it.", _variable(kind), tuple(KINDS))]
    return rows + [
        dataclasses.replace(row, kinds=tuple(kinds)) for ways in told.values() for row, kinds in ways.items()
    ]


def settings_of(section: type[Any]) -> Mapping[str, Any]:
    """Return the type of each setting of a section."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {one.name: hints[one.name] for one in dataclasses.fields(section) if one.metadata.get("setting", True)}


def plain_sections() -> Mapping[str, type[Any]]:
    """Return the sections that are there once, and not by names."""
    return {name: hint for name, hint in settings_of(Config).items() if typing.get_origin(hint) is not Mapping}


def is_limit(hint: Any) -> bool:
    """Whether a setting is a vendor's limit, which has two shapes and may be missing."""
    return {Window, Bucket} <= set(typing.get_args(hint))


def is_setting(path: SettingPath) -> bool:
    """Whether a variable of this path can mean anything; which fields a kind has is for `reading` to say."""
    if path[0] != "upstreams":
        section = plain_sections().get(path[0])
        return section is not None and len(path) == 2 and path[1] in settings_of(section)
    known: list[SettingPath] = [(name,) for section in KINDS.values() for name in settings_of(section)]
    known += [("limit", name) for name in (*settings_of(Window), *settings_of(Bucket))]
    known += [("breaker", name) for name in settings_of(Breaker)]
    return path[2:] in known


def _variable(path: SettingPath) -> str:
    name = "__".join(part if part == "NAME" else part.upper() for part in path)
    return PREFIX + name.replace("-", "_")


def _describe(section: type[Any], path: SettingPath) -> Iterator[Setting]:
    docs = _docs(section)
    defaults = section()
    for name, hint in settings_of(section).items():
        inner = (*path, name)
        if is_limit(hint):
            yield from _describe(Window, inner)
            shared = {row.path for row in _describe(Window, inner)}
            yield from (row for row in _describe(Bucket, inner) if row.path not in shared)
        elif dataclasses.is_dataclass(hint):
            yield from _describe(typing.cast("type[Any]", hint), inner)
        else:
            value = getattr(defaults, name)
            default = "" if value is None else toml_text(value)
            yield Setting(dotted(inner), takes(hint), default, docs[name], _variable(inner))


def _docs(section: type[Any]) -> Mapping[str, str]:
    """Return the text under each field of a section, or under the one it stands in for."""
    return {name: text for one in reversed(section.__mro__) for name, text in _written().get(one.__name__, {}).items()}


@functools.cache
def _written() -> Mapping[str, Mapping[str, str]]:
    """Return the text under each field of each class of settings."""
    found: dict[str, dict[str, str]] = {}
    nodes = [node for module in (settings, upstreams) for node in ast.parse(inspect.getsource(module)).body]
    for node in nodes:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found[node.name] = {}
        for before, after in itertools.pairwise(node.body):
            match before, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
                case _:
                    pass
    return found


def effective(config: Config, origins: Mapping[SettingPath, str]) -> Iterator[Effective]:
    """Yield each setting with its value; those that have no origin are defaults."""
    for name in settings_of(Config):
        section = getattr(config, name)
        parts = {(name,): section} if name in plain_sections() else {(name, one): part for one, part in section.items()}
        for path, part in parts.items():
            yield from _values(part, path, origins)


def _values(section: Any, path: SettingPath, origins: Mapping[SettingPath, str]) -> Iterator[Effective]:
    for name in settings_of(type(section)):
        inner, value = (*path, name), getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, inner, origins)
        else:
            yield Effective(dotted(inner), value, origins.get(inner, "default"))
    if isinstance(section, HttpUpstream):
        for one in section.credentials:
            yield Effective(dotted((*path, "credentials", one.name)), one.secret, one.origin)
