"""stable-diffusion.cpp's server and its jobs."""

from gateway.upstreams.sdcpp.adapter import SdCpp, Terms

__all__ = ["SdCpp", "Terms"]
