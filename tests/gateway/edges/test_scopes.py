"""Every route asks for its scope: a table over all of them, so that none is forgotten."""

from typing import Final

import pytest
from starlette.routing import Route, WebSocketRoute

from gateway.core.scopes import ALL, SCOPES
from tests.gateway.edges.conftest import Site

PUBLIC: Final = "public"
ANY: Final = "any credential"
NEEDS: Final = {
    ("POST", "/v1/auth/token"): PUBLIC,
    ("POST", "/v1/auth/revoke"): ANY,
    ("GET", "/.well-known/jwks.json"): PUBLIC,
    ("POST", "/v1/tickets"): ANY,
    ("POST", "/v1/tokens"): "admin",
    ("PUT", "/v1/assets"): "assets",
    ("GET", "/v1/assets/{asset}"): "assets",
    ("POST", "/v1/jobs"): "generate",
    ("GET", "/v1/jobs"): "read",
    ("GET", "/v1/jobs/{job}"): "read",
    ("DELETE", "/v1/jobs/{job}"): "cancel",
    ("POST", "/v1/jobs/{job}/grants"): "grant",
    ("GET", "/v1/jobs/{job}/preview"): "read",
    ("GET", "/v1/jobs/{job}/events"): "read",
    ("POST", "/v1/generation/{engine}/text-to-image"): "generate",
    ("POST", "/v1/generation/{engine}/text-to-image-controlnet"): "generate",
    ("POST", "/v1/generation/{engine}/image-to-image-inpainting"): "generate",
    ("POST", "/v1/generation/{engine}/image-to-image"): "generate",
    ("POST", "/v1/generation/{engine}/image-to-image/masking"): "generate",
    ("POST", "/v1/generation/{engine}/image-to-image/upscale"): "generate",
    ("GET", "/v1/generation/{job}/status"): "read",
    ("GET", "/v1/engines/list"): "read",
    ("GET", "/v1/user/account"): "read",
    ("GET", "/v1/user/balance"): "read",
    ("POST", "/v2beta/stable-image/generate/core"): "generate",
    ("POST", "/v2beta/stable-image/generate/ultra"): "generate",
    ("POST", "/v2beta/stable-image/generate/sd3"): "generate",
    ("POST", "/v2beta/stable-image/edit/inpaint"): "generate",
    ("POST", "/v2beta/stable-image/edit/outpaint"): "generate",
    ("POST", "/v2beta/stable-image/edit/search-and-replace"): "generate",
    ("POST", "/v2beta/stable-image/edit/remove-background"): "generate",
    ("POST", "/v2beta/stable-image/control/sketch"): "generate",
    ("POST", "/v2beta/stable-image/control/structure"): "generate",
    ("POST", "/v2beta/stable-image/control/style"): "generate",
    ("POST", "/v2beta/stable-image/control/style-transfer"): "generate",
    ("POST", "/v2beta/stable-image/upscale/fast"): "generate",
    ("POST", "/v2beta/stable-image/upscale/conservative"): "generate",
    ("POST", "/v2beta/stable-image/upscale/creative"): "generate",
    ("POST", "/v2beta/stable-image/edit/erase"): "generate",
    ("POST", "/v2beta/stable-image/edit/search-and-recolor"): "generate",
    ("POST", "/v2beta/stable-image/edit/replace-background-and-relight"): "generate",
    ("GET", "/v2beta/results/{job}"): "read",
    ("GET", "/v2beta/stable-image/upscale/creative/result/{job}"): "read",
    ("POST", "/v1/images/generations"): "generate",
    ("POST", "/v1/images/edits"): "generate",
    ("GET", "/v1/images/generations/{job}"): "read",
    ("POST", "/sdapi/v1/txt2img"): "generate",
    ("POST", "/sdapi/v1/img2img"): "generate",
    ("POST", "/sdapi/v1/extra-single-image"): "generate",
    ("GET", "/sdapi/v1/progress"): "read",
    ("POST", "/sdapi/v1/interrupt"): "cancel",
    ("POST", "/sdapi/v1/skip"): "cancel",
    ("GET", "/sdapi/v1/jobs/{job}"): "read",
    ("GET", "/sdapi/v1/options"): "read",
    ("POST", "/sdapi/v1/options"): "generate",
    ("POST", "/sdapi/v1/refresh-checkpoints"): "read",
    ("POST", "/sdapi/v1/refresh-vae"): "read",
    ("POST", "/sdapi/v1/refresh-loras"): "read",
    ("GET", "/sdapi/v1/cmd-flags"): "read",
    ("GET", "/controlnet/control_types"): "read",
    ("GET", "/controlnet/model_list"): "read",
    ("GET", "/controlnet/module_list"): "read",
    ("GET", "/controlnet/settings"): "read",
    ("GET", "/controlnet/version"): "read",
    ("GET", "/sdapi/v1/embeddings"): "read",
    ("GET", "/sdapi/v1/face-restorers"): "read",
    ("GET", "/sdapi/v1/hypernetworks"): "read",
    ("GET", "/sdapi/v1/latent-upscale-modes"): "read",
    ("GET", "/sdapi/v1/loras"): "read",
    ("GET", "/sdapi/v1/memory"): "read",
    ("GET", "/sdapi/v1/prompt-styles"): "read",
    ("GET", "/sdapi/v1/realesrgan-models"): "read",
    ("GET", "/sdapi/v1/samplers"): "read",
    ("GET", "/sdapi/v1/schedulers"): "read",
    ("GET", "/sdapi/v1/script-info"): "read",
    ("GET", "/sdapi/v1/scripts"): "read",
    ("GET", "/sdapi/v1/sd-models"): "read",
    ("GET", "/sdapi/v1/sd-vae"): "read",
    ("GET", "/sdapi/v1/upscalers"): "read",
    ("GET", "/"): PUBLIC,
    ("GET", "/v1/models"): "read",
    ("GET", "/v1/models/{model:path}"): "read",
    ("GET", "/v1/limits"): "read",
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
}
"""What each route needs. The WebSocket's messages are in `tests/gateway/flow/test_restrictions.py`."""
DOORS: Final = (
    "/v1/generation/", "/v1/engines/", "/v1/user/", "/v2beta/", "/v1/images/", "/sdapi/v1/", "/controlnet/",
)  # fmt: skip
SCOPED: Final = [route for route, needed in NEEDS.items() if needed in ALL]
NO_JOB: Final = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"


