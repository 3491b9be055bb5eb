"""Every setting: its type, its default, and under it what it is, in which unit, and what its absence means.

`describe` makes the table of settings in README from these texts. A key of a vendor never stands in the settings
themselves: they name a variable or a file, which `reading` reads into a `Secret`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from gateway.core.secret import Secret
from protocol import messages

SettingPath = tuple[str, ...]
"""Where a setting stands: its section, then its field."""

_A_YEAR_MS: Final = 31_536_000_000
LARGEST: Final = 2**53 - 1

Milliseconds = Annotated[int, Meta(ge=1, le=_A_YEAR_MS)]
Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Size = Annotated[int, Meta(ge=1024, le=LARGEST)]
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

Price = Annotated[int, Meta(ge=0, le=LARGEST)]
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

    max_message: Annotated[int, Meta(ge=16_384, le=LARGEST)] = 1_048_576
    """Bytes of the largest message to a client."""
    max_json: Size = 65_536
    """Bytes of the largest JSON message from a client."""
    max_chunk: Size = 262_144
    """Bytes of the largest binary message from a client, without its header."""
    max_upload_bytes: Size = 16_777_216
    """Bytes of the largest input image."""
    max_input_pixels: Annotated[int, Meta(ge=4096, le=LARGEST)] = 16_777_216
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


def only_the_engine() -> Mapping[str, Upstream]:
    """Return what there is if no upstream is configured."""
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
    upstreams: Mapping[str, Upstream] = field(default_factory=only_the_engine)
    """By name; if none is configured there is one, `engine`."""
