"""As a reader of the guide types it: a key, a token, two pictures of words, and their files."""

import base64
import os
import sys

import requests

API_HOST = os.environ.get("API_HOST", "https://api.stability.ai")
API_KEY = os.environ["STABILITY_API_KEY"]
ENGINE_ID = "stable-diffusion-v1-5"


def get_token(api_key: str) -> str:
    """Exchange the key for a token that lives for a day."""
    response = requests.post(f"{API_HOST}/v1/auth/token", json={"api_key": api_key}, timeout=30)
    response.raise_for_status()
    token = response.json()
    assert (token["token_type"], token["expires_in"]) == ("bearer", 86400)
    return str(token["access_token"])


def generate(token: str) -> dict[str, list[dict[str, str]]]:
    """Ask for two pictures."""
    response = requests.post(
        f"{API_HOST}/v1/generation/{ENGINE_ID}/text-to-image",
        headers={"Content-Type": "application/json", "Accept": "application/json", "Authorization": f"Bearer {token}"},
        json={
            "text_prompts": [
                {"text": "A lighthouse on a cliff", "weight": 1.0},
                {"text": "blurry, bad", "weight": -1.0},
            ],
            "cfg_scale": 7,
            "height": 512,
            "width": 512,
            "samples": 2,
            "steps": 10,
            "seed": 42,
            "sampler": "K_DPMPP_2M",
            "style_preset": "photographic",
        },
        timeout=300,
    )
    if response.status_code != 200:
        raise SystemExit(f"Non-200 response: {response.text}")
    data: dict[str, list[dict[str, str]]] = response.json()
    return data


if __name__ == "__main__":
    for index, image in enumerate(generate(get_token(API_KEY))["artifacts"]):
        assert image["finishReason"] == image["finish_reason"] == "SUCCESS"
        path = os.path.join(sys.argv[1], f"v1_txt2img_{index}_{image['seed']}.png")
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["base64"]))
        print(path)
