"""Stability AI's REST v1 as a door."""

from gateway.edges.compat.stability_v1.routes import StabilityV1Door

__all__ = ["StabilityV1Door"]
