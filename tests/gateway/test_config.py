"""Settings: their four sources, every kind of fault, and the table that describes them."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway import config
from gateway.config import (
    NOT_SETTINGS,
    STABILITY_V1_ENGINES,
    Bucket,
    Config,
    ConfigFaults,
    Engine,
    StabilityV1,
    Window,
    describe,
    load,
    load_with_origins,
)
from gateway.upstreams.stability_v1_models import SIZES
from protocol import messages

VENDOR = """
[upstreams.vendor]
kind = "stability_v1"
api_key_env = "VENDOR_KEY"
"""
VENDOR_KEY = {"VENDOR_KEY": "sk-planted-0123456789"}


def write(folder: Path, text: str) -> Path:
    """Return the path of a settings file with this text."""
    path = folder / "safelight.toml"
    path.write_text(text)
    return path


def faults_of(
    path: Path | None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> list[str]:
    """Return every fault of the settings, without the file's folder."""
    with pytest.raises(ConfigFaults) as caught:
        load(path, environ or {}, overrides or {})
    return [fault.replace(f"{path.parent}/", "") if path else fault for fault in caught.value.faults]


# --- sources ---


def test_without_any_source_every_setting_has_its_default() -> None:
    """Nothing is needed to start: the defaults are a gateway with the embedded painter."""
    settings = load(None, {})
    assert settings == Config()
    assert settings.server.port == 8080
    assert settings.data.folder == Path("var")
    assert settings.upstreams == {"engine": Engine(processes=1)}


def test_later_source_wins(tmp_path: Path) -> None:
    """The file beats the default, the environment the file, the command line all of them."""
    path = write(tmp_path, '[server]\nport = 1\nbacklog = 5\nhost = "10.0.0.1"\n')
    environ = {"SAFELIGHT_SERVER__PORT": "2", "SAFELIGHT_SERVER__BACKLOG": "6"}
    settings, effective = load_with_origins(path, environ, {"server.port": 3, "server.host": None})
    assert (settings.server.port, settings.server.backlog, settings.server.host) == (3, 6, "10.0.0.1")
    origins = {one.path: one.origin for one in effective}
    assert origins["server.port"] == "command line"
    assert origins["server.backlog"] == "SAFELIGHT_SERVER__BACKLOG"
    assert origins["server.host"] == str(path)
    assert origins["server.public_url"] == "default"


@pytest.mark.parametrize(
    "name,text,path,value",
    [
        ("SAFELIGHT_SERVER__TRUST_FORWARDED", "true", "server.trust_forwarded", True),
        (
            "SAFELIGHT_SERVER__ALLOWED_HOSTS",
            "a.example, b.example,",
            "server.allowed_hosts",
            ("a.example", "b.example"),
        ),
        ("SAFELIGHT_SERVER__ALLOWED_HOSTS", "", "server.allowed_hosts", ()),
        ("SAFELIGHT_SERVER__PUBLIC_URL", "https://a.example", "server.public_url", "https://a.example"),
        ("SAFELIGHT_SERVER__PUBLIC_URL", "", "server.public_url", None),
        ("SAFELIGHT_PROTOCOL__MAX_CONNECTION_AGE_MS", "60000", "protocol.max_connection_age_ms", 60_000),
        ("SAFELIGHT_PROTOCOL__MAX_CONNECTION_AGE_MS", "", "protocol.max_connection_age_ms", None),
        ("SAFELIGHT_DATA__FOLDER", "/srv/safelight", "data.folder", Path("/srv/safelight")),
        ("SAFELIGHT_LOG__FORMAT", "json", "log.format", "json"),
    ],
)
def test_environment_gives_each_type(name: str, text: str, path: str, value: object) -> None:
    """A variable's text becomes the setting's type; empty text is no value, or an empty list."""
    section, setting = path.split(".")
    assert getattr(getattr(load(None, {name: text}), section), setting) == value


@pytest.mark.parametrize("name", sorted(NOT_SETTINGS))
def test_variable_of_client_or_tests_is_no_setting(name: str) -> None:
    """What the command line and the gate read is left alone."""
    assert load(None, {name: "1", "PATH": "/bin"}) == Config()


