"""`generate --model` through a whole gateway to the stand-in of each kind, as the settings in the README have it."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from load.upstreams.a1111 import A1111
from load.upstreams.comfyui import ComfyUI
from load.upstreams.openai_images import OpenAIImages
from load.upstreams.sdcpp import SdCpp
from load.upstreams.stability_v1 import StabilityV1
from load.upstreams.stability_v2beta import StabilityV2Beta
from load.upstreams.standin import StandIn
from tests.end_to_end.harness import Running, gateway_here
from tests.gateway.cli.scripted import run
from tests.gateway.cli.threads import in_a_thread
from tests.gateway.parts import migrated

KEY = 'api_key_env = "VENDOR_KEY"'
KINDS: Mapping[str, tuple[type[StandIn], str, str]] = {
    # the stand-in, what its settings need beside kind and address, and a model of it
    "comfyui": (ComfyUI, "", "standin"),
    "a1111": (A1111, "", "tiny"),
    "sdcpp": (SdCpp, "", "tiny-sd1"),
    "openai_images": (OpenAIImages, f'{KEY}\nmodels = {{ "gpt-image-1-mini" = 11000 }}', "gpt-image-1-mini"),
    "stability_v2beta": (StabilityV2Beta, KEY, "stable-image-core"),
    "stability_v1": (StabilityV1, KEY, "stable-diffusion-v1-6"),
}


@contextlib.asynccontextmanager
async def everything(folder: Path) -> AsyncIterator[tuple[Running, dict[str, StandIn]]]:
    """A gateway with one upstream of each kind, and the stand-ins behind it; all models are offered."""
    async with contextlib.AsyncExitStack() as stack:
        standins = {kind: await stack.enter_async_context(make()) for kind, (make, _, _) in KINDS.items()}
        config = folder / "safelight.toml"
        config.write_text(
            "\n".join(
                f'[upstreams.{kind}]\nkind = "{kind}"\nbase_url = "{standins[kind].url}"\n{more}\n'
                for kind, (_, more, _) in KINDS.items()
            )
        )
        (folder / "ledger.db").write_bytes(migrated())
        gateway = gateway_here(folder, config=config, environ={"VENDOR_KEY": "sk-test"})
        running = await stack.enter_async_context(gateway)
        # Some are asked for what they offer, and offer nothing before.
        async with asyncio.timeout(20):
            while not {model for _, _, model in KINDS.values()} <= set(running.gateway.node.models):
                await asyncio.sleep(0.01)
        yield running, standins


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, StandIn]]]:
    """The gateway of all tests here."""
    with in_a_thread(lambda: everything(tmp_path_factory.mktemp("gateway"))) as opened:
        yield opened


@pytest.mark.parametrize("kind", KINDS)
def test_picture_of_each_kind_is_made_and_kept(gateway: tuple[Running, dict[str, StandIn]], kind: str) -> None:
    """One command, one call, one valid PNG of the size that is told."""
    (running, standins), model = gateway, KINDS[kind][2]
    options = ("--model", model, "--url", running.url, "-o", "harbour.png")
    done = run("generate", "a harbour", *options, env={"SAFELIGHT_API_KEY": running.key})
    assert done.exit_code == 0, done.output
    content = Path("harbour.png").read_bytes()
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        picture.load()
    name, size = done.stdout.split()[:2]
    assert (name, size) == ("harbour.png", "{}x{}".format(*picture.size))
    assert standins[kind].calls == 1
