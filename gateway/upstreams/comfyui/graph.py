"""Graphs of ComfyUI's own nodes, without I/O: what an order is in that server's terms.

`build` makes the graph of every kind of work that stock nodes can do; nothing here needs a custom node. Node ids say
what a node is for, since progress and previews come back under them. `planned_steps` reads from any graph how many
steps its samplers will take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.core.normal import Request
from gateway.ports import CallOrder

Graph = dict[str, dict[str, Any]]
"""Node id -> `class_type` and `inputs`; an input that is a list of a node id and a number is a link."""
_Link = list[Any]

SAVE_TO_SOCKET: Final = "SaveImageWebsocket"
_DEFAULT_SAMPLER: Final = ("euler", "normal")
_FEATHER: Final = 24
"""Pixels over which an outpainted picture passes into the given one."""
_GROW: Final = 8
"""Pixels by which the painted area reaches into the given picture, so that no seam is left."""
_CANNY: Final = {"low_threshold": 0.4, "high_threshold": 0.8}


@dataclass(frozen=True, slots=True)
class Library:
    """The names of what a server has: our short ones, and the file names it knows them by."""

    checkpoints: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, str] = field(default_factory=dict)
    upscalers: Mapping[str, str] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    """Role of a control image -> the ControlNet's file."""
    samplers: Mapping[str, str] = field(default_factory=dict)
    schedulers: tuple[str, ...] = ()
    finds_edges: bool = False
    """Whether the server has the node that makes a `canny` picture of a photograph."""


def build(order: CallOrder, library: Library, images: Mapping[str, str], prefix: str) -> Graph:
    """Return the graph of an order; `images` are the uploaded inputs by slot, `prefix` begins the result's file name.

    The prefix must be this call's own: a node whose inputs did not change is not run again, and what it tells is the
    name of the file it once wrote, which may be gone.
    """
    if order.request.task == "upscale":
        return _upscale(order, images, prefix)
    made = _Sketch(order, library, images)
    made.load()
    made.describe()
    made.begin()
    made.control()
    result = made.paint()
    made.add("save", "SaveImage", images=result, filename_prefix=prefix)
    return made.graph


def planned_steps(graph: Mapping[str, Any]) -> dict[str, int]:
    """Return how many steps each sampler will take, where the graph says so in plain numbers."""
    return {
        name: steps
        for name, node in graph.items()
        if is_sampler(node) and (steps := _steps_of(node.get("inputs", {}))) is not None
    }


def is_sampler(node: Any) -> bool:
    """Whether a node takes steps: the server's own samplers, and custom ones that are named like them."""
    kind = str(node.get("class_type", "")) if isinstance(node, dict) else ""
    return "Sampler" in kind and not kind.endswith("Select")


def _steps_of(inputs: Mapping[str, Any]) -> int | None:
    steps = inputs.get("steps")
    if not isinstance(steps, int):
        return None
    if inputs.get("denoise") == 0:
        return 0
    first, last = inputs.get("start_at_step", 0), inputs.get("end_at_step", steps)
    if not isinstance(first, int) or not isinstance(last, int):
        return None
    return max(0, min(steps, last) - first)


def _upscale(order: CallOrder, images: Mapping[str, str], prefix: str) -> Graph:
    """Enlarge by a model, if the order's has a file, and bring the result to exactly the asked size."""
    request, graph = order.request, Graph()
    graph["init"] = _node("LoadImage", image=images["init"])
    pixels: _Link = ["init", 0]
    if order.model.vendor_model:
        graph["upscaler"] = _node("UpscaleModelLoader", model_name=order.model.vendor_model)
        graph["enlarge"] = _node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=pixels)
        pixels = ["enlarge", 0]
    graph["fit"] = _node(
        "ImageScale",
        image=pixels,
        upscale_method="lanczos",
        width=request.width,
        height=request.height,
        crop="disabled",
    )
    graph["save"] = _node("SaveImage", images=["fit", 0], filename_prefix=prefix)
    return graph


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


