import asyncio
from dataclasses import replace

import msgspec
import pytest

from gateway.cli.models import ModelTold, details
from gateway.core.models import AS_IT_IS
from gateway.core.records import Plan
from gateway.core.routing import Health
from gateway.edges import info
from tests.gateway.edges.conftest import Site
from tests.gateway.node import MODEL, UPSTREAM, Easel


async def test_models_are_listed_as_openai_lists_them(site: Site) -> None:
    """A client of OpenAI's finds its fields, ours stand beside them."""
    answer = await site.ask("GET", "/v1/models")
    assert (answer.status, answer.json["object"]) == (200, "list")
    [model] = answer.json["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("easel-1", "model", UPSTREAM)
    assert isinstance(model["created"], int)
    assert model["tasks"] == ["img2img", "txt2img"]
    assert model["sizes"] == {"min": 64, "max": 1024, "multiple_of": 8, "max_pixels": 4_194_304}
    assert (model["price_micros"], model["health"], model["cancel"]) == (400, "ok", "yes")
    assert (await site.ask("GET", "/v1/models/easel-1")).json == model
    assert msgspec.convert(model, ModelTold).price() == "0.0004 USD"


async def test_bounds_of_a_model_are_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What admission will refuse can be known before; guidance is told where it counts."""
    plain = (await site.ask("GET", "/v1/models/easel-1")).json
    assert (plain["guidance"]["max"], plain["bounds"], plain["idle_beside"]) == (100.0, [], [])
    model = replace(
        MODEL, tasks={"controlnet": MODEL.params}, guidance=(1.0, 12.5),
        bounds={"control": {"weight": (0.0, 2.0)}, "reference": AS_IT_IS},
        idle_beside={"background": frozenset({"mask", "init"})},
    )  # fmt: skip
    monkeypatch.setattr(Easel, "models", (model, replace(MODEL, id="blunt", tasks={"txt2img": frozenset({"prompt"})})))
    site.test.node.models.rebuild()
    assert "guidance" not in (await site.ask("GET", "/v1/models/blunt")).json
    told = (await site.ask("GET", "/v1/models/easel-1")).json
    assert told["guidance"] == {"min": 1.0, "max": 12.5, "default": 7.0}
    assert told["bounds"] == [{"role": "control", "option": "weight", "min": 0.0, "max": 2.0}]
    assert told["idle_beside"] == [{"param": "background", "roles": ["init", "mask"]}]
    lines = [" ".join(line.split()) for line in details(msgspec.convert(told, ModelTold))]
    assert {"guidance 1-12.5; 7 if not asked", "control weight 0-2"} <= set(lines)


async def test_unknown_model_is_told_by_its_code(site: Site) -> None:
    """A model's id may have slashes in it."""
    answer = await site.ask("GET", "/v1/models/some/where")
    assert (answer.status, answer.code) == (404, "model_not_found")


async def test_health_of_a_model_is_its_upstreams(site: Site) -> None:
    """The best of its accounts counts."""
    facts, _ = site.gates[UPSTREAM]["default"]
    for health in Health:
        site.gates[UPSTREAM] = {"first": (facts, Health.DOWN), "second": (facts, health)}
        assert (await site.ask("GET", "/v1/models/easel-1")).json["health"] == health.name.lower()
    site.gates.clear()
    assert (await site.ask("GET", "/v1/models/easel-1")).json["health"] == "down"


async def test_limits_tell_what_welcome_tells_and_the_plan(site: Site) -> None:
    """Without a session, and with how the upstreams stand; nothing is null."""
    key = await site.test.add_key("small", Plan(max_jobs=2))
    told = (await site.ask("GET", "/v1/limits", key=key)).json
    assert told["limits"]["max_json"] == 65_536
    assert (told["heartbeat_ms"], told["currency"], told["plan"]) == (15_000, "USD", {"weight": 1.0, "max_jobs": 2})
    assert told["upstreams"] == [
        {
            "upstream": UPSTREAM,
            "account": 1,
            "health": "ok",
            "waiting": 0,
            "running": 1,
            "concurrency": 4,
            "limit": 150,
            "free": 149,
        }
    ]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/easel-1", "/v1/limits"])
async def test_what_an_account_may_is_told_to_accounts(site: Site, path: str) -> None:
    """It needs a bearer like everything that is an account's."""
    assert (await site.ask("GET", path, key=None)).status == 401


async def test_probes_and_metrics_need_no_credential(site: Site) -> None:
    """They are asked by machines that have none."""
    assert (await site.ask("GET", "/healthz", key=None)).json == {"status": "ok"}
    ready = await site.ask("GET", "/readyz", key=None)
    assert (ready.status, ready.json) == (200, {"ready": True, "checks": {"accepting": True, "ledger": True}})
    metrics = await site.ask("GET", "/metrics", key=None)
    assert metrics.body == b"safelight_up 1\n"
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")
    assert (await site.ask("GET", "/", key=None)).json["name"] == "safelight"


async def test_draining_node_is_alive_but_not_ready(site: Site) -> None:
    """Balancers send nobody more, and kill nothing."""
    site.test.node.sessions.drain()
    ready = await site.ask("GET", "/readyz", key=None)
    assert (ready.status, ready.json["checks"]) == (503, {"accepting": False, "ledger": True})
    assert (await site.ask("GET", "/healthz", key=None)).status == 200


async def test_node_whose_ledger_does_not_answer_is_not_ready(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that is slow or broken is no place to send clients to."""

    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    async def fail(_: str) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(info, "LEDGER_SECONDS", 0.01)
    for read in (hang, fail):
        monkeypatch.setattr(site.test.ledger.jobs, "find", read)
        ready = await site.ask("GET", "/readyz", key=None)
        assert (ready.status, ready.json["checks"]["ledger"]) == (503, False)
