"""The guide's programs, unmodified, as programs of their own: before the embedded engine, and before a vendor.

They know nothing of this gateway but its host.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from gateway.core.images import ImageFacts, measure
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.end_to_end.harness import GatewayProcess
from tests.end_to_end.ports import free_port
from tests.gateway.edges.compat.conftest import open_door
from tests.pictures import flat

GUIDE = Path(__file__).parent / "guide"


async def program(
    name: str, url: str, key: str, *arguments: object, python: Path = Path(sys.executable)
) -> tuple[int, str]:
    """Run a program of the guide; returns its status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        python, GUIDE / f"{name}.py", *map(str, arguments),
        env={**os.environ, "API_HOST": url, "STABILITY_API_KEY": key, "NO_PROXY": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await asyncio.wait_for(process.communicate(), 100)
    return process.returncode or 0, told.decode()


def facts(path: Path) -> ImageFacts:
    """Return what a written file is."""
    return measure(path.read_bytes())


async def test_guide_runs_before_the_embedded_engine(tmp_path: Path) -> None:
    """Files, inpainting and polling work; ControlNet works or says in the dialect that no model here does it."""
    init, mask, out = (tmp_path / name for name in ("init.png", "mask.png", "out.png"))
    init.write_bytes(flat((200, 30, 30), (512, 512)))
    mask.write_bytes(flat(255, (512, 512), "L"))
    async with GatewayProcess(tmp_path, free_port()) as gateway:
        url, key = gateway.url, gateway.key
        status, told = await program("text_to_image", url, key, tmp_path)
        assert status == 0, told
        written = [Path(line) for line in told.splitlines()]
        assert [(facts(path).format, facts(path).width, facts(path).height) for path in written] == [
            ("png", 512, 512)
        ] * 2
        status, told = await program("inpainting", url, key, init, mask, out)
        assert (status, facts(out).width) == (0, 512), told
        status, told = await program("polling", url, key, out)
        assert (status, facts(out).width, facts(out).height) == (0, 768, 512), told
        assert told.splitlines()[-1] == "completed 50/50 100%"
        assert "running" in told
        status, told = await program("controlnet", url, key, init, out)
        assert status == 0 or "404 not_found: painter cannot do this task" in told, told


async def test_guide_runs_before_a_vendor(tmp_path: Path) -> None:
    """With the vendor's engine configured under its own name, an alias leads there."""
    async with StandIn(key="sk-vendor") as standin:
        config = f"""
            [upstreams.vendor]
            kind = "stability_v1"
            base_url = "{standin.url}"
            api_key_env = "VENDOR_KEY"
            engines = {{ "stable-diffusion-v1-6" = 9000 }}
            [compat.aliases]
            "stable-diffusion-v1-5" = "stable-diffusion-v1-6"
        """
        async with GatewayProcess(tmp_path, free_port(), config, {"VENDOR_KEY": "sk-vendor"}) as gateway:
            status, told = await program("text_to_image", gateway.url, gateway.key, tmp_path)
            assert (status, len(told.splitlines())) == (0, 2), told
            status, told = await program("polling", gateway.url, gateway.key, tmp_path / "out.png")
            assert status == 0, told
        assert standin.tally.billed == 2


async def test_controlnet_goes_to_whatever_can_do_it(tmp_path: Path) -> None:
    """The engine's name is an alias, and the route says what must be done."""
    init, out = tmp_path / "init.png", tmp_path / "out.png"
    init.write_bytes(flat((200, 30, 30), (512, 512)))
    async with open_door(tmp_path) as door:
        status, told = await program("controlnet", door.running.url, door.running.key, init, out)
        assert status == 0, told
        assert len(told.strip()) == 26
        assert door.easel.orders[0].request.task == "controlnet"


async def test_client_of_the_vendors_works_with_its_host_changed(tmp_path: Path) -> None:
    """The package `stabilityai`, from its registry, in an environment of its own."""
    python = Path(sys.prefix) / "clients" / "bin" / "python"
    if not any(python.parent.parent.glob("lib/*/site-packages/stabilityai")):
        assert "all" not in os.environ.get("SAFELIGHT_REQUIRE", ""), "make .venv/.clients"
        pytest.skip("the package could not be installed here")
    async with open_door(tmp_path) as door:
        status, told = await program("with_stabilityai", door.running.url, door.running.key, python=python)
        assert status == 0, told
        assert [order.request.task for order in door.easel.orders] == ["txt2img", "img2img", "upscale"]
        [prompts, *_] = [order.request.prompts for order in door.easel.orders]
        assert [(part.text, part.weight) for part in prompts] == [("a rocket", 1.0), ("clouds", -0.5)]
        assert door.easel.orders[1].request.strength == 0.7
