"""Every documented error of every dialect, provoked for real, and compared in status, name, shape and headers."""

import base64
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from PIL import Image

from gateway.edges.compat.dialect import CODES
from load.upstreams import a1111 as standins
from load.upstreams.faults import Refuse, Rule
from load.upstreams.openai_images import OpenAIImages
from load.upstreams.stability_v1 import StabilityV1
from load.upstreams.stability_v2beta import StabilityV2Beta
from load.upstreams.standin import StandIn
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door, open_door
from tests.gateway.edges.compat.situations import SITUATIONS, Stage
from tests.gateway.edges.compat.speakers import DIALECTS, SPEAKERS, Asked, Json, basic, ended, telling_codes
from tests.gateway.edges.compat.statuses import DOCUMENTED, INSTEAD, MANNERS, SAID, UNSAID
from tests.gateway.node import ShiftedClock

UNPROVOKED: Final = {
    "unknown_type": "a word of the WebSocket's",
    "unsupported_version": "a word of the WebSocket's",
    "bad_chunk": "a word of the WebSocket's uploads",
    "asset_not_found": "no dialect names assets; the web UI's door says so of a picture that is not there",
    "expired": "see `test_pictures_past_their_retention`",
    "quota_exceeded": "no plan has a quota yet",
    "adapter_not_found": "an upstream's word, as `adapter_incompatible`",
    "sampler_not_supported": "OpenAI's dialect names no samplers",
    "task_not_supported": "OpenAI's dialect asks for what a model can",
    "deadline_exceeded": "no dialect has words for a deadline",
    "wait_over": "only a bare picture gives up",
}
"""Codes that no situation here provokes, and why not."""


