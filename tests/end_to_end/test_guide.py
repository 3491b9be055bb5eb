"""The guide's programs, unmodified, as programs of their own: before the embedded engine, and before a vendor.

They know nothing of this gateway but its host.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from load.upstreams import a1111
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.end_to_end.harness import GatewayProcess
from tests.end_to_end.ports import free_port
from tests.gateway.edges.compat.conftest import Easel, open_door
from tests.gateway.edges.compat.stability_v2beta.conftest import MODEL as V2BETA
from tests.pictures import encoded, flat

GUIDE = Path(__file__).parent / "guide"


async def program(name: str, url: str, key: str, *arguments: object, python: Path = Path(sys.executable)) -> str:
    """Run a program of the guide, which must end well; returns what it wrote."""
    process = await asyncio.create_subprocess_exec(
        python, GUIDE / f"{name}.py", *map(str, arguments),
        env={**os.environ, "API_HOST": url, "STABILITY_API_KEY": key, "NO_PROXY": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, told.decode()
    return told.decode()


def beside(environment: str, package: str) -> Path:
    """Return the Python of an environment that has a package which ours cannot have; else skip the test."""
    folder = Path(sys.prefix) / environment
    if not any(folder.glob(f"lib/*/site-packages/{package}")):
        assert "all" not in os.environ.get("SAFELIGHT_REQUIRE", ""), "make .venv/.clients"
        pytest.skip("the package could not be installed here")
    return folder / "bin" / "python"


async def run_the_guide(folder: Path, url: str, key: str) -> list[str]:
    """Run all programs of the guide and look at the files they write; returns what the polling one told."""
    init, mask, out = (folder / name for name in ("init.png", "mask.png", "out.png"))
    init.write_bytes(house())
    mask.write_bytes(flat(255, (512, 512), "L"))
    written = [Path(line) for line in (await program("text_to_image", url, key, folder)).splitlines()]
    assert [measured(path) for path in written] == [("png", 512, 512)] * 2
    assert len(await program("controlnet", url, key, init, out)) == 27, "a job's id, and the line's end"
    assert measured(out)[0] == "png"
    await program("inpainting", url, key, init, mask, out)
    assert measured(out) == ("png", 512, 512)
    told = await program("polling", url, key, out)
    assert measured(out) == ("png", 768, 512)
    return told.splitlines()


def measured(path: Path) -> tuple[str, int, int]:
    """Return format and edges of a written file, which is a whole picture."""
    with Image.open(path) as image:
        image.load()
        return (image.format or "").lower(), image.width, image.height


def house() -> bytes:
    """Return a picture with edges to hold to."""
    with Image.new("RGB", (512, 512), "white") as image:
        drawing = ImageDraw.Draw(image)
        drawing.rectangle((120, 240, 392, 460), outline="black", width=8)
        drawing.polygon(((100, 240), (256, 90), (412, 240)), outline="black", width=8)
        return encoded(image)


async def test_guide_runs_before_the_embedded_engine(tmp_path: Path) -> None:
    """Every program, with nothing configured; the house that ControlNet was given lines of is red."""
    async with GatewayProcess(tmp_path, free_port()) as gateway:
        polled = await run_the_guide(tmp_path, gateway.url, gateway.key)
    assert polled[-1] == "completed 50/50 100%"
    assert any(line.startswith("running") for line in polled)


async def test_guide_runs_before_a_web_ui(tmp_path: Path) -> None:
    """Every program, where the guide's name of an engine is an alias of a checkpoint there."""
    async with a1111.A1111(web=True) as standin:
        config = f"""
            [upstreams.studio]
            kind = "a1111"
            base_url = "{standin.url}"
            [compat.aliases]
            "stable-diffusion-v1-5" = "tiny"
        """
        async with GatewayProcess(tmp_path, free_port(), config) as gateway:
            await run_the_guide(tmp_path, gateway.url, gateway.key)
        drawn = [one.call.operation for one in standin.requests if one.call.generation]
        assert drawn == ["txt2img", "txt2img", "img2img", "txt2img"]


async def test_guide_runs_before_its_vendor(tmp_path: Path) -> None:
    """With the vendor's engine under its own name; for ControlNet, which it has not, an alias leads to what can."""
    async with StandIn(key="sk-vendor") as standin:
        config = f"""
            [upstreams.vendor]
            kind = "stability_v1"
            base_url = "{standin.url}"
            api_key_env = "VENDOR_KEY"
            engines = {{ "stable-diffusion-v1-6" = 9000 }}
            [upstreams.drawn]
            kind = "engine"
            [compat.aliases]
            "stable-diffusion-v1-5" = "stable-diffusion-v1-6"
        """
        async with GatewayProcess(tmp_path, free_port(), config, {"VENDOR_KEY": "sk-vendor"}) as gateway:
            await run_the_guide(tmp_path, gateway.url, gateway.key)
        assert standin.tally.billed == 3


async def test_controlnet_goes_to_whatever_can_do_it(tmp_path: Path) -> None:
    """The engine's name is an alias, and the route says what must be done."""
    init, out = tmp_path / "init.png", tmp_path / "out.png"
    init.write_bytes(flat((200, 30, 30), (512, 512)))
    async with open_door(tmp_path) as door:
        told = await program("controlnet", door.running.url, door.running.key, init, out)
        assert len(told.strip()) == 26
        assert door.easel.orders[0].request.task == "controlnet"


async def test_client_of_the_vendors_works_with_its_host_changed(tmp_path: Path) -> None:
    """The package `stabilityai`, from its registry, in an environment of its own."""
    python = beside("clients", "stabilityai")
    async with open_door(tmp_path) as door:
        await program("with_stabilityai", door.running.url, door.running.key, python=python)
        assert [order.request.task for order in door.easel.orders] == ["txt2img", "img2img", "upscale"]
        [prompts, *_] = [order.request.prompts for order in door.easel.orders]
        assert [(part.text, part.weight) for part in prompts] == [("a rocket", 1.0), ("clouds", -0.5)]
        assert door.easel.orders[1].request.strength == 0.7


async def test_client_of_many_apis_works_with_its_host_changed(tmp_path: Path) -> None:
    """The package `litellm`, which speaks v2beta: each service that it knows."""
    python = beside("litellm", "litellm")
    async with open_door(tmp_path, Easel(V2BETA)) as door:
        told = await program("with_litellm", door.running.url, door.running.key, python=python)
        requests = [order.request for order in door.easel.orders]
    assert "nothing here erases" in told
    assert "seed: Expected int >= 0" in told
    assert [request.task for request in requests] == [
        "txt2img", "txt2img", "txt2img", "inpaint", "outpaint", "search_replace", "remove_background", "controlnet",
        "controlnet", "reference", "upscale", "upscale", "inpaint",
    ]  # fmt: skip
    first = requests[0]
    assert (first.prompt, first.seed, first.style, first.width > first.height) == (
        "a lighthouse", 7, "photographic", True,
    )  # fmt: skip
    assert [request.controls[0].weight for request in requests if request.controls] == [0.5, 0.7]
