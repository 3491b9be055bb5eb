"""As a reader of the guide types it: a picture of words, held to the edges of another."""

import base64
import os
import sys

import requests

API_HOST = os.environ.get("API_HOST", "https://api.stability.ai")
API_KEY = os.environ["STABILITY_API_KEY"]

with open(sys.argv[1], "rb") as file:
    init_image = base64.b64encode(file.read()).decode("utf-8")

response = requests.post(
    f"{API_HOST}/v1/generation/stable-diffusion-v1-5/text-to-image-controlnet",
    headers={"Authorization": f"Bearer {API_KEY}", "Accept": "application/json"},
    json={
        "text_prompts": [{"text": "A red house"}],
        "init_image": init_image,
        "controlnet_type": "canny",
        "controlnet_weight": 0.8,
        "cfg_scale": 7,
        "steps": 10,
        "samples": 1,
    },
    timeout=300,
)
if response.status_code != 200:
    raise SystemExit(f"{response.status_code} {response.json()['name']}: {response.json()['message']}")

with open(sys.argv[2], "wb") as file:
    file.write(base64.b64decode(response.json()["artifacts"][0]["base64"]))
print(response.json()["id"])
