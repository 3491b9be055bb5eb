"""What a server of the WebUI family tells of itself, read leniently: an answer that is not there is an empty one."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.ports import Findings
from gateway.upstreams.a1111.models import Checkpoint, Offer, control_model, missing, upscaler_of

LISTS: Final[dict[str, str]] = {
    "models": "/sdapi/v1/sd-models",
    "samplers": "/sdapi/v1/samplers",
    "schedulers": "/sdapi/v1/schedulers",
    "styles": "/sdapi/v1/prompt-styles",
    "loras": "/sdapi/v1/loras",
    "upscalers": "/sdapi/v1/upscalers",
    "options": "/sdapi/v1/options",
    "control_models": "/controlnet/model_list",
    "control_modules": "/controlnet/module_list",
    "control_settings": "/controlnet/settings",
}
"""What is asked, and where; only the first must be there."""
MODELS_PATH: Final = LISTS["models"]
_MOST_NAMES: Final = 2000
_LORA_NAME: Final = re.compile(r"[^:<>\n]+")
"""What can stand in a tag."""


def offer_of(bodies: Mapping[str, bytes]) -> Offer:
    """Return what the server has, from the bodies of its answers by the names of `LISTS`."""
    found = {name: _json(body) for name, body in bodies.items()}
    options = _object(found.get("options"))
    return Offer(
        titles=_names(found.get("models"), "title"),
        samplers=_names(found.get("samplers"), "name"),
        schedulers=_names(found.get("schedulers"), "name"),
        styles=_names(found.get("styles"), "name", _says_something),
        loras=tuple(name for name in _names(found.get("loras"), "name") if _LORA_NAME.fullmatch(name)),
        upscalers=_names(found.get("upscalers"), "name"),
        control_models=_texts(_object(found.get("control_models")).get("model_list")),
        control_modules=_texts(_object(found.get("control_modules")).get("module_list")),
        control_units=_whole(_object(found.get("control_settings")).get("control_net_unit_count"), 3),
        previews=options.get("live_previews_enable") is not False and options.get("show_progress_every_n_steps") != -1,
        full_previews=options.get("show_progress_type") == "Full",
    )


def findings(
    offer: Offer, checkpoints: Sequence[Checkpoint], upscaler: str, *, tasks: bool, jobs: bool, previews: bool
) -> Findings:
    """Return what a probe tells people; `tasks` and `jobs` are whether the server has those ways to follow work."""
    problems = [f"the server has no checkpoint {name}: mend `checkpoints`" for name in missing(checkpoints, offer)]
    if not offer.titles:
        problems.append("the server lists no checkpoints: put one into its folder of models and refresh its list")
    if previews and not offer.previews:
        problems.append("live previews are off: switch them on at the server under Settings > Live previews")
    if not (tasks or jobs):
        problems.append(
            "progress is told for the whole server and not by task: let nobody else use it, or start it with its web "
            "page (without --nowebui)"
        )
    if not any(control_model(kind, offer.control_models, "") for kind in ("canny", "depth", "pose")):
        what = "has no models" if offer.control_modules else "is not installed"
        problems.append(f"ControlNet {what}: control images cannot be used until it is put right at the server")
    if upscaler_of(offer, upscaler) is None:
        problems.append(f"the server has no upscaler {upscaler}".rstrip() + ": pictures cannot be enlarged")
    follow = "SD.Next jobs" if jobs else "tasks" if tasks else "the server's global progress"
    counts = {
        "samplers": offer.samplers,
        "schedulers": offer.schedulers,
        "styles": offer.styles,
        "LoRAs": offer.loras,
        "ControlNet models": offer.control_models,
    }
    facts = (
        f"checkpoints: {_some(offer.titles)}",
        ", ".join(f"{len(names)} {what}" for what, names in counts.items()),
        f"upscalers: {_some(offer.upscalers)}",
        f"work is followed by {follow}",
    )
    return Findings("SD.Next" if jobs else "AUTOMATIC1111, Forge or like them", facts, tuple(problems))


def no_api() -> Findings:
    """Return what a probe finds where the address answers and its API does not."""
    return Findings("no API of the WebUI family", problems=("the API is off: start the server with --api",))


def no_entry(*, has_password: bool) -> Findings:
    """Return what a probe finds where the credential is refused."""
    what = "refuses the user and password" if has_password else "needs a user and password"
    return Findings("a server of the WebUI family", problems=(f"the API {what}: give those of its --api-auth",))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more


def _json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 64 else default


def _texts(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else []
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))[:_MOST_NAMES]


def _any(_: dict[str, Any]) -> bool:
    return True


def _names(value: object, key: str, counts: Callable[[dict[str, Any]], bool] = _any) -> tuple[str, ...]:
    rows = value if isinstance(value, list) else []
    return _texts([row.get(key) for row in rows if isinstance(row, dict) and counts(row)])


def _says_something(style: dict[str, Any]) -> bool:
    # Headings in the list of styles have names, and no words.
    return bool(style.get("prompt") or style.get("negative_prompt"))
