import pytest

from gateway.core.aliases import ANY, Aliases
from gateway.core.models import Model


def model(name: str, upstream: str, *tasks: str) -> Model:
    """Return a model that can do `tasks`."""
    return Model(id=name, upstream=upstream, vendor_model=name, tasks=dict.fromkeys(tasks, frozenset({"prompt"})))


MODELS = {
    one.id: one
    for one in (
        model("sdxl", "vendor", "txt2img"),
        model("canvas", "comfy", "txt2img", "controlnet"),
        model("icons", "engine", "txt2img", "img2img"),
    )
}
ALIASES = Aliases({"v1-5": ANY, "v1-6": "canvas", "sdxl": ANY}, frozenset({"engine"}))


@pytest.mark.parametrize("name,task,found", [
    ("sdxl", "txt2img", "sdxl"),  # the name of a model that does it counts before any alias
    ("sdxl", "controlnet", "canvas"),
    ("v1-5", "txt2img", "icons"),  # the embedded engine's before others, though they stand before it
    ("v1-5", "controlnet", "canvas"),
    ("v1-5", "upscale", "icons"),  # nobody can: admission says so of the engine's model
    ("v1-6", "txt2img", "canvas"),
    ("v1-6", "img2img", "canvas"),  # a model that was named is not left for another
    ("canvas", "img2img", "canvas"),
    ("unheard-of", "txt2img", "unheard-of"),
    (None, "img2img", "icons"),
    (None, "upscale", "icons"),
])  # fmt: skip
def test_name_means_a_model_for_a_task(name: str | None, task: str, found: str) -> None:
    """What is asked for decides as much as the name."""
    assert ALIASES.find(name, task, MODELS) == found


def test_nothing_can_be_meant_where_there_is_nothing() -> None:
    """The name comes back as it was, for admission to refuse."""
    assert ALIASES.find("v1-5", "txt2img", {}) == "v1-5"
    assert ALIASES.find(None, "txt2img", {}) is None
    assert Aliases({"x": ANY}).find("x", "upscale", MODELS) == "x"
