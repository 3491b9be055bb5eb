"""A stand-in of stable-diffusion.cpp's `sd-server`; see `SdCpp`."""

from load.upstreams.sdcpp.catalogue import Defaults, Shop
from load.upstreams.sdcpp.server import SdCpp
from load.upstreams.sdcpp.special import SPECIALS

__all__ = ["SPECIALS", "Defaults", "SdCpp", "Shop"]
