"""The settings: frozen dataclasses, filled once from a TOML file, the environment and the command line.

The later of these wins: the default that stands here, the file, `SAFELIGHT_SECTION__FIELD`, an override of the command
line. `load` is a function of its arguments (and of the files they name); nothing else of the gateway reads the
environment. It reports every fault at once, so that a person mends a file in one go. A key of a vendor never stands in
the settings themselves: they name a variable or a file, which is read here, into a `Secret`.

The text under a field says what it is, in which unit, and what its absence means; `describe` makes the table of
settings in README from it. Everything stops at `app.py`, which hands components plain arguments.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.core.secret import Secret
from protocol import messages

_A_YEAR_MS: Final = 31_536_000_000
_LARGEST: Final = 2**53 - 1

Milliseconds = Annotated[int, Meta(ge=1, le=_A_YEAR_MS)]
Count = Annotated[int, Meta(ge=1, le=_LARGEST)]
Size = Annotated[int, Meta(ge=1024, le=_LARGEST)]
Text = Annotated[str, Meta(min_length=1, description="text that is not empty")]
HostName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._\-]+\Z|\A\[[0-9A-Fa-f:.]+\]\Z", description="a host's name, without a port")
]
Origin = Annotated[
    str, Meta(pattern=r"\Ahttps?://[^/?#\s@]+\Z", description="an origin as in https://example.org:8443")
]
Address = Annotated[
    str, Meta(pattern=r"\Ahttps?://[^/?#\s@]+(/[^?#\s]*)?\Z", description="an address as in https://example.org")
]
VariableName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z", description="the name of an environment variable")
]

NOT_SETTINGS: Final = frozenset({"SAFELIGHT_API_KEY", "SAFELIGHT_URL", "SAFELIGHT_DEEP", "SAFELIGHT_REQUIRE"})
"""Variables with our prefix that belong to the command line's client and to the tests."""
PREFIX: Final = "SAFELIGHT_"

Price = Annotated[int, Meta(ge=0, le=_LARGEST)]
Prices = Annotated[
    Mapping[str, Price], Meta(min_length=1, description="a table of one engine or more, each with its price")
]

STABILITY_V1_ENGINES: Final = (
    "stable-diffusion-xl-1024-v1-0",
    "stable-diffusion-xl-1024-v0-9",
    "stable-diffusion-v1-6",
)
"""The engines of Stability's first API whose rules the gateway knows."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the gateway listens, and whom it believes."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every interface."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    """TCP port to listen on; 0 takes a free one, which is printed."""
    public_url: Address | None = None
    """The address under which clients reach the gateway, for the links it makes; unset: the bound one."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Names allowed in `Host` besides the bound address, localhost, 127.0.0.1 and [::1]."""
    allowed_origins: tuple[Origin, ...] = ()
    """Origins of other web pages that may connect; the gateway's own pages always may."""
    trust_forwarded: bool = False
    """Believe `X-Forwarded-For`, `-Proto` and `-Host`; only behind a proxy that sets them."""
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 2048
    """Connections that may wait to be accepted."""


