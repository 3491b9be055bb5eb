"""Who watches which job on a node: reads, gaps, encodes and leaks, on a real ledger."""

import asyncio
import itertools
from pathlib import Path

import pytest

from gateway.core.records import Append, Claimed
from gateway.core.reports import Picture
from gateway.flow.feeds import MAX_WAITING_PREVIEWS, SETTLE_SECONDS, BlobCache, Feed, fits
from gateway.imaging import PillowTranscoder
from protocol.errors import ClientFault
from protocol.ladder import Rung
from protocol.messages import Canceled, Progress, Queued, Started
from protocol.tail import PreviewFacts
from tests.gateway.flow.studio import ScriptedUpstream, Spectator, Studio, open_studio, patiently, preview, soon
from tests.gateway.parts import LEASE_MS

SMALL, TINY = Rung(64, "jpeg", 70), Rung(64, "jpeg", 40)
NOBODY = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"


class HeldTranscoder(PillowTranscoder):
    """The real one, which waits to be let go."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = asyncio.Event()
        self.asked: list[tuple[Picture, Rung]] = []
        self.mistakes = 0
        """How many of the next encodes fail in a way that nobody foresaw."""

    async def shrink(self, picture: Picture, rung: Rung) -> tuple[bytes, tuple[int, int]] | None:
        self.asked.append((picture, rung))
        await self.may_go.wait()
        if self.mistakes:
            self.mistakes -= 1
            raise ZeroDivisionError("a mistake")
        return await super().shrink(picture, rung)


def held(studio: Studio) -> HeldTranscoder:
    """Put a transcoder that waits in place of the studio's."""
    transcoder = HeldTranscoder()
    studio.feeds._transcoder = transcoder
    return transcoder


def facts(frame: int, seq: int = 2) -> PreviewFacts:
    """Return the facts of a preview."""
    return PreviewFacts(frame, seq, frame % 50, 50, 0, 1, approximate=False)


async def begun(studio: Studio, ref: str = "ref-1") -> tuple[str, Claimed]:
    """Make a job that a worker elsewhere has begun, and return it with its claim."""
    job = await studio.submit(ref)
    claimed = await studio.claim()
    await append(studio, claimed, 1, Started(job=job, seq=0, time_ms=1, attempt=1, model="script", steps=2))
    return job, claimed


async def append(studio: Studio, claimed: Claimed, after: int, event: Started | Canceled) -> None:
    """Append an event as a worker elsewhere does: nobody here is told."""
    await studio.ledger.work.append(
        Append(claimed.job.id, claimed.job.claim, after, studio.clock.time_ms() + LEASE_MS, (event,))
    )


def the_end(job: str) -> Canceled:
    """Return an end event."""
    return Canceled(job=job, seq=0, time_ms=2, by="client", step=0, images=[])


async def watched(studio: Studio, job: str, rung: Rung | None = None) -> tuple[Feed, Spectator]:
    """Open and follow a job's feed."""
    watcher = Spectator(rung, studio.feeds)
    feed = await studio.feeds.open(job)
    studio.feeds.follow(feed, watcher)
    return feed, watcher


# --- reading ---


@pytest.mark.parametrize("has_ended", [False, True])
@patiently
async def test_log_is_read_once_for_everybody_who_opens_it_at_once(tmp_path: Path, has_ended: bool) -> None:
    """A hundred watchers cost one read, whether the job goes on or has ended."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, claimed = await begun(studio)
        if has_ended:
            await append(studio, claimed, 2, the_end(job))
        studio.feeds._feeds.clear()
        reads = studio.ledger.store.reads
        feeds = await asyncio.gather(*(watched(studio, job) for _ in range(100)))
        assert studio.ledger.store.reads == reads + 1
        assert len({id(feed) for feed, _ in feeds}) == 1
        assert feeds[0][0].tail.head == 2 + has_ended
        for _, watcher in feeds:
            studio.feeds.leave(job, watcher)
        assert (len(studio.feeds), studio.feeds._opening) == (0, {})


@patiently
async def test_job_that_is_not_there_is_refused_and_forgotten(tmp_path: Path) -> None:
    """Everybody who asks is refused by name, and nothing stays."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        answers = await asyncio.gather(*(studio.feeds.open(NOBODY) for _ in range(5)), return_exceptions=True)
        assert {answer.code for answer in answers if isinstance(answer, ClientFault)} == {"job_not_found"}
        assert (len(answers), len(studio.feeds), studio.feeds._opening) == (5, 0, {})


