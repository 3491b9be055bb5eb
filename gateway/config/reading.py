"""Reading the settings from their four sources.

The later of these wins: the default, the file, `SAFELIGHT_SECTION__FIELD`, an override of the command line. `load` is a
function of its arguments (and of the files they name); nothing else of the gateway reads the environment. It reports
every fault at once, so that a person mends a file in one go.
"""

import dataclasses
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.config.describe import Effective, effective, plain_sections, settings_of
from gateway.config.faults import ConfigFaults, Faults, Table
from gateway.config.fields import SettingPath
from gateway.config.given import Given, Node, place
from gateway.config.issuers import read_issuers
from gateway.config.keys import read_credentials
from gateway.config.kinds import checked, completed
from gateway.config.routes import read_models
from gateway.config.sections import Sections
from gateway.config.settings import Config, only_the_engine
from gateway.config.sources import given_in
from gateway.config.upstreams import KINDS, HttpUpstream, Upstream
from gateway.config.values import dotted, shown

# Pairs of settings of which the first must not be larger.
_ORDERED: Final = (
    (("protocol", "ping_interval_ms"), ("protocol", "silence_ms")),
    (("protocol", "event_retention_ms"), ("protocol", "ref_retention_ms")),
    (("limits", "max_chunk"), ("limits", "max_upload_bytes")),
    (("work", "poll_ms"), ("work", "lease_ms")),
    (("work", "backoff_base_ms"), ("work", "backoff_cap_ms")),
)
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_NAME_ALLOWED: Final = "1-32 characters of a-z, 0-9, _ and -, a letter first"


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
    faults = Faults()
    reading = _Reading(given_in(path, environ, overrides, faults), environ, faults)
    config = reading.build()
    reading.check_orders(config)
    if faults.lines:
        raise ConfigFaults(faults.lines)
    return config, list(effective(config, reading.origins))


class _Reading:
    """Builds the sections from what was given, noting every fault."""

    def __init__(self, given: Node, environ: Mapping[str, str], faults: Faults) -> None:
        self._given = given
        self._environ = environ
        self._faults = faults
        self._sections = Sections(faults)

    @property
    def origins(self) -> Mapping[SettingPath, str]:
        """Who said what each setting is; none for a default."""
        return self._sections.origins

    def build(self) -> Config:
        given, known = self._given, settings_of(Config)
        for name in [name for name in given if name not in known]:
            self._sections.unknown((name,), given[name], known)
        plain: dict[str, Any] = {
            name: self._sections.build(hint, given.get(name, {}), (name,)) for name, hint in plain_sections().items()
        }
        told = given.get("upstreams", {})
        upstreams = self._upstreams(told) or only_the_engine()
        # A route to an upstream that is wrong is no second fault.
        names = dict.fromkeys([*upstreams, *(told if isinstance(told, dict) else ())])
        models = read_models(given.get("models", {}), names, self._sections)
        issuers = read_issuers(given.get("issuers", {}), self._sections)
        return Config(**plain, upstreams=upstreams, models=models, issuers=issuers)

    def check_orders(self, config: Config) -> None:
        for smaller, larger in _ORDERED:
            low, high = (getattr(getattr(config, section), name) for section, name in (smaller, larger))
            if low > high and not self._faults.concern(smaller, larger):
                where = self._where(smaller) or self._where(larger)
                allowed = f"at most {dotted(larger)}, which is {high}"
                self._faults.note(f"{where}: {dotted(smaller)} is {low}; allowed: {allowed}")

    def _where(self, path: SettingPath) -> str:
        """Name the place of a setting; a default has none."""
        section = self._given.get(path[0], {})
        given = section.get(path[1]) if isinstance(section, dict) else None
        return given.where if isinstance(given, Given) else ""

    def _upstreams(self, node: Node | Given) -> dict[str, Upstream]:
        if isinstance(node, Given):
            self._faults.add(("upstreams",), node.where, "upstreams is no table", "a table of upstreams by name")
            return {}
        upstreams: dict[str, Upstream] = {}
        for name, inner in node.items():
            path = ("upstreams", name)
            if not _NAME.match(name):
                self._faults.add(path, place(inner, path), f"{name!r} is no name", _NAME_ALLOWED)
            elif isinstance(inner, Given):
                self._faults.add(path, inner.where, f"{dotted(path)} is no table", "a table with `kind`")
            else:
                upstream = self._upstream(Table(inner, path, self._faults))
                if upstream is not None:
                    upstreams[name] = upstream
        return upstreams

    def _upstream(self, table: Table) -> Upstream | None:
        kind = table.node.get("kind")
        allowed = f"one of {', '.join(KINDS)}"
        if not isinstance(kind, Given):
            table.fault("has no kind", allowed)
            return None
        section = KINDS.get(kind.value) if isinstance(kind.value, str) else None
        if section is None:
            table.fault(f"is {shown(kind.value)}", allowed, "kind")
            return None
        upstream = self._sections.build(section, table.node, table.path)
        if not isinstance(upstream, HttpUpstream):
            return checked(upstream, table)
        credentials = read_credentials(upstream, table, self._environ)
        return dataclasses.replace(completed(upstream, table), credentials=credentials)
