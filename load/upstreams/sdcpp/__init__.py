"""A stand-in of stable-diffusion.cpp's `sd-server`; see `SdCpp`."""

from load.upstreams.sdcpp.catalogue import Defaults, Shop
from load.upstreams.sdcpp.server import SPECIALS, SdCpp

__all__ = ["SPECIALS", "Defaults", "SdCpp", "Shop"]
