"""What servers that speak the OpenAI Images API have: dialects, families of models, and how they are offered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from gateway.core.models import AS_IT_IS, Model, Sizes
from gateway.core.params import BACKGROUNDS, MAX_REFERENCES
from protocol.messages import ImageFormat

DialectName = Literal["openai", "vllm", "sglang", "localai", "aquiles"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a kind of server adds to the vendor's API, and what it leaves out."""

    title: str
    root: str = "/v1"
    """What stands before `/images/generations`, after an address that has no path of its own."""
    steps: str = ""
    """The field of the number of steps; empty = there is none."""
    default_steps: int = 0
    guidance: str = ""
    """The field of the guidance; empty = there is none."""
    seed: bool = False
    negative: Literal["field", "bar", "text"] = "text"
    """Where a negative prompt goes: a field of its own, behind a bar in the prompt, or into its words."""
    edits: bool = True
    mask: Literal["alpha", "white", "none"] = "alpha"
    """What means "edit" in a mask: transparency, in `mask`; white, in `mask_image`; or masks have no effect."""
    default_size: tuple[int, int] = (1024, 1024)


DIALECTS: Final[dict[DialectName, Dialect]] = {
    "openai": Dialect("OpenAI Images API"),
    "vllm": Dialect(
        "vLLM-Omni",
        steps="num_inference_steps",
        default_steps=50,
        guidance="guidance_scale",
        seed=True,
        negative="field",
        mask="white",
    ),
    "sglang": Dialect(
        "SGLang diffusion",
        steps="num_inference_steps",
        default_steps=50,
        guidance="guidance_scale",
        seed=True,
        negative="field",
        mask="none",
    ),
    "localai": Dialect(
        "LocalAI",
        steps="step",
        default_steps=15,
        seed=True,
        negative="bar",
        edits=False,
        mask="none",
        default_size=(512, 512),
    ),
    "aquiles": Dialect("aquiles-image", root="", steps="num_inference_steps", default_steps=50, seed=True, mask="none"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """What models have in common whose id fits `pattern`."""

    pattern: str
    sizes: Sizes
    default_size: tuple[int, int] = (1024, 1024)
    max_prompt: int = 32_000
    images_per_call: int = 10
    max_n: int = 10
    streams: bool = False
    asks_for_inline: bool = True
    """Whether `response_format` is a field there; models without it always answer with the pictures themselves."""
    tasks: frozenset[str] = frozenset({"txt2img"})
    default_tasks: frozenset[str] = frozenset({"txt2img"})
    """Those that are offered unless the settings say otherwise."""
    max_references: int = 1
    styles: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    """What `background` may be; empty = there is no such field."""
    square: bool = False
    """Whether edits take one square PNG only."""


_EDITS: Final = frozenset({"txt2img", "img2img", "inpaint", "reference"})
_SHAPES: Final = Sizes(listed=((1024, 1024), (1536, 1024), (1024, 1536)))
_FREE: Final = Sizes(smallest=16, largest=3840, multiple_of=16, min_pixels=655_360, max_pixels=8_294_400, max_aspect=3)


def _gpt(pattern: str, sizes: Sizes = _SHAPES, backgrounds: tuple[str, ...] = BACKGROUNDS) -> Family:
    return Family(
        pattern,
        sizes,
        streams=True,
        asks_for_inline=False,
        tasks=_EDITS,
        default_tasks=_EDITS,
        max_references=MAX_REFERENCES,
        backgrounds=backgrounds,
    )


FAMILIES: Final = (
    _gpt("gpt-image-2.*", _FREE),
    _gpt("gpt-image-2*", _FREE, ("auto", "opaque")),
    _gpt("gpt-image-*"),
    _gpt("chatgpt-image-*"),
    Family(
        "dall-e-3",
        Sizes(listed=((1024, 1024), (1792, 1024), (1024, 1792))),
        max_prompt=4000,
        images_per_call=1,
        styles=("vivid", "natural"),
    ),
    Family(
        "dall-e-2",
        Sizes(listed=((256, 256), (512, 512), (1024, 1024))),
        max_prompt=1000,
        # Without a mask it repaints what is transparent, which is nothing in most pictures.
        tasks=frozenset({"txt2img", "inpaint"}),
        default_tasks=frozenset({"txt2img", "inpaint"}),
        square=True,
    ),
)
"""The vendor's own models; the first pattern that fits counts."""


@dataclass(frozen=True, slots=True)
class ImageModel:
    """How one of the vendor's models is offered."""

    model: str = ""
    """The name that clients ask for; empty = the settings' key without folder and suffix. What is discovered always has
    the vendor's id without these."""
    vendor_model: str = ""
    """What the vendor calls it; empty = as the settings' key. With it, one model can be offered at two qualities."""
    price_micros: int = 0
    """Price of one image, in millionths of the currency; 0 = its calls cost nothing and may be repeated."""
    task_prices: Mapping[str, int] = field(default_factory=dict)
    """Prices of tasks that cost something else."""
    tasks: tuple[str, ...] | None = None
    """`None` = all of the vendor's own models, `txt2img` alone of any other."""
    sizes: Sizes | None = None
    """`None` = as `FAMILIES` says."""
    default_size: tuple[int, int] | None = None
    """`None` = as `FAMILIES` says."""
    max_n: int | None = None
    """Most images of one job; `None` = 10."""
    images_per_call: int | None = None
    """Most images of one request; `None` = 10 of the vendor's own models, 1 where each image has a seed."""
    streams: bool | None = None
    """Whether to ask for a stream when a call is for one image; `None` = of the vendor's own gpt models."""
    partial_images: int = 2
    """Partial pictures to ask for in a stream, 0 to 3; the vendor bills each as some more tokens."""
    inline: bool | None = None
    """Whether to ask for the pictures themselves and not for their addresses; `None` = of all but the vendor's own gpt
    models, which have no field for it."""
    steps: int | None = None
    """Default number of steps where the dialect has them; `None` = as `DIALECTS` says."""
    guidance: float | None = None
    """Default guidance where the dialect has it; `None` = the server's own, and clients can't set it."""
    max_prompt: int | None = None
    """Characters of a prompt; `None` = as `FAMILIES` says."""
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Further fields of the vendor's, sent with each request: `quality`, `output_format`, `moderation` ..."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How requests for one offered model are written."""

    dialect: Dialect
    family: Family
    streams: bool = False
    partials: int = 0
    sends_guidance: bool = False
    asks_for_inline: bool = False
    """Whether `response_format` is sent."""
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def takes(self) -> frozenset[ImageFormat]:
        """Formats of input images."""
        return frozenset({"png"} if self.family.square else {"png", "jpeg", "webp"})


@dataclass(frozen=True, slots=True)
class Offer:
    """A model and the way to it."""

    model: Model
    way: Way


_OURS: Final = frozenset({
    "model", "prompt", "n", "size", "stream", "partial_images", "response_format", "style", "seed", "negative_prompt",
    "image", "image[]", "mask", "mask_image", "background",
})  # fmt: skip
"""Fields that follow from what clients ask, so that no setting may fill them."""
_STEPS: Final = (1, 150)


def offered(
    upstream: str,
    dialect: DialectName,
    models: Mapping[str, ImageModel],
    discover: Mapping[str, ImageModel],
    listed: Iterable[str] = (),
) -> tuple[Offer, ...]:
    """Return what is offered: the models of the settings, and those of the `listed` ids that a `discover` pattern fits.

    Raises `ValueError` for settings that contradict each other.
    """
    offers = [
        _offer(upstream, dialect, one.vendor_model or key, one, one.model or short_name(key))
        for key, one in models.items()
    ]
    names = [offer.model.id for offer in offers]
    if len(set(names)) != len(names):
        raise ValueError(f"two models have the same name: {', '.join(sorted(names))}")
    known = {offer.model.vendor_model for offer in offers}
    for vendor_model in dict.fromkeys(listed):
        fitting = next((one for pattern, one in discover.items() if fnmatchcase(vendor_model, pattern)), None)
        # The whole id stands in where two folders have models of one name.
        name = next((one for one in (short_name(vendor_model), vendor_model) if one not in names), None)
        if fitting is not None and vendor_model not in known and name is not None:
            offers.append(_offer(upstream, dialect, vendor_model, fitting, name))
            names.append(name)
    return tuple(offers)


def short_name(vendor_model: str) -> str:
    """Return a readable name: without folder, and without a file's suffix."""
    name = vendor_model.rstrip("/").rpartition("/")[2]
    stem, _, suffix = name.rpartition(".")
    is_file = suffix.lower() in ("safetensors", "gguf", "ckpt", "bin", "pth", "pt")
    return stem if is_file and stem else name


def everything(dialect: DialectName) -> dict[str, ImageModel]:
    """Return the patterns that discover all models for pictures: the vendor's list has all its others too."""
    patterns = [family.pattern for family in FAMILIES] if dialect == "openai" else ["*"]
    return {pattern: ImageModel() for pattern in patterns}


def is_known(vendor_model: str) -> bool:
    """Whether the id is one of the vendor's own picture models."""
    return any(fnmatchcase(short_name(vendor_model), family.pattern) for family in FAMILIES)


def _family(dialect: DialectName, vendor_model: str) -> Family:
    # A proxy may put the vendor's name before the model's: "openai/gpt-image-2".
    name = vendor_model.rpartition("/")[2]
    known = next((family for family in FAMILIES if fnmatchcase(name, family.pattern)), None)
    if known is not None and dialect == "openai":
        return known
    speech = DIALECTS[dialect]
    masks = {"inpaint"} if speech.mask != "none" else set()
    return Family(
        "*",
        Sizes(),
        speech.default_size,
        images_per_call=1 if speech.seed else 10,
        tasks=frozenset({"txt2img", "img2img", "reference"} | masks) if speech.edits else frozenset({"txt2img"}),
        max_references=MAX_REFERENCES,
    )


def _offer(upstream: str, dialect: DialectName, vendor_model: str, one: ImageModel, name: str) -> Offer:
    speech, family = DIALECTS[dialect], _family(dialect, vendor_model)
    tasks = family.default_tasks if one.tasks is None else frozenset(one.tasks)
    _check(vendor_model, one, tasks, family)
    streams = family.streams if one.streams is None else one.streams
    way = Way(
        dialect=speech,
        family=family,
        streams=streams,
        partials=one.partial_images if streams else 0,
        sends_guidance=bool(speech.guidance) and one.guidance is not None,
        asks_for_inline=family.asks_for_inline if one.inline is None else one.inline,
        fields=one.fields,
    )
    default_steps = one.steps or speech.default_steps if speech.steps else way.partials + 1
    model = Model(
        id=name,
        upstream=upstream,
        vendor_model=vendor_model,
        tasks=dict.fromkeys(sorted(tasks), _params(way)),
        sizes=one.sizes or family.sizes,
        default_size=one.default_size or family.default_size,
        # Where there are no steps, a partial picture is one: that is all a client can count there.
        steps=_STEPS if speech.steps else (default_steps, default_steps),
        default_steps=default_steps,
        default_guidance=7.0 if one.guidance is None else one.guidance,
        max_n=one.max_n or family.max_n,
        images_per_call=one.images_per_call or family.images_per_call,
        styles=family.styles,
        backgrounds=_backgrounds(family, one),
        max_references=family.max_references,
        bounds={"reference": AS_IT_IS},
        max_prompt=one.max_prompt or family.max_prompt,
        progress="estimated",
        previews=way.partials > 0,
        # Dropping the connection is all there is, and nobody says that it stops the work or the bill.
        cancel="no",
        billed=one.price_micros > 0 or any(one.task_prices.values()),
        price_micros=one.price_micros,
        task_prices=one.task_prices,
        description=one.description,
    )
    return Offer(model, way)


def _params(way: Way) -> frozenset[str]:
    names = {"prompt", "negative_prompt", "n", "width", "height"}
    names |= {"seed"} if way.dialect.seed else set()
    names |= {"steps"} if way.dialect.steps else set()
    names |= {"guidance"} if way.sends_guidance else set()
    names |= {"style"} if way.family.styles else set()
    names |= {"background"} if way.family.backgrounds else set()
    return frozenset(names)


def _backgrounds(family: Family, one: ImageModel) -> tuple[str, ...]:
    # A JPEG has no alpha channel: the vendor refuses the two together.
    is_jpeg = one.fields.get("output_format") == "jpeg"
    return tuple(word for word in family.backgrounds if not (is_jpeg and word == "transparent"))


def _check(vendor_model: str, one: ImageModel, tasks: frozenset[str], family: Family) -> None:
    faults: Sequence[tuple[bool, str]] = (
        (not tasks, "it has no task"),
        (bool(tasks - family.tasks), f"it can only do {', '.join(sorted(family.tasks))}"),
        (not 0 <= one.partial_images <= 3, "`partial_images` is 0 to 3"),
        (bool(_OURS & one.fields.keys()), f"`fields` must not hold {', '.join(sorted(_OURS & one.fields.keys()))}"),
        (one.price_micros < 0 or any(price < 0 for price in one.task_prices.values()), "a price is 0 or more"),
    )
    for is_wrong, why in faults:
        if is_wrong:
            raise ValueError(f"model {vendor_model}: {why}")
