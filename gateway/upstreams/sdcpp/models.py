"""What a stable-diffusion.cpp server has, from its own list of capabilities, and how that is offered.

The server tells its limits and enforces none of them: what leaves here is all that stands between a client and the
one worker. What it does not tell comes from the settings (`Terms`): whether a control model was loaded, to what its
model rounds sizes, and how large a picture its memory bears.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.core.models import AS_IT_IS, Cancel, Model, Sizes
from gateway.core.reports import Outcome, UpstreamFault
from gateway.upstreams.pictures import MOST_PIXELS

MOST_STEPS: Final = 100
MOST_BATCH: Final = 8
"""Where the server cuts, without a word; its capabilities tell the second and not the first."""
_LONGEST_NAME: Final = 200
_PICTURES: Final = "img_gen"

SAMPLERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ddim": "ddim_trailing",  # not the same, but the nearest there is
        "dpmpp_2m": "dpm++2m",
        "dpmpp_2m_v2": "dpm++2mv2",
        "dpmpp_2m_sde": "dpm++2m_sde",
        "dpmpp_2m_sde_bt": "dpm++2m_sde_bt",
        "dpmpp_2s_a": "dpm++2s_a",
    }
)
"""Our name of a sampler -> theirs, where they differ."""
_OURS: Final = {theirs: ours for ours, theirs in SAMPLERS.items()}


@dataclass(frozen=True, slots=True)
class Terms:
    """How the settings want the server's model to be offered."""

    model: str | None = None
    """The name that clients ask for; `None` = the checkpoint's file name without its suffix."""
    controls: tuple[str, ...] = ()
    """Kinds of control images that the loaded control model reads; empty = none was loaded."""
    multiple_of: int = 64
    """Pixels; the server rounds sizes up to a multiple of it. 64 for SD 1, 2 and XL, less for newer families."""
    max_pixels: int = 1024 * 1024
    """Pixels that a picture may have."""
    images_per_call: int = MOST_BATCH
    """Images of one of the server's jobs; it makes them one after the other and hands them over together."""
    max_n: int = MOST_BATCH
    """Images of one job of a client's."""
    description: str = ""


# -------------------------------------------------------------------------------------- what the server tells of itself


class Limits(msgspec.Struct, frozen=True):
    """Edges in pixels, jobs that may be pending."""

    min_width: int = 64
    max_width: int = 4096
    min_height: int = 64
    max_height: int = 4096
    max_batch_count: int = MOST_BATCH
    max_queue_size: int = 64


class _Guidance(msgspec.Struct, frozen=True):
    txt_cfg: float | None = None


class _Sampling(msgspec.Struct, frozen=True):
    sample_steps: int = 20
    guidance: _Guidance = _Guidance()


class Defaults(msgspec.Struct, frozen=True):
    """What the server was started with."""

    width: int = 512
    height: int = 512
    sample_params: _Sampling = _Sampling()


class _Features(msgspec.Struct, frozen=True):
    init_image: bool = True
    mask_image: bool = True
    control_image: bool = False
    """Always true: it says that the server knows the field, not that a control model is there to read it."""
    lora: bool = True
    cancel_queued: bool = True
    cancel_generating: bool = False


class _Lora(msgspec.Struct, frozen=True):
    name: str
    path: str


class _Loaded(msgspec.Struct, frozen=True):
    name: str = ""
    stem: str = ""


