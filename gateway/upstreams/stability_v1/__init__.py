"""Stability AI's REST API, version 1."""

from gateway.upstreams.stability_v1.adapter import Engine, StabilityV1

__all__ = ["Engine", "StabilityV1"]
