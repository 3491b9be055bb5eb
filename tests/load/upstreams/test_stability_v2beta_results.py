"""Asynchronous requests to the stand-in of Stability v2beta: ids, polls and results, over real sockets."""

from __future__ import annotations

import aiohttp
import jsonschema
import pytest

from load.upstreams.faults import Cut, Finish, Garbage, Refuse, Rule
from load.upstreams.pictures import BLUR
from load.upstreams.stability_v2beta import Lose, StabilityV2Beta
from tests.load.upstreams.talk import ManualClock, Reply, send
from tests.load.upstreams.talk_v2beta import KEY, SQUARE, VALID, errors, picture, poll, post, start

Client = aiohttp.ClientSession
CREATIVE = "upscale/creative"
RELIGHT = "edit/replace-background-and-relight"
DAY = 24 * 3600.0
YEAR = 365 * DAY

IN_PROGRESS_SHAPE = {
    "type": "object",
    "required": ["id", "status"],
    "additionalProperties": False,
    "properties": {"id": {"type": "string", "minLength": 64, "maxLength": 64}, "status": {"const": "in-progress"}},
}


def is_unknown(reply: Reply) -> bool:
    """Whether an answer says that there is no such result."""
    return (reply.status, reply.json["name"]) == (404, "generation_not_found") and len(errors(reply)) == 1


@pytest.mark.parametrize("path", [CREATIVE, RELIGHT])
async def test_result_is_in_progress_and_then_there(client: Client, path: str) -> None:
    """Polls are 202 until the service time has passed, then 200 as often as one asks."""
    clock = ManualClock()
    async with StabilityV2Beta(service_time=30, clock=clock) as standin:
        order = str((await post(client, standin.url, path, VALID[path])).json["id"])
        running = await poll(client, standin.url, order)
        clock.now += 29.9
        still = await poll(client, standin.url, order)
        clock.now += 10.1
        done = [await poll(client, standin.url, order) for _ in range(2)]
    assert [running.status, still.status, *(reply.status for reply in done)] == [202, 202, 200, 200]
    jsonschema.validate(running.json, IN_PROGRESS_SHAPE)
    assert running.json["id"] == order
    assert (done[0].headers["seed"], done[0].headers["finish-reason"]) == ("7", "SUCCESS")
    assert done[0].body == done[1].body


async def test_result_comes_in_both_forms(client: Client) -> None:
    """The poll's Accept decides, and the order's output format holds."""
    async with StabilityV2Beta() as standin:
        order = await start(client, standin.url, output_format="webp")
        bare = await poll(client, standin.url, order)
        packed = await poll(client, standin.url, order, accept="application/json")
        neither = await poll(client, standin.url, order, accept="text/plain")
    assert (bare.headers["content-type"], packed.headers["content-type"]) == (
        "image/webp",
        "application/json; type=image/webp",
    )
    assert (packed.json["seed"], packed.json["finish_reason"]) == (7, "SUCCESS")
    assert picture(bare).tobytes() == picture(packed).tobytes()
    assert (neither.status, errors(neither)[0].partition(":")[0]) == (400, "accept")


async def test_creating_answers_at_once(client: Client) -> None:
    """The service time passes after the answer, and polls aren't generation calls."""
    async with StabilityV2Beta(service_time=YEAR) as standin:
        order = await start(client, standin.url)
        assert (await poll(client, standin.url, order)).status == 202
        assert [(call.operation, call.generation, call.engine) for call in standin.log] == [
            (CREATIVE, True, None),
            ("results", False, order),
        ]
        assert (standin.calls, standin.tally.billed, standin.credits) == (1, 1, 940.0)


async def test_only_the_key_that_ordered_may_fetch(client: Client) -> None:
    """To another accepted key the result is unknown."""
    async with StabilityV2Beta(key={KEY, "sk-b"}) as standin:
        order = await start(client, standin.url)
        assert is_unknown(await poll(client, standin.url, order, key="sk-b"))
        assert (await poll(client, standin.url, order)).status == 200


@pytest.mark.parametrize("order", ["a" * 64, "nope"])
async def test_unknown_id_is_not_found(client: Client, order: str) -> None:
    """Whatever its form."""
    async with StabilityV2Beta() as standin:
        assert is_unknown(await poll(client, standin.url, order))


async def test_results_are_kept_for_a_day(client: Client) -> None:
    """Counted from when they are ready."""
    clock = ManualClock()
    async with StabilityV2Beta(service_time=60, clock=clock) as standin:
        order = await start(client, standin.url)
        clock.now += 60 + DAY - 1
        kept = await poll(client, standin.url, order)
        clock.now += 1
        assert (kept.status, is_unknown(await poll(client, standin.url, order))) == (200, True)