def test_load_reads_no_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the mapping that is handed in counts."""
    monkeypatch.setenv("SAFELIGHT_SERVER__PORT", "1")
    assert load(None, {}).server.port == 8080


def test_limits_are_those_of_the_protocol() -> None:
    """What `welcome` announces is configured field by field, with the protocol's defaults."""
    names = {one.name for one in dataclasses.fields(config.Limits)}
    assert names - {"max_queue"} == set(messages.Limits.__struct_fields__)
    assert Config().limits.announced() == messages.Limits()
    assert config.Limits(max_jobs=3).announced().max_jobs == 3


# --- upstreams ---


def test_vendor_has_its_documented_defaults(tmp_path: Path) -> None:
    """A kind and a key are enough for an upstream."""
    vendor = load(write(tmp_path, VENDOR), VENDOR_KEY).upstreams["vendor"]
    assert isinstance(vendor, StabilityV1)
    assert vendor.api_key.reveal() == "sk-planted-0123456789"
    assert vendor.limit == Window(window=150, period_ms=10_000, delay_bound_ms=250, lockout_ms=60_000)
    assert vendor.breaker == config.Breaker(failures=5, open_ms=30_000)
    assert vendor.engines.keys() <= set(STABILITY_V1_ENGINES)


def test_configured_engines_are_those_the_adapter_knows() -> None:
    """The list that the settings check against is the adapter's."""
    assert set(STABILITY_V1_ENGINES) == SIZES.keys()


def test_configured_upstreams_take_the_place_of_the_engine(tmp_path: Path) -> None:
    """The embedded painter is there unless something else is named; both together must be."""
    path = write(tmp_path, VENDOR + '[upstreams.painter]\nkind = "engine"\nprocesses = 3\n')
    upstreams = load(path, VENDOR_KEY).upstreams
    assert upstreams.keys() == {"vendor", "painter"}
    assert upstreams["painter"] == Engine(processes=3)


def test_upstream_has_a_bucket_in_place_of_a_window(tmp_path: Path) -> None:
    """`bucket_per_s` or `burst` says which kind of limit the vendor has."""
    path = write(tmp_path, VENDOR + "limit = { bucket_per_s = 5, burst = 10 }\n")
    vendor = load(path, VENDOR_KEY).upstreams["vendor"]
    assert isinstance(vendor, StabilityV1)
    assert vendor.limit == Bucket(bucket_per_s=5.0, burst=10)


def test_environment_changes_an_upstream_by_its_name(tmp_path: Path) -> None:
    """A variable can't spell a hyphen, so an underscore stands for it; prices are `engine=price`."""
    path = write(tmp_path, VENDOR.replace("upstreams.vendor", "upstreams.my-vendor"))
    environ = {
        **VENDOR_KEY,
        "SAFELIGHT_UPSTREAMS__MY_VENDOR__TIMEOUT_MS": "5000",
        "SAFELIGHT_UPSTREAMS__MY_VENDOR__BREAKER__FAILURES": "2",
        "SAFELIGHT_UPSTREAMS__MY_VENDOR__ENGINES": "stable-diffusion-v1-6=7",
    }
    vendor = load(path, environ).upstreams["my-vendor"]
    assert isinstance(vendor, StabilityV1)
    assert (vendor.timeout_ms, vendor.breaker.failures) == (5000, 2)
    assert vendor.engines == {"stable-diffusion-v1-6": 7}


def test_environment_alone_makes_an_upstream() -> None:
    """A container needs no file."""
    settings = load(None, {"SAFELIGHT_UPSTREAMS__PAINTER__KIND": "engine"})
    assert settings.upstreams == {"painter": Engine()}


def test_vendors_key_comes_from_a_file(tmp_path: Path) -> None:
    """A mounted secret is read, without the newline that editors leave."""
    (tmp_path / "key").write_text("sk-from-file-1234\n")
    path = write(tmp_path, f'[upstreams.vendor]\nkind = "stability_v1"\napi_key_file = "{tmp_path}/key"\n')
    vendor = load(path, {}).upstreams["vendor"]
    assert isinstance(vendor, StabilityV1)
    assert vendor.api_key.reveal() == "sk-from-file-1234"


def test_secret_is_in_no_text_of_the_settings(tmp_path: Path) -> None:
    """Neither `repr` nor the effective settings show a vendor's key."""
    settings, effective = load_with_origins(write(tmp_path, VENDOR), VENDOR_KEY)
    shown = repr(settings) + str(effective) + "\n".join(one.line() for one in effective)
    assert "planted" not in shown
    assert "# upstreams.vendor.api_key = ***  # variable VENDOR_KEY" in shown


# --- faults ---


