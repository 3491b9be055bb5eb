"""Stability AI's REST API, v2beta."""

from gateway.upstreams.stability_v2beta.adapter import StabilityV2Beta

__all__ = ["StabilityV2Beta"]
