"""What the embedded engine offers: two models that differ in what guesses the picture under the noise."""

from collections.abc import Mapping
from typing import Final

from gateway.core.models import AS_IT_IS, Model, Sizes
from gateway.engine.wire import DenoiserName, Look

LOOKS: Final[tuple[Look, ...]] = ("drawn", "pixel-art")
"""The styles, the default first."""
DENOISERS: Final[Mapping[str, DenoiserName]] = {"icons": "closed_form", "icons-network": "network"}
"""Each model's denoiser."""
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "icons": (
        "A diffusion model that draws icons on the CPU and needed no training: the prompt's words find icons and lay "
        "out sketches, and an exact posterior mean draws one out of noise. It knows what its icons show, their "
        "colours, counts and places; it is no model of the world."
    ),
    "icons-network": (
        "As icons, but the noise is taken away by a small trained network, eight times slower. It draws what icons "
        "draws, with a little grain; its own ideas show where lines or masks leave it room."
    ),
}

_SHARED: Final = frozenset(
    ("prompt", "negative_prompt", "width", "height", "steps", "guidance", "seed", "n", "style", "tiling", "background")
)
_FROM_PICTURE: Final = _SHARED - {"background"} | {"strength"}
"""A picture to start from fills its frame: no figure stands alone in it, here and wherever else there may be one."""
_TASKS: Final[Mapping[str, frozenset[str]]] = {
    "txt2img": _SHARED,
    "img2img": _FROM_PICTURE,
    "inpaint": _FROM_PICTURE,
    "controlnet": _SHARED | {"strength"},
    "reference": _SHARED,
    "upscale": frozenset(("scale", "width", "height")),
}
_CONTROLS: Final = ("canny", "control", "hed", "lineart", "mlsd", "scribble", "sketch", "softedge")
"""The kinds that are lines."""


def models_of(upstream: str) -> tuple[Model, ...]:
    """Return the models, the default first."""
    return tuple(_model(upstream, name, description) for name, description in _DESCRIPTIONS.items())


def _model(upstream: str, name: str, description: str) -> Model:
    return Model(
        id=name,
        upstream=upstream,
        vendor_model=name,
        tasks=_TASKS,
        sizes=Sizes(smallest=64, largest=2048, multiple_of=8, max_pixels=2048 * 2048),
        task_sizes={"upscale": Sizes(smallest=1, largest=2048, multiple_of=1, max_pixels=2048 * 2048)},
        default_size=(512, 512),
        steps=(1, 150),
        default_steps=20,
        guidance=(0.0, 30.0),
        default_guidance=7.0,
        max_n=4,
        images_per_call=1,
        styles=LOOKS,
        controls=_CONTROLS,
        # A reference is the figure to paint, and not one idea of several.
        bounds={"control": {"weight": (0.0, 2.0)}, "reference": AS_IT_IS},
        idle_beside={"background": frozenset(("init", "mask"))},
        progress="steps",
        previews=True,
        cancel="yes",
        billed=False,
        price_micros=0,
        description=description,
    )
