"""What every connection and every edge of this node shares; put together in `app.py`, written out."""

from dataclasses import dataclass

from gateway.flow.access import Access
from gateway.flow.admission import Admission
from gateway.flow.catalog import Catalog
from gateway.flow.feeds import BlobCache, Feeds
from gateway.flow.pictures import Pictures
from gateway.flow.sessions import Sessions
from gateway.flow.supervise import Supervisor
from gateway.ports import Clock, Jobs, Meter
from protocol.messages import Limits
from protocol.session import Timing


@dataclass(frozen=True, slots=True)
class Node:
    """The parts of a running gateway that face clients."""

    access: Access
    admission: Admission
    feeds: Feeds
    pictures: Pictures
    blobs: BlobCache
    sessions: Sessions
    jobs: Jobs
    models: Catalog
    clock: Clock
    meter: Meter
    supervisor: Supervisor
    limits: Limits
    timing: Timing
    asset_retention_ms: int
    event_retention_ms: int

    @property
    def largest_message(self) -> int:
        """The largest WebSocket message a known client may send, in bytes: JSON, or a chunk and its header."""
        return max(self.limits.max_json, self.limits.max_chunk + 64)
