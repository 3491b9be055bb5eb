"""What scopes and a ticket's restriction leave of a connection: at each message, and after each resume."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.scopes import ALL, Restriction
from tests.gateway.flow.studio import PRICE, Client, ScriptedUpstream, Studio, open_studio, patiently
from tests.gateway.flow.test_connection import UPLOAD, upload
from tests.pictures import flat

OTHERS = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"


async def joined(studio: Studio, restriction: Restriction, **hello: Any) -> Client:
    """Return a client that came with a ticket of this restriction."""
    access = studio.node.access
    ticket = access.make_ticket(await studio.identity(), restriction=restriction).ticket
    client = Client(studio, access.take_ticket(ticket))
    told = await client.hello(**hello)
    assert told[0]["type"] == "welcome"
    return client


async def answer(client: Client, type: str, **fields: Any) -> dict[str, Any]:
    """Send a message and return the error that it comes to, or {} if there is none."""
    await client.say(type, **fields)
    return next((dict(one["error"]) for one in client.told() if one["type"] == "error"), {})


def submit(ref: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a submit."""
    return {"ref": ref, "task": "txt2img", "params": {"prompt": "dawn", "seed": 7}, **fields}


@patiently
async def test_each_message_needs_its_scope(tmp_path: Path) -> None:
    """A table over all that need one; what lacks is named, and the connection lives."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        whole = await joined(studio, Restriction())
        job = await whole.submit()
        messages: dict[str, tuple[str, dict[str, Any]]] = {
            "generate": ("submit", submit("r")),
            "read": ("watch", {"ref": "r", "job": job}),
            "cancel": ("cancel", {"ref": "r", "job": job}),
        }
        for scope, (kind, fields) in messages.items():
            lacking = await joined(studio, Restriction(scopes=tuple(ALL - {scope})))
            refused = await answer(lacking, kind, **fields)
            assert (refused["code"], refused["details"]["scope"]) == ("forbidden", scope)
            enough = await joined(studio, Restriction(scopes=(scope,)))
            assert await answer(enough, kind, **fields) == {}
            assert (lacking.wire.closed, enough.wire.closed) == (None, None)


@patiently
async def test_upload_needs_its_scope(tmp_path: Path) -> None:
    """It is told by the upload's own id."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        for scopes, kind in ((("generate",), "error"), (("assets",), "asset")):
            client = await joined(studio, Restriction(scopes=scopes))
            client.connection.byte_received()
            await client.connection.receive(upload(UPLOAD, flat((1, 2, 3), (64, 64), format="PNG")))
            [told] = client.told()
            assert (told["type"], told["upload"]) == (kind, UPLOAD)


@patiently
async def test_grant_stands_in_for_a_scope_that_lacks(tmp_path: Path) -> None:
    """Also for the own jobs; one for something else does not."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job = await (await joined(studio, Restriction())).submit()
        client, access = await joined(studio, Restriction(scopes=())), studio.node.access
        grant = access.make_grant(job, ["watch", "cancel"], 60_000)
        wrong = access.make_grant(OTHERS, ["watch", "cancel"], 60_000)
        for kind in ("watch", "cancel"):
            assert (await answer(client, kind, ref="r", job=job, grant=wrong))["code"] == "forbidden"
            assert await answer(client, kind, ref="r", job=job, grant=grant) == {}


@patiently
async def test_job_that_was_submitted_may_be_watched_again(tmp_path: Path) -> None:
    """A gap is mended by a watch, so `generate` alone must do; another job of the subject is not read with it."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        others = await (await joined(studio, Restriction())).submit("other")
        client = await joined(studio, Restriction(scopes=("generate",)))
        mine = await client.submit("mine")
        assert await answer(client, "watch", ref="w", job=mine, after=0) == {}
        assert (await answer(client, "watch", ref="w", job=others))["details"]["scope"] == "read"
        await client.gone()
        have = [{"job": others, "seq": 0}, {"job": mine, "seq": 0}]
        again = Client(studio, (await studio.identity()).narrowed(Restriction(scopes=("generate",))))
        told = await again.hello(resume=client.resume, have=have)
        assert {one["job"] for one in told if "job" in one} == {mine}


