"""The dialect of AUTOMATIC1111's web UI, Forge and SD.Next as a door."""

from gateway.edges.compat.a1111.routes import A1111Door

__all__ = ["A1111Door"]