@patiently
async def test_events_behind_a_gap_wait_for_the_poll(tmp_path: Path) -> None:
    """A number that does not follow is not told before what lies between; the poll reads both, in order."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job = await studio.submit()
        feed, watcher = await watched(studio, job)
        claimed = await studio.claim()
        await append(studio, claimed, 1, Started(job=job, seq=0, time_ms=1, attempt=1, model="script", steps=2))
        studio.feeds.appended(job, [Canceled(job=job, seq=3, time_ms=2, by="client", step=0, images=[])])
        assert (feed.tail.head, watcher.changes) == (1, [])
        await append(studio, claimed, 2, the_end(job))
        await studio.feeds.poll()
        assert (feed.tail.head, feed.has_ended, watcher.changes) == (3, True, [job])


@patiently
async def test_poll_reads_only_what_is_watched_and_worked_elsewhere(tmp_path: Path) -> None:
    """Ended jobs, jobs of our own workers, and jobs that nobody watches cost no read."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, claimed = await begun(studio)
        other, _ = await begun(studio, "ref-2")
        await watched(studio, other)
        studio.feeds.working(other, begins=True)
        reads = studio.ledger.store.reads
        await studio.feeds.poll()
        assert studio.ledger.store.reads == reads
        feed, watcher = await watched(studio, job)
        await studio.feeds.poll()
        reads = studio.ledger.store.reads
        await studio.feeds.poll()
        assert studio.ledger.store.reads == reads + 1  # heads alone: nothing is new
        await append(studio, claimed, 2, the_end(job))
        await studio.feeds.poll()
        assert (studio.ledger.store.reads, feed.has_ended) == (reads + 3, True)
        await studio.feeds.poll()
        assert (studio.ledger.store.reads, watcher.changes) == (reads + 3, [job])


@patiently
async def test_events_that_are_known_are_not_told_again(tmp_path: Path) -> None:
    """A worker's claim brings the whole log; watchers hear only what is new."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, _ = await begun(studio)
        feed, watcher = await watched(studio, job)
        found = await studio.ledger.jobs.log(job)
        assert found is not None
        studio.feeds.fill(*found)
        assert (feed.tail.head, watcher.changes) == (2, [job])
        studio.feeds.fill(*found)
        studio.feeds.appended(job, [])
        studio.feeds.appended(NOBODY, found[1])
        assert watcher.changes == [job]


@patiently
async def test_what_passes_for_a_job_without_feed_is_dropped(tmp_path: Path) -> None:
    """Nobody watches it here."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        studio.feeds.progressed(NOBODY, Progress(job=NOBODY, phase="denoising", step=1, steps=2, ratio=0.5))
        studio.feeds.queued(NOBODY, Queued(job=NOBODY, position=1))
        studio.feeds.previewed(NOBODY, facts(1), preview(1))
        studio.feeds.working(NOBODY, begins=False)
        await studio.feeds.settle(NOBODY)
        assert await studio.feeds.preview(NOBODY, SMALL) is None
        assert (len(studio.feeds), studio.feeds.any_queued()) == (0, False)


# --- leaks ---


@pytest.mark.parametrize("order", list(itertools.permutations(("end", "leave", "let go"))))
@patiently
async def test_feed_is_forgotten_in_every_order_of_its_ends(tmp_path: Path, order: tuple[str, ...]) -> None:
    """The job ends, its watcher leaves, its worker lets go: after all three nothing is held."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, claimed = await begun(studio)
        _, watcher = await watched(studio, job)
        studio.feeds.working(job, begins=True)
        for step in order:
            match step:
                case "end":
                    await append(studio, claimed, 2, the_end(job))
                    found = await studio.ledger.jobs.log(job)
                    assert found is not None
                    studio.feeds.appended(job, found[1])
                case "leave":
                    studio.feeds.leave(job, watcher)
                case _:
                    studio.feeds.working(job, begins=False)
        assert len(studio.feeds) == 0


@patiently
async def test_submitted_job_that_nobody_follows_is_forgotten_when_it_ends(tmp_path: Path) -> None:
    """Over REST nobody watches: its feed goes with its work, its cancellation, or the next poll."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        queued = await studio.submit("ref-1")
        assert len(studio.feeds) == 1
        await studio.node.admission.cancel(await studio.record(queued), "client")
        assert len(studio.feeds) == 0
        await studio.run(ref="ref-2")
        assert len(studio.feeds) == 0
        await studio.submit("ref-1")  # a duplicate
        assert len(studio.feeds) == 0
        worked_elsewhere = await studio.submit("ref-3")
        await studio.feeds.poll()
        assert studio.feeds.get(worked_elsewhere) is None


