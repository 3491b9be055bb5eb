"""Every kind of upstream that the contract suite runs over."""

from typing import Final

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
"""A quick run has one that is looked up, one that is done again, and one that is billed."""
