"""Requests that the vendor's clients send again: whose job they join, and when they are new."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from gateway.core.records import Plan
from gateway.core.reports import Outcome, UpstreamFault
from gateway.edges.compat.dialect import Sent, Wish
from gateway.edges.compat.openai_images.retries import (
    KEPT,
    KEPT_EACH,
    SECONDS,
    Attempt,
    Followed,
    Owner,
    Retries,
    State,
    key_of,
)
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door, Easel, open_door
from tests.gateway.edges.compat.openai_images.conftest import MODEL

KEY = b"same"
ANN = ("acme", "ann")


class Clock:
    now = 0.0


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is set."""
    return Clock()


@pytest.fixture
def retries(clock: Clock) -> Retries:
    """A memory with refs that can be told apart."""
    refs = iter(f"ref-{index}" for index in range(10_000))
    return Retries(lambda: clock.now, lambda: next(refs))


def enter(
    retries: Retries, *, again: bool = False, key: bytes = KEY, gone: bool = False, owner: Owner = ANN
) -> Attempt:
    """Enter an attempt."""
    return retries.enter(owner, key, is_again=again, is_lost_with_client=gone)


@pytest.mark.parametrize("state,joins", [("lost", True), ("refused", False), ("over", False), ("open", True)])
def test_a_repetition_joins_a_job_whose_answer_was_lost(retries: Retries, state: State, joins: bool) -> None:
    """Or may have been: a proxy can keep a connection that the client has left."""
    first = enter(retries)
    if state != "open":
        retries.end(first, state)
    assert (enter(retries, again=True).ref == first.ref) is joins
    assert len(retries) == 1


def test_a_request_that_comes_anew_is_never_joined(retries: Retries) -> None:
    """However like another it is: two wishes for the same words are two pictures."""
    first = enter(retries)
    retries.end(first, "lost")
    assert enter(retries).ref != first.ref
    assert enter(retries, again=True, key=b"other").ref != first.ref


def test_each_repetition_takes_an_attempt_of_its_own(retries: Retries) -> None:
    """Two lost and one refused: the lost ones are joined first, and no ref twice."""
    attempts = [enter(retries) for _ in range(3)]
    states: tuple[State, ...] = ("refused", "lost", "lost")
    for attempt, state in zip(attempts, states, strict=True):
        retries.end(attempt, state)
    refs = [enter(retries, again=True).ref for _ in range(3)]
    assert refs[:2] == [attempts[1].ref, attempts[2].ref]
    assert refs[2] not in {attempt.ref for attempt in attempts}


def test_a_connection_that_breaks_after_its_repetition_came_is_forgotten(retries: Retries) -> None:
    """A later request of the same words must not join it."""
    first = enter(retries)
    second = enter(retries, again=True)
    retries.end(first, "lost")
    retries.end(second, "over")
    assert len(retries) == 0


def test_a_job_that_goes_with_its_client_is_not_joined(retries: Retries) -> None:
    """It was canceled when its client went."""
    first = enter(retries, gone=True)
    retries.end(first, "lost")
    assert enter(retries, again=True).ref != first.ref


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("may_come_again", [False, True])
def test_a_refused_repetition_leaves_the_job_to_the_next(retries: Retries, gone: bool, may_come_again: bool) -> None:
    """A lost answer, a 429, and then one that passes: the same job, or it would be paid for twice."""
    first = enter(retries)
    retries.end(first, "lost")
    for _ in range(2):
        refused = enter(retries, again=True, gone=gone)
        retries.refuse(refused, may_come_again=may_come_again)
    assert enter(retries, again=True).ref == first.ref


def test_what_made_no_job_is_kept_only_if_it_may_come_again(retries: Retries) -> None:
    """Beside one of the same words that waits: its repetition is a job of its own, as it was meant."""
    twin, refused = enter(retries), enter(retries)
    retries.refuse(refused, may_come_again=True)
    retries.refuse(enter(retries, key=b"other"), may_come_again=False)
    assert len(retries) == 2
    assert enter(retries, again=True).ref not in {twin.ref, refused.ref}


def test_a_submit_that_failed_may_have_made_a_job(retries: Retries) -> None:
    """Whatever the client's policy: nobody has canceled it."""
    first = enter(retries, gone=True)
    retries.lose(first)
    assert enter(retries, again=True).ref == first.ref


def test_what_is_remembered_is_bounded(retries: Retries, clock: Clock) -> None:
    """In time, and in number for each end user and each account; what has no job goes first."""
    lost = enter(retries)
    retries.end(lost, "lost")
    clock.now = SECONDS + 1
    assert enter(retries, again=True).ref != lost.ref
    lost = enter(retries)
    retries.end(lost, "lost")
    for index in range(KEPT_EACH + 9):
        retries.refuse(enter(retries, key=b"%d" % index), may_come_again=True)
    assert len(retries) == KEPT_EACH
    assert enter(retries, again=True).ref == lost.ref
    for index in range(KEPT):
        enter(retries, owner=("acme", str(index)))
    assert len(retries) == KEPT


