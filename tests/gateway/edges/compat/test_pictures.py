"""Pictures that the doors make, anew or by themselves."""

import asyncio
import contextlib
import io
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.core.reports import Picture
from gateway.edges.compat.doors import MOST_ENDED, MOST_FETCHED_EACH
from gateway.edges.compat.pictures import MOST_MASKS, plain_png
from protocol.ladder import Rung
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door
from tests.gateway.edges.compat.stability_v1.test_routes import ASKED, TEXT, b64
from tests.pictures import flat


@pytest.mark.parametrize("shade", [0, 128])
def test_what_stands_for_a_held_back_picture_is_plain(shade: int) -> None:
    """It has the picture's size, and any reader of PNG can read it."""
    content = plain_png(130, 70, shade)
    assert (measure(content).width, measure(content).height) == (130, 70)
    with Image.open(io.BytesIO(content)) as image:
        assert image.convert("RGB").getextrema() == ((shade, shade),) * 3


# ------------------------------------------------------------------------------------------ pictures that are made anew


@contextlib.contextmanager
def busy(transcoder: Any) -> Iterator[queue.SimpleQueue[Any]]:
    """Keep a transcoder's thread busy for as long as the context lasts, and give what waits for it."""
    may_go = threading.Event()
    transcoder._thread.submit(may_go.wait)
    try:
        yield transcoder._thread._work_queue
    finally:
        may_go.set()


def results(door: Door, job: str, count: int, key: str) -> list[asyncio.Task[Answer]]:
    """Ask for a job's result so often, each time in a form that must be made."""
    paths = [f"/v1/images/generations/{job}?output_format=webp&output_compression={place}" for place in range(count)]
    return [asyncio.create_task(door.ask("GET", path, key=key)) for path in paths]


async def test_previews_do_not_wait_behind_pictures_of_the_doors(door: Door) -> None:
    """They have a thread of their own."""
    gateway = door.running.gateway
    transcoder, picture = gateway.node.feeds._transcoder, Picture(flat(9, (64, 64)), "png", 64, 64)
    with busy(gateway.doors.pictures._transcoder):
        made = await asyncio.wait_for(transcoder.shrink(picture, Rung(32, "jpeg", 70)), 10)
    assert made is not None


async def test_results_of_one_user_wait_outside_and_leave_room_for_others(door: Door) -> None:
    """What waits has no pictures in memory yet, and each is answered in its turn."""
    ann = await door.token_of("ann")
    job = (await door.ask("POST", TEXT, ASKED, key=ann)).headers["X-Job-Id"]
    doors = door.running.gateway.doors
    with busy(doors.pictures._transcoder) as waiting:
        asked = results(door, job, 8, ann)
        while doors._fetched.waiting < 8 - MOST_FETCHED_EACH or waiting.qsize() < MOST_FETCHED_EACH:
            await asyncio.sleep(0.01)
        assert (len(doors._fetched), waiting.qsize()) == (MOST_FETCHED_EACH, MOST_FETCHED_EACH)
    assert {(await one).status for one in asked} == {200}


async def test_results_for_which_too_many_wait_are_refused_for_a_while(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks so often comes back later; the pictures are still there."""
    monkeypatch.setattr("gateway.edges.room.WAIT_SECONDS", 0.1)
    ann = await door.token_of("ann")
    job = (await door.ask("POST", TEXT, ASKED, key=ann)).headers["X-Job-Id"]
    with busy(door.running.gateway.doors.pictures._transcoder):
        asked = results(door, job, MOST_FETCHED_EACH + 1, ann)
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    answers = [await one for one in asked]
    assert sorted(answer.status for answer in answers) == [200, 200, 503]
    assert {answer.headers.get("Retry-After") for answer in answers} == {None, "1"}


async def test_jobs_that_end_together_are_answered_one_after_the_other(door: Door) -> None:
    """Their pictures do not lie in memory all at once; who waits for his own job is not refused."""
    door.easel.hold = asyncio.Event()
    body = {"prompt": "p", "model": "easel", "output_format": "webp"}
    asked = [asyncio.create_task(door.ask("POST", "/v1/images/generations", body)) for _ in range(MOST_ENDED + 3)]
    doors = door.running.gateway.doors
    while len(doors.waiting) < len(asked):
        await asyncio.sleep(0.01)
    with busy(doors.pictures._transcoder) as waiting:
        door.easel.hold.set()
        while len(doors._ended._waiters or ()) < 3 or waiting.qsize() < MOST_ENDED:
            await asyncio.sleep(0.01)
        assert waiting.qsize() == MOST_ENDED
    assert {(await one).status for one in asked} == {200}


async def test_masks_for_which_too_many_wait_are_refused(door: Door) -> None:
    """Before anything is painted or billed."""
    body = ASKED | {"mask_source": "INIT_IMAGE_ALPHA", "init_image": b64(flat(9, (64, 64)))}
    path = TEXT.replace("text-to-image", "image-to-image/masking")
    doors = door.running.gateway.doors
    with busy(doors.pictures._transcoder):
        asked = [asyncio.create_task(door.ask("POST", path, body)) for _ in range(MOST_MASKS)]
        while doors.pictures._masks < MOST_MASKS:
            await asyncio.sleep(0.01)
        refused = await door.ask("POST", path, body)
        assert (refused.status, refused.headers["Retry-After"], door.easel.orders) == (503, "1", [])
    assert {(await one).status for one in asked} == {200}
