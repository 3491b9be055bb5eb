"""What every node under test stands on: a real ledger, real blobs, and keys that never change.

`open_parts` opens it on any clock; `Parts.node` puts a node on it as `gateway/app.py` does.
"""

import contextlib
import functools
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway import blobs
from gateway.app import make_node
from gateway.core.records import KeyRecord, Plan
from gateway.core.routing import Standing
from gateway.core.signing import SigningKey, digest
from gateway.edges.links import TenantLinks
from gateway.flow.access import KEY_PREFIX, Access
from gateway.flow.book import Workshop
from gateway.flow.catalog import Catalog
from gateway.flow.feeds import Feeds
from gateway.flow.node import Node
from gateway.flow.pictures import Pictures
from gateway.flow.sessions import Promises
from gateway.flow.supervise import Supervisor
from gateway.imaging import PillowTranscoder
from gateway.ledger import SqlLedger, migrate, open_ledger
from gateway.live.local import LocalTickets
from gateway.ports import Blobs, Clock
from protocol.messages import Canceler, Limits
from protocol.session import Timing

PUBLIC_URL: Final = "https://gw.example"
LEASE_MS: Final = 30_000
SESSION_TTL_MS: Final = 300_000
PROMISES: Final = Promises(15_000, SESSION_TTL_MS, 3_600_000, 86_400_000, "USD")
SIGNING_KEYS: Final = (SigningKey("k1", b"s" * 32, 2**52), SigningKey("t1", b"t" * 32, 2**52, "ed25519"))
EPOCH: Final = "e0e0e0e0e0e0e0e0"


@dataclass
class CountingMeter:
    """Fills the `Meter` port; `counted` has the sums by name and labels' values."""

    counted: dict[tuple[str, ...], float] = field(default_factory=dict)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        key = (name, *labels.values())
        self.counted[key] = self.counted.get(key, 0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.count(name, value, **labels)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node stands on; `failures` has each task that failed."""

    ledger: SqlLedger
    access: Access
    shop: Workshop
    supervisor: Supervisor
    meter: CountingMeter
    limits: Limits
    transcoder: PillowTranscoder
    failures: list[tuple[str, BaseException]]

    def node(
        self,
        models: Catalog,
        *,
        timing: Timing | None,
        ring: Callable[[str], None],
        stop_work: Callable[[str, Canceler], None],
        standings: Callable[[], Mapping[str, Standing]],
        drain_spread_ms: int = 0,
    ) -> Node:
        """Return a node on these parts."""
        return make_node(
            self.shop, self.access, models, self.supervisor, limits=self.limits, timing=timing or Timing(),
            promises=PROMISES, ref_retention_ms=86_400_000, drain_spread_ms=drain_spread_ms, max_queue=1000, ring=ring,
            stop_work=stop_work, standings=standings,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def open_parts(
    folder: Path,
    clock: Clock,
    *,
    store: Blobs | None = None,
    limits: Limits | None = None,
    epoch: str = EPOCH,
    max_tries: int = 4,
) -> AsyncIterator[Parts]:
    """Open everything on the ledger in `folder`, and encode previews; `store` is by default the real one."""
    meter, limits = CountingMeter(), limits or Limits()
    failures: list[tuple[str, BaseException]] = []
    supervisor = Supervisor(lambda name, error: failures.append((name, error)))
    path = folder / "ledger.db"
    if not path.exists():
        path.write_bytes(migrated())
    async with open_ledger(folder) as ledger:
        epoch = await ledger.accounts.found(epoch, SIGNING_KEYS)
        keys = await ledger.accounts.signing_keys(clock.time_ms())
        access = Access(ledger.accounts, LocalTickets(), keys, clock, epoch)
        store = store or blobs.local(folder / "blobs")
        pictures = Pictures(ledger.assets, store, clock, limits, PROMISES.asset_retention_ms)
        transcoder = PillowTranscoder()
        feeds = Feeds(ledger.jobs, transcoder, lambda tenant: TenantLinks(PUBLIC_URL, access, tenant))
        shop = Workshop(ledger, pictures, feeds, clock, random.Random(7), meter, lease_ms=LEASE_MS, max_tries=max_tries)
        supervisor.keep(feeds.encode_forever, "encoder")
        try:
            yield Parts(ledger, access, shop, supervisor, meter, limits, transcoder, failures)
        finally:
            await supervisor.stop()
            transcoder.close()


@functools.cache
def migrated() -> bytes:
    """Return an empty ledger's file: half a second of migrations, once a process and not once a test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        migrate(path)
        return path.read_bytes()


async def add_key(ledger: SqlLedger, clock: Clock, tenant: str, plan: Plan | None) -> str:
    """Make a tenant's API key, and the tenant if it is new."""
    now = clock.time_ms()
    await ledger.accounts.add_tenant(tenant, plan or Plan(), now)
    key = f"{KEY_PREFIX}{tenant}-{random.getrandbits(64):x}"
    await ledger.accounts.add_key(KeyRecord(f"key-{digest(key)[:12]}", tenant, "test", now), digest(key))
    return key
