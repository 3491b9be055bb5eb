"""The settings of upstreams: what is common to them, and one dataclass for each kind.

A key of a vendor never stands in the settings themselves: they name a variable or a file, which `keys` reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from gateway.config.fields import (
    LARGEST,
    Address,
    Count,
    HostName,
    Milliseconds,
    MillisecondsFromZero,
    ModelName,
    OneOrMore,
    Size,
    Text,
    VariableName,
)
from gateway.core.secret import Secret

Price = Annotated[int, Meta(ge=0, le=LARGEST)]
Parallel = Annotated[int, Meta(ge=1, le=10_000)]

STABILITY_V1_ENGINES: Final = (
    "stable-diffusion-xl-1024-v1-0",
    "stable-diffusion-xl-1024-v0-9",
    "stable-diffusion-v1-6",
)
"""The engines of Stability's first API whose rules the gateway knows."""
STABILITY_V2BETA_MODELS: Final = (
    "stable-image-core",
    "stable-image-ultra",
    "sd3.5-large",
    "sd3.5-large-turbo",
    "sd3.5-medium",
    "sd3.5-flash",
    "stable-image",
)
"""What stands for the models of Stability's v2beta, and the last for its services that name none."""
OPENAI_IMAGE_MODELS: Final = (
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.5-flare",
    "chatgpt-image-latest",
    "dall-e-2",
    "dall-e-3",
)
"""The models of OpenAI's that programs name most."""
STABILITY_V2BETA_PRICES: Final = {
    "core": 30_000,
    "ultra": 80_000,
    "sd3.5-large": 65_000,
    "sd3.5-large-turbo": 40_000,
    "sd3.5-medium": 35_000,
    "inpaint": 50_000,
    "outpaint": 40_000,
    "search-replace": 50_000,
    "remove-background": 50_000,
    "sketch": 50_000,
    "structure": 50_000,
    "style": 50_000,
    "upscale-fast": 20_000,
    "upscale-conservative": 400_000,
    "upscale-creative": 600_000,
}
"""The models and services of Stability's second API that the gateway knows, with the vendor's list prices."""


@dataclass(frozen=True, slots=True)
class Window:
    """A vendor's limit of so many calls in a period."""

    window: Count = 150
    """Calls in one period."""
    period_ms: Milliseconds = 10_000
    """Milliseconds of the period."""
    delay_bound_ms: MillisecondsFromZero = 250
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
    delay_bound_ms: MillisecondsFromZero = 250
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
    """The small diffusion models that come with the gateway; they run in processes of their own."""

    kind: Literal["engine"] = "engine"
    """The embedded engine."""
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    """Processes, each painting one picture at a time."""


@dataclass(frozen=True, slots=True)
class Diffusers:
    """A model that diffusers runs, in a process of its own on this machine."""

    kind: Literal["diffusers"] = "diffusers"
    """A pipeline of Hugging Face's diffusers."""
    model: Text = "model"
    """Folder of the model in diffusers' format, or its name on the hub."""
    name: ModelName | None = None
    """Name to offer the model under; unset: the last part of `model`."""
    download: bool = False
    """Fetch from the hub what is not on this machine, often gigabytes."""
    revision: Text | None = None
    """Branch, tag or commit on the hub; unset: its newest."""
    variant: Text | None = None
    """Which of the folder's files to take, such as `fp16`; unset: the plain ones."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Numbers to compute with; `auto` takes float32 on the CPU, else 16 bits."""
    offload: Literal["none", "model", "sequential"] = "none"
    """Keep in the GPU's memory only the model that works, or only the layer: slower, for small GPUs."""
    processes: Annotated[int, Meta(ge=1, le=16)] = 1
    """Processes, each with the whole model, painting one picture at a time."""
    loras: Annotated[
        Mapping[Text, Text], Meta(description="a table of names, each with a path or a name on the hub")
    ] = field(default_factory=dict)
    """LoRAs to offer."""
    controls: Annotated[
        Mapping[Text, Text],
        Meta(description="a table of kinds of control images, each with a folder or a name on the hub"),
    ] = field(default_factory=dict)
    """ControlNets by what they are for, such as `canny`."""
    previews: Literal["linear", "tiny", "none"] = "linear"
    """How partial pictures are made: as a mix of the latents' channels, by a small decoder, or not at all."""
    tiny_decoder: Text | None = None
    """Folder, or name on the hub, of the small decoder (TAESD or its like) for `previews`."""
    safety_checker: bool = True
    """Use the checker that comes with some models, which blackens pictures."""
    max_pixels: Annotated[int, Meta(ge=4096, le=16_777_216)] = 2_097_152
    """Pixels of the largest picture to ask for."""
    steps: Annotated[int, Meta(ge=1, le=150)] | None = None
    """Steps where a request tells none; unset: as the pipeline."""
    guidance: Annotated[float, Meta(ge=0, le=100)] | None = None
    """Guidance where a request tells none; unset: as the pipeline."""
    max_memory_bytes: Annotated[int, Meta(ge=2**30, le=LARGEST)] | None = None
    """Bytes of address space for a process that computes on the CPU, so that not the whole machine runs out."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One account with a vendor."""

    name: str
    """`default` where there is one; else that of the variable or the file."""
    secret: Secret | None = None
    """The key; `None` where the upstream wants none."""
    origin: str = "default"
    """Where the key was read."""

    def key(self) -> str:
        """Return the key itself; empty where the upstream wants none."""
        return "" if self.secret is None else self.secret.reveal()


