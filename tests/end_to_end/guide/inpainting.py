"""As a reader of the guide types it: a picture made anew where a mask is white."""

import base64
import os
import sys

import requests

API_HOST = os.environ.get("API_HOST", "https://api.stability.ai")
API_KEY = os.environ["STABILITY_API_KEY"]


def encode_image(path: str) -> str:
    """Return a file as base64."""
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode("utf-8")


response = requests.post(
    f"{API_HOST}/v1/generation/stable-diffusion-v1-5/image-to-image-inpainting",
    headers={"Authorization": f"Bearer {API_KEY}"},
    json={
        "text_prompts": [{"text": "a boat", "weight": 1}],
        "init_image": encode_image(sys.argv[1]),
        "mask_image": encode_image(sys.argv[2]),
        "cfg_scale": 7,
        "steps": 20,
        "samples": 1,
    },
    timeout=300,
)
response.raise_for_status()
with open(sys.argv[3], "wb") as file:
    file.write(base64.b64decode(response.json()["artifacts"][0]["base64"]))
