"""Events that wait for the application."""

import pytest

from protocol.feed import Feed
from protocol.replica_effects import Event, ImageBytes
from tests.protocol.playbook import JOB, OTHER, notice, preview, progress, running


def drain(feed: Feed) -> list[Event]:
    """Take everything."""
    return [feed.take() for _ in range(len(feed))]


def test_everything_comes_in_order_while_the_reader_keeps_up() -> None:
    """Each step of each job, nothing merged."""
    feed = Feed(max_passing=3)
    events: list[Event] = [progress(1), notice(3), progress(2), progress(1, OTHER)]
    for event in events:
        feed.put(event)
    assert drain(feed) == events
    with pytest.raises(IndexError):
        feed.take()


def test_passing_events_make_room_for_the_newest_of_their_job_and_kind() -> None:
    """Numbered ones stay, as do those of other jobs."""
    feed = Feed(max_passing=3)
    for event in (progress(1), notice(3), progress(1, OTHER), progress(2), progress(3), progress(4)):
        feed.put(event)
    assert drain(feed) == [notice(3), progress(1, OTHER), progress(3), progress(4)]


def test_feed_is_full_by_numbered_events() -> None:
    """Passing ones do not fill it; put still works, for what is under way."""
    feed = Feed(max_numbered=2)
    for event in (progress(1), notice(3)):
        feed.put(event)
    assert not feed.is_full
    feed.put(notice(4))
    assert feed.is_full
    feed.put(notice(5))
    assert len(drain(feed)) == 4
    assert not feed.is_full


def test_feed_is_full_by_bytes() -> None:
    """Pictures count with their size."""
    feed = Feed(max_bytes=10)
    picture = ImageBytes(JOB, 3, 0, 1, "png", 8, 8, False, b"0123456", {})
    feed.put(picture)
    assert not feed.is_full
    (deliver,) = running().replica.receive(preview(1, b"jpeg"), 0.0)
    feed.put(deliver.event)  # type: ignore[union-attr]
    assert feed.is_full
    assert repr(feed) == "<Feed of 2 events, 11 bytes>"
    drain(feed)
    assert repr(feed) == "<Feed of 0 events, 0 bytes>"
