import asyncio
from typing import Any

import pytest

from gateway.core.records import Plan
from tests.answers import Answer
from tests.gateway.edges.conftest import Site
from tests.gateway.parts import PUBLIC_URL

BODY = {"task": "txt2img", "model": "easel-1", "params": {"prompt": "a harbour at dawn", "seed": 7}}


async def submit(site: Site, *, ref: str = "ref-1", key: str = "", **changes: Any) -> Answer:
    """Submit a job over HTTP."""
    return await site.ask("POST", "/v1/jobs", key=key, data=BODY | changes, Idempotency_Key=ref)


async def job_of(site: Site, **said: Any) -> str:
    """Submit a job and return its id."""
    return str((await submit(site, **said)).json["job"])


# --- submit ---


async def test_submit_answers_the_accepted_event(site: Site) -> None:
    """202 with what the log has as number 1, and the address of the stream."""
    answer = await submit(site)
    accepted = answer.json
    assert answer.status == 202
    assert answer.headers["Location"] == f"/v1/jobs/{accepted['job']}"
    assert (accepted["type"], accepted["seq"], accepted["ref"]) == ("accepted", 1, "ref-1")
    assert (accepted["cost_max_micros"], accepted["duplicate"]) == (400, False)
    assert accepted["events_url"].startswith(f"{PUBLIC_URL}/v1/jobs/{accepted['job']}/events?sig=g1.")
    record = await site.test.node.jobs.find(accepted["job"])
    assert record is not None
    assert (record.tenant, record.subject, record.session) == ("acme", "", None)
    assert site.test.rung == ["easel"]


async def test_same_submit_again_answers_the_same_job(site: Site) -> None:
    """200 and `duplicate`; previews and finals are no part of the body."""
    first, again = await submit(site), await submit(site, previews={"max_fps": 1})
    assert (again.status, again.json["job"], again.json["duplicate"]) == (200, first.json["job"], True)
    other = await submit(site, params={"prompt": "another"})
    assert (other.status, other.code) == (409, "idempotency_conflict")


async def test_fifty_submits_at_once_with_one_key_make_one_job(site: Site) -> None:
    """A retry that races the original is safe."""
    answers = await asyncio.gather(*(submit(site) for _ in range(50)))
    assert len({answer.json["job"] for answer in answers}) == 1
    assert sorted(answer.status for answer in answers) == [200] * 49 + [202]


async def test_ref_may_stand_in_the_body_or_nowhere(site: Site) -> None:
    """Both places count if they say the same; without any the gateway makes one up."""
    in_body = await site.ask("POST", "/v1/jobs", data=BODY | {"ref": "mine"})
    assert (in_body.status, in_body.json["ref"]) == (202, "mine")
    assert (await submit(site, ref="mine")).json["duplicate"]
    made_up = [await site.ask("POST", "/v1/jobs", data=BODY) for _ in range(2)]
    assert len({answer.json["ref"] for answer in made_up}) == 2
    differing = await site.ask("POST", "/v1/jobs", data=BODY | {"ref": "mine"}, Idempotency_Key="other")
    assert (differing.status, differing.code) == (422, "invalid_param")


@pytest.mark.parametrize("body,status,code,path", [
    (b"{", 400, "bad_request", "body"),
    (b"[]", 422, "invalid_param", "body"),
    (b"", 400, "bad_request", "body"),
    (b'{"task":"txt2img","params":{"prompt":"\xff"}}', 400, "bad_request", "params"),
    (b"{}", 422, "invalid_param", "task"),
    (b'{"task":"txt2img","params":3}', 422, "invalid_param", "params"),
    (b'{"task":"txt2img","params":{"prompt":"x","steps":0}}', 422, "invalid_param", "params.steps"),
    (b'{"task":"txt2img","params":{"prompt":"x"},"priority":2}', 422, "invalid_param", "priority"),
    (b'{"task":"txt2img","params":{"prompt":"x","width":65}}', 422, "resolution_not_supported", "params.width"),
    (b'{"task":"txt2img","params":{"prompt":"x"},"ref":"a b"}', 422, "invalid_param", "ref"),
    (b'{"task":"txt2img","params":{"prompt":"x"},"model":"no"}', 404, "model_not_found", "model"),
    (b'{"task":"txt2img","params":{"prompt":"x"},"max_cost_micros":1}', 402, "max_cost_exceeded", "max_cost_micros"),
    (b'{"task":"img2img","params":{"prompt":"x"},"inputs":[{"role":"init","upload":"00000000000000000000000001"}]}',
     404, "asset_not_found", "inputs[0].upload"),
])  # fmt: skip
async def test_wrong_submit_is_refused_by_name(site: Site, body: bytes, status: int, code: str, path: str) -> None:
    """The answer says which field and why, and nothing was made."""
    answer = await site.ask("POST", "/v1/jobs", data=body)
    assert (answer.status, answer.code) == (status, code)
    assert answer.json["error"]["details"]["path"] == path
    assert (await site.ask("GET", "/v1/jobs")).json["jobs"] == []


