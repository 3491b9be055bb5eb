"""Reading the settings from their four sources.

The later of these wins: the default, the file, `SAFELIGHT_SECTION__FIELD`, an override of the command line. `load` is a
function of its arguments (and of the files they name); nothing else of the gateway reads the environment. It reports
every fault at once, so that a person mends a file in one go.
"""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.config.describe import Effective, describe, effective, is_setting, settings_of
from gateway.config.given import Given, Node, as_node, collapse, places
from gateway.config.settings import (
    KINDS,
    NOT_SETTINGS,
    PREFIX,
    STABILITY_V1_ENGINES,
    Bucket,
    Config,
    Engine,
    SettingPath,
    StabilityV1,
    Upstream,
    Window,
    only_the_engine,
)
from gateway.config.values import convert, shown, takes
from gateway.core.secret import Secret

_Section = TypeVar("_Section")

# Pairs of settings of which the first must not be larger.
_ORDERED: Final = (
    (("protocol", "ping_interval_ms"), ("protocol", "silence_ms")),
    (("protocol", "event_retention_ms"), ("protocol", "ref_retention_ms")),
    (("limits", "max_chunk"), ("limits", "max_upload_bytes")),
    (("work", "poll_ms"), ("work", "lease_ms")),
    (("work", "backoff_base_ms"), ("work", "backoff_cap_ms")),
)
# Where people paste a key by mistake; what stands there is not printed.
_MAY_HOLD_A_KEY: Final = frozenset({"api_key_env", "api_key_file"})
_KEYS_TO_KEEP_OUT: Final = frozenset({"api_key", "key", "token", "secret"})
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_NAME_ALLOWED: Final = "1-32 characters of a-z, 0-9, _ and -, a letter first"


