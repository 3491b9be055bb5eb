"""A program on the package `litellm`, which speaks the vendor's v2beta among many other APIs."""

import base64
import io
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it would fetch a list of prices when it is imported

# It is installed beside our environment, not in it.
import litellm  # type: ignore[import-not-found]

PLACE: dict[str, Any] = {"api_base": os.environ["API_HOST"], "api_key": os.environ["STABILITY_API_KEY"]}
EDITS: dict[str, dict[str, Any]] = {
    "inpaint": {},
    "outpaint": {"left": 64},
    "search-and-replace": {"search_prompt": "a boat"},
    "remove-background": {},
    "sketch": {"control_strength": 0.5},
    "structure": {},
    "style": {"aspect_ratio": "16:9"},
    "fast": {},
    "conservative": {"creativity": 0.3},
}


def generate(model: str, **more: Any) -> bytes:
    """Return a picture of words."""
    made = litellm.image_generation(model=f"stability/{model}", prompt="a lighthouse", **more, **PLACE)
    return base64.b64decode(made.data[0].b64_json)


def edit(name: str, image: bytes, **more: Any) -> bytes:
    """Return a picture of a picture."""
    made = litellm.image_edit(
        model=f"stability/{name}", image=io.BytesIO(image), prompt="a lighthouse", **more, **PLACE
    )
    return base64.b64decode(made.data[0].b64_json)


def main() -> None:
    """Ask for everything that the package can."""
    drawn = generate("stable-image-core", size="1792x1024", seed=7, style_preset="photographic")
    for model in ("stable-image-ultra", "sd3.5-large"):
        assert generate(model, negative_prompt="fog").startswith(b"\x89PNG")
    for name, more in EDITS.items():
        assert edit(name, drawn, **more).startswith(b"\x89PNG"), name
    mask = edit("inpaint", drawn, mask=io.BytesIO(drawn))
    print(len(mask), "bytes")
    for ask, more in ((edit, {"name": "erase", "image": drawn}), (generate, {"model": "sd3.5-large", "seed": -1})):
        try:
            ask(**more)
        except litellm.exceptions.APIConnectionError as error:
            print(error)
            continue
        raise AssertionError("it was not refused")


main()
