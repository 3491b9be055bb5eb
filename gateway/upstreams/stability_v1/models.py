"""What Stability AI's REST v1 has: its engines, their sizes, samplers and styles, and how they are offered."""

from dataclasses import dataclass
from typing import Final

from gateway.core.models import Model, Sizes

_XL: Final = Sizes(
    listed=(
        (1024, 1024),
        (1152, 896),
        (1216, 832),
        (1344, 768),
        (1536, 640),
        (640, 1536),
        (768, 1344),
        (832, 1216),
        (896, 1152),
    )
)
SIZES: Final[dict[str, tuple[Sizes, tuple[int, int]]]] = {
    "stable-diffusion-xl-1024-v1-0": (_XL, (1024, 1024)),
    "stable-diffusion-xl-1024-v0-9": (_XL, (1024, 1024)),
    "stable-diffusion-v1-6": (
        Sizes(smallest=320, largest=1536, multiple_of=64, max_pixels=1536 * 1536),
        (512, 512),
    ),
}
"""Engine id -> the sizes it draws, and the one it draws when asked for none."""

SAMPLERS: Final[dict[str, str]] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "K_EULER",
    "euler_a": "K_EULER_ANCESTRAL",
    "heun": "K_HEUN",
    "dpm2": "K_DPM_2",
    "dpm2_a": "K_DPM_2_ANCESTRAL",
    "dpmpp_2m": "K_DPMPP_2M",
    "dpmpp_2s_a": "K_DPMPP_2S_ANCESTRAL",
    "lms": "K_LMS",
}
STYLES: Final = (
    "3d-model",
    "analog-film",
    "anime",
    "cinematic",
    "comic-book",
    "digital-art",
    "enhance",
    "fantasy-art",
    "isometric",
    "line-art",
    "low-poly",
    "modeling-compound",
    "neon-punk",
    "origami",
    "photographic",
    "pixel-art",
    "tile-texture",
)
PATHS: Final = {
    "txt2img": "text-to-image",
    "img2img": "image-to-image",
    "inpaint": "image-to-image/masking",
}
_SHARED: Final = frozenset({"prompt", "negative_prompt", "steps", "guidance", "sampler", "seed", "n", "style"})
_SIZE: Final = frozenset({"width", "height"})
TASKS: Final[dict[str, frozenset[str]]] = {
    "txt2img": _SHARED | _SIZE,
    # The result has the init image's size, which we bring to what was asked.
    "img2img": _SHARED | _SIZE | {"strength"},
    # Masking takes no strength: grey in the mask is what there is.
    "inpaint": _SHARED | _SIZE,
}


@dataclass(frozen=True, slots=True)
class Engine:
    """How one of the vendor's engines is offered."""

    model: str
    """The name that clients ask for."""
    price_micros: int
    """Price of one image, in millionths of the currency."""
    max_n: int = 10
    """Most images of one job; default 10, which the vendor makes in one call."""
    sizes: Sizes | None = None
    """`None` = as `SIZES` says of the engine's id."""
    default_size: tuple[int, int] | None = None
    """`None` = as `SIZES` says of the engine's id."""
    description: str = ""


def model_of(upstream: str, engine_id: str, engine: Engine) -> Model:
    """Return the model that `engine_id` is, for the upstream of that configured name."""
    sizes, default_size = SIZES.get(engine_id, (Sizes(multiple_of=64), (512, 512)))
    return Model(
        id=engine.model,
        upstream=upstream,
        vendor_model=engine_id,
        tasks=TASKS,
        sizes=engine.sizes or sizes,
        default_size=engine.default_size or default_size,
        # The specification goes up to 150, later documents to 50: what both allow.
        steps=(10, 50),
        default_steps=30,
        guidance=(0.0, 35.0),
        default_guidance=7.0,
        max_n=engine.max_n,
        images_per_call=10,
        samplers=tuple(SAMPLERS),
        styles=STYLES,
        max_prompt=2000,
        progress="estimated",
        previews=False,
        # Dropping the connection is all there is, and nobody says that it stops the work or the bill.
        cancel="no",
        billed=True,
        price_micros=engine.price_micros,
        description=engine.description,
    )
