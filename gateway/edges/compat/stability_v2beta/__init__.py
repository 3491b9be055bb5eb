"""Stability AI's v2beta stable-image as a door."""

from gateway.edges.compat.stability_v2beta.routes import StabilityV2BetaDoor

__all__ = ["StabilityV2BetaDoor"]