async def test_submit_over_the_rate_is_told_when_to_come_back(site: Site) -> None:
    """`Retry-After` is in whole seconds."""
    key = await site.test.add_key("slow", Plan(submits_per_second=0.1))
    assert (await submit(site, key=key)).status == 202
    refused = await submit(site, key=key, ref="ref-2")
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "rate_limited", "10")


# --- list and look ---


async def test_list_pages_through_the_subjects_own_jobs(site: Site) -> None:
    """Newest first; `next` is where the next page begins."""
    made = [await job_of(site, ref=f"ref-{number}") for number in range(5)]
    await job_of(site, key=await site.token("ann"))
    seen: list[str] = []
    path, pages = "/v1/jobs?limit=2", 0
    while path:
        page = (await site.ask("GET", path)).json
        seen += [entry["job"] for entry in page["jobs"]]
        path, pages = f"/v1/jobs?limit=2&after={page['next']}" if "next" in page else "", pages + 1
    assert seen == sorted(made, reverse=True)
    assert pages == 3


async def test_list_finds_a_job_by_its_ref(site: Site) -> None:
    """That is how a client finds what it lost."""
    job = await job_of(site, ref="lost-1")
    await job_of(site, ref="other-1")
    [entry] = (await site.ask("GET", "/v1/jobs?ref=lost-1")).json["jobs"]
    assert (entry["job"], entry["task"], entry["model"]) == (job, "txt2img", "easel-1")
    assert (entry["state"], entry["seq"], entry["attempt"], entry["cost_max_micros"]) == ("queued", 1, 0, 400)
    assert "started_ms" not in entry


async def test_list_tells_states_as_events_do(site: Site) -> None:
    """A claimed job still waits; one given back after it had begun is running."""
    jobs = [await job_of(site, ref=f"ref-{number}") for number in range(4)]
    hands = [await site.test.claim() for _ in jobs[:3]]
    await hands[0].start()
    await hands[1].start()
    await site.test.ledger.work.release(hands[1].job, 1, 0)
    found = {
        state: {entry["job"] for entry in (await site.ask("GET", f"/v1/jobs?state={state}")).json["jobs"]}
        for state in ("queued", "running", "completed")
    }
    assert found == {"queued": {hands[2].job, jobs[3]}, "running": {hands[0].job, hands[1].job}, "completed": set()}
    await hands[0].complete()
    [entry] = (await site.ask("GET", "/v1/jobs?state=completed")).json["jobs"]
    assert (entry["state"], entry["seq"]) == ("completed", 3)
    assert entry["created_ms"] <= entry["started_ms"] <= entry["ended_ms"]


async def test_list_of_a_state_misses_none_over_its_pages(site: Site) -> None:
    """Although it is put together from several states of the ledger."""
    jobs = [await job_of(site, ref=f"ref-{number}") for number in range(7)]
    for _ in range(3):
        await (await site.test.claim()).start()
    await site.test.claim()
    for state, count in (("queued", 4), ("running", 3)):
        seen: list[str] = []
        path = f"/v1/jobs?state={state}&limit=1"
        while path:
            page = (await site.ask("GET", path)).json
            seen += [entry["job"] for entry in page["jobs"]]
            path = f"/v1/jobs?state={state}&limit=1&after={page['next']}" if "next" in page else ""
        assert len(seen) == len(set(seen)) == count
        assert seen == sorted(seen, reverse=True)
        assert set(seen) <= set(jobs)


@pytest.mark.parametrize("query,path", [
    ("state=claimed", "state"), ("limit=0", "limit"), ("limit=1000", "limit"), ("limit=x", "limit"),
    ("after=x", "after"), ("ref=a%20b", "ref"),
])  # fmt: skip
async def test_list_refuses_a_wrong_query_by_name(site: Site, query: str, path: str) -> None:
    """A query is checked like a body."""
    answer = await site.ask("GET", f"/v1/jobs?{query}")
    assert (answer.status, answer.code, answer.json["error"]["details"]["path"]) == (422, "invalid_param", path)


