"""Progress of upstreams that tell none: learnt from their own past runs, and marked as an estimate."""

from pathlib import Path

from tests.gateway.flow.studio import ScriptedUpstream, Spectator, open_studio, paints, patiently


def silent(seconds: float, runs: int) -> ScriptedUpstream:
    """Return an upstream that is silent for a while in each run."""
    acts = [paints(seconds=seconds / 2) for _ in range(runs)]
    return ScriptedUpstream(*acts, progress="estimated")


@patiently
async def test_first_run_is_not_guessed_and_the_second_is(tmp_path: Path) -> None:
    """Rising, marked, below 1 before the end; the time left fits what the first one took."""
    async with open_studio(tmp_path, silent(8.0, 2), serving=True) as studio:
        await studio.ended(await studio.submit())
        job = await studio.submit("ref-2")
        watcher = Spectator(feeds=studio.feeds)
        studio.feeds.follow(await studio.feeds.open(job), watcher)
        await studio.ended(job)
        told = [one for one in watcher.progress if one.get("estimated")]
        ratios = [one["ratio"] for one in told]
        assert len(told) >= 10
        assert ratios == sorted(ratios)
        assert (ratios[0] < 0.1, 0.8 < ratios[-1] < 1) == (True, True)
        assert 7000 <= told[0]["eta_ms"] <= 8000


@patiently
async def test_run_that_takes_longer_than_ever_never_says_it_is_done(tmp_path: Path) -> None:
    """The bar goes on, slower and slower."""
    upstream = ScriptedUpstream(paints(seconds=1.0), paints(seconds=50.0), progress="estimated")
    async with open_studio(tmp_path, upstream, serving=True) as studio:
        await studio.ended(await studio.submit())
        job = await studio.submit("ref-2")
        watcher = Spectator(feeds=studio.feeds)
        studio.feeds.follow(await studio.feeds.open(job), watcher)
        await studio.ended(job)
        ratios = [one["ratio"] for one in watcher.progress if one.get("estimated")]
        assert (ratios == sorted(ratios), max(ratios) < 1, len(ratios) > 100) == (True, True, True)


@patiently
async def test_past_runs_are_read_at_a_start(tmp_path: Path) -> None:
    """With what was asked and what it took, oldest first."""
    async with open_studio(tmp_path, silent(8.0, 2), serving=True) as studio:
        await studio.ended(await studio.submit(), await studio.submit("ref-2", steps=4))
        [first, second] = await studio.ledger.work.durations("script", 10)
        assert (first[0].steps, first[1], 7900 <= first[2] <= 8600) == (2, 1, True)
        assert second[0].steps == 4
        assert await studio.ledger.work.durations("script", 1) == [second]
        assert await studio.ledger.work.durations("other", 10) == []