SPENT: Final = {"rate_limited": "submits", "concurrency_limit": "jobs", "insufficient_credits": "budget"}
"""What is used up where a dialect says 429."""


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway with small limits."""
    limits: dict[str, Any] = {
        "compat__max_body": 400_000, "limits__max_upload_bytes": 262_144, "limits__max_queue": 4,
    }  # fmt: skip
    async with open_door(tmp_path, **limits) as door:
        yield telling_codes(door)


def test_every_situation_is_provoked_at_every_door() -> None:
    """And every code has its situation, or a reason why it has none."""
    for dialect in DIALECTS:
        unsaid = {situation for name, situation in UNSAID if name == dialect}
        assert set(SAID[dialect]) == set(SITUATIONS) - unsaid, dialect
    assert SAID.keys() == MANNERS.keys()
    assert {code for code, _ in SITUATIONS.values()} == CODES - UNPROVOKED.keys()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_documented_status_is_provoked_or_has_another_in_its_place(dialect: str) -> None:
    """401, 402, 403, 404, 413, 422, 429, 500."""
    statuses = {status for status, _ in SAID[dialect].values()}
    for status in DOCUMENTED:
        if status not in statuses:
            situation, instead = INSTEAD[dialect, status]
            assert SAID[dialect][situation][0] == instead
            assert status in {said[situation][0] for said in SAID.values()}
        else:
            assert (dialect, status) not in INSTEAD


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_situation_is_said_as_each_dialect_says_it(
    door: Door, monkeypatch: pytest.MonkeyPatch, situation: str
) -> None:
    """Status, name, shape and headers."""
    code, provoke = SITUATIONS[situation]
    for dialect, manners in MANNERS.items():
        if (dialect, situation) in UNSAID:
            continue
        with monkeypatch.context() as patch:
            answer = await provoke(Stage(door, dialect, patch))
        assert (answer.headers["X-Code"], manners.read(answer)) == (code, SAID[dialect][situation]), answer.body
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Request-Id"]
        assert answer.headers.get("WWW-Authenticate") == (manners.challenge if answer.status == 401 else None)
        if answer.status == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["RateLimit"].startswith(f'"{SPENT[code]}";r=0;t=')
            assert "X-Job-Id" not in answer.headers
        door.easel.fault = None
        door.running.gateway.doors.waiting.is_over = False


# --------------------------------------------------------------------------------------------------- beside the vendors


@dataclass(frozen=True, slots=True)
class Theirs:
    """How the stand-in of a vendor is brought into a situation."""

    make: Callable[[], StandIn]
    asked: Asked
    key: str | None = "sk-test"
    method: str = "POST"


def refusing(make: Callable[..., StandIn], status: int, name: str | None = None, **more: Any) -> Callable[[], StandIn]:
    """Return how a stand-in is made that has a failure in its script."""
    return lambda: make(script=[Rule(do=Refuse(status, name))], **more)


def words(model: str, **params: Any) -> Asked:
    """Return a request that the vendor would take."""
    return Asked(params={"prompt": "a lighthouse", "width": 1024, "height": 1024} | params, model=model)


def sent(body: Any) -> Json:
    """Return how a client of HTTP sends a body."""
    return {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}


V1, GPT, TINY = (words(model) for model in ("stable-diffusion-xl-1024-v1-0", "gpt-image-1", "tiny.safetensors"))
THEIRS: Final[dict[str, dict[str, Theirs]]] = {
    "stability_v1": {
        "no credential": Theirs(StabilityV1, V1, None),
        "an unknown key": Theirs(StabilityV1, V1, "sk-other"),
        "a token without the scope": Theirs(refusing(StabilityV1, 403), V1),
        "no such model": Theirs(StabilityV1, words("unheard-of")),
        "a wrong field": Theirs(StabilityV1, words(V1.model, n=0)),
        "a refused prompt": Theirs(refusing(StabilityV1, 400, "invalid_prompts"), V1),
        "too often": Theirs(refusing(StabilityV1, 429), V1),
        "a vendor that failed": Theirs(refusing(StabilityV1, 500), V1),
        "a vendor out of service": Theirs(refusing(StabilityV1, 503), V1),
    },
    "stability_v2beta": {
        "no credential": Theirs(StabilityV2Beta, Asked(), None),
        "an unknown key": Theirs(StabilityV2Beta, Asked(), "sk-other"),
        "a wrong field": Theirs(StabilityV2Beta, Asked(params={"prompt": "a lighthouse", "seed": -1})),
        "a refused prompt": Theirs(refusing(StabilityV2Beta, 403, "content_moderation"), Asked()),
        "too often": Theirs(refusing(StabilityV2Beta, 429), Asked()),
        "an empty budget": Theirs(refusing(StabilityV2Beta, 402), Asked()),
        "a vendor that failed": Theirs(refusing(StabilityV2Beta, 500), Asked()),
        "a vendor out of service": Theirs(refusing(StabilityV2Beta, 503), Asked()),
    },
    "openai_images": {
        "no credential": Theirs(OpenAIImages, GPT, None),
        "an unknown key": Theirs(OpenAIImages, GPT, "sk-other"),
        "no such model": Theirs(lambda: OpenAIImages(models=()), GPT),
        "a refused prompt": Theirs(OpenAIImages, words(GPT.model, prompt="standin-banned")),
        "a long prompt": Theirs(OpenAIImages, words(GPT.model, prompt="x" * 33_000)),
        "too often": Theirs(refusing(OpenAIImages, 429), GPT),
        "an empty budget": Theirs(refusing(OpenAIImages, 429, "insufficient_quota"), GPT),
        "a price over the credential's": Theirs(refusing(OpenAIImages, 400, "billing_hard_limit_reached"), GPT),
        "a vendor that failed": Theirs(refusing(OpenAIImages, 500), GPT),
        "a vendor out of service": Theirs(refusing(OpenAIImages, 503), GPT),
    },
    "a1111": {
        "no credential": Theirs(lambda: standins.A1111(auth="ann:sk-test"), TINY, None),
        "an unknown key": Theirs(lambda: standins.A1111(auth="ann:sk-test"), TINY, "sk-other"),
        "another method": Theirs(standins.A1111, TINY, method="PUT"),
        "a vendor that failed": Theirs(refusing(standins.A1111, 500, flavour="a1111"), TINY),
        "no memory": Theirs(refusing(standins.A1111, 500, "OutOfMemoryError", flavour="a1111"), TINY),
    },
}
"""The situations that a stand-in can be brought into in the same way."""


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_situation_is_said_as_the_stand_in_says_it(dialect: str) -> None:
    """What our table has is what the vendor's double answers, in the one shape."""
    async with aiohttp.ClientSession() as client:
        for situation, theirs in THEIRS[dialect].items():
            post, key = DIALECTS[dialect](theirs.asked), theirs.key
            told = basic("ann", str(key)) if dialect == "a1111" else f"Bearer {key}"
            headers = {**post.headers} | ({} if key is None else {"Authorization": told})
            async with (
                theirs.make() as standin,
                client.request(theirs.method, standin.url + post.path, headers=headers, **sent(post.body)) as response,
            ):
                answer = Answer(response.status, response.headers, await response.read())
            assert MANNERS[dialect].read(answer) == SAID[dialect][situation], (situation, answer.body)
            if answer.status == 401 and "WWW-Authenticate" in answer.headers:
                assert answer.headers["WWW-Authenticate"] == MANNERS[dialect].challenge