@pytest.mark.parametrize(
    "text,fault",
    [
        ("[server]\nport = 99999", "server.port is 99999; allowed: an integer from 0 to 65535"),
        ('[server]\nport = "80"', 'server.port is "80"; allowed: an integer from 0 to 65535'),
        ("[server]\nport = true", "server.port is true; allowed: an integer from 0 to 65535"),
        ('[server]\nhost = ""', 'server.host is ""; allowed: text that is not empty'),
        ("[server]\ntrust_forwarded = 1", "server.trust_forwarded is 1; allowed: true or false"),
        (
            '[server]\npublic_url = "example.org"',
            'server.public_url is "example.org"; allowed: an address as in https://example.org, or nothing',
        ),
        (
            '[server]\nallowed_hosts = ["a:80"]',
            'server.allowed_hosts is ["a:80"]; allowed: a list; each is a host\'s name, without a port',
        ),
        ("[data]\nfolder = 5", "data.folder is 5; allowed: a path"),
        ("[protocol]\nhigh_water = 1", "protocol.high_water is 1; allowed: an integer of at least 1024"),
        ('[log]\nlevel = "loud"', 'log.level is "loud"; allowed: one of debug, info, warning, error'),
        ("[limits]\nmax_inputs = 9", "limits.max_inputs is 9; allowed: an integer from 0 to 8"),
        ("server = 1", "server is no table; allowed: a table of settings"),
        ("upstreams = 1", "upstreams is no table; allowed: a table of upstreams by name"),
        ("[upstreams]\nx = 1", "upstreams.x is no table; allowed: a table with `kind`"),
        ('[upstreams.x]\nkind = "dalle"', 'upstreams.x.kind is "dalle"; allowed: one of engine, stability_v1'),
        ("[upstreams.x]\nkind = 5", "upstreams.x.kind is 5; allowed: one of engine, stability_v1"),
        ("[upstreams.x]\nprocesses = 2", "upstreams.x has no kind; allowed: one of engine, stability_v1"),
        (
            '[upstreams.X]\nkind = "engine"',
            "'X' is no name; allowed: 1-32 characters of a-z, 0-9, _ and -, a letter first",
        ),
        (
            VENDOR + "limit = { window = 5, burst = 2 }",
            "upstreams.vendor.limit is a window and a bucket; allowed: one of them",
        ),
        (VENDOR + "limit = 5", "upstreams.vendor.limit is no table; allowed: a table of settings"),
        (
            VENDOR + "limit = { bucket_per_s = 0 }",
            "upstreams.vendor.limit.bucket_per_s is 0; allowed: a number above 0, up to 1000000",
        ),
        (
            VENDOR + 'engines = { "sdxl" = 1 }',
            f'upstreams.vendor.engines has "sdxl"; allowed: {", ".join(STABILITY_V1_ENGINES)}',
        ),
        (
            VENDOR + 'engines = { "stable-diffusion-v1-6" = -1 }',
            """upstreams.vendor.engines is { "stable-diffusion-v1-6" = -1 }; \
allowed: a table of one engine or more, each with its price""",
        ),
        (
            VENDOR + 'api_key_file = "key"',
            "upstreams.vendor has two places for its API key; allowed: api_key_env or api_key_file",
        ),
        (
            '[upstreams.x]\nkind = "stability_v1"',
            "upstreams.x has no API key; allowed: api_key_env or api_key_file",
        ),
    ],
)
def test_fault_says_where_what_and_what_is_allowed(tmp_path: Path, text: str, fault: str) -> None:
    """Each kind of fault is one line that a person can act on."""
    assert faults_of(write(tmp_path, text), VENDOR_KEY) == [f"safelight.toml: {fault}"]


def test_empty_table_of_engines_is_refused(tmp_path: Path) -> None:
    """An upstream that offers nothing is a mistake."""
    [fault] = faults_of(write(tmp_path, VENDOR + "engines = {}"), VENDOR_KEY)
    assert "upstreams.vendor.engines is" in fault


