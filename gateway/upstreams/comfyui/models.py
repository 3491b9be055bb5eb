"""What a ComfyUI server has, as models that clients can ask for, and what a look at it shows to people."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.core.models import Model, Sizes
from gateway.core.params import CONTROLS, MAX_CONTROLS
from gateway.ports import Findings
from gateway.upstreams.comfyui.graph import Library

SAMPLERS: Final[dict[str, str]] = {
    "ddim": "ddim",
    "ddpm": "ddpm",
    "euler": "euler",
    "euler_a": "euler_ancestral",
    "heun": "heun",
    "dpm2": "dpm_2",
    "dpm2_a": "dpm_2_ancestral",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2s_a": "dpmpp_2s_ancestral",
    "dpmpp_sde": "dpmpp_sde",
    "lms": "lms",
}
"""Our names of samplers -> the server's; those that have none of ours keep their own."""
SCHEDULERS: Final = ("normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform")
"""What every version has."""
RESAMPLED: Final = "lanczos"
"""The name under which enlarging without a model is offered."""

_PAINTED: Final = frozenset({"prompt", "negative_prompt", "steps", "guidance", "sampler", "scheduler", "seed", "n"})
_SIZE: Final = frozenset({"width", "height"})
_TASKS: Final[dict[str, frozenset[str]]] = {
    "txt2img": _PAINTED | _SIZE,
    "img2img": _PAINTED | _SIZE | {"strength"},
    "inpaint": _PAINTED | _SIZE | {"strength"},
    "outpaint": _PAINTED | {"expand"},
}
_CONTROLNET: Final = _PAINTED | _SIZE | {"strength"}
_UPSCALE: Final = _SIZE | {"scale"}
_SIZES: Final = Sizes(smallest=64, largest=4096, multiple_of=8, max_pixels=4_194_304)
_UPSCALED: Final = Sizes(smallest=1, largest=8192, multiple_of=1, max_pixels=16_777_216)
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    **{role: (role,) for role in CONTROLS if role != "control"},
    "control": ("union", "promax"),
    "hed": ("hed",),
    "normal": ("normal", "normalbae"),
    "pose": ("pose", "openpose", "dwpose"),
    "segmentation": ("seg", "segmentation"),
}
"""Role of a control image -> the words in the name of a file made for it."""
_LARGE: Final = re.compile(r"xl|sd3|flux|pony|illustrious", re.IGNORECASE)
_LARGE_SIZE: Final = (1024, 1024)
_TARGETED_SINCE: Final = (0, 3, 60)
"""Servers from this version on stop by name; those before, whatever runs."""
_NAMED_PREVIEWS_SINCE: Final = (0, 3, 50)


def short_names(files: Iterable[str]) -> dict[str, str]:
    """Return a name for each file: without folders and suffix, unless two would have the same."""
    named: dict[str, list[str]] = {}
    for file in files:
        named.setdefault(_stem(re.split(r"[\\/]", file)[-1]), []).append(file)
    return {
        name if len(same) == 1 else re.sub(r"[\\/]+", "-", _stem(file)): file
        for name, same in named.items()
        for file in same
    }


def _stem(file: str) -> str:
    return re.sub(r"\.(safetensors|ckpt|pth?|bin|sft|gguf|onnx)$", "", file, flags=re.IGNORECASE)


