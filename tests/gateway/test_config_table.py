"""The table of settings, and what `check-config` prints."""

import tomllib
from pathlib import Path

from gateway.config import Config, describe, load, load_with_origins
from gateway.config.upstreams import KINDS
from tests.gateway.config_files import VENDOR, VENDOR_KEY, faults_of, write


def test_every_setting_is_described() -> None:
    """Each row has a text, a type, and a variable that really sets it; what has a name stands in the file."""
    rows = describe()
    told = [(row.path, kind) for row in rows for kind in row.kinds or ("",)]
    assert len(set(told)) == len(told)
    for row in rows:
        assert row.doc, row.path
        assert row.type, row.path
        assert row.env.startswith("SAFELIGHT_") or row.path.startswith(("models.", "issuers.")), row.path


def test_setting_of_several_kinds_is_told_once_for_each_default() -> None:
    """What kinds share is one row; where their defaults differ it is one for each default."""
    rows = {(row.path, row.default): row.kinds for row in describe()}
    own = tuple(kind for kind in KINDS if kind not in ("engine", "diffusers"))
    assert rows["upstreams.NAME.connect_timeout_ms", "10000"] == own
    assert rows["upstreams.NAME.concurrency", "1"] == ("a1111",)
    assert rows["upstreams.NAME.concurrency", "4"] == ("comfyui", "sdcpp")


def test_described_variable_sets_its_setting() -> None:
    """Every default, given through its documented variable, is that default again."""
    environ = {
        row.env: tomllib.loads(f"x = {row.default}")["x"]
        for row in describe()
        if row.default and not row.path.startswith(("upstreams.", "models.", "issuers."))
    }
    texts = {name: _as_text(value) for name, value in environ.items()}
    texts["SAFELIGHT_PROTOCOL__CURRENCY"] = "USD"
    settings, effective = load_with_origins(None, texts)
    assert settings == Config()
    assert {one.origin for one in effective if one.origin != "default"} == set(texts)


def _as_text(value: object) -> str:
    """Return a default as a variable has it."""
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return "" if value == [] else str(value).lower()


def test_described_upstream_settings_are_known() -> None:
    """A row of an upstream's settings is no typing error."""
    rows = {row.path: row for row in describe() if row.path.startswith("upstreams.")}
    assert rows["upstreams.NAME.limit.burst"].env == "SAFELIGHT_UPSTREAMS__NAME__LIMIT__BURST"
    assert rows["upstreams.NAME.kind"].type == f"one of {', '.join(KINDS)}"
    for row in rows.values():
        faults = faults_of(None, {row.env: "\x00"})
        assert not any("there is no" in fault for fault in faults), row.path


def test_effective_settings_are_a_settings_file(tmp_path: Path) -> None:
    """What `check-config` prints gives the same settings again."""
    text = VENDOR + "limit = { burst = 3 }\n[server]\nallowed_hosts = ['a.example']\n"
    settings, effective = load_with_origins(write(tmp_path, text), VENDOR_KEY)
    again = write(tmp_path, "\n".join(one.line() for one in effective))
    assert load(again, VENDOR_KEY) == settings