@pytest.mark.parametrize(
    "text,hint",
    [
        ("[server]\nprot = 1", "there is no setting server.prot; did you mean server.port?"),
        ("[sever]\nport = 1", "there is no setting sever; did you mean server?"),
        ("port = 1", "there is no setting port; did you mean server.port?"),
        ("[server]\nlease_ms = 1", "there is no setting server.lease_ms; did you mean work.lease_ms?"),
        ("[server]\nqqq = 1", "there is no setting server.qqq"),
        (
            VENDOR + "time_out_ms = 5",
            "there is no setting upstreams.vendor.time_out_ms; did you mean upstreams.vendor.timeout_ms?",
        ),
        (
            VENDOR + "breaker = { failure = 5 }",
            "there is no setting upstreams.vendor.breaker.failure; did you mean upstreams.vendor.breaker.failures?",
        ),
        (
            '[upstreams.x]\nkind = "engine"\nproceses = 1',
            "there is no setting upstreams.x.proceses; did you mean upstreams.x.processes?",
        ),
    ],
)
def test_unknown_setting_is_refused_with_the_nearest_known(tmp_path: Path, text: str, hint: str) -> None:
    """A typing error never counts as a default."""
    assert faults_of(write(tmp_path, text), VENDOR_KEY) == [f"safelight.toml: {hint}"]


@pytest.mark.parametrize(
    "name,fault",
    [
        ("SAFELIGHT_SERVER__PROT", "there is no such setting; did you mean SAFELIGHT_SERVER__PORT?"),
        ("SAFELIGHT_PORT", "there is no such setting; did you mean SAFELIGHT_SERVER__PORT?"),
        ("SAFELIGHT_server__port", "there is no such setting; did you mean SAFELIGHT_SERVER__PORT?"),
        ("SAFELIGHT_SERVER", "there is no such setting; did you mean SAFELIGHT_SERVER__PORT?"),
        ("SAFELIGHT_UPSTREAMS__X__QQQ", "there is no such setting"),
        ("SAFELIGHT_SERVER__PORT", 'server.port is "x"; allowed: an integer from 0 to 65535'),
        ("SAFELIGHT_UPSTREAMS__X__KIND", 'upstreams.x.kind is "x"; allowed: one of engine, stability_v1'),
        ("SAFELIGHT_UPSTREAMS__X__PROCESSES", "upstreams.x has no kind; allowed: one of engine, stability_v1"),
    ],
)
def test_wrong_variable_is_refused_by_its_name(name: str, fault: str) -> None:
    """A fault of the environment names the variable."""
    assert faults_of(None, {name: "x"}) == [f"{name}: {fault}"]


def test_wrong_override_is_named_as_the_command_lines() -> None:
    """`--port 99999` is checked as any other source is."""
    assert faults_of(None, {}, {"server.port": 99999}) == [
        "command line: server.port is 99999; allowed: an integer from 0 to 65535"
    ]