@dataclass(frozen=True, slots=True)
class HttpUpstream:
    """What all upstreams have that are servers of their own. Defaults here are those of one that runs near by."""

    kind: str
    """Who serves it."""
    base_url: Address = ""
    """Address of the server, before the paths of its API."""
    api_key_env: OneOrMore[VariableName] = ()
    """Name of the environment variable that holds the API key; a list of several makes an account of each."""
    api_key_file: OneOrMore[Text] = ()
    """Path of the file that holds the API key and nothing else; a list of several makes an account of each."""
    timeout_ms: Milliseconds = 600_000
    """Milliseconds that one call may take, from its first byte to the last picture."""
    connect_timeout_ms: Milliseconds = 10_000
    """Milliseconds to reach the server."""
    concurrency: Parallel = 4
    """Calls under way at once, with each key."""
    limit: Window | Bucket | None = None
    """The vendor's rate limit for each key; unset: none."""
    breaker: Breaker = field(default_factory=Breaker)
    """When the upstream is left alone."""
    credentials: tuple[Credential, ...] = field(
        default=(Credential("default"),), compare=False, metadata={"setting": False}
    )
    """The accounts, one or more: what the variables or the files held."""

    @property
    def needs_key(self) -> bool:
        """Whether it is of no use without a key."""
        return False


def _newest_engines() -> Mapping[str, int]:
    return {"stable-diffusion-xl-1024-v1-0": 9_000, "stable-diffusion-v1-6": 9_000}


@dataclass(frozen=True, slots=True)
class StabilityV1(HttpUpstream):
    """Stability AI's first REST API, or anything that speaks it."""

    kind: Literal["stability_v1"] = "stability_v1"
    base_url: Address = "https://api.stability.ai"
    timeout_ms: Milliseconds = 120_000
    concurrency: Parallel = 64
    limit: Window | Bucket = field(default_factory=Window)
    engines: Annotated[
        Mapping[str, Price], Meta(min_length=1, description="a table of one engine or more, each with its price")
    ] = field(default_factory=_newest_engines)
    """Engines to offer, each with the price of one image in millionths of the currency."""

    @property
    def needs_key(self) -> bool:
        """See `HttpUpstream`."""
        return True


@dataclass(frozen=True, slots=True)
class StabilityV2Beta(HttpUpstream):
    """Stability AI's second REST API, called v2beta."""

    kind: Literal["stability_v2beta"] = "stability_v2beta"
    base_url: Address = "https://api.stability.ai"
    timeout_ms: Milliseconds = 300_000
    concurrency: Parallel = 64
    limit: Window | Bucket = field(default_factory=Window)
    prices: Annotated[
        Mapping[str, Price],
        Meta(min_length=1, description="a table of one model or service or more, each with its price"),
    ] = field(default_factory=STABILITY_V2BETA_PRICES.copy)
    """Models to offer, and services of the model `stable-image`, each with the price of one image in millionths."""
    poll_ms: Annotated[int, Meta(ge=10_000, le=600_000)] = 10_000
    """Milliseconds between questions after a result that takes long; the vendor forbids to ask more often."""

    @property
    def needs_key(self) -> bool:
        """See `HttpUpstream`."""
        return True