class Capabilities(msgspec.Struct, frozen=True):
    """The answer of `/sdcpp/v1/capabilities`, as far as it matters here."""

    model: _Loaded
    supported_modes: tuple[str, ...]
    limits: Limits = Limits()
    defaults: Defaults = Defaults()
    features: _Features = _Features()
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    loras: tuple[_Lora, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether it makes pictures, and not only videos."""
        return _PICTURES in self.supported_modes


_CAPABILITIES: Final = msgspec.json.Decoder(Capabilities)


def capabilities_of(body: bytes) -> Capabilities:
    """Return what the server tells of itself; raises `UpstreamFault` if that cannot be read."""
    try:
        return _CAPABILITIES.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = "the server does not tell its capabilities as stable-diffusion.cpp does"
        raise UpstreamFault(Outcome.FAILED, "upstream_error", message) from None


# ------------------------------------------------------------------------------------------------------ what is offered


@dataclass(frozen=True, slots=True)
class Offer:
    """What the server offers now; nothing before it was asked."""

    models: tuple[Model, ...] = ()
    loras: Mapping[str, str] = field(default_factory=dict)
    """LoRAs by the name that clients ask for -> the vendor's path."""


def offer_of(upstream: str, told: Capabilities, terms: Terms) -> Offer:
    """Return what the upstream of that configured name offers, on the settings' terms."""
    if not told.draws:
        return Offer()
    loras = _loras(told.loras) if told.features.lora else {}
    return Offer((_model(upstream, told, terms, tuple(loras)),), loras)


def _model(upstream: str, told: Capabilities, terms: Terms, loras: tuple[str, ...]) -> Model:
    limits, asked = told.limits, told.defaults.sample_params
    sizes = sizes_of(limits, terms)
    return Model(
        id=terms.model or told.model.stem or PurePosixPath(told.model.name).stem or upstream,
        upstream=upstream,
        vendor_model=told.model.name or told.model.stem,
        tasks=_tasks(told.features, terms, has_loras=bool(loras)),
        sizes=sizes,
        default_size=sizes.nearest(max(1, told.defaults.width), max(1, told.defaults.height)),
        steps=(1, MOST_STEPS),
        default_steps=min(max(asked.sample_steps, 1), MOST_STEPS),
        default_guidance=7.0 if asked.guidance.txt_cfg is None else max(0.0, asked.guidance.txt_cfg),
        max_n=max(1, terms.max_n),
        images_per_call=max(1, min(terms.images_per_call, limits.max_batch_count, MOST_BATCH)),
        samplers=tuple(_OURS.get(name, name) for name in told.samplers),
        schedulers=told.schedulers,
        loras=loras,
        controls=terms.controls,
        bounds={"control": {name: AS_IT_IS[name] for name in ("start", "end")}},
        progress="estimated",
        previews=False,
        cancel=_cancel(told.features),
        billed=False,
        description=terms.description,
    )


def sizes_of(limits: Limits, terms: Terms) -> Sizes:
    """Return the sizes that are let through: in the server's limits, not rounded there, and not too large for it."""
    step = max(1, terms.multiple_of)
    smallest = max(limits.min_width, limits.min_height, step)
    return Sizes(
        smallest=smallest,
        largest=max(smallest, min(limits.max_width, limits.max_height)),
        multiple_of=step,
        max_pixels=min(terms.max_pixels, MOST_PIXELS),
    )


_SHARED: Final = frozenset(
    {"prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "scheduler", "seed", "n"}
)


def _tasks(features: _Features, terms: Terms, *, has_loras: bool) -> dict[str, frozenset[str]]:
    shared = _SHARED | ({"loras"} if has_loras else frozenset())
    changed = shared | {"strength"}
    rows = (
        ("txt2img", True, shared),
        ("img2img", features.init_image, changed),
        ("inpaint", features.init_image and features.mask_image, changed),
        ("controlnet", features.control_image and bool(terms.controls), changed),
    )
    return {task: names for task, is_there, names in rows if is_there}


def _cancel(features: _Features) -> Cancel:
    if features.cancel_generating:
        return "yes"
    return "queued" if features.cancel_queued else "no"


def _loras(listed: tuple[_Lora, ...]) -> dict[str, str]:
    """Files of one name in several folders go by folder and name, so that each can be meant."""
    counts = Counter(lora.name for lora in listed)
    named = {
        lora.name if counts[lora.name] == 1 else str(PurePosixPath(lora.path).with_suffix("")): lora.path
        for lora in listed
        if lora.name and lora.path
    }
    return {name: path for name, path in named.items() if len(name) <= _LONGEST_NAME}


# --------------------------------------------------------------------------------------------------- what a probe tells


def facts_told(upstream: str, told: Capabilities, terms: Terms) -> tuple[str, ...]:
    """Return what the server has, for people."""
    limits, offer = told.limits, offer_of(upstream, told, terms)
    names = ", ".join(model.id for model in offer.models) or "nothing"
    control = ", ".join(terms.controls) or "none; the server does not tell whether it has a control model"
    low, high = f"{limits.min_width}x{limits.min_height}", f"{limits.max_width}x{limits.max_height}"
    return (
        f"model: {told.model.name or 'without a name'}, offered as {names}",
        f"sizes: {low} to {high} in steps of {terms.multiple_of}, at most {terms.max_pixels} pixels",
        f"at most {limits.max_batch_count} images of one job, {limits.max_queue_size} jobs pending",
        f"{len(told.samplers)} samplers, {len(told.schedulers)} schedulers",
        f"LoRAs: {', '.join(offer.loras) or 'none'}",
        f"control images: {control}",
    )


def problems_of(told: Capabilities, terms: Terms) -> tuple[str, ...]:
    """Return what is wrong with the server or the settings, in plain words, each with what to do."""
    if not told.draws:
        return ("the server has loaded a model for videos only: start it with one for pictures",)
    sizes, given = sizes_of(told.limits, terms), told.defaults
    problems = []
    nearest = sizes.nearest(max(1, given.width), max(1, given.height))
    if nearest != (given.width, given.height):
        problems.append(
            f"the server's own size {given.width}x{given.height} is not allowed here, {nearest[0]}x{nearest[1]} is "
            "taken instead: start it with another --width and --height, or change `max_pixels` or `multiple_of`"
        )
    if not 1 <= given.sample_params.sample_steps <= MOST_STEPS:
        problems.append(
            f"the server was started with {given.sample_params.sample_steps} steps and makes 1 to {MOST_STEPS}: "
            "start it with other --steps"
        )
    if terms.controls and not told.features.control_image:
        problems.append("the server takes no control images: empty `controls`, or update the server")
    return tuple(problems)