@pytest.mark.parametrize(
    "text,fault",
    [
        (
            "[protocol]\nsilence_ms = 1000",
            "protocol.ping_interval_ms is 20000; allowed: at most protocol.silence_ms, which is 1000",
        ),
        (
            "[work]\nbackoff_base_ms = 40000",
            "work.backoff_base_ms is 40000; allowed: at most work.backoff_cap_ms, which is 30000",
        ),
        (
            "[protocol]\nref_retention_ms = 1000",
            "protocol.event_retention_ms is 3600000; allowed: at most protocol.ref_retention_ms, which is 1000",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    """Two values that are each allowed can still make no sense together."""
    assert faults_of(write(tmp_path, text)) == [f"safelight.toml: {fault}"]


def test_contradiction_with_a_faulty_setting_is_not_told(tmp_path: Path) -> None:
    """A default that stands in for a fault is nobody's contradiction."""
    path = write(tmp_path, "[protocol]\nping_interval_ms = 0\nsilence_ms = 1000")
    [fault] = faults_of(path)
    assert "ping_interval_ms is 0" in fault


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    """Faults of every source and section come in one exception, one line each."""
    path = write(tmp_path, "bogus = 1\n[server]\nport = 70000\nhots = 1\n[log]\nlevel = 3\n[upstreams.x]\n")
    environ = {"SAFELIGHT_WORK__LEASE_MS": "soon", "SAFELIGHT_WROK__LEASE_MS": "1"}
    faults = faults_of(path, environ, {"data.folder": 5})
    for part in ("bogus", "server.port is", "server.hots", "log.level is", "upstreams.x has", "work.lease_ms is"):
        assert sum(part in fault for fault in faults) == 1
    assert sum(fault.startswith("SAFELIGHT_WROK__LEASE_MS:") for fault in faults) == 1
    assert sum(fault.startswith("command line: data.folder") for fault in faults) == 1
    assert len(faults) == 8


@pytest.mark.parametrize(
    "content,fault",
    [
        (None, "cannot be read (No such file or directory)"),
        (b"[server", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_unreadable_file_is_a_fault_beside_others(tmp_path: Path, content: bytes | None, fault: str) -> None:
    """A file that can't be read does not hide the faults of the environment."""
    path = tmp_path / "safelight.toml"
    if content is not None:
        path.write_bytes(content)
    first, second = faults_of(path, {"SAFELIGHT_SERVER__PORT": "x"})
    assert first.startswith(f"safelight.toml: {fault}")
    assert second.startswith("SAFELIGHT_SERVER__PORT")


@pytest.mark.parametrize(
    "text,environ",
    [
        ('[upstreams.x]\nkind = "stability_v1"\napi_key = "sk-leaked-12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = "sk-leaked-12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = "leaked12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_file = "leaked12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = "K"', {"K": " "}),
        ('[upstreams.x]\nkind = "stability_v1"', {"SAFELIGHT_UPSTREAMS__X__API_KEY_ENV": "sk-leaked-12345"}),
        ('[upstreams.x]\nkind = "stability_v1"', {"SAFELIGHT_UPSTREAMS__X__API_KEY": "sk-leaked-12345"}),
    ],
)
def test_key_in_the_wrong_place_is_refused_and_not_repeated(
    tmp_path: Path, text: str, environ: Mapping[str, str]
) -> None:
    """A key that was pasted where its place is asked for does not end in a terminal or a log."""
    faults = faults_of(write(tmp_path, text), environ)
    assert faults
    assert "leaked" not in "".join(faults)


@pytest.mark.parametrize(
    "content,fault", [(b"", "is empty"), (b"two words", "more than one word"), (b"\xff", "it is not ASCII text")]
)
def test_key_file_without_one_key_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    """What can't be a key is told now, not by the vendor later."""
    (tmp_path / "key").write_bytes(content)
    path = write(tmp_path, f'[upstreams.x]\nkind = "stability_v1"\napi_key_file = "{tmp_path}/key"')
    [line] = faults_of(path)
    assert line.startswith("safelight.toml: the file that upstreams.x.api_key_file names")
    assert fault in line


def test_long_value_is_cut_in_its_fault(tmp_path: Path) -> None:
    """A fault stays one line."""
    [line] = faults_of(write(tmp_path, f'[log]\nlevel = "{"x" * 500}"'))
    assert len(line) < 160


# --- the table of settings ---


def test_every_setting_is_described() -> None:
    """Each row of the table has a text, a type, and a variable that really sets it."""
    rows = describe()
    assert len({row.path for row in rows}) == len(rows)
    for row in rows:
        assert row.doc, row.path
        assert row.type, row.path
        assert row.env.startswith("SAFELIGHT_"), row.path


def test_described_variable_sets_its_setting() -> None:
    """Every default, given through its documented variable, is that default again."""
    environ = {
        row.env: tomllib.loads(f"x = {row.default}")["x"]
        for row in describe()
        if row.default and not row.path.startswith("upstreams.")
    }
    texts = {name: "" if value == [] else str(value).lower() for name, value in environ.items()}
    texts["SAFELIGHT_PROTOCOL__CURRENCY"] = "USD"
    settings, effective = load_with_origins(None, texts)
    assert settings == Config()
    assert {one.origin for one in effective if one.origin != "default"} == set(texts)


def test_described_upstream_settings_are_known() -> None:
    """A row of an upstream's settings is no typing error."""
    rows = {row.path: row for row in describe() if row.path.startswith("upstreams.")}
    assert rows["upstreams.NAME.limit.burst"].env == "SAFELIGHT_UPSTREAMS__NAME__LIMIT__BURST"
    assert rows["upstreams.NAME.kind"].type == "one of engine, stability_v1"
    for row in rows.values():
        faults = faults_of(None, {row.env: "\x00"})
        assert not any("there is no" in fault for fault in faults), row.path


def test_effective_settings_are_a_settings_file(tmp_path: Path) -> None:
    """What `check-config` prints gives the same settings again."""
    text = VENDOR + "limit = { burst = 3 }\n[server]\nallowed_hosts = ['a.example']\n"
    settings, effective = load_with_origins(write(tmp_path, text), VENDOR_KEY)
    again = write(tmp_path, "\n".join(one.line() for one in effective))
    assert load(again, VENDOR_KEY) == settings