class _Sketch:
    """A graph on its way, with the links that the next nodes need."""

    def __init__(self, order: CallOrder, library: Library, images: Mapping[str, str]) -> None:
        self._order, self._library, self._images = order, library, images
        self.graph: Graph = {}
        self._model: _Link = ["checkpoint", 0]
        self._clip: _Link = ["checkpoint", 1]
        self._vae: _Link = ["checkpoint", 2]
        self._positive: _Link = ["positive", 0]
        self._negative: _Link = ["negative", 0]
        self._latent: _Link = ["latent", 0]
        self._kept: tuple[_Link, _Link] | None = None
        """The given picture and the mask outside of which it stays as it is."""

    @property
    def _request(self) -> Request:
        return self._order.request

    def add(self, name: str, kind: str, **inputs: Any) -> _Link:
        """Add a node and return the link to its first output."""
        self.graph[name] = _node(kind, **inputs)
        return [name, 0]

    def load(self) -> None:
        """The checkpoint, and one LoRA after the other on top of it."""
        self.add("checkpoint", "CheckpointLoaderSimple", ckpt_name=self._order.model.vendor_model)
        for number, lora in enumerate(self._request.loras, 1):
            name = f"lora-{number}"
            self.add(
                name,
                "LoraLoader",
                model=self._model,
                clip=self._clip,
                lora_name=self._library.loras[lora.name],
                strength_model=lora.weight,
                strength_clip=lora.weight,
            )
            self._model, self._clip = [name, 0], [name, 1]

    def describe(self) -> None:
        """The two prompts; both may hold weights as `(text:1.2)`, which the server reads."""
        self.add("positive", "CLIPTextEncode", text=self._request.prompt, clip=self._clip)
        self.add("negative", "CLIPTextEncode", text=self._request.negative_prompt, clip=self._clip)

    def begin(self) -> None:
        """What the sampler begins with: noise, a picture, a part of one, or one with grown sides."""
        if self._request.task == "outpaint":
            self._begin_grown()
        elif "init" not in self._images:
            size = {"width": self._request.width, "height": self._request.height}
            self.add("latent", "EmptyLatentImage", **size, batch_size=1)
        else:
            pixels = self.add("init", "LoadImage", image=self._images["init"])
            self.add("latent", "VAEEncode", pixels=pixels, vae=self._vae)
            if "mask" in self._images:
                self._begin_masked(pixels)

    def _begin_masked(self, pixels: _Link) -> None:
        # White is what is painted, there as here, in any colour channel; only its alpha channel is the other way round.
        mask = self.add("mask", "LoadImageMask", image=self._images["mask"], channel="red")
        self._latent = self.add("masked", "SetLatentNoiseMask", samples=self._latent, mask=mask)
        self._kept = pixels, mask

    def _begin_grown(self) -> None:
        expand = self._request.expand
        assert expand is not None, "the normal form of `outpaint` says how far"
        init = self.add("init", "LoadImage", image=self._images["init"])
        pixels = self.add(
            "grown",
            "ImagePadForOutpaint",
            image=init,
            left=expand.left,
            top=expand.up,
            right=expand.right,
            bottom=expand.down,
            feathering=_FEATHER,
        )
        mask: _Link = ["grown", 1]
        self.add("latent", "VAEEncodeForInpaint", pixels=pixels, vae=self._vae, mask=mask, grow_mask_by=_GROW)
        self._kept = pixels, mask

    def control(self) -> None:
        """One ControlNet after the other, each with its own picture, weight and range."""
        for image in self._request.controls:
            slot = image.slot or image.role
            pixels = self.add(slot, "LoadImage", image=self._images[slot])
            if image.preprocessor == "canny":
                pixels = self.add(f"{slot}-edges", "Canny", image=pixels, **_CANNY)
            net = self.add(f"{slot}-net", "ControlNetLoader", control_net_name=self._library.controls[image.role])
            self._positive = self.add(
                f"{slot}-apply",
                "ControlNetApplyAdvanced",
                positive=self._positive,
                negative=self._negative,
                control_net=net,
                image=pixels,
                strength=1.0 if image.weight is None else image.weight,
                start_percent=image.start or 0.0,
                end_percent=1.0 if image.end is None else image.end,
                vae=self._vae,
            )
            self._negative = [f"{slot}-apply", 1]

    def paint(self) -> _Link:
        """Sample and decode; returns the finished pixels."""
        request = self._request
        sampler, scheduler = chosen_sampler(request, self._library)
        latent = self.add(
            "sampler",
            "KSampler",
            model=self._model,
            positive=self._positive,
            negative=self._negative,
            latent_image=self._latent,
            seed=self._order.seed,
            steps=request.steps,
            cfg=request.guidance,
            sampler_name=sampler,
            scheduler=scheduler,
            denoise=1.0 if request.strength is None else request.strength,
        )
        pixels = self.add("decoded", "VAEDecode", samples=latent, vae=self._vae)
        if self._kept is None:
            return pixels
        # The way into the latent and back changes every pixel a little; those outside of the mask must stay.
        under, mask = self._kept
        return self.add(
            "composed",
            "ImageCompositeMasked",
            destination=under,
            source=pixels,
            x=0,
            y=0,
            resize_source=False,
            mask=mask,
        )


def chosen_sampler(request: Request, library: Library) -> tuple[str, str]:
    """Return the server's names of sampler and scheduler: the asked ones, or the ones that do for most."""
    sampler, scheduler = _DEFAULT_SAMPLER
    if request.sampler is not None:
        sampler = library.samplers.get(request.sampler, request.sampler)
    return sampler, request.scheduler or scheduler
