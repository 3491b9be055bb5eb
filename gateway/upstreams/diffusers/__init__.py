"""Hugging Face's `diffusers` in a process of its own."""

from gateway.upstreams.diffusers.adapter import Diffusers, Terms
from gateway.upstreams.diffusers.wire import Setup

__all__ = ["Diffusers", "Setup", "Terms"]
