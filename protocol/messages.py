"""Every message of the protocol as a typed struct, and the two unions `ClientMessage` and `ServerMessage`.

Absent is `UNSET`, never null. Unknown fields are ignored (that is how version 1 may grow); a known field with
a wrong value is refused by name. Units are in the names: `_ms` milliseconds, `_micros` millionths of the
currency, else bytes or pixels. Integers stay below 2**53, because several clients read numbers as doubles.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

# `(?![\s\S])` and not `$`: Python's `$` would let a newline pass, and ECMAScript has no `\Z`.
REF_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}(?![\s\S])"
ULID_PATTERN: Final = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}(?![\s\S])"
UPLOAD_PATTERN: Final = r"^[0-9A-Z]{26}(?![\s\S])"
ASSET_PATTERN: Final = r"^sha256:[0-9a-f]{64}(?![\s\S])"

Natural = Annotated[int, Meta(ge=0, lt=2**53)]
Ref = Annotated[str, Meta(pattern=REF_PATTERN, description="1-64 characters of A-Za-z0-9_-")]
Job = Annotated[str, Meta(pattern=ULID_PATTERN, description="a job's ULID")]
Upload = Annotated[str, Meta(pattern=UPLOAD_PATTERN, description="an upload's id: 26 characters of 0-9A-Z")]
Asset = Annotated[str, Meta(pattern=ASSET_PATTERN, description="sha256: and 64 hexadecimal digits")]
Seq = Annotated[int, Meta(ge=0, lt=2**32)]

ImageFormat = Literal["jpeg", "png", "webp", "rgba8", "rgb8"]
PreviewFormat = Literal["jpeg", "webp", "png", "raw"]
Finals = Literal["url", "inline"]
Phase = Literal["loading", "encoding", "denoising", "decoding", "upscaling", "checking"]
Canceler = Literal["client", "session", "deadline", "operator"]
SUBPROTOCOL: Final = "safelight.v1"
VERSION: Final = 1


class Previews(Struct, frozen=True, omit_defaults=True):
    """What previews and how much progress a client wants."""

    max_fps: Annotated[float, Meta(ge=0, le=240)] | UnsetType = UNSET
    """Absent: every preview while the connection keeps up; 0: none."""
    max_edge: Annotated[int, Meta(ge=64, le=1024)] = 256
    format: PreviewFormat = "jpeg"
    quality: Annotated[int, Meta(ge=1, le=100)] = 70
    progress_max_hz: Annotated[float, Meta(ge=1, le=1000)] | UnsetType = UNSET
    """Absent: every step's `progress`."""


class Have(Struct, frozen=True):
    """The last number of a job that the client handled."""

    job: Job
    seq: Seq


class Input(Struct, frozen=True, omit_defaults=True):
    """An input image of a submit: `asset` or `upload`, never both."""

    role: Annotated[str, Meta(min_length=1, max_length=32)]
    asset: Asset | UnsetType = UNSET
    upload: Upload | UnsetType = UNSET
    weight: Annotated[float, Meta(ge=-10, le=10)] | UnsetType = UNSET
    start: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    end: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    preprocessor: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


# Client to server.


class _FromClient(Struct, frozen=True, omit_defaults=True, tag_field="type", kw_only=True):
    ref: Ref | UnsetType = UNSET


class Hello(_FromClient, frozen=True, tag="hello"):
    """First message: who the client is, what it can take, and what it wants to resume."""

    v: Annotated[int, Meta(ge=1, lt=2**16)]
    token: Annotated[str, Meta(max_length=4096)] | UnsetType = UNSET
    agent: Annotated[str, Meta(max_length=256)] = ""
    max_message: Annotated[int, Meta(ge=16384, lt=2**53)] = 65535
    window: Natural = 0
    finals: Finals = "url"
    previews: Previews | UnsetType = UNSET
    resume: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    have: Annotated[list[Have], Meta(max_length=256)] = []


class Submit(_FromClient, frozen=True, tag="submit"):
    """Ask for a job; `ref` is its idempotency key."""

    ref: Ref
    task: Annotated[str, Meta(min_length=1, max_length=64)]
    params: Raw
    model: Annotated[str, Meta(min_length=1, max_length=128)] | UnsetType = UNSET
    inputs: Annotated[list[Input], Meta(max_length=8)] = []
    previews: Previews | UnsetType = UNSET
    finals: Finals | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=-1, le=1)] = 0
    max_cost_micros: Natural | UnsetType = UNSET
    deadline_ms: Annotated[int, Meta(ge=1, lt=2**53)] | UnsetType = UNSET
    """From now, in milliseconds; over it the job is canceled by `deadline`."""
    on_disconnect: Literal["continue", "cancel"] = "continue"