@dataclass(frozen=True, slots=True)
class Data:
    """Where everything lies that is kept."""

    folder: Path = Path("var")
    """Folder of the ledger and the pictures, from the working directory; made if it is not there."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """The times and promises of the wire protocol."""

    heartbeat_ms: Milliseconds = 15_000
    """Milliseconds after which a silent gateway sends a `ping`; clients give up after 2.5 times that."""
    session_ttl_ms: Milliseconds = 300_000
    """Milliseconds for which a session can be resumed after its connection is lost."""
    event_retention_ms: Milliseconds = 3_600_000
    """Milliseconds for which a job's log is kept after its end."""
    ref_retention_ms: Milliseconds = 86_400_000
    """Milliseconds for which a `ref` stands for its job."""
    asset_retention_ms: Milliseconds = 86_400_000
    """Milliseconds for which a picture is kept after its last use."""
    currency: Annotated[str, Meta(pattern=r"\A[A-Z]{3}\Z", description="three capital letters")] = "USD"
    """Currency of all prices and costs (ISO 4217)."""
    hello_timeout_ms: Milliseconds = 10_000
    """Milliseconds that a new connection has for its `hello`."""
    ping_interval_ms: Milliseconds = 20_000
    """Milliseconds between WebSocket pings."""
    silence_ms: Milliseconds = 40_000
    """Milliseconds without any byte from a client after which it is given up."""
    slow_consumer_ms: Milliseconds = 30_000
    """Milliseconds that a numbered event may wait for a slow client before the connection is closed."""
    high_water: Size = 65_536
    """Bytes in a connection's write buffer above which previews are merged."""
    max_connection_age_ms: Milliseconds | None = None
    """Milliseconds after which a connection is asked to come back anew; unset: never."""
    drain_spread_ms: Annotated[int, Meta(ge=0, le=_A_YEAR_MS)] = 10_000
    """Milliseconds over which the clients are spread that a stopping gateway sends away."""
    drain_grace_ms: Annotated[int, Meta(ge=0, le=_A_YEAR_MS)] = 10_000
    """Milliseconds that running jobs have to end when the gateway stops."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for; all but the last are announced in `welcome.limits`."""

    max_message: Annotated[int, Meta(ge=16_384, le=_LARGEST)] = 1_048_576
    """Bytes of the largest message to a client."""
    max_json: Size = 65_536
    """Bytes of the largest JSON message from a client."""
    max_chunk: Size = 262_144
    """Bytes of the largest binary message from a client, without its header."""
    max_upload_bytes: Size = 16_777_216
    """Bytes of the largest input image."""
    max_input_pixels: Annotated[int, Meta(ge=4096, le=_LARGEST)] = 16_777_216
    """Pixels of the largest input image after decoding."""
    max_inputs: Annotated[int, Meta(ge=0, le=8)] = 8
    """Input images of one job."""
    max_jobs: Count = 64
    """Live jobs of one subject."""
    max_watch: Count = 256
    """Jobs that one connection may watch."""
    msgs_per_s: Count = 50
    """JSON messages a second from one connection; twice that at once."""
    max_preview_fps: Annotated[int, Meta(ge=0, le=240)] = 240
    """Previews a second of one job; 0 = none."""
    max_preview_edge: Annotated[int, Meta(ge=64, le=1024)] = 1024
    """Pixels of a preview's longer edge."""
    max_connections: Count = 32
    """Connections of one subject."""
    max_queue: Count = 100_000
    """Jobs that may be queued in all; above it a submit is refused with `queue_full`."""

    def announced(self) -> messages.Limits:
        """Return what `welcome` says."""
        names = messages.Limits.__struct_fields__
        return messages.Limits(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class Work:
    """How jobs are claimed, and tried again."""

    lease_ms: Annotated[int, Meta(ge=1000, le=_A_YEAR_MS)] = 30_000
    """Milliseconds after which another worker may take the job of one that fell silent."""
    poll_ms: Milliseconds = 1000
    """Milliseconds between looks at the queue when no bell rings."""
    max_tries: Annotated[int, Meta(ge=1, le=100)] = 8
    """Calls that are made for one part of a job before it fails."""
    backoff_base_ms: Milliseconds = 500
    """Milliseconds of the longest wait before the second try; it doubles with each."""
    backoff_cap_ms: Milliseconds = 30_000
    """Milliseconds of the longest wait before any try."""


@dataclass(frozen=True, slots=True)
class Window:
    """A vendor's limit of so many calls in a period."""

    window: Count = 150
    """Calls in one period."""
    period_ms: Milliseconds = 10_000
    """Milliseconds of the period."""
    delay_bound_ms: Annotated[int, Meta(ge=0, le=_A_YEAR_MS)] = 250
    """Milliseconds between our last byte and the vendor's counting of the call, at most."""
    lockout_ms: Milliseconds = 60_000
    """Milliseconds for which nothing is sent after a 429 that does not say for how long."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A vendor's limit of so many calls a second, with a burst."""

    bucket_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    """Calls a second."""
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Calls at once."""
    delay_bound_ms: Annotated[int, Meta(ge=0, le=_A_YEAR_MS)] = 250
    """Milliseconds between our last byte and the vendor's counting of the call, at most."""
    lockout_ms: Milliseconds = 60_000
    """Milliseconds for which nothing is sent after a 429 that does not say for how long."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a failing upstream is left alone."""

    failures: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    """Failures in a row that open the breaker."""
    open_ms: Milliseconds = 30_000
    """Milliseconds before one call tries whether the upstream is back."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The painter that comes with the gateway; it runs in processes of its own."""

    kind: Literal["engine"] = "engine"
    """The embedded painter."""
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    """Processes, each painting one picture at a time."""


def _newest_engines() -> Mapping[str, int]:
    return {"stable-diffusion-xl-1024-v1-0": 9_000, "stable-diffusion-v1-6": 9_000}


@dataclass(frozen=True, slots=True)
class StabilityV1:
    """Stability AI's first REST API, or anything that speaks it."""

    kind: Literal["stability_v1"] = "stability_v1"
    """Stability AI's REST API, version 1."""
    base_url: Address = "https://api.stability.ai"
    """Address before `/v1/`."""
    api_key_env: VariableName | None = None
    """Name of the environment variable that holds the API key; unset: it is in a file."""
    api_key_file: Text | None = None
    """Path of the file that holds the API key and nothing else; unset: it is in a variable."""
    engines: Prices = field(default_factory=_newest_engines)
    """Engines to offer, each with the price of one image in millionths of the currency."""
    timeout_ms: Milliseconds = 120_000
    """Milliseconds that one call may take."""
    connect_timeout_ms: Milliseconds = 10_000
    """Milliseconds to reach the vendor."""
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Calls under way at once."""
    limit: Window | Bucket = field(default_factory=Window)
    """The vendor's rate limit."""
    breaker: Breaker = field(default_factory=Breaker)
    """When the vendor is left alone."""
    api_key: Secret = field(default=Secret(""), compare=False, metadata={"setting": False})
    """What the variable or the file held."""


Upstream = Engine | StabilityV1
KINDS: Final[dict[str, type[Engine] | type[StabilityV1]]] = {"engine": Engine, "stability_v1": StabilityV1}


@dataclass(frozen=True, slots=True)
class Log:
    """What the gateway writes about itself, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal, else `json`."""


def _only_the_engine() -> Mapping[str, Upstream]:
    return {"engine": Engine()}


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of a gateway."""

    server: Server = field(default_factory=Server)
    data: Data = field(default_factory=Data)
    protocol: Protocol = field(default_factory=Protocol)
    limits: Limits = field(default_factory=Limits)
    work: Work = field(default_factory=Work)
    log: Log = field(default_factory=Log)
    upstreams: Mapping[str, Upstream] = field(default_factory=_only_the_engine)
    """By name; if none is configured there is one, `engine`."""


class ConfigFaults(Exception):
    """The settings cannot be used; `faults` has one line each: where, what is wrong, what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


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
    return config, list(_effective(config, reading.origins))


def describe() -> list[Setting]:
    """Return every setting, in the order of the sections."""
    sections = [(name, hint) for name, hint in _hints(Config).items() if name != "upstreams"]
    rows = [row for name, hint in sections for row in _describe(hint, (name,))]
    kinds = f"one of {', '.join(KINDS)}"
    rows.append(Setting("upstreams.NAME.kind", kinds, "", "Who serves it.", _variable(("upstreams", "NAME", "kind"))))
    for kind, section in KINDS.items():
        _, *others = _describe(section, ("upstreams", "NAME"))
        rows += [dataclasses.replace(row, doc=f"{kind}: {row.doc}") for row in others]
    return rows


# --- reading ---

_Path = tuple[str, ...]
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


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as somebody wrote it."""

    value: object
    where: str
    """How a fault names the place."""
    origin: str
    is_text: bool = False
    """It comes from the environment, where everything is text."""


_Node = dict[str, "_Node | _Given"]


class _Reading:
    """One pass over all sources: collects what was given, then builds the sections from it, noting every fault."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.faults: list[str] = []
        self.origins: dict[_Path, str] = {}
        self._environ = environ
        self._given: _Node = {}
        self._faulty: set[_Path] = set()

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
            self._given = _as_node(table, str(path), ())

    def add_environment(self) -> None:
        for name, text in sorted(self._environ.items()):
            if not name.startswith(PREFIX) or name in NOT_SETTINGS:
                continue
            path = self._named_upstream(tuple(name.removeprefix(PREFIX).lower().split("__")))
            if name != name.upper() or not _is_setting(path):
                known = (row.env for row in describe() if "NAME" not in row.env)
                self.faults.append(f"{name}: there is no such setting{_suggest(name.upper(), known)}")
            else:
                self._add(path, _Given(text, name, name, is_text=True))

    def add_overrides(self, overrides: Mapping[str, object]) -> None:
        for path, value in overrides.items():
            if value is not None:
                self._add(tuple(path.split(".")), _Given(value, "command line", "command line"))

    def build(self) -> Config:
        node = self._given
        sections = {name: hint for name, hint in _hints(Config).items() if name != "upstreams"}
        for name in [name for name in node if name not in _hints(Config)]:
            self._unknown((name,), node[name], [*sections, "upstreams"])
        built: dict[str, Any] = {
            name: self._section(hint, node.get(name, {}), (name,)) for name, hint in sections.items()
        }
        upstreams = self._upstreams(node.get("upstreams", {}))
        return Config(**built, upstreams=upstreams or _only_the_engine())

    def check_orders(self, config: Config) -> None:
        for smaller, larger in _ORDERED:
            low, high = (getattr(getattr(config, section), name) for section, name in (smaller, larger))
            if low > high and not self._faulty & {smaller, larger}:
                where = self._where(smaller) or self._where(larger)
                allowed = f"at most {'.'.join(larger)}, which is {high}"
                self.faults.append(f"{where}: {'.'.join(smaller)} is {low}; allowed: {allowed}")

    def _where(self, path: _Path) -> str:
        """Name the place of a setting; a default has none."""
        node: _Node | _Given = self._given
        for name in path:
            node = node.get(name, {}) if isinstance(node, dict) else {}
        return node.where if isinstance(node, _Given) else ""

    def _named_upstream(self, path: _Path) -> _Path:
        """Find the name that a variable means: it can spell neither capitals nor hyphens."""
        known = self._given.get("upstreams")
        if path[0] == "upstreams" and len(path) > 1 and isinstance(known, dict):
            for name in known:
                if name.lower().replace("-", "_") == path[1]:
                    return ("upstreams", name, *path[2:])
        return path

    def _add(self, path: _Path, given: _Given) -> None:
        node = self._given
        for name in path[:-1]:
            inner = node.get(name)
            if not isinstance(inner, dict):
                inner = node[name] = {}
            node = inner
        node[path[-1]] = given

    def _fault(self, path: _Path, where: str, wrong: str, allowed: str) -> None:
        self._faulty.add(path)
        self.faults.append(f"{where}: {wrong}; allowed: {allowed}")

    def _unknown(self, path: _Path, node: "_Node | _Given", known: Iterable[str]) -> None:
        where = next(_places(node), ".".join(path))
        if path[-1] in _KEYS_TO_KEEP_OUT:
            wrong = f"{'.'.join(path)} is no setting: a key is never written here"
            self.faults.append(f"{where}: {wrong}; name its place with api_key_env or api_key_file")
            return
        name = ".".join(path)
        beside = [".".join((*path[:-1], one)) for one in known]
        elsewhere = (row.path for row in describe() if row.path.rpartition(".")[2] == path[-1])
        hint = _suggest(name, beside) or next((f"; did you mean {one}?" for one in elsewhere), "")
        self.faults.append(f"{where}: there is no setting {name}{hint}")

    def _section(self, section: type[_Section], node: "_Node | _Given", path: _Path) -> _Section:
        """Build a section from what was given for it, with the default in place of everything wrong."""
        if isinstance(node, _Given):
            self._fault(path, node.where, f"{'.'.join(path)} is no table", "a table of settings")
            node = {}
        hints = _hints(section)
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

    def _limit(self, node: "_Node | _Given", path: _Path) -> Window | Bucket:
        if isinstance(node, _Given):
            return self._section(Window, node, path)
        is_bucket = not node.keys().isdisjoint({"bucket_per_s", "burst"})
        if is_bucket and not node.keys().isdisjoint({"window", "period_ms"}):
            where = next(_places(node))
            self._fault(path, where, f"{'.'.join(path)} is a window and a bucket", "one of them")
            return Window()
        return self._section(Bucket, node, path) if is_bucket else self._section(Window, node, path)

    def _leaf(self, hint: Any, node: "_Node | _Given", path: _Path, values: dict[str, Any]) -> None:
        given = _collapse(node, path)
        try:
            values[path[-1]] = _convert(given, hint)
            self.origins[path] = given.origin
        except ValueError:
            name = ".".join(path)
            wrong = f"{name} is {_shown(given.value)}" if path[-1] not in _MAY_HOLD_A_KEY else f"{name} is wrong"
            self._fault(path, given.where, wrong, _allowed(hint))

    def _upstreams(self, node: "_Node | _Given") -> dict[str, Upstream]:
        if isinstance(node, _Given):
            self._fault(("upstreams",), node.where, "upstreams is no table", "a table of upstreams by name")
            return {}
        upstreams: dict[str, Upstream] = {}
        for name, inner in node.items():
            path = ("upstreams", name)
            if not _NAME.match(name):
                self._fault(path, next(_places(inner), ".".join(path)), f"{name!r} is no name", _NAME_ALLOWED)
            elif isinstance(inner, _Given):
                self._fault(path, inner.where, f"upstreams.{name} is no table", "a table with `kind`")
            else:
                upstream = self._upstream(inner, path)
                if upstream is not None:
                    upstreams[name] = upstream
        return upstreams

    def _upstream(self, node: _Node, path: _Path) -> Upstream | None:
        kind = node.get("kind")
        allowed = f"one of {', '.join(KINDS)}"
        if not isinstance(kind, _Given):
            where = next(_places(node), ".".join(path))
            self._fault(path, where, f"{'.'.join(path)} has no kind", allowed)
            return None
        section = KINDS.get(kind.value) if isinstance(kind.value, str) else None
        if section is None:
            self._fault(path, kind.where, f"{'.'.join(path)}.kind is {_shown(kind.value)}", allowed)
            return None
        if section is Engine:
            return self._section(Engine, node, path)
        return self._with_key(self._section(StabilityV1, node, path), node, path)

    def _with_key(self, upstream: StabilityV1, node: _Node, path: _Path) -> StabilityV1:
        """Read the vendor's key from where the settings say it is. No fault repeats what may be the key itself."""
        unknown = upstream.engines.keys() - set(STABILITY_V1_ENGINES)
        for engine in sorted(unknown):
            where = next(_places(node["engines"]))
            self._fault(
                (*path, "engines"),
                where,
                f"{'.'.join(path)}.engines has {_shown(engine)}",
                ", ".join(STABILITY_V1_ENGINES),
            )
        if any((*path, name) in self._faulty for name in _MAY_HOLD_A_KEY):
            return upstream
        variable, file = upstream.api_key_env, upstream.api_key_file
        if (variable is None) == (file is None):
            wrong = "has no API key" if variable is None else "has two places for its API key"
            where = next(_places(node))
            self._fault(path, where, f"{'.'.join(path)} {wrong}", "api_key_env or api_key_file")
            return upstream
        key = ""
        if variable is not None:
            key = self._environ.get(variable, "").strip()
            if not key:
                wrong = f"the variable that {'.'.join(path)}.api_key_env names is not set, or empty"
                allowed = "a variable with the API key"
                self._fault(path, self._where((*path, "api_key_env")), wrong, allowed)
        elif file is not None:
            key = self._read_key(Path(file), (*path, "api_key_file"))
        return dataclasses.replace(upstream, api_key=Secret(key))

    def _read_key(self, file: Path, path: _Path) -> str:
        allowed = "a file with one line, the API key"
        try:
            key = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
            self._fault(
                path, self._where(path), f"the file that {'.'.join(path)} names cannot be read ({reason})", allowed
            )
            return ""
        if not key or len(key.split()) != 1:
            wrong = "is empty" if not key else "has more than one word"
            self._fault(path, self._where(path), f"the file that {'.'.join(path)} names {wrong}", allowed)
        return key


# --- values as text, and text as values ---


def _as_node(table: Mapping[str, object], file: str, path: _Path) -> _Node:
    node: _Node = {}
    for name, value in table.items():
        inner = (*path, name)
        if isinstance(value, dict):
            node[name] = _as_node(value, file, inner)
        else:
            node[name] = _Given(value, file, file)
    return node


def _places(node: _Node | _Given) -> Iterator[str]:
    if isinstance(node, _Given):
        yield node.where
    else:
        for inner in node.values():
            yield from _places(inner)


def _collapse(node: _Node | _Given, path: _Path) -> _Given:
    """Return a table that is one value, as the prices are, as what was given."""
    if isinstance(node, _Given):
        return node
    inner = {name: _collapse(value, (*path, name)) for name, value in node.items()}
    origin = next((one.origin for one in inner.values()), "")
    where = next((one.where for one in inner.values()), ".".join(path))
    return _Given({name: one.value for name, one in inner.items()}, where, origin)


def _convert(given: _Given, hint: Any) -> Any:
    """Return the value in its type; raises `ValueError` if it is not allowed."""
    value = given.value
    if given.is_text and isinstance(value, str):
        value = _from_text(value.strip(), hint)
    try:
        if hint is Path:
            return value if isinstance(value, Path) else Path(msgspec.convert(value, Text))
        return msgspec.convert(value, hint, strict=not given.is_text)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _from_text(text: str, hint: Any) -> object:
    """Return what the text of a variable means where it is no plain value: lists, prices, and nothing at all."""
    hint, _ = _bare(hint)
    if typing.get_origin(hint) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if typing.get_origin(hint) is Mapping:
        pairs = (part.partition("=") for part in text.split(","))
        return {name.strip(): int(price) for name, _, price in pairs}
    return None if not text and types.NoneType in typing.get_args(hint) else text


def _bare(hint: Any) -> tuple[Any, Meta]:
    if typing.get_origin(hint) is Annotated:
        bare, meta = typing.get_args(hint)
        return bare, meta
    return hint, Meta()


def _allowed(hint: Any) -> str:
    """Say in words what a field takes."""
    bare, meta = _bare(hint)
    inner = typing.get_args(bare)
    if meta.description is not None:
        return meta.description
    if types.NoneType in inner:
        return f"{_allowed(inner[0])}, or nothing"
    if typing.get_origin(bare) is tuple:
        return f"a list; each is {_allowed(inner[0])}"
    if typing.get_origin(bare) is Literal:
        return f"one of {', '.join(inner)}"
    if bare in {int, float}:
        return _allowed_numbers("an integer" if bare is int else "a number", meta)
    return {bool: "true or false", Path: "a path"}[bare]


def _allowed_numbers(noun: str, meta: Meta) -> str:
    if meta.gt is not None:
        return f"{noun} above {meta.gt}, up to {meta.le}"
    if meta.le == _LARGEST:
        return f"{noun} of at least {meta.ge}"
    return f"{noun} from {meta.ge} to {meta.le}"


def _shown(value: object) -> str:
    """Return a value as TOML has it, cut to what fits a line."""
    text = toml_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def toml_text(value: object) -> str:
    """Return a value as it stands in a TOML file."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case Mapping():
            inner = ", ".join(f"{toml_text(str(name))} = {toml_text(one)}" for name, one in value.items())
            return f"{{ {inner} }}"
        case list() | tuple():
            return f"[{', '.join(toml_text(one) for one in value)}]"
        case _:
            return msgspec.json.encode(str(value)).decode()


def _suggest(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


# --- the dataclasses, looked at ---


def _hints(section: type[Any]) -> Mapping[str, Any]:
    """Return the type of each setting of a section."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {one.name: hints[one.name] for one in dataclasses.fields(section) if one.metadata.get("setting", True)}


def _is_setting(path: _Path) -> bool:
    """Whether a variable of this path can mean anything; which fields a kind has is for `_Reading` to say."""
    if path[0] != "upstreams":
        section = _hints(Config).get(path[0])
        return section is not None and len(path) == 2 and path[1] in _hints(section)
    known: list[_Path] = [("kind",), *((name,) for name in _hints(Engine)), *((name,) for name in _hints(StabilityV1))]
    known += [("limit", name) for name in (*_hints(Window), *_hints(Bucket))]
    known += [("breaker", name) for name in _hints(Breaker)]
    return path[2:] in known


def _variable(path: _Path) -> str:
    name = "__".join(part if part == "NAME" else part.upper() for part in path)
    return PREFIX + name.replace("-", "_")


def _describe(section: type[Any], path: _Path) -> Iterator[Setting]:
    docs = _docs()[section.__name__]
    defaults = section()
    for name, hint in _hints(section).items():
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
            yield Setting(".".join(inner), _allowed(hint), default, docs[name], _variable(inner))


@functools.cache
def _docs() -> Mapping[str, Mapping[str, str]]:
    """Return the text under each field of each class of this module."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[__name__])).body:
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


def _effective(config: Config, origins: Mapping[_Path, str]) -> Iterator[Effective]:
    for name in _hints(Config):
        section = getattr(config, name)
        parts: list[tuple[_Path, Any]] = [((name,), section)]
        if name == "upstreams":
            parts = [((name, one), upstream) for one, upstream in section.items()]
        for path, part in parts:
            yield from _values(part, path, origins)


def _values(section: Any, path: _Path, origins: Mapping[_Path, str]) -> Iterator[Effective]:
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
