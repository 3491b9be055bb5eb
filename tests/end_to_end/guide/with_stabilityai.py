"""A program on the package `stabilityai`, a client of the vendor's REST v1 that somebody else wrote."""

import asyncio
import base64
import io
import os
import sys
from types import SimpleNamespace

# It is installed beside our environment, not in it.
from stabilityai.client import AsyncStabilityClient  # type: ignore[import-not-found]
from stabilityai.exceptions import ResourceNotFound, YouAreHoldingItWrong  # type: ignore[import-not-found]
from stabilityai.models import Sampler, TextPrompt  # type: ignore[import-not-found]


async def main() -> None:
    """Ask for everything that the package can."""
    async with AsyncStabilityClient(api_host=os.environ["API_HOST"], api_key=os.environ["STABILITY_API_KEY"]) as client:
        assert (await client.get_account_balance())["credits"] > 0
        assert (await client.get_account())["organizations"][0]["is_default"]
        assert "stable-diffusion-v1-6" in [one["id"] for one in await client.get_engines()]
        made = await client.text_to_image(
            text_prompts=[TextPrompt(text="a rocket", weight=1.0), TextPrompt(text="clouds", weight=-0.5)],
            width=128, height=192, steps=10, seed=892226758, cfg_scale=8.0, samples=2, sampler=Sampler.K_DPMPP_2M,
        )  # fmt: skip
        assert [one.finishReason.value for one in made.artifacts] == ["SUCCESS", "SUCCESS"]
        init = base64.b64decode(made.artifacts[0].base64)
        init_image = io.BytesIO(init)
        made = await client.image_to_image(init_image=init_image, text_prompt="a red rocket", image_strength=0.3)
        print("image to image", len(made.artifacts), file=sys.stderr)
        made = await client.image_to_image_upscale(image=io.BytesIO(init))
        print("upscaled", len(made.artifacts), file=sys.stderr)
        engine = SimpleNamespace(id="unheard-of")
        for wrong, fault in (({"samples": 9}, YouAreHoldingItWrong), ({"sampler": Sampler.DDIM}, YouAreHoldingItWrong)):
            try:
                await client.text_to_image(text_prompt="x", **wrong)
            except fault:
                continue
            raise AssertionError(wrong)
        try:
            await AsyncStabilityClient.text_to_image.raw_function(client, text_prompt="x", engine=engine)
        except ResourceNotFound:
            return
        raise AssertionError("there is no such engine")


asyncio.run(main())
