from gateway.edges.links import TenantLinks
from protocol.tail import URL_STEP_MS
from tests.gateway.node import NodeUnderTest

JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
ASSET = "sha256:" + "ab" * 32
NOON_MS = 1_795_323_600_000 // URL_STEP_MS * URL_STEP_MS


async def test_addresses_are_equal_within_a_step(node: NodeUnderTest) -> None:
    """So rendered frames can be shared; the next step has others."""
    links = TenantLinks("https://gw.example/base/", node.node.access, "acme")
    first, later, next_step = NOON_MS, NOON_MS + URL_STEP_MS - 1, NOON_MS + URL_STEP_MS
    assert links.events(JOB, first) == links.events(JOB, later) != links.events(JOB, next_step)
    url, expires_in_ms = links.asset(JOB, ASSET, first)
    assert url == links.asset(JOB, ASSET, later)[0] != links.asset(JOB, ASSET, next_step)[0]
    assert url.startswith(f"https://gw.example/base/v1/assets/{'ab' * 32}?sig=a1.")
    assert expires_in_ms == 3_600_000 + URL_STEP_MS


async def test_events_address_is_a_grant_to_watch(node: NodeUnderTest) -> None:
    """Whoever checks grants takes it as one."""
    links = TenantLinks("https://gw.example", node.node.access, "acme")
    grant = links.events(JOB, node.clock.time_ms()).partition("sig=")[2]
    node.node.access.check_grant(grant, JOB, "watch")