def test_another_account_has_nothing_forgotten(retries: Retries) -> None:
    """Nor another end user, by as much as one may have remembered."""
    lost = enter(retries)
    retries.end(lost, "lost")
    for index in range(KEPT + 9):
        enter(retries, key=b"%d" % index, owner=("other", str(index)))
    for index in range(KEPT_EACH + 9):
        enter(retries, key=b"%d" % index, owner=("acme", "bob"))
    assert enter(retries, again=True).ref == lost.ref


@given(st.binary(), st.binary(), st.text(), st.text())
def test_keys_differ_where_wishes_do(one: bytes, other: bytes, prompt: str, prompt_too: str) -> None:
    """In a word or in a pixel."""

    def key(content: bytes, text: str) -> bytes:
        return key_of(("t", "s"), Wish("img2img", {"prompt": text, "n": None}, None, (Sent("init", content, "image"),)))

    assert (key(one, prompt) == key(other, prompt_too)) is (one == other and prompt == prompt_too)


@pytest.mark.parametrize("messages,gone,state", [
    ([(200, False)], False, "over"),
    ([(200, True), (None, False)], False, "over"),
    ([(500, False)], False, "refused"),
    ([(200, True)], False, "lost"),
    ([], True, "lost"),
    ([(200, False)], True, "lost"),
])  # fmt: skip
async def test_how_an_answer_ended_is_told(messages: list[Any], gone: bool, state: str) -> None:
    """Whole and well, whole and not well, or lost."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if gone:
            assert (await receive())["type"] == "http.disconnect"
        for status, more in messages:
            if status is not None:
                await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": more})

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    found: list[str] = []
    await Followed(app, found.append)({}, receive, send)
    assert found == [state]


# ------------------------------------------------------------------------------------------------------ the real thing


async def test_the_packages_own_retry_does_not_double_a_job(tmp_path: Path) -> None:
    """The first try takes too long for the client; the second gets what the first began."""
    easel = Easel(MODEL)
    easel.hold = asyncio.Event()
    async with open_door(tmp_path, easel) as door:
        client = AsyncOpenAI(base_url=f"{door.running.url}/v1", api_key=door.running.key, timeout=0.4, max_retries=5)
        async with client:
            asked = asyncio.ensure_future(client.images.generate(prompt="p"))
            while not easel.orders or door.running.gateway.doors.waiting:
                await asyncio.sleep(0.01)
            easel.hold.set()
            made = await asked
    assert made.data is not None
    assert len(easel.orders) == 1


async def test_a_repetition_that_is_refused_does_not_double_a_job(tmp_path: Path) -> None:
    """The first answer was lost, the second try comes too early, and the third gets the picture."""
    easel = Easel(MODEL)
    easel.hold = asyncio.Event()
    async with open_door(tmp_path, easel) as door:
        key = await door.key_of("small", Plan(submits_per_second=2.0))

        async def tried(count: int, **more: str) -> Answer:
            told, body = {"x_stainless_retry_count": str(count)}, {"prompt": "p", **more}
            return await door.ask("POST", "/v1/images/generations", body, key=key, **told)

        lost = asyncio.ensure_future(tried(0))
        while not easel.orders:
            await asyncio.sleep(0.01)
        lost.cancel()
        while door.running.gateway.doors.waiting:
            await asyncio.sleep(0.01)
        while (await tried(0, model="unheard-of")).status != 429:  # others of this key use up its rate
            pass
        assert (await tried(1)).status == 429
        easel.hold.set()
        while (again := await tried(2)).status == 429:
            await asyncio.sleep(0.1)
    assert again.status == 200
    assert len(easel.orders) == 1


async def test_a_job_that_failed_is_tried_anew(door: Door, vendor: AsyncOpenAI) -> None:
    """As at the vendor, where the fault is one that may pass."""
    door.easel.fault = UpstreamFault(Outcome.FAILED, "upstream_error", "it failed")

    async def mend() -> None:
        while not door.easel.orders:
            await asyncio.sleep(0.005)
        door.easel.fault = None

    mending = asyncio.create_task(mend())
    made = await vendor.with_options(max_retries=2).images.generate(prompt="p")
    await mending
    assert made.data is not None
    assert len(door.easel.orders) == 2


async def test_a_billed_call_with_unknown_end_is_not_tried_again(door: Door, vendor: AsyncOpenAI) -> None:
    """The package repeats every 500 unless it is told not to."""
    door.easel.fault = UpstreamFault(Outcome.FAILED, "outcome_unknown", "nobody knows")
    with pytest.raises(openai.InternalServerError):
        await vendor.with_options(max_retries=2).images.generate(prompt="p")
    assert len(door.easel.orders) == 1


async def test_the_package_waits_as_long_as_it_is_told(door: Door, vendor: AsyncOpenAI) -> None:
    """`Retry-After` in seconds: the second try passes."""
    key = await door.key_of("small", Plan(submits_per_second=1.0))
    client = vendor.with_options(api_key=key, max_retries=2)
    impatient = client.with_options(max_retries=0)
    with pytest.raises(openai.RateLimitError) as told:
        await asyncio.gather(*(impatient.images.generate(prompt="p") for _ in range(8)))
    assert 1 <= int(told.value.response.headers["retry-after"]) <= 2
    assert (await client.images.generate(prompt="p")).data