class Cancel(_FromClient, frozen=True, tag="cancel"):
    """Wish that a job end; the end event tells what happened."""

    job: Job
    grant: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET


class Watch(_FromClient, frozen=True, tag="watch"):
    """Read a job's log from `after`, and follow it; also the repair of a gap."""

    job: Job
    after: Seq = 0
    previews: Previews | UnsetType = UNSET
    finals: Finals | UnsetType = UNSET
    grant: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET


class Unwatch(_FromClient, frozen=True, tag="unwatch"):
    """Stop a job's events here; the job goes on."""

    job: Job


class Prefs(_FromClient, frozen=True, tag="prefs"):
    """Change the policy of one job or of the connection, from now on."""

    previews: Previews | UnsetType = UNSET
    finals: Finals | UnsetType = UNSET
    job: Job | UnsetType = UNSET


class Ack(_FromClient, frozen=True, tag="ack"):
    """The total size of the binary messages received on this connection so far, their headers included."""

    bytes: Natural


class Ping(_FromClient, frozen=True, tag="ping"):
    """Ask for a `pong` with the same `t`."""

    t: Natural = 0


class Bye(_FromClient, frozen=True, tag="bye"):
    """End the session now."""


ClientMessage = Hello | Submit | Cancel | Watch | Unwatch | Prefs | Ack | Ping | Bye

# Server to client.


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    """What went wrong; `code` is an entry of the error registry."""

    code: str
    message: str
    retryable: bool
    retry_after_ms: Natural | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


class Limits(Struct, frozen=True):
    """The limits of this server, announced in `welcome`; bytes, pixels or counts."""

    max_message: Natural = 1_048_576
    max_json: Natural = 65_536
    max_chunk: Natural = 262_144
    max_upload_bytes: Natural = 16_777_216
    max_input_pixels: Natural = 16_777_216
    max_inputs: Natural = 8
    max_jobs: Natural = 64
    max_watch: Natural = 256
    msgs_per_s: Natural = 50
    max_preview_fps: Natural = 240
    max_preview_edge: Natural = 1024
    max_connections: Natural = 32


class _FromServer(Struct, frozen=True, omit_defaults=True, tag_field="type", kw_only=True):
    pass


class Welcome(_FromServer, frozen=True, tag="welcome"):
    """Answer to `hello`."""

    v: int
    session: str
    resumed: bool
    time_ms: Natural
    heartbeat_ms: Natural
    session_ttl_ms: Natural
    event_retention_ms: Natural
    asset_retention_ms: Natural
    currency: str
    features: list[str]
    limits: Limits


class Synced(_FromServer, frozen=True, tag="synced"):
    """The replay is over; the client adopts `resume` here and only here."""

    resume: Annotated[str, Meta(max_length=512)]
    replayed: Natural


class Ok(_FromServer, frozen=True, tag="ok"):
    """The request with this `ref` is noted."""

    ref: Ref
    job: Job | UnsetType = UNSET


class Error(_FromServer, frozen=True, tag="error"):
    """A request was refused; the connection lives."""

    error: ErrorBody
    ref: str | UnsetType = UNSET
    job: str | UnsetType = UNSET
    upload: str | UnsetType = UNSET


class AssetStored(_FromServer, frozen=True, tag="asset"):
    """An upload is complete and may be referred to by `asset`."""

    asset: Asset
    format: ImageFormat
    w: Natural
    h: Natural
    bytes: Natural
    expires_in_ms: Natural
    upload: Upload | UnsetType = UNSET


class GoAway(_FromServer, frozen=True, tag="goaway"):
    """The connection will end soon; come back after `retry_after_ms`."""

    reason: Literal["drain", "auth_expired", "overloaded", "max_age", "connection_limit"]
    retry_after_ms: Natural


class ServerPing(_FromServer, frozen=True, tag="ping"):
    """Sign of life when nothing else was sent."""

    time_ms: Natural


class Pong(_FromServer, frozen=True, tag="pong"):
    """Answer to `ping`."""

    t: Natural
    ref: Ref | UnsetType = UNSET


