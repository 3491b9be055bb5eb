"""What makes an adapter from its settings: one literal table, for the gateway and for `safelight upstream probe`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway import config
from gateway.core.issuers import Issuer
from gateway.ports import Upstream
from gateway.upstreams.a1111 import A1111, Checkpoint
from gateway.upstreams.comfyui import ComfyUI
from gateway.upstreams.diffusers import Diffusers, Setup
from gateway.upstreams.diffusers import Terms as DiffusersTerms
from gateway.upstreams.engine import Engine
from gateway.upstreams.openai_images import ImageModel, OpenAIImages
from gateway.upstreams.sdcpp import SdCpp, Terms
from gateway.upstreams.stability_v1 import Engine as StabilityEngine
from gateway.upstreams.stability_v1 import StabilityV1
from gateway.upstreams.stability_v2beta import StabilityV2Beta
from gateway.upstreams.stability_v2beta.models import models_of

ONLY_ACCOUNT: Final = "default"


def accounts_of(name: str, settings: config.Upstream) -> dict[str, Upstream]:
    """Return the accounts of the upstream of that configured name, by theirs; none is open yet."""
    make = BUILDERS[type(settings)]
    if isinstance(settings, config.Embedded):
        return {ONLY_ACCOUNT: make(name, settings, "")}
    return {one.name: make(name, settings, one.key()) for one in settings.credentials}


def _engine(name: str, settings: config.Engine, _api_key: str) -> Upstream:
    return Engine(name=name, processes=settings.processes)


def _diffusers(name: str, settings: config.Diffusers, _api_key: str) -> Upstream:
    return Diffusers(
        name=name,
        setup=Setup(
            model=settings.model,
            revision=settings.revision,
            variant=settings.variant,
            device=settings.device,
            dtype=settings.dtype,
            offload=settings.offload,
            previews=settings.previews,
            tiny_decoder=settings.tiny_decoder,
            loras=settings.loras,
            controlnets=settings.controls,
            download=settings.download,
            safety_checker=settings.safety_checker,
            memory_bytes=settings.max_memory_bytes,
        ),
        terms=DiffusersTerms(
            model=settings.name or "",
            max_pixels=settings.max_pixels,
            steps=settings.steps,
            guidance=settings.guidance,
        ),
        processes=settings.processes,
    )


def _stability_v1(name: str, settings: config.StabilityV1, api_key: str) -> Upstream:
    return StabilityV1(
        name=name,
        base_url=settings.base_url,
        api_key=api_key,
        engines={
            engine: StabilityEngine(model=engine, price_micros=price) for engine, price in settings.engines.items()
        },
        timeout_seconds=settings.timeout_ms / 1000,
        connect_timeout_seconds=settings.connect_timeout_ms / 1000,
    )


def _openai_images(name: str, settings: config.OpenAIImages, api_key: str) -> Upstream:
    streams = None if settings.stream else False
    return OpenAIImages(
        name=name,
        base_url=settings.base_url,
        api_key=api_key,
        models={model: ImageModel(price_micros=price, streams=streams) for model, price in settings.models.items()},
        discover=settings.discover,
        dialect=settings.dialect,
        result_hosts=settings.result_hosts,
        timeout_seconds=settings.timeout_ms / 1000,
        connect_timeout_seconds=settings.connect_timeout_ms / 1000,
    )


def _stability_v2beta(name: str, settings: config.StabilityV2Beta, api_key: str) -> Upstream:
    return StabilityV2Beta(
        name=name,
        base_url=settings.base_url,
        api_key=api_key,
        models=models_of(settings.prices),
        prices=settings.prices,
        timeout_seconds=settings.timeout_ms / 1000,
        connect_timeout_seconds=settings.connect_timeout_ms / 1000,
        poll_seconds=settings.poll_ms / 1000,
    )


def _comfyui(name: str, settings: config.ComfyUI, api_key: str) -> Upstream:
    return ComfyUI(
        name=name,
        base_url=settings.base_url,
        checkpoints=settings.checkpoints,
        templates=settings.workflows,
        controls=settings.controls,
        token=api_key or None,
        reconnect_seconds=settings.reconnect_ms / 1000,
        connect_timeout_seconds=settings.connect_timeout_ms / 1000,
        max_answer_bytes=settings.max_answer_bytes,
    )


def _a1111(name: str, settings: config.A1111, api_key: str) -> Upstream:
    return A1111(
        name=name,
        base_url=settings.base_url,
        user=settings.user,
        password=api_key or None,
        flavour=settings.flavour,
        checkpoints=[Checkpoint(one) for one in settings.checkpoints],
        upscaler=settings.upscaler or "",
        poll_seconds=settings.poll_ms / 1000,
        previews=settings.previews,
        timeout_seconds=settings.timeout_ms / 1000,
        connect_timeout_seconds=settings.connect_timeout_ms / 1000,
    )


def _sdcpp(name: str, settings: config.SdCpp, api_key: str) -> Upstream:
    return SdCpp(
        name=name,
        base_url=settings.base_url,
        api_key=api_key,
        terms=Terms(model=settings.model, controls=settings.controls, max_pixels=settings.max_pixels),
        timeout_seconds=settings.timeout_ms / 1000,
        connect_timeout_seconds=settings.connect_timeout_ms / 1000,
        poll_seconds=settings.poll_ms / 1000,
    )


def issuer_of(name: str, settings: config.Issuer) -> Issuer:
    """Return what is believed of a foreign issuer's tokens."""
    return Issuer(
        name=name,
        tenant=settings.tenant,
        issuer=settings.issuer,
        audience=settings.audience,
        algorithms=settings.algorithms,
        subject_claim=settings.subject_claim,
        scope_claim=settings.scope_claim,
        scopes=settings.scopes,
        leeway_ms=settings.leeway_ms,
    )


BUILDERS: Final[Mapping[type, Callable[[str, Any, str], Upstream]]] = {
    config.Engine: _engine,
    config.Diffusers: _diffusers,
    config.ComfyUI: _comfyui,
    config.SdCpp: _sdcpp,
    config.A1111: _a1111,
    config.OpenAIImages: _openai_images,
    config.StabilityV2Beta: _stability_v2beta,
    config.StabilityV1: _stability_v1,
}
"""What makes one account of each kind: from the upstream's name, its settings, and the key, empty where it has none.

`safelight upstream probe URL` tries the kinds in this order: one that also speaks another's language stands before it.
"""