def filled(path: str) -> str:
    """Return a path with something in its places; the job is one that there is not, so that no stream begins."""
    return path.replace("{job}", NO_JOB).replace("{asset}", "a" * 64).replace("{model:path}", "easel-1")


async def with_scopes(site: Site, scopes: frozenset[str]) -> str:
    """Return a token with these scopes and no other."""
    data = {"api_key": site.key, "scopes": sorted(scopes)}
    return str((await site.ask("POST", "/v1/auth/token", key=None, data=data)).json["access_token"])


def test_every_route_is_in_the_table(site: Site) -> None:
    """Whoever adds a route says here what it needs."""
    routes = [route for route in site.routes if not isinstance(route, WebSocketRoute)]
    assert all(isinstance(route, Route) for route in routes)
    told = {
        (method, route.path)
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert told == NEEDS.keys()
    assert set(NEEDS.values()) - {PUBLIC, ANY} == ALL


@pytest.mark.parametrize("method,path", SCOPED)
async def test_route_is_refused_without_its_scope(site: Site, method: str, path: str) -> None:
    """All the others do not help, and the one alone does."""
    needed = next(scope for scope in SCOPES if scope == NEEDS[method, path])
    lacking = await site.ask(method, filled(path), key=await with_scopes(site, ALL - {needed}), data={})
    assert lacking.status == 403
    if not path.startswith(DOORS):  # those say it in the words of their dialects
        assert (lacking.code, lacking.json["error"]["details"]["scope"]) == ("forbidden", needed)
    assert SCOPES[needed] in lacking.body.decode()
    enough = await site.ask(method, filled(path), key=await with_scopes(site, frozenset({needed})), data={})
    assert enough.status not in {401, 403}
    assert (await site.ask(method, filled(path), key=None, data={})).status == 401


@pytest.mark.parametrize("method,path", [route for route, needed in NEEDS.items() if needed == ANY])
async def test_route_for_any_credential_needs_one(site: Site, method: str, path: str) -> None:
    """But none in particular."""
    assert (await site.ask(method, path, key=None, data={})).status == 401
    token = await with_scopes(site, frozenset({"cancel"}))
    assert (await site.ask(method, path, key=token, data={})).status not in {401, 403}


@pytest.mark.parametrize("method,path", [route for route, needed in NEEDS.items() if needed == PUBLIC])
async def test_public_route_needs_no_credential(site: Site, method: str, path: str) -> None:
    """What load balancers, verifiers and people without a token ask."""
    assert (await site.ask(method, path, key=None, data={"api_key": site.key})).status == 200


async def test_nobody_grants_what_he_may_not(site: Site) -> None:
    """A grant is good in its maker's own hands as well."""
    job = await site.test.submit(await site.test.identity(site.key))
    few = await with_scopes(site, frozenset({"grant", "read"}))
    assert (await site.ask("POST", f"/v1/jobs/{job}/grants", key=few, data={"rights": ["watch"]})).status == 200
    refused = await site.ask("POST", f"/v1/jobs/{job}/grants", key=few, data={"rights": ["watch", "cancel"]})
    assert (refused.status, refused.json["error"]["details"]["scope"]) == (403, "cancel")


async def test_grant_stands_in_for_a_scope_that_lacks(site: Site) -> None:
    """Whoever holds it may what it says, with a weak token as with none; without it, the scope is asked for."""
    access = site.test.node.access
    job = await site.test.submit(await site.test.identity(site.key))
    weak = await with_scopes(site, frozenset({"assets"}))
    grant = access.make_grant(job, ["cancel"], 60_000)
    assert (await site.ask("DELETE", f"/v1/jobs/{job}", key=weak)).status == 403
    assert (await site.ask("DELETE", f"/v1/jobs/{job}?sig={grant}", key=weak)).status == 202
    wrong = await site.ask("DELETE", f"/v1/jobs/{job}?sig={access.make_grant(job, ['watch'], 60_000)}", key=weak)
    assert (wrong.status, wrong.code) == (403, "forbidden")
