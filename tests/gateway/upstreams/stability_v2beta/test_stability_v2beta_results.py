"""The v2beta adapter and an order that must be asked for (2.4): ids, polls, results, resumes, and money above all."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from gateway.core.reports import ImageMade, Outcome, Report, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.stability_v2beta import StabilityV2Beta
from gateway.upstreams.stability_v2beta.wire import result_fault
from load.upstreams.faults import Cut, Drip, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.pictures import BLUR, colour_of
from load.upstreams.stability_v2beta import Lose, paint
from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from tests.gateway.upstreams.stability_v2beta.vendor import (
    INIT,
    KEY,
    adapter,
    fault,
    flat,
    image,
    mixed,
    near,
    opened,
    order,
    pixel,
    reports,
    until,
)

FAILED, UNKNOWN = Outcome.FAILED, Outcome.UNKNOWN
YEAR = 365 * 24 * 3600.0
POLL = "results"


@pytest.fixture
async def standin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandIn]:
    """A vendor that has a result at the first poll, and a small one, which is soon drawn."""
    monkeypatch.setattr(paint, "FOUR_MEGAPIXELS", 128 * 128)
    async with StandIn(key={KEY}, limit=None) as running:
        yield running


class Ids:
    """The ids that an adapter told of its orders, and what `look` gave as each came."""

    def __init__(self, look: Callable[[], int] = lambda: 0) -> None:
        self._look = look
        self.told: list[str] = []
        self.seen: list[int] = []

    async def note(self, handle: str) -> None:
        """What `CallOrder.noted` is."""
        self.told.append(handle)
        self.seen.append(self._look())


def creative(ids: Ids | None = None, **call: Any) -> CallOrder:
    """An order that is answered with an id; small, for each picture of four megapixels takes its time."""
    return order(
        "upscale",
        "stable-image",
        {"init": flat()},
        call={"noted": (ids or Ids()).note, **call},
        prompt="a lamp",
        scale=5.0,
    )


async def resumed(upstream: StabilityV2Beta, handle: str) -> list[Report]:
    """All reports of a call that is gone on with."""
    return [report async for report in upstream.resume(creative(), handle)]


def polls(standin: StandIn) -> int:
    """How often a result was asked for."""
    return sum(call.operation == POLL for call in standin.log)


async def ordered(standin: StandIn, upstream: StabilityV2Beta) -> str:
    """The id of an order whose caller went away right after it."""
    ids = Ids()
    reported = upstream.run(creative(ids))
    assert isinstance(await anext(reported), WorkBegun)
    await until(lambda: bool(ids.told))
    await reported.aclose()
    return ids.told[0]


# ------------------------------------------------------------------------------------------------------- normal runs


async def test_order_is_noted_then_asked_for() -> None:
    """One order, its id in the ledger before the first poll, and the picture of it in four megapixels."""
    async with StandIn(key={KEY}) as vendor, adapter(vendor.url) as upstream:
        ids, sent = Ids(lambda: polls(vendor)), list[None]()
        begun, made = await reports(upstream, creative(ids, sent=lambda: sent.append(None)))
    assert begun == WorkBegun(1)
    assert isinstance(made, ImageMade)
    picture = opened(made)
    assert (picture.size, made.seed) == ((2048, 2048), 7)
    assert near(pixel(picture), mixed(INIT, colour_of(7, "a lamp"), 0.3))
    assert (vendor.calls, len(ids.told), ids.seen, len(sent), polls(vendor)) == (1, 1, [0], 1, 1)
    assert vendor.credits == 940
    assert vendor.log[0].unknown_fields == ()


async def test_polls_keep_their_distance(standin: StandIn) -> None:
    """Never within `poll_seconds` of the one before, whatever went wrong; the default is what the vendor wants."""
    standin.script(
        Rule(operation=POLL, do=Cut(0), times=1),
        Rule(operation=POLL, do=Refuse(500), times=1),
        Rule(service_seconds=YEAR),
    )
    async with adapter(standin.url, poll_seconds=0.05) as upstream, asyncio.TaskGroup() as group:
        group.create_task(image(upstream, creative()))
        await until(lambda: polls(standin) == 4)
        for result in standin.results._results.values():
            result.ready_at = 0
    arrived = [standin.log[0].read, *(call.arrived for call in standin.log if call.operation == POLL)]
    assert all(later - sooner >= 0.05 for sooner, later in pairwise(arrived))
    assert inspect.signature(StabilityV2Beta).parameters["poll_seconds"].default == 10.0


async def test_filtered_result_is_marked(standin: StandIn) -> None:
    """CONTENT_FILTERED is 200 with a blurred picture here as well."""
    standin.script(Rule(do=Finish("CONTENT_FILTERED")))
    async with adapter(standin.url) as upstream:
        made = await image(upstream, creative())
    assert made.filtered
    assert pixel(opened(made)) == BLUR


async def test_id_is_noted_while_nobody_asks_for_reports(standin: StandIn) -> None:
    """A slow reader of reports neither holds the vendor nor keeps the id from the ledger."""
    ids = Ids()
    async with adapter(standin.url) as upstream:
        reported = upstream.run(creative(ids))
        await anext(reported)
        await until(lambda: polls(standin) == 1 and standin.log[-1].ended is not None)
        assert len(ids.told) == 1
        assert [type(report) async for report in reported] == [ImageMade]


# ------------------------------------------------------------------------------------------------------------ resumed


@pytest.mark.parametrize("service_seconds", [0.0, 0.2])
async def test_resume_finds_the_work_ended_or_running(standin: StandIn, service_seconds: float) -> None:
    """Another process with the same key goes on with the id; nothing is begun anew."""
    standin.script(Rule(service_seconds=service_seconds))
    async with adapter(standin.url, poll_seconds=0.1) as upstream:
        handle = await ordered(standin, upstream)
    async with adapter(standin.url, poll_seconds=0.05) as upstream:
        begun, made = await resumed(upstream, handle)
    assert begun == WorkBegun(1)
    assert isinstance(made, ImageMade)
    assert opened(made).size == (128, 128)
    assert (standin.calls, standin.credits) == (1, 940)
    assert polls(standin) == 1 if service_seconds == 0 else polls(standin) > 1


@pytest.mark.parametrize("why", ["expired", "another key"])
async def test_result_that_is_gone_is_final_and_paid(standin: StandIn, why: str) -> None:
    """404 for a known id: it was charged, so it is not `GONE`, which would be begun again; and it stays so."""
    async with adapter(standin.url) as upstream:
        handle = await ordered(standin, upstream)
        if why == "expired":
            standin.results.lose(handle)
        else:
            standin.results._results[handle].key = "sk-other"
        found = await fault(resumed(upstream, handle))
    assert (found.outcome, found.code, found.charged) == (FAILED, "outcome_unknown", True)
    assert (found.details["vendor_code"], found.details["status"]) == ("generation_not_found", 404)
    assert not found.credential
    assert standin.calls == 1


@pytest.mark.parametrize("after_polls", [0, 2])
async def test_result_that_gets_lost_is_final_and_paid(standin: StandIn, after_polls: int) -> None:
    """The same in the run itself, at the first poll or later."""
    standin.script(Rule(do=Lose(after_polls=after_polls), service_seconds=YEAR))
    async with adapter(standin.url) as upstream:
        found = await fault(reports(upstream, creative()))
    assert (found.outcome, found.code, found.charged) == (FAILED, "outcome_unknown", True)
    assert (standin.calls, polls(standin)) == (1, after_polls + 1)


async def test_id_is_no_part_of_another_address(standin: StandIn) -> None:
    """Whatever an id is, it stays one segment of the path."""
    async with adapter(standin.url) as upstream:
        found = await fault(resumed(upstream, "../../v1/user/balance?x=#"))
    assert found.details["status"] == 404
    assert polls(standin) + sum(call.operation == "unknown" for call in standin.log) == 1


# ------------------------------------------------------------------------------------------------------ polls go wrong

TROUBLE = [
    (Refuse(500), "outcome_unknown"),
    (Refuse(503), "outcome_unknown"),
    (Refuse(429), "outcome_unknown"),
    (Refuse(429, retry_after=0), "outcome_unknown"),
    (Refuse(401), "outcome_unknown"),
    (Refuse(402), "outcome_unknown"),
    (Refuse(403, "forbidden"), "outcome_unknown"),
    (Refuse(502), "outcome_unknown"),
    (Refuse(400), "outcome_unknown"),
    (Cut(0), "outcome_unknown"),
    (Cut(-1, "rst"), "outcome_unknown"),
    (Stall(300), "outcome_unknown"),
    (Garbage("empty"), "invalid_output"),
    (Garbage("truncated_json"), "invalid_output"),
    (Garbage("not_png"), "invalid_output"),
    (Garbage("huge", size_bytes=300_000), "invalid_output"),
]


@pytest.mark.parametrize("what,code", TROUBLE, ids=str)
async def test_trouble_of_a_poll_passes_or_ends_without_a_new_order(standin: StandIn, what: Any, code: str) -> None:
    """A poll costs nothing, so it is repeated; one that helps comes through, and five in vain are the end.

    What the fault is must not lead to a new order: neither refused, nor about the credential, nor not sent.
    """
    options = {"timeout_seconds": 0.5, "max_answer_bytes": 200_000, "poll_seconds": 0.01, "lockout_seconds": 0.02}
    async with adapter(standin.url, **options) as upstream:
        handle = await ordered(standin, upstream)
        upstream._poll_timeout_seconds = 0.05
        standin.script(Rule(operation=POLL, do=what, times=4))
        assert isinstance((await resumed(upstream, handle))[-1], ImageMade)
        before = polls(standin)
        standin.script(Rule(operation=POLL, do=what))
        found = await fault(resumed(upstream, handle))
    assert (found.outcome, found.code) == (FAILED if code == "invalid_output" else UNKNOWN, code)
    assert not found.credential
    assert (standin.calls, polls(standin) - before) == (1, 5)


async def test_polls_wait_for_a_lock_out(standin: StandIn) -> None:
    """After a 429 that names no time the account is left alone for as long as it is locked; else as long as told."""
    standin.script(Rule(operation=POLL, do=Refuse(429), times=1))
    async with adapter(standin.url, lockout_seconds=0.3) as upstream:
        await image(upstream, creative())
        told = [result_fault(429, {"Retry-After": text}, b"", Secret(KEY), "main") for text in ("7", "99999", "")]
        assert [upstream._wait_after(one) for one in (*told, None)] == [7, 900, 0.3, 0.02]
    first, second = [call.arrived for call in standin.log if call.operation == POLL]
    assert second - first >= 0.3


async def test_vendor_that_went_away_is_no_order_that_was_not_sent(standin: StandIn) -> None:
    """No connection for a poll says nothing about the order, which went out."""
    async with adapter(standin.url) as upstream:
        handle = await ordered(standin, upstream)
        await standin.__aexit__(None, None, None)
        found = await fault(resumed(upstream, handle))
    assert (found.outcome, found.code) == (UNKNOWN, "outcome_unknown")


async def test_result_that_never_comes_is_unknown(standin: StandIn) -> None:
    """Asking ends some time; the caller may ask again."""
    standin.script(Rule(service_seconds=YEAR))
    async with adapter(standin.url, result_timeout_seconds=0.1) as upstream:
        found = await fault(reports(upstream, creative()))
    assert (found.outcome, found.code) == (UNKNOWN, "outcome_unknown")
    assert standin.calls == 1


async def test_moderated_result_is_told_as_filtered(standin: StandIn) -> None:
    """A refusal of the content is an answer, also where it comes with the result."""
    standin.script(Rule(operation=POLL, do=Refuse(403)))
    async with adapter(standin.url) as upstream:
        found = await fault(reports(upstream, creative()))
    assert (found.outcome, found.code, found.credential) == (FAILED, "content_filtered", False)
    assert (standin.calls, polls(standin)) == (1, 1)


async def test_slow_poll_comes_whole(standin: StandIn) -> None:
    """Pieces with pauses are an answer."""
    standin.script(Rule(operation=POLL, do=Drip(piece_bytes=20_000, pause_seconds=0.001)))
    async with adapter(standin.url) as upstream:
        assert opened(await image(upstream, creative())).size == (128, 128)


# ------------------------------------------------------------------------------------------------- the order goes wrong

ORDER_FAULTS = [
    (Cut(0), UNKNOWN, "outcome_unknown", False),
    (Cut(-1), UNKNOWN, "outcome_unknown", False),
    (Stall(20), UNKNOWN, "outcome_unknown", False),
    (Refuse(429), Outcome.REFUSED, "model_unavailable", False),
    (Refuse(500), FAILED, "upstream_error", False),
    (Garbage("not_json"), FAILED, "invalid_output", True),
    (Garbage("wrong_base64"), FAILED, "invalid_output", True),
    (Garbage("empty"), FAILED, "invalid_output", True),
    (Garbage("huge", size_bytes=1000), FAILED, "invalid_output", True),
    (Garbage("huge", size_bytes=300_000), FAILED, "invalid_output", True),
]


@pytest.mark.parametrize("what,outcome,code,is_charged", ORDER_FAULTS, ids=str)
async def test_order_that_told_no_id_is_never_repeated(
    standin: StandIn, what: Any, outcome: Outcome, code: str, is_charged: bool
) -> None:
    """As with every other service: it is known that it was refused, or that it may have been charged."""
    standin.script(Rule(do=what))
    ids = Ids()
    async with adapter(standin.url, timeout_seconds=0.3, max_answer_bytes=200_000) as upstream:
        found = await fault(reports(upstream, creative(ids)))
    assert (found.outcome, found.code, found.charged) == (outcome, code, is_charged)
    assert (ids.told, standin.calls, polls(standin)) == ([], 1, 0)


@pytest.mark.parametrize("how", ["task", "generator"])
async def test_cancelled_call_polls_no_more(standin: StandIn, how: str) -> None:
    """Nothing else can be done: the work goes on, and its id is known."""
    standin.script(Rule(service_seconds=YEAR))
    ids = Ids()
    async with adapter(standin.url) as upstream:
        reported = upstream.run(creative(ids))
        await anext(reported)
        await until(lambda: polls(standin) >= 2)
        if how == "generator":
            await reported.aclose()
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(reported)
        asked = polls(standin)
        await asyncio.sleep(0.1)  # time for what must not happen
    assert (polls(standin) - asked <= 1, len(ids.told), standin.calls) == (True, 1, 1)


async def test_id_that_cannot_be_kept_ends_the_call(standin: StandIn) -> None:
    """What the ledger says of the note is the caller's to hear; no poll follows."""

    async def stale(_: str) -> None:
        raise LookupError("somebody else has the job")

    async with adapter(standin.url) as upstream:
        with pytest.raises(LookupError):
            await reports(upstream, creative(noted=stale))
    assert polls(standin) == 0


async def test_taken_with_202_is_taken() -> None:
    """The documents say 200; a 202 with an id would be no less of an order."""
    body = b'{"id":"abc"}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        status = b"202 Accepted" if head.startswith(b"POST") else b"404 Not Found"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    ids = Ids()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, adapter(url) as upstream:
        found = await fault(reports(upstream, creative(ids)))
    assert (found.outcome, ids.told) == (FAILED, ["abc"])