@dataclass(frozen=True, slots=True)
class OpenAIImages(HttpUpstream):
    """OpenAI's Images API, or a server of one's own that speaks it."""

    kind: Literal["openai_images"] = "openai_images"
    base_url: Address = "https://api.openai.com"
    timeout_ms: Milliseconds = 300_000
    concurrency: Parallel = 64
    dialect: Literal["openai", "localai", "vllm", "sglang"] = "openai"
    """Whose rules count: OpenAI's own, or those of the server at `base_url`."""
    models: Annotated[Mapping[Text, Price], Meta(description="a table of models, each with its price")] = field(
        default_factory=dict
    )
    """Models to offer, each with the price of one image in millionths of the currency."""
    discover: bool = False
    """Offer also what the server says it has; that costs nothing unless `models` has a price for it."""
    result_hosts: tuple[HostName, ...] = ()
    """Hosts, besides that of `base_url`, from which pictures are fetched where an answer has addresses of them."""
    stream: bool = True
    """Ask for partial pictures where the dialect has them, which may cost extra."""

    @property
    def needs_key(self) -> bool:
        """See `HttpUpstream`: a server of one's own may have none."""
        return self.dialect == "openai"


@dataclass(frozen=True, slots=True)
class ComfyUI(HttpUpstream):
    """A ComfyUI server."""

    kind: Literal["comfyui"] = "comfyui"
    base_url: Address = "http://127.0.0.1:8188"
    checkpoints: tuple[Text, ...] = ()
    """File names of the checkpoints to offer; empty: all that the server has."""
    templates: Annotated[
        Mapping[ModelName, Text], Meta(description="a table of names, each with the path of a file")
    ] = field(default_factory=dict)
    """Workflows of your own: the model name to offer each under, and the path of its file in the API format."""
    controls: Annotated[
        Mapping[Text, Text], Meta(description="a table of kinds of control images, each with a ControlNet's file name")
    ] = field(default_factory=dict)
    """ControlNets by what they are for, such as `canny`, where their file names do not tell."""
    reconnect_ms: Milliseconds = 30_000
    """Milliseconds for which a server that is gone in mid-run is waited for."""
    max_answer_bytes: Size = 67_108_864
    """Bytes of the largest picture that is taken from it."""
    workflows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False, metadata={"setting": False})
    """What the files of `templates` held."""


@dataclass(frozen=True, slots=True)
class A1111(HttpUpstream):
    """AUTOMATIC1111's web UI, or one of its relatives."""

    kind: Literal["a1111"] = "a1111"
    base_url: Address = "http://127.0.0.1:7860"
    concurrency: Parallel = 1
    user: Text | None = None
    """User of `--api-auth`, whose password is the API key; unset: the server asks for none."""
    flavour: Literal["auto", "a1111", "forge", "sdnext"] = "auto"
    """Which of the relatives it is; `auto` finds out."""
    checkpoints: tuple[Text, ...] = ()
    """File names of the checkpoints to offer; empty: all that the server has."""
    upscaler: Text | None = None
    """The server's name of the upscaler to use; unset: its first that does more than resample."""
    poll_ms: Annotated[int, Meta(ge=250, le=500)] = 300
    """Milliseconds between questions after the progress of a job."""
    previews: bool = True
    """Ask for previews, each of which the server encodes anew."""

    @property
    def needs_key(self) -> bool:
        """See `HttpUpstream`: a user has a password."""
        return self.user is not None


@dataclass(frozen=True, slots=True)
class SdCpp(HttpUpstream):
    """The server of stable-diffusion.cpp."""

    kind: Literal["sdcpp"] = "sdcpp"
    base_url: Address = "http://127.0.0.1:1234"
    poll_ms: Annotated[int, Meta(ge=100, le=60_000)] = 500
    """Milliseconds between questions after the state of a job."""
    model: ModelName | None = None
    """Name to offer its model under; unset: the file's."""
    controls: tuple[Text, ...] = ()
    """Kinds of control images that its `--control-net` model was made for, such as `canny`: it does not tell."""
    max_pixels: Annotated[int, Meta(ge=4096, le=16_777_216)] = 1_048_576
    """Pixels of the largest picture to ask for: the server itself refuses nothing."""


Embedded = Engine | Diffusers
"""Those that work in processes of the gateway's own."""
Upstream = Embedded | HttpUpstream
KINDS: Final[Mapping[str, type[Embedded] | type[HttpUpstream]]] = {
    "engine": Engine,
    "diffusers": Diffusers,
    "comfyui": ComfyUI,
    "a1111": A1111,
    "sdcpp": SdCpp,
    "openai_images": OpenAIImages,
    "stability_v2beta": StabilityV2Beta,
    "stability_v1": StabilityV1,
}