class ConfigFaults(Exception):
    """The settings cannot be used; `faults` has one line each: where, what is wrong, what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


def load(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] = types.MappingProxyType({})
) -> Config:
    """Return the settings; raises `ConfigFaults` with everything that is wrong.

    `path` is the file, `None` if there is none; `overrides` go by path (`server.port`), those that are `None` do not
    count.
    """
    return load_with_origins(path, environ, overrides)[0]


def load_with_origins(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] = types.MappingProxyType({})
) -> tuple[Config, list[Effective]]:
    """Return what `load` returns, and each setting with its origin; raises `ConfigFaults`."""
    reading = _Reading(environ)
    if path is not None:
        reading.add_file(path)
    reading.add_environment()
    reading.add_overrides(overrides)
    config = reading.build()
    reading.check_orders(config)
    if reading.faults:
        raise ConfigFaults(reading.faults)
    return config, list(effective(config, reading.origins))


class _Reading:
    """One pass over all sources: collects what was given, then builds the sections from it, noting every fault."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.faults: list[str] = []
        self.origins: dict[SettingPath, str] = {}
        self._environ = environ
        self._given: Node = {}
        self._faulty: set[SettingPath] = set()

    def add_file(self, path: Path) -> None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.faults.append(f"{path}: cannot be read ({error.strerror}); it should be a TOML file")
        except UnicodeDecodeError:
            self.faults.append(f"{path}: is not UTF-8 text; it should be a TOML file")
        except tomllib.TOMLDecodeError as error:
            self.faults.append(f"{path}: is not TOML: {error}")
        else:
            self._given = as_node(table, str(path), ())

    def add_environment(self) -> None:
        for name, text in sorted(self._environ.items()):
            if not name.startswith(PREFIX) or name in NOT_SETTINGS:
                continue
            path = self._named_upstream(tuple(name.removeprefix(PREFIX).lower().split("__")))
            if name != name.upper() or not is_setting(path):
                known = (row.env for row in describe() if "NAME" not in row.env)
                self.faults.append(f"{name}: there is no such setting{_suggestion(name.upper(), known)}")
            else:
                self._add(path, Given(text, name, name, is_text=True))

    def add_overrides(self, overrides: Mapping[str, object]) -> None:
        for path, value in overrides.items():
            if value is not None:
                self._add(tuple(path.split(".")), Given(value, "command line", "command line"))

    def build(self) -> Config:
        node = self._given
        sections = {name: hint for name, hint in settings_of(Config).items() if name != "upstreams"}
        for name in [name for name in node if name not in settings_of(Config)]:
            self._unknown((name,), node[name], [*sections, "upstreams"])
        built: dict[str, Any] = {
            name: self._section(hint, node.get(name, {}), (name,)) for name, hint in sections.items()
        }
        upstreams = self._upstreams(node.get("upstreams", {}))
        return Config(**built, upstreams=upstreams or only_the_engine())

    def check_orders(self, config: Config) -> None:
        for smaller, larger in _ORDERED:
            low, high = (getattr(getattr(config, section), name) for section, name in (smaller, larger))
            if low > high and not self._faulty & {smaller, larger}:
                where = self._where(smaller) or self._where(larger)
                allowed = f"at most {'.'.join(larger)}, which is {high}"
                self.faults.append(f"{where}: {'.'.join(smaller)} is {low}; allowed: {allowed}")

    def _where(self, path: SettingPath) -> str:
        """Name the place of a setting; a default has none."""
        node: Node | Given = self._given
        for name in path:
            node = node.get(name, {}) if isinstance(node, dict) else {}
        return node.where if isinstance(node, Given) else ""

    def _named_upstream(self, path: SettingPath) -> SettingPath:
        """Find the name that a variable means: it can spell neither capitals nor hyphens."""
        known = self._given.get("upstreams")
        if path[0] == "upstreams" and len(path) > 1 and isinstance(known, dict):
            for name in known:
                if name.lower().replace("-", "_") == path[1]:
                    return ("upstreams", name, *path[2:])
        return path

    def _add(self, path: SettingPath, given: Given) -> None:
        node = self._given
        for name in path[:-1]:
            inner = node.get(name)
            if not isinstance(inner, dict):
                inner = node[name] = {}
            node = inner
        node[path[-1]] = given

    def _fault(self, path: SettingPath, where: str, wrong: str, allowed: str) -> None:
        self._faulty.add(path)
        self.faults.append(f"{where}: {wrong}; allowed: {allowed}")

    def _unknown(self, path: SettingPath, node: "Node | Given", known: Iterable[str]) -> None:
        where = next(places(node), ".".join(path))
        if path[-1] in _KEYS_TO_KEEP_OUT:
            wrong = f"{'.'.join(path)} is no setting: a key is never written here"
            self.faults.append(f"{where}: {wrong}; name its place with api_key_env or api_key_file")
            return
        name = ".".join(path)
        beside = [".".join((*path[:-1], one)) for one in known]
        elsewhere = (row.path for row in describe() if row.path.rpartition(".")[2] == path[-1])
        hint = _suggestion(name, beside) or next((f"; did you mean {one}?" for one in elsewhere), "")
        self.faults.append(f"{where}: there is no setting {name}{hint}")

    def _section(self, section: type[_Section], node: "Node | Given", path: SettingPath) -> _Section:
        """Build a section from what was given for it, with the default in place of everything wrong."""
        if isinstance(node, Given):
            self._fault(path, node.where, f"{'.'.join(path)} is no table", "a table of settings")
            node = {}
        hints = settings_of(section)
        for name in [name for name in node if name not in hints]:
            self._unknown((*path, name), node[name], hints)
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            if name not in node:
                continue
            inner = node[name]
            if hint == Window | Bucket:
                values[name] = self._limit(inner, (*path, name))
            elif dataclasses.is_dataclass(hint):
                values[name] = self._section(typing.cast("type[Any]", hint), inner, (*path, name))
            else:
                self._leaf(hint, inner, (*path, name), values)
        return section(**values)

    def _limit(self, node: "Node | Given", path: SettingPath) -> Window | Bucket:
        if isinstance(node, Given):
            return self._section(Window, node, path)
        is_bucket = not node.keys().isdisjoint({"bucket_per_s", "burst"})
        if is_bucket and not node.keys().isdisjoint({"window", "period_ms"}):
            where = next(places(node))
            self._fault(path, where, f"{'.'.join(path)} is a window and a bucket", "one of them")
            return Window()
        return self._section(Bucket, node, path) if is_bucket else self._section(Window, node, path)

    def _leaf(self, hint: Any, node: "Node | Given", path: SettingPath, values: dict[str, Any]) -> None:
        given = collapse(node, path)
        try:
            values[path[-1]] = convert(given.value, hint, is_text=given.is_text)
            self.origins[path] = given.origin
        except ValueError:
            name = ".".join(path)
            wrong = f"{name} is {shown(given.value)}" if path[-1] not in _MAY_HOLD_A_KEY else f"{name} is wrong"
            self._fault(path, given.where, wrong, takes(hint))

    def _upstreams(self, node: "Node | Given") -> dict[str, Upstream]:
        if isinstance(node, Given):
            self._fault(("upstreams",), node.where, "upstreams is no table", "a table of upstreams by name")
            return {}
        upstreams: dict[str, Upstream] = {}
        for name, inner in node.items():
            path = ("upstreams", name)
            if not _NAME.match(name):
                self._fault(path, next(places(inner), ".".join(path)), f"{name!r} is no name", _NAME_ALLOWED)
            elif isinstance(inner, Given):
                self._fault(path, inner.where, f"upstreams.{name} is no table", "a table with `kind`")
            else:
                upstream = self._upstream(inner, path)
                if upstream is not None:
                    upstreams[name] = upstream
        return upstreams

    def _upstream(self, node: Node, path: SettingPath) -> Upstream | None:
        kind = node.get("kind")
        allowed = f"one of {', '.join(KINDS)}"
        if not isinstance(kind, Given):
            where = next(places(node), ".".join(path))
            self._fault(path, where, f"{'.'.join(path)} has no kind", allowed)
            return None
        section = KINDS.get(kind.value) if isinstance(kind.value, str) else None
        if section is None:
            self._fault(path, kind.where, f"{'.'.join(path)}.kind is {shown(kind.value)}", allowed)
            return None
        if section is Engine:
            return self._section(Engine, node, path)
        return self._with_key(self._section(StabilityV1, node, path), node, path)

    def _with_key(self, upstream: StabilityV1, node: Node, path: SettingPath) -> StabilityV1:
        """Read the vendor's key from where the settings say it is. No fault repeats what may be the key itself."""
        self._check_engines(upstream, node, path)
        if any((*path, name) in self._faulty for name in _MAY_HOLD_A_KEY):
            return upstream
        match upstream.api_key_env, upstream.api_key_file:
            case str(variable), None:
                key = self._key_in_variable(variable, (*path, "api_key_env"))
            case None, str(file):
                key = self._key_in_file(Path(file), (*path, "api_key_file"))
            case both:
                wrong = "has no API key" if both == (None, None) else "has two places for its API key"
                where = next(places(node))
                self._fault(path, where, f"{'.'.join(path)} {wrong}", "api_key_env or api_key_file")
                return upstream
        return dataclasses.replace(upstream, api_key=Secret(key))

    def _check_engines(self, upstream: StabilityV1, node: Node, path: SettingPath) -> None:
        for engine in sorted(upstream.engines.keys() - set(STABILITY_V1_ENGINES)):
            where, wrong = next(places(node["engines"])), f"{'.'.join(path)}.engines has {shown(engine)}"
            self._fault((*path, "engines"), where, wrong, ", ".join(STABILITY_V1_ENGINES))

    def _key_in_variable(self, variable: str, path: SettingPath) -> str:
        key = self._environ.get(variable, "").strip()
        if not key:
            wrong = f"the variable that {'.'.join(path)} names is not set, or empty"
            self._fault(path, self._where(path), wrong, "a variable with the API key")
        return key

    def _key_in_file(self, file: Path, path: SettingPath) -> str:
        try:
            key = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
            self._fault_of_file(path, f"cannot be read ({reason})")
            return ""
        if not key or len(key.split()) != 1:
            self._fault_of_file(path, "has more than one word" if key else "is empty")
        return key

    def _fault_of_file(self, path: SettingPath, wrong: str) -> None:
        told = f"the file that {'.'.join(path)} names {wrong}"
        self._fault(path, self._where(path), told, "a file with one line, the API key")


def _suggestion(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
