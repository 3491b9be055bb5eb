"""Who watches which job on this node, and what there is to tell them.

A feed is one job's `Tail` with its watchers. It is filled by this node's own appends, or by one read when the first
watcher comes; after that the ledger is read only at a gap and by the poll, however many watch. Watchers are told within
the call that brings the news, so two steps in one turn of the loop reach a reading client as two.

Previews are encoded once a rung, in order, by one loop that belongs to nobody in particular; what waits for it is
bounded, and the oldest is dropped.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.records import JobRecord
from gateway.core.reports import Picture
from gateway.ports import Jobs, Transcoder, Watcher
from protocol.errors import ClientFault
from protocol.ladder import Rung
from protocol.messages import Numbered, Progress, Queued, Started
from protocol.tail import Links, Preview, PreviewFacts, Tail

MAX_WAITING_PREVIEWS: Final = 512
SETTLE_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 5.0


@dataclass(slots=True, eq=False)
class Feed:
    """One job on this node."""

    tail: Tail
    tenant: str
    subject: str
    watchers: set[Watcher] = field(default_factory=set)
    working: bool = False
    """Whether a worker of this node has the job, so that nobody else appends to its log."""
    source: tuple[PreviewFacts, Picture] | None = None
    """The newest preview as the upstream gave it, for whoever comes later."""
    frames: int = 0
    waiting: int = 0
    """Previews that wait to be encoded."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        """Whether the end is told."""
        return self.tail.has_ended

    def tell(self, rung: Rung | None = None) -> None:
        """Tell every watcher, or those of one rung, that something changed."""
        job = self.tail.job
        for watcher in tuple(self.watchers):
            if rung is None or watcher.rung(job) == rung:
                watcher.changed(job)


class Feeds:
    """All feeds of this node."""

    def __init__(self, jobs: Jobs, transcoder: Transcoder, make_links: Callable[[str], Links]) -> None:
        self._jobs = jobs
        self._transcoder = transcoder
        self._make_links = make_links
        self._feeds: dict[str, Feed] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._encodes: deque[tuple[Feed, Rung, PreviewFacts, Picture]] = deque()
        self._bell = asyncio.Event()
        self.encoded = 0
        """How many previews were encoded; the tests of fan-out count them."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._feeds)

    def get(self, job: str) -> Feed | None:
        """Return the job's feed if this node has one."""
        return self._feeds.get(job)

    async def open(self, job: str) -> Feed:
        """Return the job's feed, reading its log once if nobody had it. Raises `ClientFault` `job_not_found`.

        The caller must `follow` it before it awaits anything else, or the feed may be gone.
        """
        feed = self._feeds.get(job)
        if feed is not None:
            return feed
        lock = self._opening.setdefault(job, asyncio.Lock())
        try:
            async with lock:
                feed = self._feeds.get(job)
                if feed is None:
                    found = await self._jobs.log(job)
                    if found is None:
                        raise ClientFault("job_not_found", "there is no such job", details={"path": "job"})
                    feed = self.fill(*found)  # kept from here on by `follow` alone if the job has ended
        finally:
            self._opening.pop(job, None)
        return feed

    def fill(self, record: JobRecord, log: Sequence[Numbered]) -> Feed:
        """Make the job's feed, or bring it up to this log."""
        feed = self._feeds.get(record.id)
        if feed is None:
            tail = Tail(record.id, self._make_links(record.tenant))
            tail.trimmed = record.trimmed
            feed = self._feeds[record.id] = Feed(tail, record.tenant, record.subject)
        self._extend(feed, log)
        return feed

    def follow(self, feed: Feed, watcher: Watcher) -> None:
        """Add a watcher, and have the newest preview made for its rung."""
        self._feeds[feed.tail.job] = feed
        feed.watchers.add(watcher)
        rung = watcher.rung(feed.tail.job)
        if rung is not None:
            self.want(feed, rung)

    def want(self, feed: Feed, rung: Rung) -> None:
        """Have the newest preview encoded for a rung that nobody had yet."""
        if feed.source is not None and not feed.has_ended and not _has(feed, rung, feed.source[0].frame):
            self._encode_later(feed, rung, *feed.source)

    async def preview(self, job: str, rung: Rung) -> Preview | None:
        """Return a job's newest preview of a rung, encoded now if nobody had it; `None` if this node has none."""
        feed = self._feeds.get(job)
        if feed is None or feed.source is None:
            return None
        frame, look = feed.source[0].frame, _Look(rung)
        self.follow(feed, look)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                while not feed.has_ended and not _has(feed, rung, frame):
                    look.news.clear()
                    await look.news.wait()
        except TimeoutError:
            pass  # it was dropped behind others or cannot be decoded: an older one, if there is one, is the newest
        finally:
            self.leave(job, look)
        return feed.tail.previews.get(rung)

    def leave(self, job: str, watcher: Watcher) -> None:
        """Remove a watcher."""
        feed = self._feeds.get(job)
        if feed is not None:
            feed.watchers.discard(watcher)
            self._drop_if_done(feed)

    def appended(self, job: str, events: Sequence[Numbered]) -> None:
        """Events were committed to a job's log on this node: tell its watchers now."""
        feed = self._feeds.get(job)
        if feed is None or not events:
            return
        if events[0].seq > feed.tail.head + 1:
            return  # a gap: the poll reads what lies between
        self._extend(feed, events)

    def queued(self, job: str, event: Queued) -> None:
        """Tell a job's place in the queue."""
        feed = self._feeds.get(job)
        if feed is not None and feed.tail.set_queue(event):
            feed.tell()

    def any_queued(self) -> bool:
        """Whether somebody here watches a job that still waits."""
        return any(feed.watchers and feed.tail.head == 1 for feed in self._feeds.values())

    def progressed(self, job: str, event: Progress) -> None:
        """Tell a job's progress."""
        feed = self._feeds.get(job)
        if feed is not None and feed.tail.set_progress(event):
            feed.tell()

    def previewed(self, job: str, facts: PreviewFacts, picture: Picture) -> None:
        """Take a preview; it is encoded once for each rung that somebody wants, and told then."""
        feed = self._feeds.get(job)
        if feed is None or feed.has_ended:
            return
        feed.source = (facts, picture)
        for rung in {rung for watcher in feed.watchers if (rung := watcher.rung(job)) is not None}:
            self._encode_later(feed, rung, facts, picture)

    def next_frame(self, job: str, attempt: int) -> int:
        """Return the number of the job's next preview: it rises for ever, also when a later attempt runs elsewhere."""
        feed = self._feeds[job]
        feed.frames = max(feed.frames, (attempt - 1) << 16) + 1
        return feed.frames

    def working(self, job: str, *, begins: bool) -> None:
        """A worker of this node takes the job, or lets go of it."""
        feed = self._feeds.get(job)
        if feed is not None:
            feed.working = begins
            self._drop_if_done(feed)

    async def settle(self, job: str) -> None:
        """Wait until the job's previews are encoded, so that none comes late behind a number; 2 s at most."""
        feed = self._feeds.get(job)
        if feed is None or not feed.waiting:
            return
        feed.idle.clear()
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await feed.idle.wait()
        except TimeoutError:
            return  # passing events may be merged away; a picture is worth more than its previews

    async def encode_forever(self) -> None:
        """Encode what waits, in order; the caller holds this as a task."""
        while True:
            while self._encodes:
                await self._encode(*self._encodes.popleft())
            self._bell.clear()
            await self._bell.wait()

    async def poll(self) -> None:
        """Read what was appended elsewhere to jobs that are watched here, and forget what nobody came to watch."""
        for held in tuple(self._feeds.values()):
            self._drop_if_done(held)
        watched = [
            job for job, feed in self._feeds.items() if feed.watchers and not feed.has_ended and not feed.working
        ]
        for job, head in (await self._jobs.heads(watched)).items() if watched else ():
            feed = self._feeds.get(job)
            if feed is not None and head > feed.tail.head:
                found = await self._jobs.log(job, feed.tail.head)
                if found is not None:
                    self._extend(feed, found[1])

    # --- inside ---

    def _extend(self, feed: Feed, events: Sequence[Numbered]) -> None:
        before = feed.tail.head
        feed.tail.append(events)
        if any(isinstance(event, Started) and event.seq > before for event in events):
            feed.source = None  # it belongs to an attempt that is over
        if feed.tail.head > before:
            feed.tell()
        if feed.has_ended:
            feed.source = None
            self._drop_if_done(feed)

    def _drop_if_done(self, feed: Feed) -> None:
        """Forget a feed that nobody watches, unless its worker is here and will go on."""
        if not feed.watchers and not feed.working:
            self._feeds.pop(feed.tail.job, None)

    def _encode_later(self, feed: Feed, rung: Rung, facts: PreviewFacts, picture: Picture) -> None:
        if fits(picture, rung):
            self._encoded(feed, rung, facts, (picture.content, (picture.width, picture.height)))
            return
        if len(self._encodes) >= MAX_WAITING_PREVIEWS:
            self._done(self._encodes.popleft()[0])
            self.dropped += 1
        feed.waiting += 1
        self._encodes.append((feed, rung, facts, picture))
        self._bell.set()

    async def _encode(self, feed: Feed, rung: Rung, facts: PreviewFacts, picture: Picture) -> None:
        try:
            if not feed.has_ended and not _has(feed, rung, facts.frame):
                made = await self._transcoder.shrink(picture, rung)
                self.encoded += 1
                self._encoded(feed, rung, facts, made)
        finally:
            self._done(feed)

    def _encoded(self, feed: Feed, rung: Rung, facts: PreviewFacts, made: tuple[bytes, tuple[int, int]] | None) -> None:
        if made is not None and feed.tail.set_preview(rung, facts, *made):
            feed.tell(rung)

    def _done(self, feed: Feed) -> None:
        feed.waiting -= 1
        if feed.waiting == 0:
            feed.idle.set()


