"""Where the client has its token from: when a key is exchanged, and what a gateway's answers come to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from protocol.client_token import EARLY_SECONDS, ExchangedKey, TokenSource, token_url, tokens_of
from protocol.refusals import Closed, Refused


class Desk:
    """Gives tokens as a gateway does, or whatever a test wants."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.expires_in = 86_400
        self.status = 200
        self.body: bytes | None = None

    async def answer(self, request: web.Request) -> web.Response:
        """Give the next token."""
        given = await request.json()
        self.asked.append(given["api_key"])
        told = {"access_token": f"token-{len(self.asked)}", "token_type": "bearer", "expires_in": self.expires_in}
        body = msgspec.json.encode(told) if self.body is None else self.body
        return web.Response(body=body, status=self.status, headers={"Location": self.url})


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Desk]:
    """Serve a desk on a free port."""
    desk = Desk()
    app = web.Application()
    app.router.add_post("/v1/auth/token", desk.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        desk.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield desk
    finally:
        await runner.cleanup()


async def test_key_is_exchanged_once_until_shortly_before_the_end() -> None:
    """However often the client connects; what was refused is not used again."""
    async with opened() as desk:
        key = ExchangedKey(desk.url, "sk-sl-1")
        assert [await key.get() for _ in range(3)] == ["token-1"] * 3
        assert desk.asked == ["sk-sl-1"]
        assert key.refused()
        assert await key.get() == "token-2"
        left = key._renew_at - asyncio.get_running_loop().time()
        assert left == pytest.approx(86_400 - EARLY_SECONDS, abs=5)
        key._renew_at = 0.0
        assert await key.get() == "token-3"
        assert "sk-sl-1" not in repr(key)


async def test_short_token_is_used_for_half_its_life() -> None:
    """One that ends at once would be asked for without end."""
    async with opened() as desk:
        desk.expires_in = 60
        key = ExchangedKey(desk.url, "sk-sl-1")
        await key.get()
        assert key._renew_at - asyncio.get_running_loop().time() == pytest.approx(30, abs=5)


@pytest.mark.parametrize(
    "status,body,raised",
    [
        (401, b"", Closed),
        (422, b'{"error":{"code":"invalid_param","message":"x","retryable":false}}', Refused),
        (429, b'{"error":{"code":"rate_limited","message":"x","retryable":true}}', OSError),
        (502, b"<html>", OSError),
        (302, b"", OSError),
        (200, b"<html>", OSError),
    ],
)
async def test_answer_says_whether_to_try_again(status: int, body: bytes, raised: type[Exception]) -> None:
    """What may pass is an `OSError`; no answer sends the key anywhere else."""
    async with opened() as desk:
        desk.status, desk.body = status, body
        with pytest.raises(raised):
            await ExchangedKey(desk.url, "sk-sl-1").get()
        assert len(desk.asked) == 1


async def test_gateway_that_does_not_listen_is_tried_again() -> None:
    """It may be starting."""
    with pytest.raises(OSError, match="no token from"):
        await ExchangedKey("http://127.0.0.1:1", "sk-sl-1").get()


async def test_given_token_is_for_good_and_an_asked_one_is_not() -> None:
    """Both, and none at all."""

    async def source() -> str:
        return "fresh"

    cases: list[tuple[str | TokenSource | None, str | None, bool]] = [
        ("t", "t", False),
        (None, None, False),
        (source, "fresh", True),
    ]
    for token, told, may_renew in cases:
        tokens = tokens_of("http://a.example", token, None)
        assert (await tokens.get(), tokens.refused()) == (told, may_renew)
    with pytest.raises(ValueError, match="not both"):
        tokens_of("http://a.example", "t", "sk-sl-1")


@pytest.mark.parametrize(
    "url,told",
    [
        ("https://a.example", "https://a.example/v1/auth/token"),
        ("ws://a.example:8080/v1/stream", "http://a.example:8080/v1/auth/token"),
        ("wss://a.example/gate/v1/stream?x=1", "https://a.example/gate/v1/auth/token"),
    ],
)
def test_tokens_are_given_beside_the_stream(url: str, told: str) -> None:
    """Under whatever address a client names the gateway."""
    assert token_url(url) == told
