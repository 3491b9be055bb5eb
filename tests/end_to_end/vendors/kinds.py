"""Every kind of upstream that the contract suite runs over."""

from typing import Final

import pytest

from tests.depth import DEEP
from tests.end_to_end.vendors.a1111 import A1111Vendor
from tests.end_to_end.vendors.comfyui import ComfyUIVendor
from tests.end_to_end.vendors.diffusers import DiffusersVendor
from tests.end_to_end.vendors.engine import EngineVendor
from tests.end_to_end.vendors.openai_images import OpenAIImagesVendor
from tests.end_to_end.vendors.sdcpp import SdCppVendor
from tests.end_to_end.vendors.stability_v1 import StabilityV1Vendor
from tests.end_to_end.vendors.stability_v2beta import StabilityV2BetaVendor
from tests.end_to_end.vendors.vendor import Vendor

ALL: Final[tuple[type[Vendor], ...]] = (
    EngineVendor,
    ComfyUIVendor,
    A1111Vendor,
    OpenAIImagesVendor,
    SdCppVendor,
    StabilityV1Vendor,
    StabilityV2BetaVendor,
    DiffusersVendor,
)
VENDORS: Final = ALL if DEEP else (ComfyUIVendor, A1111Vendor, StabilityV1Vendor)
"""A quick run tries everything on one that is looked up, one that is done again, and one that is billed."""


def each(kinds: tuple[type[Vendor], ...]) -> pytest.MarkDecorator:
    """Run a test once for each of these kinds, where the engines are that it needs."""
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name, marks=needs(kind)) for kind in kinds])


def needs(kind: type[Vendor]) -> list[pytest.MarkDecorator]:
    """Return the marks of a kind's tests: the engines without which they are skipped."""
    return [getattr(pytest.mark, name) for name in kind.engines]


TRIED: Final = ALL if DEEP else tuple(kind for kind in ALL if not kind.engines)
EVERY: Final = each(VENDORS)
CORE: Final = each(TRIED)
"""What a quick run tries on every kind that needs nothing installed: cheap, and nothing works at a vendor for which one
of these fails."""
