import random
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send

from gateway.edges.guard import PREFLIGHT, Guard
from protocol.ids import is_ulid
from tests.gateway.edges.conftest import FRIENDLY_PAGE, FailureLog, LedgerIsFull, Site
from tests.gateway.node import ShiftedClock
from tests.gateway.parts import CountingMeter


async def verdict(headers: list[tuple[str, str]], kind: str = "websocket", *, trust_forwarded: bool = False) -> Any:
    """Return what a guard notes of a WebSocket's upgrade."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    guard = Guard(
        app, ShiftedClock(), random.Random(1), CountingMeter(), FailureLog(), hosts=("gw.example", "::2"),
        origins=(FRIENDLY_PAGE,), trust_forwarded=trust_forwarded,
    )  # fmt: skip
    raw = [(name.encode(), value.encode()) for name, value in headers]

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent")

    await guard({"type": kind, "path": "/v1/stream", "headers": raw}, receive, send)
    return seen[0].get("safelight.refused")


@pytest.mark.parametrize("host", [
    "gw.example", "GW.example:8443", "localhost", "localhost:1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "[::2]:1",
])  # fmt: skip
async def test_upgrade_under_our_names_is_let_through(host: str) -> None:
    """Configured names and this machine's own are ours, whatever the port."""
    assert await verdict([("host", host)]) is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::3]", "gw.example.", "::1"])
async def test_upgrade_under_another_name_is_noted_as_forbidden(host: str) -> None:
    """A page that rebinds its own name to this machine is stopped."""
    assert await verdict([("host", host)]) == "forbidden"


async def test_upgrade_without_one_host_is_noted_as_forbidden() -> None:
    """No `Host`, or two that may differ, is nobody we know."""
    assert await verdict([]) == "forbidden"
    assert await verdict([("host", "localhost"), ("host", "evil.example")]) == "forbidden"


@pytest.mark.parametrize("origin,host,expected", [
    ("http://localhost:8080", "localhost:8080", None),
    ("https://gw.example", "gw.example", None),
    ("https://gw.example", "gw.example:443", None),
    (FRIENDLY_PAGE, "gw.example", None),
    ("http://localhost:3000", "localhost:8080", "forbidden"),
    ("https://evil.example", "gw.example", "forbidden"),
    ("https://gw.example.evil.example", "gw.example", "forbidden"),
    ("https://evil@gw.example", "gw.example", "forbidden"),
    ("null", "gw.example", "forbidden"),
    ("http://[", "gw.example", "forbidden"),
    ("file://gw.example", "gw.example", "forbidden"),
])  # fmt: skip
async def test_origin_must_be_ours_or_listed(origin: str, host: str, expected: str | None) -> None:
    """A page may connect from our own origin or from one on the list."""
    assert await verdict([("host", host), ("origin", origin)]) == expected


async def test_forwarded_host_counts_only_where_it_is_trusted() -> None:
    """Behind a proxy its word counts, and of several the nearest proxy's."""
    headers = [("host", "10.0.0.7"), ("x-forwarded-host", "evil.example, gw.example"), ("origin", "https://gw.example")]
    assert await verdict(headers, trust_forwarded=True) is None
    assert await verdict(headers) == "forbidden"
    lied = [("host", "gw.example"), ("x-forwarded-host", "evil.example")]
    assert await verdict(lied, trust_forwarded=True) == "forbidden"


async def test_foreign_host_and_origin_are_refused_over_http(site: Site) -> None:
    """Over HTTP the refusal is 403, in the shape of every error, even with a key."""
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        answer = await site.ask("GET", "/v1/jobs", **headers)
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers


async def test_public_address_is_ours_without_being_listed(site: Site) -> None:
    """Whoever sets the address under which clients come need not list it again."""
    assert (await site.ask("GET", "/v1/jobs", Host="gw.example", Origin="https://gw.example")).status == 200
    behind_a_proxy = await site.ask("GET", "/v1/jobs", Origin="https://gw.example")
    assert behind_a_proxy.status == 200


async def test_probes_are_answered_under_any_name(site: Site) -> None:
    """A load balancer asks by address."""
    for path in ("/healthz", "/readyz"):
        assert (await site.ask("GET", path, key=None, Host="10.2.3.4:8080")).status == 200


async def test_every_answer_carries_what_keeps_browsers_careful(site: Site) -> None:
    """Also one that is refused; and a new id each time."""
    answers = [
        await site.ask("GET", "/healthz"),
        await site.ask("GET", "/nowhere"),
        await site.ask("GET", "/", Host="x"),
    ]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert is_ulid(answer.headers["X-Request-Id"])
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 3