def control_files(files: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the ControlNet for each kind of control image: the `chosen` one, or the first whose name says so."""
    found: dict[str, str] = {}
    for role in CONTROLS:
        named = [file for file in sorted(files) if _is_made_for(file, _KINDS[role])]
        if role in chosen:
            found[role] = chosen[role]
        elif named:
            found[role] = named[0]
    return found


def _is_made_for(file: str, words: tuple[str, ...]) -> bool:
    return not set(words).isdisjoint(re.split(r"[^a-z]+", file.lower()))


def stock(checkpoints: Sequence[str], controls: Mapping[str, str]) -> Library:
    """Return what is taken for granted before the server was asked."""
    return Library(short_names(checkpoints), controls=controls, samplers=SAMPLERS, schedulers=SCHEDULERS)


def sampler_names(theirs: Sequence[str]) -> dict[str, str]:
    """Return the samplers that a server has, by our names or else by its own."""
    ours = {name: one for name, one in SAMPLERS.items() if one in theirs}
    taken = set(ours.values())
    return ours | {one: one for one in theirs if one not in taken}


def models_of(upstream: str, library: Library) -> tuple[Model, ...]:
    """Return everything that is offered, from what the server has."""
    painters = [_painter(upstream, name, file, library) for name, file in library.checkpoints.items()]
    names = {RESAMPLED: "", **library.upscalers}
    taken = set(library.checkpoints)
    enlargers = [_enlarger(upstream, name, file) for name, file in reversed(names.items()) if name not in taken]
    return (*painters, *enlargers)


def _painter(upstream: str, name: str, file: str, library: Library) -> Model:
    tasks = {**_TASKS, "controlnet": _CONTROLNET} if library.controls else dict(_TASKS)
    if library.loras:
        tasks = {task: allowed | {"loras"} for task, allowed in tasks.items()}
    return Model(
        id=name,
        upstream=upstream,
        vendor_model=file,
        tasks=tasks,
        sizes=_SIZES,
        default_size=_LARGE_SIZE if _LARGE.search(file) else (512, 512),
        samplers=tuple(library.samplers),
        schedulers=library.schedulers,
        loras=tuple(library.loras),
        controls=tuple(library.controls),
        max_controls=MAX_CONTROLS,
        preprocessors=("none", "canny") if library.finds_edges else ("none",),
        max_n=8,
        # A batch grows out of one noise, so only its first picture could be made again from a seed of its own,
        # and previews show no other. One call for each picture keeps both honest; the server runs them one by one.
        images_per_call=1,
        progress="steps",
        previews=True,
        cancel="yes",
    )


def _enlarger(upstream: str, name: str, file: str) -> Model:
    return Model(
        id=name,
        upstream=upstream,
        vendor_model=file,
        tasks={"upscale": _UPSCALE},
        sizes=_UPSCALED,
        max_n=1,
        progress="steps",
        cancel="yes",
        description="enlarges" if file else "enlarges by resampling alone",
    )


# ------------------------------------------------------------------------------------------------------- for people


def version_of(stats: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the version as numbers, empty if the server is too old to tell."""
    system = stats.get("system")
    told = system.get("comfyui_version") if isinstance(system, dict) else None
    return tuple(int(part) for part in re.findall(r"\d+", str(told or ""))[:3])


def is_targeted(version: tuple[int, ...]) -> bool:
    """Whether an interrupt stops only the prompt that it names."""
    return version >= _TARGETED_SINCE


def findings_of(
    stats: Mapping[str, Any], models: Sequence[Model], missing: Sequence[str], *, has_seen_previews: bool = False
) -> Findings:
    """Return what a look at the server shows; `missing` are configured checkpoints that it does not have."""
    version = version_of(stats)
    told = ".".join(map(str, version))
    device = _device(stats)
    facts = [*([f"runs on {device}"] if device else []), f"models: {', '.join(model.id for model in models) or 'none'}"]
    problems = [
        f"the server has no checkpoint {name}: take it out of `checkpoints`, or put it there" for name in missing
    ]
    if not any("txt2img" in model.tasks for model in models):
        problems.append("there is no checkpoint: put one into the server's folder models/checkpoints")
    if not has_seen_previews and not _previews(stats):
        problems.append("previews are off: start ComfyUI with --preview-method auto")
    if not is_targeted(version):
        problems.append(
            "this version's interrupt stops whatever runs, so a cancel at the wrong moment can hit other people's work:"
            " update ComfyUI, or let nobody else use it"
        )
    if version < _NAMED_PREVIEWS_SINCE:
        problems.append("this version does not say whose a preview is: update ComfyUI, or let nobody else use it")
    return Findings(
        f"ComfyUI {told}".strip() if told else "ComfyUI, too old to tell its version", tuple(facts), tuple(problems)
    )


def _device(stats: Mapping[str, Any]) -> str:
    """The first device's name and memory; its other facts are nobody's business."""
    devices = stats.get("devices")
    first = devices[0] if isinstance(devices, list) and devices else None
    if not isinstance(first, dict):
        return ""
    memory = first.get("vram_total")
    size = f", {memory / 2**30:.1f} GiB" if isinstance(memory, int | float) else ""
    return f"{str(first.get('name', ''))[:60]}{size}"


def _previews(stats: Mapping[str, Any]) -> bool:
    system = stats.get("system")
    argv = system.get("argv") if isinstance(system, dict) else None
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    if "--preview-method" in words[:-1]:
        return words[words.index("--preview-method") + 1] != "none"
    return any(word.startswith("--preview-method=") and not word.endswith("=none") for word in words)
