"""A real issuer of tokens for tests: real keys behind a real socket, with the faults that an issuer may have."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


class LocalIssuer:
    """Signs tokens with its newest key and serves its key set; `asked` counts how often."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.status = 200
        self.body: bytes | None = None
        """What it answers instead of its keys."""
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.rotate("first")

    @property
    def jwks_url(self) -> str:
        """Where its keys are."""
        return f"{self.url}/jwks"

    def rotate(self, kid: str) -> None:
        """Sign with a new key; the old ones are not published any more."""
        self._keys = {kid: ec.generate_private_key(ec.SECP256R1())}

    def token(self, now_ms: int, kid: str | None = None, algorithm: str = "ES256", **claims: Any) -> str:
        """Return a token of a minute for `ann`, with other claims if told; of another key's name if told."""
        [(name, key)] = self._keys.items()
        body = {"iss": self.url, "aud": "gateway", "sub": "ann", "exp": now_ms // 1000 + 60, **claims}
        return jwt.PyJWS().encode(msgspec.json.encode(body), key, algorithm, headers={"kid": kid or name})

    async def answer(self, request: web.Request) -> web.Response:
        """Give the key set, or what a test wants instead."""
        self.asked += 1
        if self.status in {301, 302}:
            raise web.HTTPFound("/elsewhere")
        keys = [
            {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, key in self._keys.items()
        ]
        body = msgspec.json.encode({"keys": keys}) if self.body is None else self.body
        return web.Response(body=body, status=self.status, content_type="application/json")


@contextlib.asynccontextmanager
async def local_issuer() -> AsyncIterator[LocalIssuer]:
    """Serve an issuer on a free port while the context lasts."""
    issuer = LocalIssuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.answer)
    app.router.add_get("/elsewhere", issuer.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        await runner.cleanup()
