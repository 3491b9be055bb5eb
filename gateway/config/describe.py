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

from gateway.config import settings
from gateway.config.settings import (
    KINDS,
    PREFIX,
    Breaker,
    Bucket,
    Config,
    Engine,
    SettingPath,
    StabilityV1,
    Window,
)
from gateway.config.values import takes, toml_text
from gateway.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Setting:
    """A row in the table of settings."""

    path: str
    """As in the file: section and field. `NAME` stands for an upstream's name."""
    type: str
    """What is allowed."""
    default: str
    doc: str
    env: str
    """The environment variable that sets it."""


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
    """Return every setting, in the order of the sections."""
    sections = [(name, hint) for name, hint in settings_of(Config).items() if name != "upstreams"]
    rows = [row for name, hint in sections for row in _describe(hint, (name,))]
    kinds = f"one of {', '.join(KINDS)}"
    rows.append(Setting("upstreams.NAME.kind", kinds, "", "Who serves it.", _variable(("upstreams", "NAME", "kind"))))
    for kind, section in KINDS.items():
        _, *others = _describe(section, ("upstreams", "NAME"))
        rows += [dataclasses.replace(row, doc=f"{kind}: {row.doc}") for row in others]
    return rows


def settings_of(section: type[Any]) -> Mapping[str, Any]:
    """Return the type of each setting of a section."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {one.name: hints[one.name] for one in dataclasses.fields(section) if one.metadata.get("setting", True)}


def is_setting(path: SettingPath) -> bool:
    """Whether a variable of this path can mean anything; which fields a kind has is for `reading` to say."""
    if path[0] != "upstreams":
        section = settings_of(Config).get(path[0])
        return section is not None and len(path) == 2 and path[1] in settings_of(section)
    known: list[SettingPath] = [
        ("kind",),
        *((name,) for name in settings_of(Engine)),
        *((name,) for name in settings_of(StabilityV1)),
    ]
    known += [("limit", name) for name in (*settings_of(Window), *settings_of(Bucket))]
    known += [("breaker", name) for name in settings_of(Breaker)]
    return path[2:] in known


def _variable(path: SettingPath) -> str:
    name = "__".join(part if part == "NAME" else part.upper() for part in path)
    return PREFIX + name.replace("-", "_")


def _describe(section: type[Any], path: SettingPath) -> Iterator[Setting]:
    docs = _docs()[section.__name__]
    defaults = section()
    for name, hint in settings_of(section).items():
        inner = (*path, name)
        if hint == Window | Bucket:
            yield from _describe(Window, inner)
            shared = {row.path for row in _describe(Window, inner)}
            yield from (row for row in _describe(Bucket, inner) if row.path not in shared)
        elif dataclasses.is_dataclass(hint):
            yield from _describe(typing.cast("type[Any]", hint), inner)
        else:
            value = getattr(defaults, name)
            default = "" if value is None else toml_text(value)
            yield Setting(".".join(inner), takes(hint), default, docs[name], _variable(inner))


@functools.cache
def _docs() -> Mapping[str, Mapping[str, str]]:
    """Return the text under each field of each class of `settings`."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(settings)).body:
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
        parts: list[tuple[SettingPath, Any]] = [((name,), section)]
        if name == "upstreams":
            parts = [((name, one), upstream) for one, upstream in section.items()]
        for path, part in parts:
            yield from _values(part, path, origins)


def _values(section: Any, path: SettingPath, origins: Mapping[SettingPath, str]) -> Iterator[Effective]:
    for one in dataclasses.fields(section):
        inner, value = (*path, one.name), getattr(section, one.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, inner, origins)
        elif isinstance(value, Secret):
            yield Effective(".".join(inner), value, _origin_of_key(section))
        else:
            yield Effective(".".join(inner), value, origins.get(inner, "default"))


def _origin_of_key(upstream: StabilityV1) -> str:
    return f"variable {upstream.api_key_env}" if upstream.api_key_env else f"file {upstream.api_key_file}"
