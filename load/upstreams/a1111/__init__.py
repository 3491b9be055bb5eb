"""The WebUI family of self-hosted servers: AUTOMATIC1111, Forge and SD.Next."""

from load.upstreams.a1111.faults import Crash, JobError, Stuck, out_of_memory
from load.upstreams.a1111.images import words_of
from load.upstreams.a1111.server import A1111, Received

__all__ = ["A1111", "Crash", "JobError", "Received", "Stuck", "out_of_memory", "words_of"]
