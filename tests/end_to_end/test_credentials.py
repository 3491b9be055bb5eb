"""Credentials against a whole gateway: the client's renewals, tickets and foreign tokens, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.scopes import Restriction
from gateway.flow.tokens import new_signing_keys
from gateway.ledger import SqlLedger
from protocol.client import Client
from protocol.messages import Completed, GoAway
from protocol.refusals import Closed, Refused
from protocol.replica_effects import Disconnected, Event
from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.end_to_end.raw import RawSocket
from tests.gateway.issuer import local_issuer
from tests.gateway.node import ShiftedClock

PATIENCE = 30.0


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A whole gateway with an upstream that paints at once, on a clock that a test can put forward."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], clock=ShiftedClock()) as running:
        yield running


def new_client(running: Running, events: list[Event], **given: Any) -> Client:
    """Return a client that notes its events."""
    return Client(running.url, hook=events.append, patience=PATIENCE, **given)


async def paints(client: Client) -> None:
    """Have a job done."""
    job = await client.submit("txt2img", {"prompt": "dawn", "steps": 2})
    assert isinstance([event async for event in job][-1], Completed)


async def until(done: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not done():
            await asyncio.sleep(0.01)


async def resumed_anew(running: Running, events: list[Event], close: int, client: Client) -> None:
    """Wait until the connection ended in this way; what is asked then is answered on another one, of one session."""
    await until(lambda: any(isinstance(event, Disconnected) and event.code == close for event in events))
    await paints(client)
    assert running.gateway.node.sessions.held == 1


async def test_key_goes_over_the_wire_once(running: Running) -> None:
    """However often the connection is lost; the key is in no upgrade."""
    events: list[Event] = []
    asked = Asked(running)
    async with new_client(running, events, api_key=running.key) as client:
        for _ in range(3):
            await paints(client)
            drop(running, "going_away")
            await until(lambda: not running.gateway.node.sessions.held)
        await paints(client)
    assert asked.count == 1


async def test_client_renews_its_token_before_it_ends(running: Running) -> None:
    """A goaway comes ahead, then 4005; the session goes on with a new token, and so does a watch."""
    events: list[Event] = []
    asked = Asked(running)
    clock = running.gateway.node.clock
    assert isinstance(clock, ShiftedClock)
    async with new_client(running, events, api_key=running.key) as client:
        await paints(client)
        client._tokens._renew_at -= 86_400  # type: ignore[attr-defined] # the client has a clock of its own
        clock.advance(86_400 - 20)
        nudge(running)
        await until(lambda: any(isinstance(event, GoAway) and event.reason == "auth_expired" for event in events))
        clock.advance(21)
        nudge(running)
        await resumed_anew(running, events, 4005, client)
    assert asked.count == 2


async def test_client_gets_another_token_when_its_own_is_refused(running: Running) -> None:
    """Revoked while it is connected: once more, with the session that it had."""
    events: list[Event] = []
    asked = Asked(running)
    access = running.gateway.node.access
    async with new_client(running, events, api_key=running.key) as client:
        await paints(client)
        await access.tokens.revoke_all((await access.identify(running.key)).key)
        await running.gateway.node.sessions.recheck()
        await paints(client)
        assert running.gateway.node.sessions.held == 1
    assert asked.count == 2


async def test_client_gives_up_when_the_key_itself_is_refused(running: Running) -> None:
    """Nothing is tried again and again."""
    asked = Asked(running)
    with pytest.raises(Closed) as closed:
        async with new_client(running, [], api_key="sk-sl-nobody"):
            raise AssertionError("it has no session")
    assert (closed.value.code, asked.count) == (4502, 1)


async def test_token_provider_is_asked_once_more(running: Running) -> None:
    """A refused token costs one more; if that is refused too, it is the end."""
    access = running.gateway.node.access
    good, _ = access.make_token(await access.identify(running.key), "ann", 60_000)
    tokens = ["sk-sl-nobody", good]

    async def provider() -> str:
        return tokens.pop(0)

    async with new_client(running, [], token=provider) as client:
        await paints(client)
    tokens[:] = ["sk-sl-nobody", "sk-sl-none", good]
    with pytest.raises(Closed) as closed:
        async with new_client(running, [], token=provider, token_in_hello=True):
            raise AssertionError("it has no session")
    assert (closed.value.code, tokens) == (4502, [good])


async def test_given_token_that_is_refused_is_the_end(running: Running) -> None:
    """There is no other."""
    with pytest.raises(Closed) as closed:
        async with new_client(running, [], token="sk-sl-nobody"):
            raise AssertionError("it has no session")
    assert closed.value.code == 4502


async def test_rotated_signing_keys_are_taken_up_by_themselves(running: Running) -> None:
    """Within seconds; what the old ones signed goes on counting."""
    access, ledger = running.gateway.node.access, running.gateway.ledger
    token, _ = access.make_token(await access.identify(running.key), "ann", 600_000)
    await rotate(ledger, running)
    before = access.tokens.jwks()["keys"][0]["kid"]
    await until(lambda: len(access.tokens.jwks()["keys"]) == 2)
    assert before in [key["kid"] for key in access.tokens.jwks()["keys"]]
    async with new_client(running, [], token=token) as client:
        await paints(client)


async def test_fifty_at_once_with_one_ticket(running: Running) -> None:
    """One has it, the others are told 4507."""
    access = running.gateway.node.access
    ticket = access.make_ticket(await access.identify(running.key)).ticket
    sockets = await asyncio.gather(*(RawSocket.open(running.url, f"/v1/stream?ticket={ticket}") for _ in range(50)))
    for one in sockets:
        one.send({"type": "hello", "v": 1})
    ends = await asyncio.gather(*(how_it_went(one) for one in sockets))
    assert sorted(ends) == ["4507"] * 49 + ["synced"]


async def test_ticket_of_a_revoked_key_opens_nothing(running: Running) -> None:
    """Though it was made before."""
    access = running.gateway.node.access
    identity = await access.identify(access.make_token(await access.identify(running.key), "ann", 60_000)[0])
    ticket = access.make_ticket(identity).ticket
    await access.tokens.revoke(identity, identity.token)
    late = await RawSocket.open(running.url, f"/v1/stream?ticket={ticket}")
    assert await late.closing() == 4507
    late.cut()


async def test_ticket_restricts_the_session_over_real_sockets(running: Running) -> None:
    """Its cost, also after a resume with the key itself."""
    access = running.gateway.node.access
    model = running.gateway.node.models["paper"]
    price = model.price_micros
    restriction = Restriction(models=("paper",), max_cost_micros=price)
    ticket = access.make_ticket(await access.identify(running.key), restriction=restriction).ticket
    first = await RawSocket.open(running.url, f"/v1/stream?ticket={ticket}")
    first.send({"type": "hello", "v": 1})
    synced = await first.until("synced")
    first.send(submit("a", model="other"))
    assert (await first.until("error"))["error"]["code"] == "forbidden"
    first.send(submit("b"))
    await first.until("accepted")
    first.cut()
    second = await RawSocket.open(running.url)
    second.send({"type": "hello", "v": 1, "token": running.key, "resume": synced["resume"]})
    assert (await second.until("welcome"))["resumed"] is True
    second.send(submit("c", model="other"))
    assert (await second.until("error"))["error"]["code"] == "forbidden"
    second.cut()


async def test_foreign_token_opens_a_session_by_the_settings(tmp_path: Path) -> None:
    """From a file of settings to a painted picture; while the issuer is down, clients are told to come back."""
    async with local_issuer() as issuer:
        path = tmp_path / "safelight.toml"
        path.write_text(
            f'[issuers.idp]\ntenant = "default"\nissuer = "{issuer.url}"\naudience = "gateway"\n'
            f'jwks_url = "{issuer.jwks_url}"\nalgorithms = ["ES256"]\n'
        )
        clock = ShiftedClock()
        folder = tmp_path / "data"
        async with gateway_here(folder, upstreams=[PaperUpstream()], clock=clock, config=path) as running:
            issuer.status = 503
            early = await RawSocket.open(running.url)
            early.send({"type": "hello", "v": 1, "token": issuer.token(clock.time_ms())})
            assert await early.closing() == 4007
            early.cut()
            issuer.status = 200
            clock.advance(31)
            async with new_client(running, [], token=issuer.token(clock.time_ms())) as client:
                await paints(client)
            with pytest.raises(Closed):
                async with new_client(running, [], token=issuer.token(clock.time_ms(), aud="third")):
                    raise AssertionError("it has no session")


async def test_refused_scope_is_told_to_the_client(running: Running) -> None:
    """As any refusal; the connection goes on."""
    access = running.gateway.node.access
    token, _ = access.make_token(await access.identify(running.key), "ann", 60_000, frozenset({"read"}))
    async with new_client(running, [], token=token) as client:
        with pytest.raises(Refused, match="may not submit jobs"):
            await client.submit("txt2img", {"prompt": "dawn"})


# --- what these tests share ---


class Asked:
    """Counts how often a key was exchanged since it was made."""

    def __init__(self, running: Running) -> None:
        self._meter: Any = running.gateway.node.meter
        self._before = self._read()

    @property
    def count(self) -> int:
        """How often."""
        return self._read() - self._before

    def _read(self) -> int:
        lines = self._meter.render().decode().splitlines()
        mine = [
            line for line in lines if line.startswith("safelight_http_requests_total{") and "/v1/auth/token" in line
        ]
        return int(sum(float(line.rpartition(" ")[2]) for line in mine))


def drop(running: Running, close: str) -> None:
    """End every connection of the gateway as if it were for a reason of its own."""
    for connection in list(running.gateway.node.sessions._admitted):
        connection.close(close)


def nudge(running: Running) -> None:
    """Have the connections look at the clock, which was put forward."""
    for connection in list(running.gateway.node.sessions._admitted):
        assert hasattr(connection, "byte_received")
        connection.byte_received()
        connection._ring()  # type: ignore[attr-defined]


async def rotate(ledger: SqlLedger, running: Running) -> None:
    """Make new signing keys, as the command line does beside a running gateway."""
    now = running.gateway.node.clock.time_ms()
    await ledger.accounts.rotate_signing(new_signing_keys(now), now + 3_600_000)


async def how_it_went(socket: RawSocket) -> str:
    """Return `synced`, or the close code."""
    try:
        await socket.until("synced")
    except ConnectionResetError:
        return str(socket.close_code)
    finally:
        socket.cut()
    return "synced"


def submit(ref: str, **fields: Any) -> dict[str, Any]:
    """Return a submit."""
    return {"type": "submit", "ref": ref, "task": "txt2img", "params": {"prompt": "dawn", "steps": 2}, **fields}