async def test_view_is_the_fold_of_the_log(site: Site) -> None:
    """What a snapshot has: state, attempt, and the pictures with addresses that open them."""
    job = await job_of(site)
    hands = await site.test.claim()
    await hands.start()
    asset = await hands.image()
    view = (await site.ask("GET", f"/v1/jobs/{job}")).json
    assert (view["type"], view["state"], view["seq"], view["attempt"]) == ("snapshot", "running", 3, 1)
    [image] = view["images"]
    assert (image["asset"], image["seq"], image["seed"]) == (asset, 3, 7)
    assert (await site.ask("GET", image["url"], key=None)).status == 200
    await hands.complete()
    view = (await site.ask("GET", f"/v1/jobs/{job}")).json
    assert (view["state"], view["seq"], len(view["images"])) == ("completed", 4, 1)
    assert "reset" not in view


async def test_view_of_a_trimmed_job_still_has_its_pictures(site: Site) -> None:
    """The end event lists them all."""
    job = await job_of(site)
    hands = await site.test.claim()
    await hands.start()
    await hands.image()
    await hands.complete()
    await site.test.ledger.jobs.trim(site.test.clock.time_ms() + 1, 0)
    view = (await site.ask("GET", f"/v1/jobs/{job}")).json
    assert (view["state"], view["seq"], len(view["images"])) == ("completed", 4, 1)


async def test_view_is_not_sent_again_until_the_log_grows(site: Site) -> None:
    """`ETag` is the number of the newest event."""
    job = await job_of(site)
    first = await site.ask("GET", f"/v1/jobs/{job}")
    assert first.headers["ETag"] == '"1"'
    assert (await site.ask("GET", f"/v1/jobs/{job}", if_none_match='"1"')).status == 304
    await (await site.test.claim()).start()
    assert (await site.ask("GET", f"/v1/jobs/{job}", if_none_match='"1"')).headers["ETag"] == '"2"'


@pytest.mark.parametrize("method,path", [
    ("GET", ""), ("DELETE", ""), ("POST", "/grants"), ("GET", "/preview"), ("GET", "/events"),
])  # fmt: skip
async def test_job_of_another_subject_is_as_if_there_were_none(site: Site, method: str, path: str) -> None:
    """Nobody learns whether a job exists that is not theirs: not another account, not another end user."""
    mine = await job_of(site)
    strangers = (await site.test.add_key("other"), await site.token("ann"))
    answers = [
        await site.ask(method, f"/v1/jobs/{job}{path}", key=stranger)
        for stranger in strangers
        for job in (mine, "01JD9Z6Q8M4T7V2XK3B5N0RCEW", "no-id")
    ]
    assert {(answer.status, answer.body) for answer in answers} == {(404, answers[0].body)}
    assert answers[0].code == "job_not_found"


# --- cancel ---


async def test_cancel_ends_a_queued_job_and_may_be_repeated(site: Site) -> None:
    """202 before and after; the end event tells the rest."""
    job = await job_of(site)
    for _ in range(2):
        answer = await site.ask("DELETE", f"/v1/jobs/{job}")
        assert (answer.status, answer.json) == (202, {"job": job})
    assert (await site.ask("GET", f"/v1/jobs/{job}")).json["state"] == "canceled"


async def test_cancel_of_a_running_job_is_noted(site: Site) -> None:
    """The worker is told; the job goes on until it ends itself."""
    job = await job_of(site)
    await (await site.test.claim()).start()
    assert (await site.ask("DELETE", f"/v1/jobs/{job}")).status == 202
    assert site.test.stopped == [(job, "client")]
    record = await site.test.node.jobs.find(job)
    assert record is not None
    assert (record.state, record.cancel_by) == ("running", "client")


# --- grants ---


async def test_grant_gives_its_rights_to_whoever_holds_it(site: Site) -> None:
    """A right to watch does not cancel; with the right to cancel no bearer is needed."""
    job = await job_of(site)
    told = (await site.ask("POST", f"/v1/jobs/{job}/grants", data={"rights": ["watch"], "ttl_ms": 1000})).json
    assert told["events_url"] == f"{PUBLIC_URL}/v1/jobs/{job}/events?sig={told['grant']}"
    refused = await site.ask("DELETE", f"/v1/jobs/{job}?sig={told['grant']}", key=None)
    assert (refused.status, refused.code) == (403, "forbidden")
    both = (await site.ask("POST", f"/v1/jobs/{job}/grants", data={"rights": ["cancel", "watch", "cancel"]})).json
    assert both["expires_in_ms"] == 3_600_000
    assert (await site.ask("DELETE", f"/v1/jobs/{job}?sig={both['grant']}", key=None)).status == 202