# --- previews ---


@patiently
async def test_preview_is_encoded_once_a_rung_and_told_in_order(tmp_path: Path) -> None:
    """Fifty watchers on two rungs, four previews: eight encodes, and each watcher sees its own rung's rise."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, _ = await begun(studio)
        pairs = [await watched(studio, job, (SMALL, TINY)[at % 2]) for at in range(50)]
        await studio.feeds.poll()
        for frame in range(1, 5):
            studio.feeds.previewed(job, facts(frame), preview(frame))
        await studio.feeds.settle(job)
        assert studio.feeds.encoded == 8
        assert all(watcher.frames == [1, 2, 3, 4] for _, watcher in pairs)
        # One for `started`, and one for each preview of its own rung.
        assert {len(watcher.changes) for _, watcher in pairs} == {5}


@patiently
async def test_preview_that_fits_a_rung_goes_out_as_it_is(tmp_path: Path) -> None:
    """No encode, and no wait."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, _ = await begun(studio)
        _, watcher = await watched(studio, job, Rung(128, "jpeg", 70))
        studio.feeds.previewed(job, facts(1), preview(1))
        assert (watcher.frames, studio.feeds.encoded) == ([1], 0)
        assert not fits(preview(1), SMALL)
        assert not fits(preview(1), Rung(1024, "webp", 70))


@patiently
async def test_nothing_is_encoded_when_nobody_watches(tmp_path: Path) -> None:
    """The newest is kept as it came, and made for whoever comes later."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, _ = await begun(studio)
        studio.feeds.working(job, begins=True)
        for frame in range(1, 5):
            studio.feeds.previewed(job, facts(frame), preview(frame))
        await soon()
        assert studio.feeds.encoded == 0
        _, late = await watched(studio, job, SMALL)
        await studio.feeds.settle(job)
        assert (late.frames, studio.feeds.encoded) == ([4], 1)


@patiently
async def test_waiting_previews_are_bounded_and_the_oldest_are_dropped(tmp_path: Path) -> None:
    """A transcoder that cannot keep up costs previews, no memory; who waits for quiet is not held up by the dropped."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        transcoder = held(studio)
        job, _ = await begun(studio)
        feed, watcher = await watched(studio, job, SMALL)
        await studio.feeds.poll()
        for frame in range(1, MAX_WAITING_PREVIEWS + 12):
            studio.feeds.previewed(job, facts(frame), preview(frame % 3))
            if frame == 1:
                await soon()  # it is being encoded, and waits no more
        assert (studio.feeds.dropped, feed.waiting) == (10, MAX_WAITING_PREVIEWS + 1)
        transcoder.may_go.set()
        await studio.feeds.settle(job)
        assert watcher.frames == [1, *range(12, MAX_WAITING_PREVIEWS + 12)]
        assert feed.waiting == 0
        transcoder.close()


@patiently
async def test_settle_waits_for_the_previews_and_two_seconds_at_most(tmp_path: Path) -> None:
    """A picture is worth more than its previews."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        transcoder = held(studio)
        job, _ = await begun(studio)
        feed, _ = await watched(studio, job, SMALL)
        await studio.feeds.poll()
        began = studio.clock.now()
        await studio.feeds.settle(job)
        assert studio.clock.now() == began
        studio.feeds.previewed(job, facts(1), preview(1))
        await studio.feeds.settle(job)
        assert studio.clock.now() == began + SETTLE_SECONDS
        studio.node.supervisor.start(_later(transcoder.may_go, 1.0), "let go")
        await asyncio.gather(studio.feeds.settle(job), studio.feeds.settle(job))
        assert (studio.clock.now(), feed.waiting) == (began + SETTLE_SECONDS + 1.0, 0)
        transcoder.close()


@patiently
async def test_preview_behind_the_end_is_neither_made_nor_told(tmp_path: Path) -> None:
    """Those that still wait when the job ends are dropped as they come up."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        transcoder = held(studio)
        job, claimed = await begun(studio)
        feed, watcher = await watched(studio, job, SMALL)
        await studio.feeds.poll()
        for frame in (1, 2, 3):
            studio.feeds.previewed(job, facts(frame), preview(frame))
        await soon()
        await append(studio, claimed, 2, the_end(job))
        await studio.feeds.poll()
        told = len(watcher.changes)
        transcoder.may_go.set()
        await studio.feeds.settle(job)
        studio.feeds.previewed(job, facts(4), preview(4))
        studio.feeds.progressed(job, Progress(job=job, phase="denoising", step=2, steps=2, ratio=1.0))
        assert (len(transcoder.asked), len(watcher.changes), feed.source) == (1, told, None)
        transcoder.close()


