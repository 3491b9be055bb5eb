"""AUTOMATIC1111's web UI and its relatives."""

from gateway.upstreams.a1111.adapter import A1111, Checkpoint

__all__ = ["A1111", "Checkpoint"]
