"""No door has a rule of its own: the same request through each of them is the same to admission, and is treated so."""

from dataclasses import dataclass
from typing import Any, Final

import pytest

from gateway.core.normal import Request
from gateway.core.records import Identity, NewJob
from gateway.flow.admission import Admission
from tests.gateway.edges.compat.conftest import Door
from tests.gateway.edges.compat.speakers import HOLE, INIT, SPEAKERS, Asked, ended, telling_codes

UNLIKE: Final = frozenset({"id", "run", "ref", "session", "created_ms", "ref_expires_ms", "body_hash"})
"""What no two jobs share; `session` is a connection's, and `body_hash` is of what the client wrote."""
RECORDED: Final = (
    "tenant", "subject", "task", "model", "upstream", "state", "attempt", "step", "price_micros", "cost_micros",
    "deadline_ms", "cancel_by",
)  # fmt: skip
ALL: Final = frozenset(SPEAKERS)
SIZED: Final = ALL - {"stability_v2beta"}
"""Stability's v2beta has shapes for sizes, and one picture."""
WITH_WORDS: Final = SIZED - {"openai_images"}
"""OpenAI's dialect has no words for a seed, for steps by their number, for guidance, samplers and negative prompts."""
PLAIN: Final = {"prompt": "a lighthouse", "width": 128, "height": 192}
EXACT: Final = PLAIN | {
    "n": 3, "seed": 11, "steps": 12, "guidance": 7.5, "negative_prompt": "fog", "sampler": "dpmpp_2m",
}  # fmt: skip
CASES: Final[dict[str, tuple[Asked, frozenset[str]]]] = {
    "words": (Asked(), SIZED),
    "words alone": (Asked(params={"prompt": "a lighthouse"}), ALL - {"a1111", "a1111 by basic"}),
    "words, exactly": (Asked(params=EXACT), WITH_WORDS),
    "several": (Asked(params=PLAIN | {"n": 2}), SIZED),
    "a picture": (Asked("img2img", {"prompt": "a boat", "strength": 0.75}, sent={"init": INIT}), ALL),
    "a mask": (Asked("inpaint", {"prompt": "a boat", "strength": 0.75}, sent={"init": INIT, "mask": b""}), SIZED),
    "a mask, anew": (
        Asked("inpaint", {"prompt": "a boat", "strength": 1.0}, sent={"init": INIT, "mask": b""}),
        frozenset({"rest", "websocket", "stability_v1", "stability_v2beta"}),
    ),
    "a control image": (Asked("controlnet", PLAIN, sent={"canny": INIT}), WITH_WORDS),
    "a larger picture": (Asked("upscale", {}, sent={"init": INIT}), WITH_WORDS),
}
"""A request, and the doors that have words for it; a web UI has a size of its own. A mask is filled in: it is what the
gateway makes of `HOLE`."""


@dataclass
class Watched:
    """What admission saw of each submit, and what it had written."""

    identities: list[Identity]
    jobs: list[NewJob]
    counted: list[tuple[str, tuple[str, ...]]]
    """Metrics, but those of the way in."""

    def forget(self) -> None:
        self.identities.clear()
        self.jobs.clear()
        self.counted.clear()


@pytest.fixture
def watched(door: Door, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The gateway's admission, watched from both sides; where nobody names a seed it draws 7."""
    node, seen = door.running.gateway.node, Watched([], [], [])
    submit, write, count = Admission.submit, node.admission._ledger.jobs.submit, node.meter.count

    async def submitting(self: Admission, identity: Identity, *rest: Any) -> Any:
        seen.identities.append(identity)
        return await submit(self, identity, *rest)

    async def writing(new: NewJob) -> Any:
        seen.jobs.append(new)
        return await write(new)

    def counting(name: str, amount: float = 1, **labels: str) -> None:
        if name not in {"http_requests", "closes"}:
            seen.counted.append((name, tuple(labels.values())))
        count(name, amount, **labels)

    monkeypatch.setattr(Admission, "submit", submitting)
    monkeypatch.setattr(node.admission._ledger.jobs, "submit", writing)
    monkeypatch.setattr(node.meter, "count", counting)
    monkeypatch.setattr(node.admission._chance, "randint", lambda low, high: 7, raising=False)
    return seen


async def with_mask(door: Door, asked: Asked) -> Asked:
    """Return the request with the mask that OpenAI's transparent one comes to."""
    if "mask" not in asked.sent:
        return asked
    made = await door.running.gateway.doors.pictures.mask(HOLE, "transparent", "mask")
    return Asked(asked.task, asked.params, sent={**asked.sent, "mask": made})


@dataclass(frozen=True, slots=True)
class Sight:
    """All that can be seen of one request from inside."""

    identity: Identity
    job: dict[str, Any]
    request: Request
    counted: list[tuple[str, tuple[str, ...]]]
    record: dict[str, Any]


async def sight_of(door: Door, watched: Watched, name: str, asked: Asked, key: str) -> Sight:
    """Ask for it at one door, and return what was seen of it."""
    watched.forget()
    told = await SPEAKERS[name](door, asked, key)
    assert told.job, (name, told)
    record = await ended(door, told.job)
    [identity], [new] = watched.identities, watched.jobs
    job = {field: getattr(new, field) for field in NewJob.__slots__ if field not in UNLIKE}
    recorded = {field: getattr(record, field) for field in RECORDED}
    return Sight(identity, job, door.easel.orders[-1].request, sorted(watched.counted), recorded)


@pytest.mark.parametrize("case", CASES)
async def test_request_is_the_same_through_every_door(door: Door, watched: Watched, case: str) -> None:
    """Who asks, the normal form, fingerprint, inputs, price and every limit; what the upstream got; and the row."""
    asked, names = CASES[case]
    asked = await with_mask(door, asked)
    token = await door.token_of("ann")
    sights = {name: await sight_of(door, watched, name, asked, token) for name in sorted(names)}
    first = sights["rest"]
    assert (first.identity.subject, first.job["price_micros"]) == ("ann", 400 * asked.params.get("n", 1))
    assert [image.asset for image in first.request.inputs] == [image.asset for image in first.job["request"].inputs]
    for name, sight in sights.items():
        assert sight == first, name


@pytest.mark.parametrize("case", ["words", "words alone", "several", "words, exactly"])
async def test_one_key_is_one_job_at_every_door(door: Door, watched: Watched, case: str) -> None:
    """A ref is the subject's, not the door's: whichever comes first, all others join."""
    asked, names = CASES[case]
    telling_codes(door)
    for ref, order in (("one", sorted(names)), ("two", sorted(names, reverse=True))):
        again = Asked(asked.task, asked.params, ref=ref)
        told = [await SPEAKERS[name](door, again, "") for name in order]
        assert len({(one.job, one.code) for one in told}) == 1, told
    assert len({new.body_hash for new in watched.jobs}) == 1
    changed = Asked(asked.task, {**asked.params, "prompt": "another"}, ref="one")
    assert {(await SPEAKERS[name](door, changed, "")).code for name in names} == {"idempotency_conflict"}


async def test_policy_of_a_client_that_goes_away_is_its_edges(door: Door, watched: Watched) -> None:
    """A field says what becomes of the job with its session; a header is the door's matter, for it has no session."""
    for name, speak in SPEAKERS.items():
        watched.forget()
        assert (await speak(door, Asked(on_disconnect="cancel"), "")).job
        expected = "cancel" if name in {"rest", "websocket"} else "continue"
        assert [new.on_disconnect for new in watched.jobs] == [expected], name
