"""Foreign tokens at the node's door: an issuer on a real socket, several tenants, and what is told when it fails."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.core.issuers import Issuer
from gateway.core.records import Plan
from gateway.core.scopes import END_USER
from gateway.flow.access import Access
from gateway.flow.issuers import Issuers
from gateway.keysets import HttpKeySets
from protocol.errors import ClientFault
from tests.gateway.issuer import LocalIssuer, local_issuer
from tests.gateway.node import NodeUnderTest, node
from tests.gateway.parts import SIGNING_KEYS

__all__ = ["node"]


@contextlib.asynccontextmanager
async def trusting(node: NodeUnderTest) -> AsyncIterator[tuple[LocalIssuer, Access]]:
    """Return an issuer and a door that takes its tokens: for `acme`, and by another audience for `umbrella`."""
    async with local_issuer() as issuer:
        key_sets = HttpKeySets(dict.fromkeys(("a", "b", "c"), issuer.jwks_url), node.clock)
        trusted = [
            Issuer("a", "acme", issuer.url, "gateway", algorithms=("ES256",)),
            Issuer("b", "umbrella", issuer.url, "umbrella", algorithms=("ES256",), scope_claim="scope"),
            Issuer("c", "nobody", "https://third.example", "gateway", algorithms=("ES256",)),
        ]
        issuers = Issuers(trusted, key_sets, node.ledger.accounts, node.clock)
        accounts = node.ledger.accounts
        for tenant in ("acme", "umbrella"):
            await accounts.add_tenant(tenant, Plan(max_jobs=7), 0)
        tickets = node.node.access._tickets
        try:
            yield issuer, Access(accounts, tickets, SIGNING_KEYS, node.clock, "e", issuers=issuers)
        finally:
            await key_sets.close()


async def why(access: Access, token: str) -> str:
    """Return why a token is refused: the reason, or the code where there is none."""
    with pytest.raises(ClientFault) as refused:
        await access.identify(token)
    return str(refused.value.details.get("reason", refused.value.code))


async def test_foreign_token_stands_for_an_end_user_of_its_tenant(node: NodeUnderTest) -> None:
    """With the tenant's plan, until it ends; the same issuer may serve several tenants."""
    async with trusting(node) as (issuer, access):
        ann = await access.identify(issuer.token(node.clock.time_ms()))
        assert (ann.tenant, ann.subject, ann.scopes, ann.key) == ("acme", "ann", END_USER, "issuer:a")
        assert ann.plan == Plan(max_jobs=7)
        assert ann.expires_ms is not None
        assert await access.stands(ann)
        bob = await access.identify(issuer.token(node.clock.time_ms(), sub="bob", aud="umbrella", scope="read admin"))
        assert (bob.tenant, bob.subject, bob.scopes) == ("umbrella", "bob", frozenset({"read"}))
        node.clock.advance(91)
        assert await why(access, issuer.token(node.clock.time_ms() - 91_000)) == "expired"


async def test_foreign_token_is_refused_by_its_reason(node: NodeUnderTest) -> None:
    """And an issuer that nobody named is never asked."""
    async with trusting(node) as (issuer, access):
        now = node.clock.time_ms()
        assert await why(access, issuer.token(now, iss="https://evil.example")) == "wrong issuer"
        assert await why(access, issuer.token(now, iss="")) == "wrong issuer"
        assert await why(access, issuer.token(now, iss="safelight")) == "malformed"
        assert issuer.asked == 0
        assert await why(access, issuer.token(now, aud="third")) == "wrong audience"
        assert await why(access, issuer.token(now, kid="made-up")) == "unknown key"
        assert await why(access, issuer.token(now, iss="https://third.example")) == "forbidden"
        own, _ = node.node.access.make_token(await node.identity(await node.add_key()), "ann", 60_000)
        assert (await access.identify(own)).subject == "ann"


async def test_rotated_key_of_an_issuer_is_found(node: NodeUnderTest) -> None:
    """After the cool-down; what the old one signed is refused then."""
    async with trusting(node) as (issuer, access):
        old = issuer.token(node.clock.time_ms(), exp=node.clock.time_ms() // 1000 + 600)
        await access.identify(old)
        issuer.rotate("second")
        node.clock.advance(31)
        assert (await access.identify(issuer.token(node.clock.time_ms()))).subject == "ann"
        assert await why(access, old) == "unknown key"
        forged = issuer.token(node.clock.time_ms())[:-8] + "AAAAAAAA"
        assert await why(access, forged) == "bad signature"


async def test_issuer_that_is_down_is_no_fault_of_the_clients(node: NodeUnderTest) -> None:
    """It is told to come back, and not that it is nobody."""
    async with trusting(node) as (issuer, access):
        issuer.status = 503
        with pytest.raises(ClientFault) as refused:
            await access.identify(issuer.token(node.clock.time_ms()))
        assert (refused.value.code, refused.value.retry_after_ms) == ("overloaded", 5000)


async def test_without_issuers_only_our_own_tokens_count(node: NodeUnderTest) -> None:
    """A foreign one is of a key that nobody knows."""
    async with local_issuer() as issuer:
        assert await why(node.node.access, issuer.token(node.clock.time_ms())) == "malformed"
