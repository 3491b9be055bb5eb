"""Loading a pipeline with its LoRAs and ControlNets, and finding out what it can do. Imports torch."""

import gc
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers

from gateway.upstreams.child import PaintingFault
from gateway.upstreams.diffusers import wire
from gateway.upstreams.diffusers.models import name_of
from gateway.upstreams.diffusers.previews import Decoder, fitted, tiny
from gateway.upstreams.diffusers.samplers import SAMPLERS, offered

_TASKS: Final = {
    "txt2img": diffusers.AutoPipelineForText2Image,
    "img2img": diffusers.AutoPipelineForImage2Image,
    "inpaint": diffusers.AutoPipelineForInpainting,
}
_MOST_SIZE: Final = 1024
"""Pixels of an edge where a configuration tells none."""


@dataclass(slots=True)
class Shop:
    """A loaded pipeline and all that belongs to it."""

    setup: wire.Setup
    base: Any
    device: str
    controlnets: Mapping[str, Any]
    loras: Mapping[str, str]
    """Names -> those under which the adapters are known to the pipeline."""
    decoder: Decoder | None
    scheduler: Mapping[str, Any]
    """Configuration of the model's own scheduler."""
    problems: tuple[str, ...] = ()
    pipelines: dict[tuple[str, tuple[str, ...]], Any] = field(default_factory=dict)

    def pipeline(self, task: str, controls: tuple[str, ...] = ()) -> Any:
        """Return the pipeline of a task, with its ControlNets; they share their parts. Raises `ValueError` if none."""
        key = (task, controls)
        if key not in self.pipelines:
            more: dict[str, Any] = {}
            if controls:
                nets = [self.controlnets[kind] for kind in controls]
                more["controlnet"] = nets[0] if len(nets) == 1 else nets
            made = _TASKS[task].from_pipe(self.base, **more)
            if self.setup.offload == "none":
                made.to(self.device)
            else:
                _offload(made, self.setup.offload, self.device)
            self.pipelines[key] = made
        return self.pipelines[key]

    def sampler(self, name: str | None) -> Any:
        """Return a new scheduler; `None` = the model's own."""
        if name is None:
            return type(self.base.scheduler).from_config(self.scheduler)
        kind, settings = SAMPLERS[name]
        return getattr(diffusers, kind).from_config(self.scheduler, **settings)

    def params(self) -> dict[str, frozenset[str]]:
        """Return each task that can be done, with the names of its pipeline's parameters that have an effect."""
        found = {task: names for task in _TASKS if (names := self._params(task, ())) is not None}
        kinds = tuple(self.controlnets)[:1]
        if kinds and (names := self._params("txt2img", kinds)) is not None:
            found["controlnet"] = names | ({"strength"} if self._params("img2img", kinds) else frozenset())
        return found

    def _params(self, task: str, controls: tuple[str, ...]) -> frozenset[str] | None:
        try:
            pipeline = self.pipeline(task, controls)
        except (ValueError, TypeError, AttributeError):
            return None
        return frozenset(inspect.signature(pipeline.__call__).parameters) - without_effect(pipeline)

    def told(self, id: int) -> wire.Loaded:
        """Return what there is."""
        params = self.params()
        asked = inspect.signature(self.pipeline("txt2img").__call__).parameters
        guidance = asked.get("true_cfg_scale" if not _is_flux(self.base) else "", asked.get("guidance_scale"))
        edge = _edge(self.base)
        return wire.Loaded(
            id,
            pipeline=type(self.base).__name__,
            params=params,
            device=self.device,
            versions=f"diffusers {diffusers.__version__}, torch {torch.__version__}",
            size=(edge, edge),
            multiple_of=_multiple_of(self.base),
            guidance=float(_default(guidance, 7.0)),
            steps=int(_default(asked.get("num_inference_steps"), 30)),
            samplers=offered(frozenset(kind.__name__ for kind in self.base.scheduler.compatibles)),
            loras=tuple(self.loras),
            controls=tuple(self.controlnets) if "controlnet" in params else (),
            previews=self.decoder is not None,
            problems=self.problems,
        )

    def free(self) -> None:
        """Give back what a picture that failed had taken."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        elif self.device == "mps":
            torch.mps.empty_cache()


def without_effect(pipeline: Any) -> frozenset[str]:
    """Return parameters that a pipeline takes and that mean nothing to it, or not what their names say."""
    names: set[str] = set()
    if _is_flux(pipeline):
        # They want a second run of the whole model, for which these were not made.
        names |= {"negative_prompt", "true_cfg_scale"}
        config = getattr(getattr(pipeline, "transformer", None), "config", None)
        if getattr(config, "guidance_embeds", True) is False:
            names.add("guidance_scale")
    return frozenset(names)


def _is_flux(pipeline: Any) -> bool:
    return type(pipeline).__name__.startswith("Flux")


def load(setup: wire.Setup, tell: Callable[[str], None]) -> Shop:
    """Return what the setup says, loaded. Raises `PaintingFault`, or whatever torch does for a lack of memory."""
    device = _device(setup.device)
    if device == "cpu" and setup.memory_bytes is not None:
        _bound_memory(setup.memory_bytes)
    tell(f"the model {name_of(setup.model)}")
    base = _base(setup, _dtype(setup.dtype, device))
    base.set_progress_bar_config(disable=True)
    problems: list[str] = []
    controlnets = _controlnets(setup, base.dtype, tell, problems)
    loras = _loras(setup, base, tell, problems)
    tell("previews")
    decoder = _decoder(setup, base, device, problems)
    if setup.offload == "none":
        base.to(device)
    return Shop(setup, base, device, controlnets, loras, decoder, dict(base.scheduler.config), tuple(problems))


def _base(setup: wire.Setup, dtype: Any) -> Any:
    """Return the pipeline that makes pictures of words, still on the CPU."""
    name, more = name_of(setup.model), {} if setup.safety_checker else {"safety_checker": None}
    path = Path(setup.model).expanduser()
    if path.is_file():
        raise PaintingFault("model_not_found", f"{name} is a single file: name a folder in diffusers' format")
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2):
        # No name on the hub looks so.
        raise PaintingFault("model_not_found", f"the model {name} is not on this machine: see the path of its folder")
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise PaintingFault("model_not_found", f"the folder {name} has no model_index.json: it is no diffusers model")
    try:
        return diffusers.AutoPipelineForText2Image.from_pretrained(
            str(path) if path.is_dir() else setup.model,
            dtype=dtype,
            variant=setup.variant,
            revision=setup.revision,
            local_files_only=not setup.download,
            **more,
        )
    except OSError as fault:
        hint = "" if setup.download else ", or set `download = true`"
        message = f"the model {name} is not on this machine, or not whole: give its folder{hint}"
        raise PaintingFault("model_not_found", message) from fault
    except ValueError as fault:
        raise PaintingFault("model_not_found", f"diffusers cannot make pictures of words with {name}") from fault


def _controlnets(setup: wire.Setup, dtype: Any, tell: Callable[[str], None], problems: list[str]) -> dict[str, Any]:
    found = {}
    for kind, origin in setup.controlnets.items():
        tell(f"the ControlNet {kind}")
        try:
            config = diffusers.ControlNetModel.load_config(origin, local_files_only=not setup.download)
            maker = getattr(diffusers, config["_class_name"])
            found[kind] = maker.from_pretrained(origin, dtype=dtype, local_files_only=not setup.download)
        except (OSError, ValueError, KeyError, AttributeError) as fault:
            problems.append(f"the ControlNet {kind} cannot be loaded ({type(fault).__name__}): see its path")
    return found


def _loras(setup: wire.Setup, base: Any, tell: Callable[[str], None], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if setup.loras and not hasattr(base, "load_lora_weights"):
        problems.append(f"{type(base).__name__} takes no LoRAs: empty `loras`")
        return found
    for name, origin in setup.loras.items():
        tell(f"the LoRA {name}")
        # The library refuses dots in a name.
        adapter = f"lora{len(found)}"
        try:
            base.load_lora_weights(origin, adapter_name=adapter, local_files_only=not setup.download)
        except ImportError:
            raise
        except Exception as fault:  # noqa: BLE001 - a file that fits another model trips the library in many ways
            problems.append(f"the LoRA {name} cannot be loaded ({type(fault).__name__}): see its path, and its model")
        else:
            found[name] = adapter
    return found


def _decoder(setup: wire.Setup, base: Any, device: str, problems: list[str]) -> Decoder | None:
    try:
        match setup.previews:
            case "none":
                return None
            case "tiny":
                return tiny(setup.tiny_decoder or "", base.dtype, device, downloads=setup.download)
            case "linear":
                return fitted(base.vae, device)
    except Exception as fault:  # noqa: BLE001 - no previews is better than no pictures
        problems.append(f"there are no previews: their decoder could not be made ({type(fault).__name__})")
    return None


def _offload(pipeline: Any, how: str, device: str) -> None:
    if how == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


def _bound_memory(size: int) -> None:
    try:
        import resource  # noqa: PLC0415 - not everywhere
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size if most < 0 else min(size, most), most))


def _device(wanted: str) -> str:
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, is_there in has.items() if is_there)
    if not has[wanted]:
        raise PaintingFault("model_unavailable", f"torch finds no device {wanted} here: see `device`")
    return wanted


def _dtype(wanted: str, device: str) -> Any:
    if wanted != "auto":
        return getattr(torch, wanted)
    if device == "cpu":
        return torch.float32
    # bfloat16 never overflows, but GPUs before 2020 only emulate it.
    is_new = device == "cuda" and torch.cuda.get_device_capability()[0] >= 8
    return torch.bfloat16 if is_new else torch.float16


def _default(parameter: inspect.Parameter | None, otherwise: float) -> float:
    given = None if parameter is None else parameter.default
    return given if isinstance(given, int | float) else otherwise


def _edge(pipeline: Any) -> int:
    net: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    sample = getattr(pipeline, "default_sample_size", None) or getattr(net.config, "sample_size", None)
    sample = sample[0] if isinstance(sample, list | tuple) else sample
    return int(sample) * int(pipeline.vae_scale_factor) if sample else _MOST_SIZE


def _multiple_of(pipeline: Any) -> int:
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    return max(8, scale if getattr(pipeline, "unet", None) is not None else 2 * scale)


# The bars would fill the gateway's own standard error.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
