"""Settings: their four sources, and every kind of fault."""

import dataclasses
from pathlib import Path

import pytest

from gateway import config
from gateway.config import NOT_SETTINGS, STABILITY_V1_ENGINES, Config, Engine, load, load_with_origins
from gateway.config.upstreams import KINDS
from protocol import messages
from tests.gateway.config_files import VENDOR, VENDOR_KEY, faults_of, write

ALL_KINDS = ", ".join(KINDS)


# --- sources ---


def test_without_any_source_every_setting_has_its_default() -> None:
    """Nothing is needed to start: the defaults are a gateway with the embedded engine."""
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
        ('[upstreams.x]\nkind = "dalle"', f'upstreams.x.kind is "dalle"; allowed: one of {ALL_KINDS}'),
        ("[upstreams.x]\nkind = 5", f"upstreams.x.kind is 5; allowed: one of {ALL_KINDS}"),
        ("[upstreams.x]\nprocesses = 2", f"upstreams.x has no kind; allowed: one of {ALL_KINDS}"),
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
        ("SAFELIGHT_UPSTREAMS__X__KIND", f'upstreams.x.kind is "x"; allowed: one of {ALL_KINDS}'),
        ("SAFELIGHT_UPSTREAMS__X__PROCESSES", f"upstreams.x has no kind; allowed: one of {ALL_KINDS}"),
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


def test_long_value_is_cut_in_its_fault(tmp_path: Path) -> None:
    """A fault stays one line."""
    [line] = faults_of(write(tmp_path, f'[log]\nlevel = "{"x" * 500}"'))
    assert len(line) < 160
