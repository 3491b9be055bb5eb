"""As a reader of the guide types it: work that is asked for, and asked after until it is done."""

import base64
import os
import sys
import time

import requests

API_HOST = os.environ.get("API_HOST", "https://api.stability.ai")
HEADERS = {"Authorization": f"Bearer {os.environ['STABILITY_API_KEY']}"}

response = requests.post(
    f"{API_HOST}/v1/generation/stable-diffusion-v1-5/text-to-image",
    headers=HEADERS | {"Prefer": "respond-async"},
    json={"text_prompts": [{"text": "A city at night"}], "height": 512, "width": 768, "steps": 50},
    timeout=30,
)
assert response.status_code == 202, response.text
generation_id = response.json()["id"]

while True:
    status = requests.get(f"{API_HOST}/v1/generation/{generation_id}/status", headers=HEADERS, timeout=30).json()
    print(f"{status['state']} {status['step']}/{status['steps']} {status['ratio']:.0%}", flush=True)
    if status["state"] == "completed":
        break
    if status["state"] in ("failed", "canceled"):
        raise SystemExit(status["error"]["message"])
    time.sleep(0.1)

with open(sys.argv[1], "wb") as file:
    file.write(base64.b64decode(status["artifacts"][0]["base64"]))