async def test_grant_to_cancel_alone_tells_no_stream(site: Site) -> None:
    """An address that would be refused is not given."""
    job = await job_of(site)
    told = (await site.ask("POST", f"/v1/jobs/{job}/grants", data={"rights": ["cancel"]})).json
    assert set(told) == {"grant", "expires_in_ms"}


async def test_grant_is_good_for_its_job_and_its_time(site: Site) -> None:
    """Not for another job, and not later; a day is the longest."""
    job, other = await job_of(site), await job_of(site, ref="ref-2")
    grant = (await site.ask("POST", f"/v1/jobs/{job}/grants", data={"rights": ["cancel"], "ttl_ms": 10**12})).json
    assert grant["expires_in_ms"] == 86_400_000
    assert (await site.ask("DELETE", f"/v1/jobs/{other}?sig={grant['grant']}", key=None)).code == "forbidden"
    # Also somebody with a credential of their own may hold a grant.
    assert (await site.ask("DELETE", f"/v1/jobs/{job}?sig={grant['grant']}", key=await site.token("ann"))).status == 202
    site.test.clock.advance(86_401)
    late = await site.ask("DELETE", f"/v1/jobs/{job}?sig={grant['grant']}", key=None)
    assert (late.status, late.code) == (410, "expired")


@pytest.mark.parametrize("body,path", [({"rights": ["own"]}, "rights[0]"), ({"rights": []}, "rights")])
async def test_grant_of_no_right_is_refused(site: Site, body: dict[str, Any], path: str) -> None:
    """There are two rights."""
    answer = await site.ask("POST", f"/v1/jobs/{await job_of(site)}/grants", data=body)
    assert (answer.status, answer.code, answer.json["error"]["details"]["path"]) == (422, "invalid_param", path)


# --- previews ---


async def test_preview_is_the_newest_within_the_policy(site: Site) -> None:
    """As the upstream made it where that fits, else made smaller."""
    job = await job_of(site)
    assert (await site.ask("GET", f"/v1/jobs/{job}/preview")).status == 204
    hands = await site.test.claim()
    await hands.start()
    hands.preview(1)
    newest = hands.preview(2)
    answer = await site.ask("GET", f"/v1/jobs/{job}/preview")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, newest, "image/jpeg")
    assert (answer.headers["Preview-Step"], answer.headers["Preview-Size"]) == ("2/4", "64x64")
    hands.preview(3, edge=300)
    small = await site.ask("GET", f"/v1/jobs/{job}/preview?max_edge=128&format=png")
    assert (small.headers["Preview-Size"], small.body[:4]) == ("128x128", b"\x89PNG")
    raw = await site.ask("GET", f"/v1/jobs/{job}/preview?max_edge=64&format=raw")
    assert (raw.headers["Content-Type"], len(raw.body)) == ("application/octet-stream", 64 * 64 * 4)
    assert site.test.node.feeds.encoded == 2


async def test_preview_is_encoded_once_for_everybody_who_asks(site: Site) -> None:
    """Fifty who ask at once for one rung cost one encoding, and leave nothing behind."""
    job = await job_of(site)
    hands = await site.test.claim()
    await hands.start()
    hands.preview(1, edge=300)
    answers = await asyncio.gather(*(site.ask("GET", f"/v1/jobs/{job}/preview?max_edge=128") for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert site.test.node.feeds.encoded == 1
    feed = site.test.node.feeds.get(job)
    assert feed is not None
    assert feed.watchers == set()


async def test_preview_is_not_sent_again_while_it_is_the_newest(site: Site) -> None:
    """`ETag` is its frame; after the end there is none."""
    job = await job_of(site)
    hands = await site.test.claim()
    await hands.start()
    hands.preview()
    tag = (await site.ask("GET", f"/v1/jobs/{job}/preview")).headers["ETag"]
    assert (await site.ask("GET", f"/v1/jobs/{job}/preview", if_none_match=tag)).status == 304
    await hands.complete()
    assert (await site.ask("GET", f"/v1/jobs/{job}/preview", if_none_match=tag)).status == 204


async def test_preview_that_cannot_be_decoded_is_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request waits for a while, not for ever."""
    monkeypatch.setattr("gateway.flow.feeds.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("tests.gateway.node.picture_bytes", lambda *_, **__: b"broken")
    job = await job_of(site)
    hands = await site.test.claim()
    await hands.start()
    hands.preview(edge=300)
    assert (await site.ask("GET", f"/v1/jobs/{job}/preview")).status == 204
