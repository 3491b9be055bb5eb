"""Every setting: its type, its default, and under it what it is, in which unit, and what its absence means.

`describe` makes the tables of settings in README from these texts; `upstreams` has the sections of upstreams.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from gateway.config.fields import (
    A_YEAR_MS,
    LARGEST,
    Address,
    Count,
    HostName,
    Milliseconds,
    MillisecondsFromZero,
    ModelName,
    Origin,
    Size,
    Text,
)
from gateway.config.upstreams import (
    OPENAI_IMAGE_MODELS,
    STABILITY_V1_ENGINES,
    STABILITY_V2BETA_MODELS,
    Engine,
    Upstream,
)
from gateway.core.algorithms import Algorithm
from protocol import messages

NOT_SETTINGS: Final = frozenset({"SAFELIGHT_API_KEY", "SAFELIGHT_URL", "SAFELIGHT_DEEP", "SAFELIGHT_REQUIRE"})
"""Variables with our prefix that belong to the command line's client and to the tests."""
PREFIX: Final = "SAFELIGHT_"
EndUserScope = Literal["generate", "read", "cancel", "assets", "grant"]


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
    drain_spread_ms: MillisecondsFromZero = 10_000
    """Milliseconds over which the clients are spread that a stopping gateway sends away."""
    drain_grace_ms: MillisecondsFromZero = 10_000
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

    lease_ms: Annotated[int, Meta(ge=1000, le=A_YEAR_MS)] = 30_000
    """Milliseconds after which another worker may take the job of one that fell silent."""
    poll_ms: Milliseconds = 1000
    """Milliseconds between looks at the queue when no bell rings."""
    max_tries: Annotated[int, Meta(ge=1, le=100)] = 8
    """Calls that are made for one part of a job before it fails."""
    backoff_base_ms: Milliseconds = 500
    """Milliseconds of the longest wait before the second try; it doubles with each."""
    backoff_cap_ms: Milliseconds = 30_000
    """Milliseconds of the longest wait before any try."""


def _vendors_names() -> Mapping[str, str]:
    stability = ("stable-diffusion-v1-5", *STABILITY_V1_ENGINES, "esrgan-v1-x2plus", *STABILITY_V2BETA_MODELS)
    return dict.fromkeys((*stability, *OPENAI_IMAGE_MODELS), "*")


@dataclass(frozen=True, slots=True)
class Compat:
    """How requests are answered that come in the dialect of another image API."""

    aliases: Annotated[
        Mapping[ModelName, Text], Meta(description="a table of names, each with the name of a model, or with `*`")
    ] = field(default_factory=_vendors_names)
    """What models' names mean that no upstream offers; `*` is whatever does the task, the embedded engine first."""
    on_disconnect: Literal["continue", "cancel"] = "continue"
    """What becomes of a job when the last client that waits for it goes away; it may say `X-On-Disconnect` itself."""
    silence_ms: Milliseconds = 25_000
    """Milliseconds after which a waiting JSON answer begins with 200 and white space, so that proxies stay open."""
    picture_wait_ms: Milliseconds = 55_000
    """Milliseconds after which an answer that is a bare picture gives up with 408 and the job's id; the job goes on."""
    max_body: Size = 33_554_432
    """Bytes of the largest request, its pictures included."""


@dataclass(frozen=True, slots=True)
class Log:
    """What the gateway writes about itself, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal, else `json`."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a model."""

    upstream: Text = ""
    """Name of the upstream; it must be given."""
    model: Text = ""
    """What the upstream calls the model; it must be given."""
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    """Share of the jobs, against the others of its group that are as well and as cheap."""
    group: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Which routes are taken first; a higher group stands in while none of the lower ones is well."""


@dataclass(frozen=True, slots=True)
class Model:
    """A name that clients ask for, and the ways to it."""

    routes: tuple[Route, ...] = ()
    """One or more, each to an upstream of its own."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An identity provider (OpenID Connect) whose tokens stand for end users of a tenant."""

    tenant: Text = ""
    """Whose end users its tokens name; it must be given."""
    issuer: Text = ""
    """`iss` of its tokens, to the letter; it must be given."""
    audience: Text = ""
    """`aud` of tokens that are meant for this gateway; it must be given."""
    jwks_url: Address = ""
    """Address of its public keys, the `jwks_uri` of its discovery document, by https; it must be given."""
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256", "EdDSA")
    """Algorithms that its tokens may be signed with."""
    subject_claim: Text = "sub"
    """The claim that names the end user."""
    scope_claim: Text | None = None
    """The claim that narrows what the end user may do; unset: everything that an end user may."""
    scopes: Annotated[Mapping[Text, EndUserScope], Meta(description="a table of words, each with a scope")] = field(
        default_factory=dict
    )
    """What words of that claim mean here, besides the scopes' own names."""
    leeway_ms: Annotated[int, Meta(ge=0, le=300_000)] = 30_000
    """Milliseconds that its clock may be off."""


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
    compat: Compat = field(default_factory=Compat)
    log: Log = field(default_factory=Log)
    upstreams: Mapping[str, Upstream] = field(default_factory=only_the_engine)
    """By name; if none is configured there is one, `engine`."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """By the name that clients ask for, besides those that the upstreams offer themselves."""
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    """By name; whose tokens are taken besides our own."""
