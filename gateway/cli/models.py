"""`safelight models`: what a gateway offers, so that people find the names to ask for."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from gateway.cli.basics import DONE, FAILED, REFUSED
from gateway.cli.credential import Credential
from gateway.cli.job import money
from gateway.cli.show import Lines, columns
from gateway.cli.trouble import Trouble, wrong_key

_SECONDS: Final = 20
_STREAM: Final = "/v1/stream"
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_COLUMNS: Final = ("NAME", "TASKS", "SIZES", "PRICE", "PROGRESS", "PREVIEWS", "CANCEL", "HEALTH")
_LISTED: Final = ("samplers", "schedulers", "styles", "loras", "controls", "preprocessors", "backgrounds")
_OPTIONS: Final = {"negative_prompt": "negative", "loras": "lora", "width": "size", "height": "size"}
"""What options are called where that is not the name inside `params`."""


class SizesTold(Struct, frozen=True):
    """The sizes of a model: a list, or a rule."""

    listed: tuple[str, ...] = ()
    min: int = 0
    max: int = 0
    multiple_of: int = 1

    def text(self) -> str:
        """Say it in a few words."""
        if not self.listed:
            return f"{self.min}-{self.max} by {self.multiple_of}"
        return self.listed[0] if len(self.listed) == 1 else f"{self.listed[0]} and {len(self.listed) - 1} more"


class StepsTold(Struct, frozen=True):
    """The steps of a model."""

    min: int
    max: int
    default: int


class GuidanceTold(Struct, frozen=True):
    """The guidance of a model."""

    min: float
    max: float
    default: float


class BoundsTold(Struct, frozen=True):
    """What an option of input images of a role may be."""

    role: str
    option: str
    min: float
    max: float

    def fact(self) -> tuple[str, str]:
        """Say it as a name and a few words."""
        bounds = f"{self.min:g}" if self.min == self.max else f"{self.min:g}-{self.max:g}"
        return f"{self.role} {self.option}", bounds


class TaskTold(Struct, frozen=True):
    """A kind of work that a model does, with the names that have an effect there."""

    task: str
    params: tuple[str, ...]
    price_micros: int = 0


class ModelTold(Struct, frozen=True):
    """A model as `GET /v1/models` tells it, as far as people are shown it."""

    id: str
    tasks: tuple[str, ...]
    sizes: SizesTold
    default_size: str
    steps: StepsTold
    task_params: tuple[TaskTold, ...] = ()
    guidance: GuidanceTold | None = None
    max_n: int = 1
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    preprocessors: tuple[str, ...] = ()
    bounds: tuple[BoundsTold, ...] = ()
    backgrounds: tuple[str, ...] = ()
    progress: str = "none"
    previews: bool = False
    cancel: str = "no"
    billed: bool = False
    price_micros: int = 0
    currency: str = ""
    description: str = ""
    health: str = "unknown"

    def price(self) -> str:
        """Say what one image costs, from the cheapest task to the dearest."""
        prices = sorted({task.price_micros for task in self.task_params} or {self.price_micros})
        if prices == [0]:
            return "unknown" if self.billed else "free"
        return "-".join(money(micros, "") for micros in (prices[:1] + prices[1:][-1:])) + f" {self.currency}"


class _Listing(Struct, frozen=True):
    data: tuple[msgspec.Raw, ...]


def show_models(name: str | None, *, url: str, key: str, folder: Path, as_json: bool) -> int:
    """Print the models, or all that is known of one; return the exit status."""
    try:
        told = _models_at(url, Credential.find(key, folder))
        models = [msgspec.json.decode(one, type=ModelTold) for one in told]
        place = None if name is None else _place(name, models)
    except Trouble as trouble:
        Lines().say(f"safelight: {trouble}")
        return trouble.status
    except msgspec.MsgspecError:
        Lines().say(f"safelight: what answers at {url} is no gateway of this version; name its address with --url")
        return FAILED
    if as_json:
        content = msgspec.json.encode(told if place is None else told[place])
        lines = [msgspec.json.format(content).decode()]
    else:
        lines = table(models) if place is None else details(models[place])
    print("\n".join(lines))  # noqa: T201 - this is what it is for
    return DONE


def _models_at(url: str, credential: Credential) -> tuple[msgspec.Raw, ...]:
    """Return what the gateway at `url` says of its models; raises `Trouble` and `MsgspecError`."""
    asked = urllib.request.Request(  # noqa: S310 - `_address` lets http and https through alone
        _address(url), headers={"Authorization": f"Bearer {credential.key.reveal()}"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=_SECONDS) as answer:  # noqa: S310 - as above
            return msgspec.json.decode(answer.read(), type=_Listing).data
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise Trouble(REFUSED, wrong_key(credential.origin)) from None
        raise Trouble(FAILED, f"what answers at {url} is no gateway, or not well (HTTP {error.code})") from None
    except http.client.HTTPException:
        raise Trouble(FAILED, f"what answers at {url} is no gateway; name its address with --url") from None
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        lost = "" if isinstance(reason, ConnectionRefusedError) else f" ({reason})"
        raise Trouble(FAILED, f"no gateway answers at {url}{lost}; start one with: make run") from None


def _address(url: str) -> str:
    """Return where the models are of a gateway that is named as for its clients."""
    try:
        parts = urlsplit(url)
        scheme = _SCHEMES[parts.scheme]
    except (ValueError, KeyError):
        raise _no_address(url) from None
    if not parts.hostname:
        raise _no_address(url)
    path = parts.path.rstrip("/").removesuffix(_STREAM)
    return urlunsplit((scheme, parts.netloc, path + "/v1/models", "", ""))


def _no_address(url: str) -> Trouble:
    return Trouble(REFUSED, f"a gateway's address begins with http, https, ws or wss, not {url!r}")


def _place(name: str, models: Sequence[ModelTold]) -> int:
    names = [model.id for model in models]
    if name not in names:
        raise Trouble(REFUSED, f"there is no model {name}; there are: {', '.join(names) or 'none'}")
    return names.index(name)


def table(models: Sequence[ModelTold]) -> list[str]:
    """Return a line for each model, under a line of headings."""
    if not models:
        return ["The gateway offers no models now; on its machine, see: safelight upstream probe NAME"]
    return columns([_COLUMNS, *(_row(model) for model in models)])


def _row(model: ModelTold) -> tuple[str, ...]:
    return (
        model.id,
        ",".join(model.tasks),
        model.sizes.text(),
        model.price(),
        model.progress,
        "yes" if model.previews else "no",
        model.cancel,
        model.health,
    )


def details(model: ModelTold) -> list[str]:
    """Return all that is known of one model, for people."""
    sizes, steps, guidance = model.sizes, model.steps, model.guidance
    facts = [
        ("description", model.description),
        ("health", model.health),
        ("price", model.price()),
        ("sizes", f"{', '.join(sizes.listed) or sizes.text()}; {model.default_size} if not asked"),
        ("steps", f"{steps.min}-{steps.max}; {steps.default} if not asked"),
        ("guidance", f"{guidance.min:g}-{guidance.max:g}; {guidance.default:g} if not asked" if guidance else ""),
        ("pictures", f"at most {model.max_n} of one job"),
        ("progress", model.progress),
        ("previews", "yes" if model.previews else "no"),
        ("cancel", model.cancel),
        *((name, ", ".join(getattr(model, name))) for name in _LISTED),
        *(one.fact() for one in model.bounds),
        *((f"{task.task} takes", _options(task)) for task in model.task_params),
    ]
    return [model.id, *("  " + line for line in columns([(name, text) for name, text in facts if text]))]


def _options(task: TaskTold) -> str:
    names = {_OPTIONS.get(name, name) for name in task.params}
    return " ".join(["PROMPT"] * ("prompt" in names) + [f"--{name}" for name in sorted(names - {"prompt"})])
