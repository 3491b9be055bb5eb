"""A stand-in of Stability AI REST v1: its paths, answers, errors and rate limit on a real socket."""

from load.upstreams.stability_v1.server import StabilityV1

__all__ = ["StabilityV1"]
