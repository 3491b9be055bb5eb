"""The three places where settings are given: the file, the environment and the command line, laid over each other."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from gateway.config.describe import describe, is_setting
from gateway.config.faults import Faults
from gateway.config.fields import SettingPath
from gateway.config.given import Given, Node, as_node, nearest
from gateway.config.settings import NOT_SETTINGS, PREFIX


def given_in(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object], faults: Faults) -> Node:
    """Return everything that was given, the later source over the earlier."""
    tree = {} if path is None else _file(path, faults)
    _add_environment(tree, environ, faults)
    for setting, value in overrides.items():
        if value is not None:
            _add(tree, tuple(setting.split(".")), Given(value, "command line", "command line"))
    return tree


def _file(path: Path, faults: Faults) -> Node:
    try:
        return as_node(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        faults.note(f"{path}: cannot be read ({error.strerror}); it should be a TOML file")
    except UnicodeDecodeError:
        faults.note(f"{path}: is not UTF-8 text; it should be a TOML file")
    except tomllib.TOMLDecodeError as error:
        faults.note(f"{path}: is not TOML: {error}")
    return {}


def _add_environment(tree: Node, environ: Mapping[str, str], faults: Faults) -> None:
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        path = _named_upstream(tree, tuple(name.removeprefix(PREFIX).lower().split("__")))
        if name != name.upper() or not is_setting(path):
            known = [row.env for row in describe() if row.env and "NAME" not in row.env]
            meant = nearest(name.upper(), known)
            faults.note(f"{name}: there is no such setting{f'; did you mean {meant}?' if meant else ''}")
        else:
            _add(tree, path, Given(text, name, name, is_text=True))


def _named_upstream(tree: Node, path: SettingPath) -> SettingPath:
    """Find the name that a variable means: it can spell neither capitals nor hyphens."""
    known = tree.get("upstreams")
    if path[0] == "upstreams" and len(path) > 1 and isinstance(known, dict):
        for name in known:
            if name.lower().replace("-", "_") == path[1]:
                return ("upstreams", name, *path[2:])
    return path


def _add(tree: Node, path: SettingPath, given: Given) -> None:
    for name in path[:-1]:
        inner = tree.get(name)
        if not isinstance(inner, dict):
            inner = tree[name] = {}
        tree = inner
    tree[path[-1]] = given