class Image(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One finished picture, as `image` events and end events list it."""

    index: Natural
    format: ImageFormat
    w: Natural
    h: Natural
    bytes: Natural
    asset: Asset
    seed: Natural | UnsetType = UNSET
    url: str | UnsetType = UNSET
    url_expires_in_ms: Natural | UnsetType = UNSET
    seq: Seq | UnsetType = UNSET


class Timings(Struct, frozen=True):
    """Where a job's time went, in milliseconds."""

    queue_ms: Natural
    load_ms: Natural
    run_ms: Natural
    total_ms: Natural


class _Numbered(_FromServer, frozen=True, kw_only=True):
    job: Job
    seq: Seq
    time_ms: Natural


class Accepted(_Numbered, frozen=True, tag="accepted"):
    """The job exists; always number 1."""

    task: str
    model: str
    duplicate: bool
    ref: Ref | UnsetType = UNSET
    cost_max_micros: Natural | UnsetType = UNSET
    events_url: str | UnsetType = UNSET


class Started(_Numbered, frozen=True, tag="started"):
    """The upstream has begun; a second one means that steps restart and delivered images stay."""

    attempt: Annotated[int, Meta(ge=1)]
    model: str
    steps: Natural


class ImageReady(_Numbered, frozen=True, tag="image"):
    """A picture is finished; each index comes once a job."""

    index: Natural
    count: Natural
    format: ImageFormat
    w: Natural
    h: Natural
    bytes: Natural
    asset: Asset
    url: str | UnsetType = UNSET
    url_expires_in_ms: Natural | UnsetType = UNSET
    seed: Natural | UnsetType = UNSET


class Notice(_Numbered, frozen=True, tag="notice"):
    """Something was changed or held back; `code` says what."""

    code: str
    message: str
    index: Natural | UnsetType = UNSET


class Completed(_Numbered, frozen=True, tag="completed"):
    """The job ended well: every index came as `image` or as a notice `image_filtered`."""

    images: list[Image]
    timings: Timings
    cost_micros: Natural | UnsetType = UNSET


class Failed(_Numbered, frozen=True, tag="failed"):
    """The job ended badly; `images` are those delivered before."""

    error: ErrorBody
    images: list[Image]
    cost_micros: Natural | UnsetType = UNSET


class Canceled(_Numbered, frozen=True, tag="canceled"):
    """The job ended because of `by`."""

    by: Canceler
    step: Natural
    images: list[Image]
    cost_micros: Natural | UnsetType = UNSET


class Snapshot(_FromServer, frozen=True, tag="snapshot"):
    """The log cannot be replayed: set `last[job] = seq`, even downwards, and replace your view."""

    job: Job
    seq: Seq
    time_ms: Natural
    state: Literal["queued", "running", "completed", "failed", "canceled"]
    attempt: Natural
    images: list[Image]
    reset: bool
    reason: Literal["trimmed", "store_reset"]
    error: ErrorBody | UnsetType = UNSET


class Queued(_FromServer, frozen=True, tag="queue"):
    """Where the job stands in the queue, from 1."""

    job: Job
    position: Annotated[int, Meta(ge=1)]
    eta_ms: Natural | UnsetType = UNSET
    model_state: Literal["warm", "loading"] | UnsetType = UNSET


class Progress(_FromServer, frozen=True, tag="progress"):
    """How far the work is."""

    job: Job
    phase: Phase
    step: Natural
    steps: Natural
    ratio: Annotated[float, Meta(ge=0, le=1)]
    eta_ms: Natural | UnsetType = UNSET
    estimated: bool = False


class PreviewReady(_FromServer, frozen=True, tag="preview"):
    """A preview where binary cannot go (SSE): fetch `url`."""

    job: Job
    frame: Natural
    step: Natural
    steps: Natural
    w: Natural
    h: Natural
    url: str


Numbered = Accepted | Started | ImageReady | Notice | Completed | Failed | Canceled
End = Completed | Failed | Canceled
Passing = Queued | Progress | PreviewReady
Control = Welcome | Synced | Ok | Error | AssetStored | GoAway | ServerPing | Pong
ServerMessage = Control | Numbered | Snapshot | Passing

END_TYPES: Final = (Completed, Failed, Canceled)
NUMBERED_TYPES: Final = (Accepted, Started, ImageReady, Notice, Completed, Failed, Canceled)
CLIENT_TYPES: Final = (Hello, Submit, Cancel, Watch, Unwatch, Prefs, Ack, Ping, Bye)
SERVER_TYPES: Final = (
    *(Welcome, Synced, Ok, Error, AssetStored, GoAway, ServerPing, Pong),
    *(Accepted, Started, ImageReady, Notice, Completed, Failed, Canceled, Snapshot),
    *(Queued, Progress, PreviewReady),
)
