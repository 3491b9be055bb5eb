"""Where the Python client has its token from: given once, from a function, or for an API key that it exchanges itself.

An exchanged key goes over the wire once a day: the token is kept until shortly before its end, and another is only
asked for when the server refused it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from protocol.client_inputs import PATH, stream_url
from protocol.messages import ErrorBody
from protocol.refusals import Closed, Refused

TokenSource = Callable[[], Awaitable[str]]
EARLY_SECONDS: Final = 300.0
"""How long before its end a token is not used for a new connection any more, unless it lives shorter than that."""
ASK_SECONDS: Final = 10.0
MAX_BYTES: Final = 65_536
_UNAUTHORIZED: Final = 4502


class Tokens(Protocol):
    """What the client asks before each connection."""

    async def get(self) -> str | None:
        """Return the token for the next connection."""
        ...

    def refused(self) -> bool:
        """The server refused it; whether another may be asked for."""
        ...


class GivenToken:
    """One token for good."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def get(self) -> str | None:
        return self._token

    def refused(self) -> bool:
        return False


class AskedToken:
    """Tokens of a function, which is asked before each connection."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def get(self) -> str | None:
        return await self._source()

    def refused(self) -> bool:
        return True


class _TokenGiven(msgspec.Struct):
    access_token: str
    expires_in: float


class _ErrorAnswer(msgspec.Struct):
    error: ErrorBody


class ExchangedKey:
    """Tokens that a gateway gives for an API key (`POST /v1/auth/token`)."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = token_url(url)
        self._api_key = api_key
        self._token = ""
        self._renew_at = 0.0
        """On the loop's clock: whether a clock of the calendar is right does not matter."""

    def __repr__(self) -> str:
        return f"<ExchangedKey at {self._url}>"

    async def get(self) -> str | None:
        """Return a token that lives a while. Raises `Closed` if the key is refused, `OSError` if nobody answers."""
        now = asyncio.get_running_loop().time()
        if not self._token or now >= self._renew_at:
            given = await self._exchange()
            self._token = given.access_token
            self._renew_at = now + given.expires_in - min(EARLY_SECONDS, given.expires_in / 2)
        return self._token

    def refused(self) -> bool:
        self._token = ""
        return True

    async def _exchange(self) -> _TokenGiven:
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._url, json={"api_key": self._api_key}, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(MAX_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"no token from {self._url}: {type(error).__name__}") from error
        if answer.status != 200:
            raise _fault(answer.status, body)
        try:
            return msgspec.json.decode(body, type=_TokenGiven)
        except msgspec.DecodeError as error:
            raise OSError(f"no token from {self._url}: the answer is none") from error


def token_url(url: str) -> str:
    """Return where a gateway gives tokens, by any address of it that a client takes."""
    parts = urlsplit(stream_url(url))
    path = parts.path.removesuffix(PATH) + "/v1/auth/token"
    return urlunsplit(({"ws": "http", "wss": "https"}[parts.scheme], parts.netloc, path, "", ""))


def _fault(status: int, body: bytes) -> Exception:
    """Return what a refused exchange comes to: what may pass is an `OSError`, after which the client tries again."""
    if status == 401:
        return Closed(_UNAUTHORIZED, "unauthorized")
    try:
        error = msgspec.json.decode(body, type=_ErrorAnswer).error
    except msgspec.DecodeError:
        return OSError(f"no token: HTTP {status}")
    return OSError(f"no token: {error.code}") if error.retryable else Refused(error)


def tokens_of(url: str, token: str | TokenSource | None, api_key: str | None) -> Tokens:
    """Return where a client has its tokens from. Raises `ValueError` if it was given a token and a key."""
    if api_key is not None:
        if token is not None:
            raise ValueError("give a token or an API key, not both")
        return ExchangedKey(url, api_key)
    return AskedToken(token) if callable(token) else GivenToken(token)
