"""What only one kind of upstream is checked for, and read from files of its own."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.config.faults import Table
from gateway.config.upstreams import (
    A1111,
    STABILITY_V1_ENGINES,
    STABILITY_V2BETA_PRICES,
    ComfyUI,
    Diffusers,
    Embedded,
    HttpUpstream,
    OpenAIImages,
    StabilityV1,
    StabilityV2Beta,
)
from gateway.config.values import shown
from gateway.core.params import CONTROLS

_API_FORMAT: Final = "a file that ComfyUI exported in its API format"


def completed(upstream: HttpUpstream, table: Table) -> HttpUpstream:
    """Return an upstream with what its files hold, after noting what is wrong with it."""
    complete = _KINDS.get(type(upstream))
    return upstream if complete is None else complete(upstream, table)


def checked(upstream: Embedded, table: Table) -> Embedded:
    """Return an upstream of the gateway's own, after noting what is wrong with it."""
    if isinstance(upstream, Diffusers):
        _diffusers(upstream, table)
    return upstream


def _diffusers(upstream: Diffusers, table: Table) -> None:
    if "model" not in table.node:
        table.fault("has no model", "`model` with a folder in diffusers' format, or a name on the hub")
    if upstream.previews == "tiny" and upstream.tiny_decoder is None and not table.concerns("tiny_decoder"):
        table.fault("is tiny without a decoder", "`tiny_decoder` with its folder, or another", "previews")
    for kind in sorted(upstream.controls.keys() - set(CONTROLS)):
        table.fault(f"has {shown(kind)}", ", ".join(CONTROLS), "controls")


def _stability_v1(upstream: StabilityV1, table: Table) -> StabilityV1:
    _check_known("engines", upstream.engines, STABILITY_V1_ENGINES, table)
    return upstream


def _stability_v2beta(upstream: StabilityV2Beta, table: Table) -> StabilityV2Beta:
    _check_known("prices", upstream.prices, STABILITY_V2BETA_PRICES, table)
    return upstream


def _check_known(field: str, named: Mapping[str, int], known: Collection[str], table: Table) -> None:
    for name in sorted(named.keys() - set(known)):
        table.fault(f"has {shown(name)}", ", ".join(known), field)


def _openai_images(upstream: OpenAIImages, table: Table) -> OpenAIImages:
    if not (upstream.models or upstream.discover or table.concerns("models", "discover")):
        table.fault("offers nothing", "`models` with their prices, or `discover = true`")
    if upstream.dialect != "openai" and "base_url" not in table.node:
        table.fault(f"speaks {upstream.dialect} and has no base_url", "the address of your server")
    return upstream


def _a1111(upstream: A1111, table: Table) -> A1111:
    if upstream.user is None and (upstream.api_key_env or upstream.api_key_file) and not table.concerns("user"):
        table.fault("has an API key without a user", "`user` with its password as the API key, or neither")
    return upstream


def _comfyui(upstream: ComfyUI, table: Table) -> ComfyUI:
    workflows = {name: _workflow(name, path, table) for name, path in upstream.templates.items()}
    return dataclasses.replace(upstream, workflows=workflows)


def _workflow(name: str, path: str, table: Table) -> Mapping[str, Any]:
    try:
        workflow = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        wrong = f"cannot be read ({error.strerror})"
    except ValueError:
        wrong = "is not JSON"
    else:
        if isinstance(workflow, dict) and workflow and all(map(_is_node, workflow.values())):
            return workflow
        wrong = "is no workflow in the API format"
    table.fault(f"has {shown(name)}, whose file {wrong}", _API_FORMAT, "templates")
    return {}


def _is_node(value: object) -> bool:
    return isinstance(value, dict) and "class_type" in value


_KINDS: Final[Mapping[type[HttpUpstream], Callable[[Any, Table], HttpUpstream]]] = {
    StabilityV1: _stability_v1,
    StabilityV2Beta: _stability_v2beta,
    OpenAIImages: _openai_images,
    A1111: _a1111,
    ComfyUI: _comfyui,
}
