"""The keys of foreign issuers, over real HTTP: when they are asked for, and what an issuer's faults come to."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from gateway import keysets
from gateway.keysets import COOL_DOWN_SECONDS, FRESH_SECONDS, MAX_BYTES, STALE_SECONDS, HttpKeySets
from gateway.ports import KeysUnreachable
from tests.gateway.issuer import LocalIssuer, local_issuer
from tests.virtual_time import ManualClock

MANY = b'{"keys":[' + b",".join(b'{"kid":"%d"}' % number for number in range(100)) + b"]}"


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[tuple[LocalIssuer, HttpKeySets, ManualClock]]:
    """Return an issuer, and its keys as the gateway keeps them."""
    clock = ManualClock()
    async with local_issuer() as issuer:
        key_sets = HttpKeySets({"idp": issuer.jwks_url}, clock)
        try:
            yield issuer, key_sets, clock
        finally:
            await key_sets.close()


async def names(key_sets: HttpKeySets, key: str | None = None) -> list[object]:
    """Return the names of the issuer's keys."""
    return [one.get("kid") for one in await key_sets.keys("idp", key)]


async def test_keys_are_kept_until_they_are_old() -> None:
    """Fifty at once are one question."""
    async with opened() as (issuer, key_sets, clock):
        told = await asyncio.gather(*(names(key_sets, "first") for _ in range(50)))
        assert told == [["first"]] * 50
        clock.advance(FRESH_SECONDS - 1)
        await names(key_sets, "first")
        assert issuer.asked == 1
        clock.advance(1)
        await names(key_sets)
        assert issuer.asked == 2


async def test_unknown_name_asks_anew_after_a_while_and_no_sooner() -> None:
    """So a rotated key is found, and made-up names do not reach the issuer."""
    async with opened() as (issuer, key_sets, clock):
        assert await names(key_sets, "second") == ["first"]
        issuer.rotate("second")
        for number in range(50):
            assert await names(key_sets, f"made-up-{number}") == ["first"]
        assert issuer.asked == 1
        clock.advance(COOL_DOWN_SECONDS)
        assert await names(key_sets, "second") == ["second"]
        assert issuer.asked == 2


@pytest.mark.parametrize(
    "status,body",
    [(500, None), (302, None), (404, b""), (200, b"<html>"), (200, b'{"keys":{}}'), (200, b" " * (MAX_BYTES + 1))],
)
async def test_issuer_that_fails_is_asked_again_later(status: int, body: bytes | None) -> None:
    """Also one that sends us elsewhere or too much; without any keys nothing can be checked."""
    async with opened() as (issuer, key_sets, clock):
        issuer.status, issuer.body = status, body
        for _ in range(3):
            with pytest.raises(KeysUnreachable):
                await key_sets.keys("idp", "first")
        assert issuer.asked == 1
        issuer.status, issuer.body = 200, None
        clock.advance(COOL_DOWN_SECONDS)
        assert await names(key_sets) == ["first"]


async def test_old_keys_stand_in_for_an_issuer_that_is_gone() -> None:
    """For a day, and not for ever."""
    async with opened() as (issuer, key_sets, clock):
        await names(key_sets)
        issuer.status = 503
        clock.advance(STALE_SECONDS)
        assert await names(key_sets, "first") == ["first"]
        clock.advance(1)
        with pytest.raises(KeysUnreachable):
            await names(key_sets)


async def test_issuer_that_does_not_listen_or_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it long."""
    monkeypatch.setattr(keysets, "ASK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # which nobody accepts from
        urls = {"deaf": "http://127.0.0.1:1/jwks", "mute": f"http://127.0.0.1:{mute.getsockname()[1]}/jwks"}
        key_sets = HttpKeySets(urls, ManualClock())
        for name in urls:
            with pytest.raises(KeysUnreachable):
                await key_sets.keys(name, None)
        await key_sets.close()


async def test_keys_are_bounded() -> None:
    """What is over the bound is not looked at."""
    async with opened() as (issuer, key_sets, _):
        issuer.body = MANY
        assert len(await key_sets.keys("idp", None)) == 64


async def test_nothing_is_opened_without_need() -> None:
    """A gateway without issuers has nothing to close."""
    await HttpKeySets({}, ManualClock()).close()
