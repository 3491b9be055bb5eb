"""Limits, money and refusals are shared: what is used up through one door is used up at all, and refused alike."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.core.records import Identity, NewJob, Plan
from gateway.core.scopes import END_USER, Restriction
from gateway.flow.access import Access
from gateway.flow.pictures import Brought, Pictures
from protocol.errors import ClientFault
from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door
from tests.gateway.edges.compat.speakers import DIALECTS, HOLE, INIT, SPEAKERS, Asked, ended, telling_codes
from tests.gateway.edges.compat.statuses import MANNERS
from tests.pictures import flat

PLAIN: Final[dict[str, Any]] = {"prompt": "a lighthouse", "width": 128, "height": 192}
EVERY: Final = frozenset(SPEAKERS)


async def codes(door: Door, asked: Asked, key: str = "", names: frozenset[str] = EVERY) -> dict[str, str]:
    """Return how each door refuses a request, in our words; empty = it does not."""
    return {name: (await SPEAKERS[name](door, asked, key)).code for name in sorted(names)}


# ------------------------------------------------------------------------------------------------ what can be used up


def of_plan(door: Door, _: pytest.MonkeyPatch) -> None:
    """The account's plan has the limit."""
    door.easel.hold = asyncio.Event()


def of_purse(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each account has the money for one picture; the ledger, where it is counted, has no budgets of its own yet."""
    jobs = door.running.gateway.node.admission._ledger.jobs
    spent: dict[str, int] = {}
    write = jobs.submit

    async def paying(new: NewJob) -> Any:
        if spent.setdefault(new.tenant, 0) + new.price_micros > EASEL.price_micros:
            raise ClientFault("insufficient_credits", "the budget is used up")
        spent[new.tenant] += new.price_micros
        return await write(new)

    monkeypatch.setattr(jobs, "submit", paying)


USED_UP: Final[dict[str, tuple[Plan, Callable[[Door, pytest.MonkeyPatch], None], str]]] = {
    "submits": (Plan(submits_per_second=0.001), of_plan, "rate_limited"),
    "live jobs": (Plan(max_jobs=1), of_plan, "concurrency_limit"),
    "money": (Plan(), of_purse, "insufficient_credits"),
}
"""A limit that one request uses up, where it stands, and how the second is refused."""


@pytest.mark.parametrize("limit", USED_UP)
async def test_what_one_door_uses_up_is_used_up_at_every_door(
    door: Door, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """For each pair of doors, the same one twice included."""
    plan, prepare, code = USED_UP[limit]
    prepare(telling_codes(door), monkeypatch)
    for name, speak in SPEAKERS.items():
        key = await door.key_of(f"through {name}", plan)
        first = await speak(door, Asked(), key)
        assert (bool(first.job), first.code) == (True, ""), name
        assert await codes(door, Asked(), key) == dict.fromkeys(SPEAKERS, code), name


async def test_full_queue_is_full_at_every_door(tmp_path: Path) -> None:
    """Whoever filled it."""
    async with open_door(tmp_path, limits__max_queue=1) as door:
        telling_codes(door).easel.hold = hold = asyncio.Event()
        while not (await SPEAKERS["rest"](door, Asked(), "")).code:
            continue
        assert await codes(door, Asked()) == dict.fromkeys(SPEAKERS, "queue_full")
        hold.set()


# ------------------------------------------------------------------------------------------------------ who may do what


async def less_scopes(door: Door, _: pytest.MonkeyPatch) -> str:
    """A token that may do everything but generate."""
    return await door.token_of("ann", scopes=sorted(END_USER - {"generate"}))


def narrowed(restriction: Restriction) -> Callable[[Door, pytest.MonkeyPatch], Awaitable[str]]:
    """A credential that is narrowed as tickets are, which open no door but the WebSocket."""

    async def narrow(door: Door, monkeypatch: pytest.MonkeyPatch) -> str:
        identify = Access.identify

        async def narrowing(self: Access, credential: str) -> Identity:
            return (await identify(self, credential)).narrowed(restriction)

        monkeypatch.setattr(Access, "identify", narrowing)
        return door.running.key

    return narrow


async def ticket(door: Door, _: pytest.MonkeyPatch) -> str:
    """A ticket, which is no bearer."""
    return str((await door.ask("POST", "/v1/tickets", {})).json["ticket"])


NARROW: Final[dict[str, tuple[Callable[[Door, pytest.MonkeyPatch], Awaitable[str]], str]]] = {
    "scopes": (less_scopes, "forbidden"),
    "models": (narrowed(Restriction(models=("another",))), "forbidden"),
    "cost": (narrowed(Restriction(max_cost_micros=EASEL.price_micros - 1)), "max_cost_exceeded"),
    "ticket": (ticket, "unauthorized"),
    "nobody": (lambda door, _: asyncio.sleep(0, "sk-sl-nobody"), "unauthorized"),
}
"""A credential that is not enough, and how it is refused."""


@pytest.mark.parametrize("narrow", NARROW)
async def test_credential_that_is_not_enough_is_refused_alike(
    door: Door, monkeypatch: pytest.MonkeyPatch, narrow: str
) -> None:
    """Whatever it lacks; and nothing is painted."""
    make, code = NARROW[narrow]
    credential = await make(telling_codes(door), monkeypatch)
    assert await codes(door, Asked(), credential) == dict.fromkeys(SPEAKERS, code)
    assert door.easel.orders == []


WITH_PICTURES: Final = EVERY - {"websocket"}
"""There an upload is refused by itself, before the submit, which then names one that is not there."""


async def test_pictures_that_come_along_need_the_scope_that_uploads_need(door: Door) -> None:
    """Words do without it."""
    token = await telling_codes(door).token_of("ann", scopes=["generate", "read", "cancel"])
    asked = Asked("img2img", {"prompt": "a boat", "strength": 0.75}, sent={"init": INIT})
    assert await codes(door, asked, token, WITH_PICTURES) == dict.fromkeys(sorted(WITH_PICTURES), "forbidden")
    assert await codes(door, Asked(), token) == dict.fromkeys(sorted(EVERY), "")


async def test_pictures_of_what_is_refused_are_not_kept(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rate, the model, or what it can do; those of a job are."""
    keep, kept = Pictures.keep, list[str]()

    async def noting(self: Pictures, tenant: str, brought: Brought) -> Any:
        kept.append(tenant)
        return await keep(self, tenant, brought)

    monkeypatch.setattr(Pictures, "keep", noting)
    telling_codes(door).easel.hold = asyncio.Event()
    sent = {"init": INIT}
    boat = Asked("img2img", {"prompt": "p"}, sent=sent)
    for name in DIALECTS.keys() - {"stability_v2beta"}:  # whose forms name neither a model nor a number
        key = await door.key_of(name, Plan(submits_per_second=1.0))
        for told in (Asked("img2img", {"prompt": "p", "n": 5}, sent=sent), Asked("img2img", model="none", sent=sent)):
            assert (await SPEAKERS[name](door, told, key)).code in {"invalid_param", "model_not_found"}
        while (await SPEAKERS[name](door, Asked(model="none"), key)).code != "rate_limited":
            pass
        assert (await SPEAKERS[name](door, boat, key)).code == "rate_limited"
    assert kept == []
    assert (await SPEAKERS["stability_v1"](door, boat, await door.key_of("quick", Plan()))).job
    assert kept == ["quick"]


# ----------------------------------------------------------------------------------------------------- what is too much

SMALL: Final = replace(EASEL, max_prompt=40, tasks={task: EASEL.tasks[task] for task in ("txt2img", "img2img")})
"""A model with narrow bounds, so that they are met before those that a dialect has of its own."""
SIZED: Final = EVERY - {"stability_v2beta"}
WITH_WORDS: Final = SIZED - {"openai_images"}
REFUSED: Final[dict[str, tuple[Asked, str, frozenset[str]]]] = {
    "words": (Asked(params=PLAIN | {"prompt": "x" * 41}), "prompt_too_long", EVERY),
    "negative words": (
        Asked(params=PLAIN | {"negative_prompt": "x" * 41}),
        "prompt_too_long",
        EVERY - {"openai_images"},
    ),
    "many": (Asked(params=PLAIN | {"n": 5}), "invalid_param", SIZED),
    "steps": (Asked(params=PLAIN | {"steps": 151}), "invalid_param", WITH_WORDS),
    "edges": (Asked(params=PLAIN | {"width": 4096, "height": 1024}), "resolution_not_supported", SIZED),
    "pixels": (Asked(params=PLAIN | {"width": 2048, "height": 2048}), "resolution_not_supported", SIZED),
    "model": (Asked(model="unheard-of"), "model_not_found", SIZED),
    "sampler": (Asked(params=PLAIN | {"sampler": "heun"}), "sampler_not_supported", WITH_WORDS),
    "task": (Asked("upscale", {}, sent={"init": INIT}), "task_not_supported", EVERY - {"openai_images"}),
    "picture": (
        Asked("img2img", {"prompt": "p"}, sent={"init": flat(0, (1024, 72))}),
        "payload_too_large",
        WITH_PICTURES,
    ),
    "bytes": (
        Asked("img2img", {"prompt": "p"}, sent={"init": INIT + b"0" * 300_000}),
        "payload_too_large",
        WITH_PICTURES,
    ),
    "noise": (
        Asked("img2img", {"prompt": "p"}, sent={"init": INIT[:4] + b"0" * 99}),
        "unsupported_media",
        WITH_PICTURES,
    ),
    "damaged": (Asked("img2img", {"prompt": "p"}, sent={"init": INIT[:20]}), "image_decode_failed", WITH_PICTURES),
}
"""A request that is refused, how, and the doors that have words for it."""


async def test_what_is_too_much_is_refused_alike(tmp_path: Path) -> None:
    """By the model's bounds and by the gateway's; and nothing is painted."""
    limits = {"limits__max_input_pixels": 65_536, "limits__max_upload_bytes": 262_144}
    async with open_door(tmp_path, Easel(SMALL), **limits) as door:
        telling_codes(door)
        for name, (asked, code, names) in REFUSED.items():
            assert await codes(door, asked, names=names) == dict.fromkeys(sorted(names), code), name
        assert door.easel.orders == []


# --------------------------------------------------------------------------------------------------- what is somebody's

JOB_ROUTES: Final = {"rest": "/v1/jobs/{}"} | {name: one.job for name, one in MANNERS.items()}


async def test_job_of_another_is_no_job_at_any_door(door: Door) -> None:
    """Whichever door it came through: another account, or another end user of the same, learns nothing of it."""
    stranger, neighbour = await door.key_of("stranger", Plan()), await door.token_of("neighbour")
    for name, speak in SPEAKERS.items():
        told = await speak(telling_codes(door), Asked(), "")
        for route, path in JOB_ROUTES.items():
            assert (await door.ask("GET", path.format(told.job))).status in {200, 202}, (name, route)
            for key in (stranger, neighbour):
                assert (await door.ask("GET", path.format(told.job), key=key)).status == 404, (name, route)


async def test_picture_of_another_account_is_no_asset(door: Door) -> None:
    """A picture that came along with a request is that account's, and its id opens nothing for others."""
    asked = Asked("inpaint", {"prompt": "a boat", "strength": 0.75}, sent={"init": INIT, "mask": HOLE})
    telling_codes(door)
    for name, speak in SPEAKERS.items():
        owner, other = await door.key_of(f"of {name}", Plan()), await door.key_of(f"beside {name}", Plan())
        await ended(door, (await speak(door, asked, owner)).job)
        inputs = [{"role": one.role, "asset": one.asset} for one in door.easel.orders[-1].request.inputs]
        body = {"task": "inpaint", "params": asked.params, "inputs": inputs}
        assert (await door.ask("POST", "/v1/jobs", body, key=owner)).status == 202, name
        assert (await door.ask("POST", "/v1/jobs", body, key=other)).code == "asset_not_found", name