async def test_older_path_knows_creative_upscales(client: Client) -> None:
    """Older clients poll below the endpoint; what others ordered isn't there."""
    async with StabilityV2Beta() as standin:
        upscale = await start(client, standin.url)
        relight = (await post(client, standin.url, RELIGHT, VALID[RELIGHT])).json["id"]
        older = f"{standin.url}/v2beta/stable-image/upscale/creative/result/"
        headers = {"Authorization": KEY, "Accept": "image/*"}
        assert (await send(client, "GET", older + upscale, headers)).status == 200
        assert is_unknown(await send(client, "GET", older + str(relight), headers))


# Polling too often


async def test_polls_that_come_too_soon_are_counted(client: Client) -> None:
    """The first is free, each within ten seconds of the one before is noted, and none is refused."""
    clock = ManualClock()
    async with StabilityV2Beta(clock=clock) as standin:
        one, two = await start(client, standin.url), await start(client, standin.url)
        for order, pause in ((one, 9.9), (one, 0.1), (two, 10.0), (one, 10.0), (two, 0.0)):
            assert (await poll(client, standin.url, order)).status == 200
            clock.now += pause
        assert standin.tally.counters()["events"] == {"poll_too_soon": 1}


async def test_polls_that_come_too_soon_can_be_refused(client: Client) -> None:
    """The documents threaten rate limiting; a patient client is served all the same."""
    clock = ManualClock()
    async with StabilityV2Beta(clock=clock, strict_polls=True, poll_floor=5) as standin:
        order = await start(client, standin.url)
        statuses = []
        for pause in (4.9, 5.0, 0.0):
            statuses.append((await poll(client, standin.url, order)).status)
            clock.now += pause
        assert statuses == [200, 429, 200]


# Faults


async def test_result_can_stay_away_for_ever(client: Client) -> None:
    """A service time of a year on one order; the next is served as always."""
    clock = ManualClock()
    script = [Rule(operation=CREATIVE, times=1, service_seconds=YEAR)]
    async with StabilityV2Beta(clock=clock, script=script) as standin:
        never, soon = await start(client, standin.url), await start(client, standin.url)
        assert (await poll(client, standin.url, soon)).status == 200
        clock.now += 7 * DAY
        assert (await poll(client, standin.url, never)).status == 202


async def test_result_can_vanish(client: Client) -> None:
    """After so many answered polls it is unknown, though it was charged; others stay."""
    script = [Rule(Lose(after_polls=2), operation=CREATIVE, times=1)]
    async with StabilityV2Beta(script=script, service_time=YEAR) as standin:
        lost, kept = await start(client, standin.url), await start(client, standin.url)
        assert [(await poll(client, standin.url, lost)).status for _ in range(3)] == [202, 202, 404]
        assert ((await poll(client, standin.url, kept)).status, standin.credits) == (202, 880.0)
        standin.results.lose(kept)
        assert is_unknown(await poll(client, standin.url, kept))


async def test_result_can_finish_filtered(client: Client) -> None:
    """The order is taken as any other; the result is a blurred picture."""
    async with StabilityV2Beta(script=[Rule(Finish(), operation=RELIGHT)]) as standin:
        order = (await post(client, standin.url, RELIGHT, VALID[RELIGHT])).json["id"]
        done = await poll(client, standin.url, order)
    assert (done.headers["finish-reason"], picture(done).getpixel((0, 0))) == ("CONTENT_FILTERED", BLUR)


async def test_polls_have_faults_of_their_own(client: Client) -> None:
    """A rule that names polls meets them alone, by number or by the result's id."""
    async with StabilityV2Beta() as standin:
        order = await start(client, standin.url)
        standin.script(
            Rule(Refuse(500), operation="results", requests=frozenset({1})),
            Rule(Cut(-10), operation="results", requests=frozenset({2})),
            Rule(Garbage("empty"), operation="results", engine=order, times=1),
            Rule(Refuse(404), operation="results", requests=frozenset({4})),
        )
        assert (await poll(client, standin.url, order)).json["name"] == "internal_error"
        with pytest.raises(aiohttp.ClientError):
            await poll(client, standin.url, order)
        assert (await poll(client, standin.url, order)).body == b""
        assert is_unknown(await poll(client, standin.url, order))
        assert (await poll(client, standin.url, order)).status == 200


async def test_failed_order_leaves_no_result(client: Client) -> None:
    """A refusal comes at once even if the result would never, and nothing is kept."""
    script = [Rule(Refuse(500), operation=CREATIVE, times=1, service_seconds=YEAR)]
    async with StabilityV2Beta(script=script) as standin:
        failed = await post(client, standin.url, CREATIVE, VALID[CREATIVE])
        invalid = await post(client, standin.url, CREATIVE, {"image": SQUARE})
        assert (failed.status, invalid.status, len(standin.results)) == (500, 400, 0)


async def test_kept_results_are_bounded(client: Client) -> None:
    """The oldest goes when there are too many."""
    async with StabilityV2Beta() as standin:
        first = await start(client, standin.url)
        kept = standin.results.find(first, KEY, standin.clock())
        assert kept is not None
        for number in range(256):
            kept.id = f"{number:064x}"
            standin.results.add(kept)
        assert (len(standin.results), is_unknown(await poll(client, standin.url, first))) == (256, True)