@patiently
async def test_model_that_the_ticket_does_not_allow_is_forbidden(tmp_path: Path) -> None:
    """By name; and where none is asked for, another is not taken."""
    first, second = ScriptedUpstream(name="first"), ScriptedUpstream(name="second")
    async with open_studio(tmp_path, first, second) as studio:
        names = sorted(studio.node.models)
        client = await joined(studio, Restriction(models=(names[1],)))
        refused = await answer(client, "submit", **submit("a", model=names[0]))
        assert (refused["code"], refused["details"]) == ("forbidden", {"path": "model", "allowed": [names[1]]})
        assert await answer(client, "submit", **submit("b", model=names[1])) == {}
        await client.say("submit", **submit("c"))
        [accepted] = [one for one in client.told() if one["type"] == "accepted"]
        assert accepted["model"] == names[1]
        nowhere = await joined(studio, Restriction(models=("gone",)))
        assert (await answer(nowhere, "submit", **submit("d")))["code"] == "model_not_found"


@patiently
async def test_session_costs_no_more_than_its_ticket_allows(tmp_path: Path) -> None:
    """All its jobs together, over every resume, also with a credential that may more."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio, Restriction(max_cost_micros=3 * PRICE))
        dear = await answer(client, "submit", **submit("n", params={"prompt": "x", "n": 4}))
        assert (dear["code"], dear["details"]) == (
            "max_cost_exceeded",
            {"cost_max_micros": 4 * PRICE, "session_max_cost_micros": 3 * PRICE},
        )
        for ref in ("a", "b"):
            assert await answer(client, "submit", **submit(ref)) == {}
        assert await answer(client, "submit", **submit("a")) == {}, "the same ref is the same job"
        await client.gone()
        again = Client(studio, await studio.identity())
        told = await again.hello(resume=client.resume)
        assert told[0]["resumed"] is True
        assert await answer(again, "submit", **submit("c")) == {}
        refused = await answer(again, "submit", **submit("d"))
        assert refused["code"] == "max_cost_exceeded"
        await again.gone()
        other = Client(studio, await studio.identity())
        await other.hello()
        assert await answer(other, "submit", **submit("e")) == {}, "another session is not restricted"


@patiently
async def test_narrower_ticket_narrows_the_session_it_resumes(tmp_path: Path) -> None:
    """For good: what it took away does not come back with the next one."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio, Restriction())
        for restriction in (Restriction(scopes=("read",)), Restriction()):
            await client.gone()
            client = await joined(studio, restriction, resume=client.resume)
            assert (await answer(client, "submit", **submit("a")))["details"]["scope"] == "generate"


@patiently
async def test_revoked_credential_ends_its_live_connections(tmp_path: Path) -> None:
    """With 4502, within the time after which the node looks again; others stay."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        access = studio.node.access
        account = await access.identify(await studio.add_key())
        mine, other = [await access.identify(access.make_token(account, name, 3_600_000)[0]) for name in ("a", "b")]
        clients = [Client(studio, identity) for identity in (mine, other)]
        for client in clients:
            await client.hello()
        await studio.node.sessions.recheck()
        assert [client.wire.closed for client in clients] == [None, None]
        await studio.node.access._accounts.revoke_token(account.key, mine.token, 2**52, 0, 9)
        await asyncio.sleep(2)  # virtual
        await studio.node.sessions.recheck()
        assert [client.wire.closed for client in clients] == [(4502, "unauthorized"), None]


@pytest.mark.parametrize("scopes", [("read",), ()])
@patiently
async def test_connection_without_a_scope_still_opens(tmp_path: Path, scopes: tuple[str, ...]) -> None:
    """It may ping and say goodbye."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        client = await joined(studio, Restriction(scopes=scopes))
        await client.say("ping", ref="p", t=1)
        assert client.types() == "pong"
        await client.say("bye", ref="b")
        assert client.wire.closed == (1000, "normal")
