"""How much is made: bytes of Python's own allocator, which are the same on every machine."""

import tracemalloc
from collections.abc import Callable


def most_memory(work: Callable[[], object]) -> int:
    """Return how many bytes more than before are in use at once while `work` runs, its result included."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
