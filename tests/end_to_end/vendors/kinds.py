"""Every kind of upstream that the contract suite runs over."""

from typing import Final

import pytest

from tests.depth import DEEP
from tests.end_to_end.vendors.a1111 import A1111Vendor
from tests.end_to_end.vendors.comfyui import ComfyUIVendor
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
)
VENDORS: Final = ALL if DEEP else (ComfyUIVendor, A1111Vendor, StabilityV1Vendor)
"""A quick run tries everything on one that is looked up, one that is done again, and one that is billed."""


def each(kinds: tuple[type[Vendor], ...]) -> pytest.MarkDecorator:
    """Run a test once for each of these kinds."""
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in kinds])


EVERY: Final = each(VENDORS)
CORE: Final = each(ALL)
"""What a quick run tries on every kind there is: cheap, and nothing works at a vendor for which one of these fails."""