class _Look:
    """A watcher that waits for one preview."""

    def __init__(self, rung: Rung) -> None:
        self._rung = rung
        self.news = asyncio.Event()

    def changed(self, job: str) -> None:
        self.news.set()

    def rung(self, job: str) -> Rung | None:
        return self._rung


def _has(feed: Feed, rung: Rung, frame: int) -> bool:
    """Whether the rung's preview is that frame, or newer."""
    held = feed.tail.previews.get(rung)
    return held is not None and held.frame >= frame


def fits(picture: Picture, rung: Rung) -> bool:
    """Whether a preview may go out as the upstream encoded it."""
    return picture.format == rung.format and max(picture.width, picture.height) <= rung.edge


class BlobCache:
    """Bytes of finals that are being sent inline, shared by all connections and bounded; the oldest go first."""

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._loading: dict[str, asyncio.Lock] = {}
        self.blobs: OrderedDict[str, bytes] = OrderedDict()

    async def fetch(self, asset: str, load: Callable[[], Awaitable[bytes]]) -> None:
        """Hold a picture's bytes, loaded once for all who ask meanwhile. Raises what `load` raises."""
        lock = self._loading.setdefault(asset, asyncio.Lock())
        try:
            async with lock:
                if asset not in self.blobs:
                    self.keep(asset, await load())
        finally:
            self._loading.pop(asset, None)

    def keep(self, asset: str, content: bytes) -> None:
        """Hold a picture's bytes; at least the newest is always held."""
        if asset in self.blobs:
            self.blobs.move_to_end(asset)
            return
        self.blobs[asset] = content
        self._held += len(content)
        while self._held > self._max_bytes and len(self.blobs) > 1:
            self._held -= len(self.blobs.popitem(last=False)[1])