# --------------------------------------------------------------------------------------------------- what is no refusal


async def test_filtered_picture_is_said_as_each_dialect_says_it(door: Door) -> None:
    """v1: 200 and CONTENT_FILTERED; OpenAI: left out, and 400 if none is left; the web UI: black, and in its info."""
    door.easel.filtered = frozenset({1})
    asked = Asked(params={"prompt": "a lighthouse", "width": 128, "height": 192, "n": 2})
    told = {dialect: (await _asked(door, dialect, asked)).json for dialect in DIALECTS}
    reasons = [one["finishReason"] for one in told["stability_v1"]["artifacts"]]
    assert reasons == ["SUCCESS", "CONTENT_FILTERED"]
    assert len(told["openai_images"]["data"]) == 1
    assert '"Content filtered":"2"' in told["a1111"]["info"]
    black = Image.open(io.BytesIO(base64.b64decode(told["a1111"]["images"][1])))
    assert (black.size, black.convert("L").getextrema()) == ((128, 192), (0, 0))
    door.easel.filtered = frozenset({0, 1})
    answers = {dialect: await _asked(door, dialect, asked) for dialect in DIALECTS}
    assert {dialect: answer.status for dialect, answer in answers.items()} == {
        "stability_v1": 200, "stability_v2beta": 200, "openai_images": 400, "a1111": 200,
    }  # fmt: skip
    assert MANNERS["openai_images"].read(answers["openai_images"]) == SAID["openai_images"]["a refused prompt"]
    reasons = [
        one["stability_v2beta"]["finish_reason"] for one in (told, {name: answers[name].json for name in answers})
    ]
    assert reasons == ["SUCCESS", "CONTENT_FILTERED"]


async def _asked(door: Door, dialect: str, asked: Asked) -> Answer:
    post = DIALECTS[dialect](asked)
    return await door.ask("POST", post.path, post.body, **post.headers)


async def test_pictures_past_their_retention(tmp_path: Path) -> None:
    """A job is known longer than its pictures: 410, or what v1's status says of it."""
    clock = ShiftedClock()
    async with open_door(tmp_path, clock=clock) as door:
        told = await SPEAKERS["rest"](door, Asked(), "")
        await ended(door, told.job)
        clock.advance(90_000)
        answers = {name: await door.ask("GET", one.job.format(told.job)) for name, one in MANNERS.items()}
    assert {name: answer.status for name, answer in answers.items()} == {
        "stability_v1": 200, "stability_v2beta": 404, "openai_images": 410, "a1111": 410,
    }  # fmt: skip
    assert answers["stability_v1"].json["error"]["name"] == "expired"
    assert MANNERS["openai_images"].read(answers["openai_images"]) == (410, "expired")
    assert MANNERS["a1111"].read(answers["a1111"]) == (410, "")