async def test_preflight_of_a_listed_page_is_answered(site: Site) -> None:
    """A listed page may send a bearer and read what it needs; cookies never go along."""
    told = {"Origin": FRIENDLY_PAGE, "Access_Control_Request_Method": "PUT"}
    answer = await site.ask("OPTIONS", "/v1/assets", key=None, **told)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == FRIENDLY_PAGE
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("asked,allowed", [
    ("authorization,content-type,x-stainless-retry-count", "authorization,content-type,x-stainless-retry-count"),
    ("stability-client-id, organization", "stability-client-id, organization"),
    ("a b", PREFLIGHT["Access-Control-Allow-Headers"]),
    ("a,,b", PREFLIGHT["Access-Control-Allow-Headers"]),
    ("x" * 2049, PREFLIGHT["Access-Control-Allow-Headers"]),
])  # fmt: skip
async def test_preflight_allows_the_headers_that_are_asked_for(site: Site, asked: str, allowed: str) -> None:
    """The vendors' clients have some of their own; what is no list of names is not said back."""
    told = {"Origin": FRIENDLY_PAGE, "Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": asked}
    answer = await site.ask("OPTIONS", "/v1/images/generations", key=None, **told)
    assert (answer.status, answer.headers["Access-Control-Allow-Headers"]) == (204, allowed)


async def test_answer_to_a_listed_page_may_be_read_by_it(site: Site) -> None:
    """Errors too, or the page would see none."""
    for path in ("/v1/jobs", "/nowhere"):
        answer = await site.ask("GET", path, Origin=FRIENDLY_PAGE)
        assert answer.headers["Access-Control-Allow-Origin"] == FRIENDLY_PAGE
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"etag", "retry-after", "ratelimit", "x-should-retry", "x-ratelimit-reset-requests"} <= set(exposed)


async def test_preflight_of_a_foreign_page_is_refused(site: Site) -> None:
    """Nobody else is told anything."""
    told = {"Origin": "https://evil.example", "Access_Control_Request_Method": "PUT"}
    answer = await site.ask("OPTIONS", "/v1/assets", key=None, **told)
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_failure_is_told_without_its_reason(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets a reference; the log has it with the reason."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(site.test.ledger.jobs, "listed", fail)
    answer = await site.ask("GET", "/v1/jobs?ref=x")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret" not in answer.body
    [told] = site.log.errors
    assert told["request"] == answer.json["error"]["details"]["reference"] == answer.headers["X-Request-Id"]
    assert str(told["exc_info"]) == "the secret reason"
    assert (told["method"], told["path"]) == ("GET", "/v1/jobs")


async def test_busy_ledger_is_told_as_overloaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an adapter says of itself is translated once, and is no failure."""

    async def refuse(*_: object, **__: object) -> None:
        raise LedgerIsFull

    monkeypatch.setattr(site.test.ledger.jobs, "listed", refuse)
    answer = await site.ask("GET", "/v1/jobs")
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "overloaded", "1")
    assert site.log.errors == []


async def test_requests_are_counted_by_route_and_not_by_path(site: Site) -> None:
    """Whatever clients make up, there are as many labels as routes."""
    await site.ask("GET", "/v1/jobs/made-up")
    await site.ask("GET", "/made/up")
    counted = site.test.meter.counted
    assert counted["http_requests", "/v1/jobs/{job}", "404"] == 1
    assert counted["http_requests", "-", "404"] == 1


@pytest.mark.parametrize(
    "forwarded,trusts,address",
    [
        ([], False, "10.0.0.7"),
        (["203.0.113.9"], False, "10.0.0.7"),
        (["203.0.113.9"], True, "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], True, "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], True, "203.0.113.9"),
        ([""], True, "10.0.0.7"),
    ],
)
async def test_address_is_whom_the_nearest_proxy_saw(forwarded: list[str], trusts: bool, address: str) -> None:
    """Only where it is trusted: what stands before that, the client may have written itself."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    guard = Guard(app, ShiftedClock(), random.Random(1), CountingMeter(), FailureLog(), trust_forwarded=trusts)
    headers = [(b"host", b"localhost"), *((b"x-forwarded-for", one.encode()) for one in forwarded)]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "client": ("10.0.0.7", 1)}
    await guard(scope, cast("Receive", None), cast("Send", None))
    assert seen[0]["safelight.address"] == address
