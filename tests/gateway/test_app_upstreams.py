"""From the settings of upstreams to their accounts, each with a gate of its own, and to the models that are offered."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.app import running
from gateway.clock import SystemClock
from gateway.config import Bucket, ComfyUI, Config, StabilityV1, Window, load
from gateway.core.records import Plan
from gateway.core.routing import Health
from gateway.flow.lines import Lines
from gateway.ledger import open_ledger
from gateway.upstreams.stability_v1 import StabilityV1 as StabilityAdapter
from tests.gateway.config_files import write
from tests.gateway.ledger.made import new_call, new_job
from tests.gateway.parts import migrated

PUBLIC_URL = "http://gw.example"
KEYS = {"KEY_A": "sk-planted-a", "KEY_B": "sk-planted-b"}
VENDOR = """
[upstreams.vendor]
kind = "stability_v1"
base_url = "http://127.0.0.1:9"
api_key_env = ["KEY_A", "KEY_B"]
concurrency = 3
limit = { window = 5, period_ms = 60000 }
"""
SPARE = """
[upstreams.spare]
kind = "stability_v1"
base_url = "http://127.0.0.1:9"
api_key_env = "KEY_A"
engines = { "stable-diffusion-v1-6" = 5 }
"""
ROUTED = """
[models."sd/1.5"]
routes = [
    { upstream = "spare", model = "stable-diffusion-v1-6", group = 2 },
    { upstream = "vendor", model = "stable-diffusion-v1-6", weight = 3 },
]
"""


def settings_of(folder: Path, text: str) -> Config:
    """Return the settings of a gateway on `folder`."""
    if not (folder / "ledger.db").exists():
        (folder / "ledger.db").write_bytes(migrated())
    return load(write(folder, text), KEYS, {"data.folder": folder})


def keys_of(lines: Lines) -> dict[str, str]:
    """Return what each account sends as its key."""
    found = {}
    for line in lines:
        assert isinstance(line.upstream, StabilityAdapter)
        found[line.credential] = line.upstream._vendor.own_headers()["Authorization"].removeprefix("Bearer ")
    return found


async def test_each_key_is_an_account_with_an_adapter_of_its_own(tmp_path: Path) -> None:
    """No account knows the other's key, and the places of both count."""
    async with running(settings_of(tmp_path, VENDOR), PUBLIC_URL) as gateway:
        lines = gateway.dispatch.lines["vendor"]
        assert keys_of(lines) == KEYS
        assert lines.places == 6
        assert [line.gate.snapshot().limit for line in lines] == [5, 5]


async def test_each_account_takes_up_what_it_had_used(tmp_path: Path) -> None:
    """A restart forgets neither the calls of the last window nor a lock-out, and gives them to no other account."""
    settings, now = settings_of(tmp_path, VENDOR), SystemClock().time_ms()
    async with open_ledger(tmp_path) as ledger:
        await ledger.accounts.add_tenant("t", Plan(), 1)
        await ledger.jobs.submit(new_job(1, upstream="vendor"))
        [claimed] = await ledger.work.claim(["vendor"], "n", now, now + 60_000, 1)
        call = new_call(1, claimed.job.id, upstream="vendor", credential="KEY_A", sent_ms=now)
        await ledger.work.begin_call(call, claimed.job.claim)
        await ledger.accounts.lock_out("vendor", "KEY_B", now + 3_600_000)
    async with running(settings, PUBLIC_URL) as gateway:
        first, second = (line.gate.snapshot() for line in gateway.dispatch.lines["vendor"])
        assert (first.free, second.free) == (4, 5)
        assert first.locked_until_ms is None
        assert second.locked_until_ms is not None
        assert gateway.dispatch.lines["vendor"].health() is Health.OK


async def test_new_lock_out_is_kept_for_its_account(tmp_path: Path) -> None:
    """Whoever is refused today is left alone by tomorrow's gateway too."""
    settings = settings_of(tmp_path, VENDOR)
    async with running(settings, PUBLIC_URL) as gateway:
        line = gateway.dispatch.lines["vendor"].named("KEY_B")
        assert line is not None
        async with line.gate.enter() as passage:
            passage.sending()
            passage.refused(3600.0, locked_out=True)
        async with asyncio.timeout(10):
            while not await gateway.ledger.accounts.locked_until("vendor", "KEY_B"):
                await asyncio.sleep(0)
    async with running(settings, PUBLIC_URL) as gateway:
        facts = {name: facts.locked_until_ms for name, (facts, _) in gateway.dispatch.lines["vendor"].facts().items()}
        assert facts["KEY_A"] is None
        assert facts["KEY_B"] is not None


async def test_configured_name_has_its_routes_and_hides_what_they_take(tmp_path: Path) -> None:
    """What no route takes is offered under its own name."""
    async with running(settings_of(tmp_path, VENDOR + SPARE + ROUTED), PUBLIC_URL) as gateway:
        catalog = gateway.node.models
        assert set(catalog) == {"sd/1.5", "stable-diffusion-xl-1024-v1-0"}
        assert [(one.model.upstream, one.weight, one.group) for one in catalog.routes("sd/1.5")] == [
            ("vendor", 3.0, 1),
            ("spare", 1.0, 2),
        ]


async def test_gate_has_the_limit_of_its_settings(tmp_path: Path) -> None:
    """A window, a bucket or none: a local upstream is held by its concurrency alone."""
    limits: dict[str, Any] = {"local": None, "window": Window(7), "bucket": Bucket(2.0, 9)}
    upstreams = [StabilityAdapter(name=name, base_url="http://127.0.0.1:9", api_key="", engines={}) for name in limits]
    settings = settings_of(tmp_path, "")
    kinds = {name: StabilityV1(limit=limit) if limit else ComfyUI() for name, limit in limits.items()}
    async with running(replace(settings, upstreams=kinds), PUBLIC_URL, upstreams=upstreams) as gateway:
        gates = {name: next(iter(lines)).gate for name, lines in gateway.dispatch.lines.items()}
        assert {name: gate.snapshot().limit for name, gate in gates.items()} == {
            "local": None,
            "window": 7,
            "bucket": None,
        }
        assert gates["local"].snapshot().concurrency == 4
        assert gates["bucket"].horizon_seconds > gates["local"].horizon_seconds