@patiently
async def test_encoder_that_failed_goes_on_with_what_waited(tmp_path: Path) -> None:
    """One mistake costs one preview and a second, without another preview to wake it."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        studio.expected_failures = 1
        transcoder = held(studio)
        transcoder.mistakes = 1
        job, _ = await begun(studio)
        feed, watcher = await watched(studio, job, SMALL)
        await studio.feeds.poll()
        for frame in (1, 2):
            studio.feeds.previewed(job, facts(frame), preview(frame))
        transcoder.may_go.set()
        await studio.feeds.settle(job)
        assert (watcher.frames, feed.waiting) == ([2], 0)
        transcoder.close()


@patiently
async def test_newest_preview_is_made_for_whoever_looks_once(tmp_path: Path) -> None:
    """Over HTTP: encoded now if nobody had it, shared if somebody had; no watcher is left behind."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, _ = await begun(studio)
        feed, watcher = await watched(studio, job)
        await studio.feeds.poll()
        assert await studio.feeds.preview(job, SMALL) is None
        studio.feeds.previewed(job, facts(3), preview(3))
        first = await studio.feeds.preview(job, SMALL)
        assert first is not None
        assert (first.frame, await studio.feeds.preview(job, SMALL)) == (3, first)
        assert (studio.feeds.encoded, feed.watchers) == (1, {watcher})
        studio.feeds.previewed(job, facts(4), Picture(b"no picture", "png", 999, 999))
        began = studio.clock.now()
        assert await studio.feeds.preview(job, SMALL) == first
        assert 0 < studio.clock.now() - began <= 5.0


@patiently
async def test_preview_of_an_attempt_that_is_over_is_not_made_for_newcomers(tmp_path: Path) -> None:
    """It belongs to steps that begin anew."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, claimed = await begun(studio)
        await watched(studio, job)
        await studio.feeds.poll()
        studio.feeds.previewed(job, facts(3), preview(3))
        await append(studio, claimed, 2, Started(job=job, seq=0, time_ms=3, attempt=2, model="script", steps=2))
        await studio.feeds.poll()
        began = studio.clock.now()
        assert await studio.feeds.preview(job, SMALL) is None
        assert studio.clock.now() == began


@patiently
async def test_frame_numbers_begin_above_those_of_earlier_attempts(tmp_path: Path) -> None:
    """Also where this node has seen none of them."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job, _ = await begun(studio)
        await watched(studio, job)
        numbers = [studio.feeds.next_frame(job, attempt) for attempt in (1, 1, 2, 2, 3)]
        assert numbers == [1, 2, 65537, 65538, 131073]


# --- finals ---


@patiently
async def test_finals_are_loaded_once_for_all_who_ask_meanwhile() -> None:
    """A hundred connections cost one read; a failure is told to each, and the next one tries again."""
    cache, loads, may_go = BlobCache(), 0, asyncio.Event()

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        await may_go.wait()
        if loads == 1:
            raise ClientFault("asset_not_found", "gone")
        return b"picture"

    asking = [asyncio.ensure_future(cache.fetch("a", load)) for _ in range(3)]
    may_go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ClientFault, type(None), type(None)]
    await asyncio.gather(*(cache.fetch("a", load) for _ in range(100)))
    assert (loads, cache.blobs["a"], cache._loading) == (2, b"picture", {})


def test_finals_are_bounded_and_the_oldest_go_first() -> None:
    """The newest is held whatever its size; one that is asked for again counts as new."""
    cache = BlobCache(max_bytes=100)
    for name in ("a", "b"):
        cache.keep(name, bytes(40))
    cache.keep("a", bytes(40))
    cache.keep("c", bytes(40))
    assert list(cache.blobs) == ["a", "c"]
    cache.keep("d", bytes(1000))
    assert list(cache.blobs) == ["d"]
    cache.keep("e", bytes(10))
    assert list(cache.blobs) == ["e"]


async def _later(event: asyncio.Event, seconds: float) -> None:
    await asyncio.sleep(seconds)
    event.set()
