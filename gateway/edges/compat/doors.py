"""What every door does in the same way: identify, store what came along, submit, and answer when the job has ended.

A dialect's handler reads its request into a `Wish` and calls `run` with the `View` that tells the end. Money, limits
and safety are admission's alone: whatever a wish asks for goes through `admission.submit`, as from any other edge.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.aliases import Aliases
from gateway.core.records import Identity, JobRecord, Submitted
from gateway.core.scopes import Scope
from gateway.edges.compat.bodies import WHO, Bodies
from gateway.edges.compat.dialect import Dialect, Result, Trouble, View, Wish
from gateway.edges.compat.fitting import fitted
from gateway.edges.compat.headers import rate_headers, trouble_headers
from gateway.edges.compat.patience import Caller, Manners, PatientAnswer, Waiting
from gateway.edges.compat.pictures import DoorPictures
from gateway.edges.compat.results import collect
from gateway.edges.http import authenticate
from gateway.edges.room import Room
from gateway.flow.feeds import Feed
from gateway.flow.node import Node
from gateway.ports import Transcoder
from protocol.errors import ClientFault
from protocol.ids import is_ulid, make_ulid
from protocol.messages import REF_PATTERN, Progress, Submit
from protocol.wire import payload_of

T = TypeVar("T")
OnDisconnect = Literal["continue", "cancel"]
Authenticate = Callable[[Request, Node, Scope], Awaitable[Identity]]
"""Returns who asks, if they have the scope. Raises `ClientFault`."""
MOST_ENDED: Final = 4
"""Answers to jobs that have just ended which are put together at once; the others wait for their turn."""
MOST_FETCHED: Final = 4
MOST_FETCHED_EACH: Final = 2
"""Results that are fetched later and put together at once, and of them one end user's: pictures lie in memory three
times meanwhile."""
_REF: Final = re.compile(REF_PATTERN)
_POLICIES: Final[Mapping[str, OnDisconnect]] = {"continue": "continue", "cancel": "cancel"}


@dataclass(frozen=True, slots=True)
class Begun:
    """A job that a door has asked for."""

    job: str
    who: Caller
    policy: OnDisconnect
    headers: dict[str, str]
    """What all doors say beside their answer to it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of all doors."""

    aliases: Aliases
    on_disconnect: OnDisconnect = "continue"
    silence_seconds: float = 25.0
    picture_wait_seconds: float = 55.0
    max_body: int = 33_554_432


class Doors:
    """The part of the gateway that all dialects share."""

    def __init__(self, node: Node, terms: Terms, transcoder: Transcoder, chance: random.Random) -> None:
        self.node = node
        self.terms = terms
        self.bodies = Bodies(terms.max_body, node.limits.max_upload_bytes)
        self.waiting = Waiting(2 * node.limits.max_jobs)
        self.pictures = DoorPictures(node.pictures, transcoder)
        self._chance = chance
        self._ended = asyncio.Semaphore(MOST_ENDED)
        self._fetched = Room(MOST_FETCHED, MOST_FETCHED_EACH, "too many results are being fetched")

    def drain(self) -> None:
        """Answer everybody who waits: the node stops, and their jobs go on elsewhere or later."""
        self.waiting.drain()

    # --- who asks, and for which job ---

    async def identify(self, request: Request, scope: Scope, by: Authenticate = authenticate) -> Identity:
        """Return who asks and has the scope; what their key's rate leaves is told with the answer.

        Raises `ClientFault`.
        """
        identity = await by(request, self.node, scope)
        request.scope[WHO] = identity
        return identity

    async def own_job(self, identity: Identity, job: str) -> JobRecord:
        """Return a job of the asker's own. Raises `ClientFault` `job_not_found`, the same for unknown and others'."""
        record = await self.node.jobs.find(job) if is_ulid(job) else None
        if record is None or (identity.tenant, identity.subject) != (record.tenant, record.subject):
            raise ClientFault("job_not_found", "there is no such job", details={"path": "id"})
        return record

    async def result(self, job: str) -> Result:
        """Return what a job came to that has ended. Raises `Trouble` if it did not end well."""
        feed = await self.node.feeds.open(job)
        if not feed.has_ended and (found := await self.node.jobs.log(job)) is not None:
            feed = self.node.feeds.fill(*found)  # the ledger has the end, and this node's feed is about to hear of it
        return await collect(self.node, feed)

    async def told(self, identity: Identity, job: str, tell: Callable[[Result], Awaitable[T]]) -> T:
        """Return what `tell` makes of what a job came to that ended some time ago.

        Raises as `result`, and `ClientFault` `overloaded` where too many ask for that.
        """
        with self._fetched.lease() as enter:
            await enter(identity)
            return await tell(await self.result(job))

    def progress(self, job: str) -> Progress | None:
        """Return the newest progress of a job that this node works; `None` where none was told."""
        feed = self.node.feeds.get(job)
        told = None if feed is None else feed.tail.progress
        return None if told is None else msgspec.json.decode(payload_of(told[1]), type=Progress)

    # --- asking for a job ---

    async def run(self, request: Request, identity: Identity, wish: Wish, dialect: Dialect, view: View) -> Any:
        """Return the answer to a wish: one that waits, or at once what `view.accepted` says if that is preferred."""
        return await self.answer(request, await self.begin(request, identity, wish, dialect), dialect, view)

    async def begin(
        self,
        request: Request,
        identity: Identity,
        wish: Wish,
        dialect: Dialect,
        *,
        ref: str | None = None,
        ignored: Sequence[str] = (),
    ) -> Begun:
        """Submit a wish. Raises `ClientFault`.

        `ref` is the job's if the client sent no key; `ignored` is what the dialect left out by itself.
        """
        who = (identity.tenant, identity.subject)
        if "respond-async" not in _preferences(request):
            self.waiting.check(who)
        wish, left_out = self.fitted(wish)
        made = await self.submit(request, identity, wish, ref)
        ignored = sorted({*ignored, *(dialect.names.get(name, name) for name in left_out)})
        headers = self._headers(request, dialect, made.job.id, ignored)
        return Begun(made.job.id, who, self.policy(request), headers)

    async def answer(self, request: Request, begun: Begun, dialect: Dialect, view: View) -> Any:
        """Return the answer that waits for a job, or what `view.accepted` says if that is preferred."""
        headers = begun.headers
        if "respond-async" in _preferences(request):
            response = await view.accepted(begun.job)
            response.headers.update(headers | {"Preference-Applied": "respond-async"})
            return response
        manners = Manners(
            silence=self.terms.silence_seconds if view.is_json else inf,
            limit=inf if view.is_json else self.terms.picture_wait_seconds,
            on_disconnect=begun.policy,
        )
        return PatientAnswer(
            begun.job, _Ending(self, request, dialect, view), manners, feeds=self.node.feeds, clock=self.node.clock,
            supervisor=self.node.supervisor, waiting=self.waiting, who=begun.who, headers=headers,
        )  # fmt: skip

    async def ended(self, feed: Feed, tell: Callable[[Result], Awaitable[T]]) -> T | Trouble:
        """Return what `tell` makes of what a job came to that has ended, or what went wrong; it does not raise."""
        try:
            async with self._ended:
                return await tell(await collect(self.node, feed))
        except ClientFault as fault:
            trouble = Trouble.of(fault)
        except Trouble as told:
            trouble = told
        except Exception as error:  # noqa: BLE001 - the answer may have begun: its end must still be one that says so
            self.node.supervisor.report(f"answer to {feed.tail.job}", error)
            trouble = Trouble("internal", "the gateway failed; its log has the reason")
        return replace(trouble, job=feed.tail.job)

    async def abandon(self, job: str) -> None:
        """Cancel a job for which nobody waits any more, if it has not ended."""
        record = await self.node.jobs.find(job)
        if record is not None and not record.has_ended:
            await self.node.admission.cancel(record, "client")

    async def submit(
        self,
        request: Request,
        identity: Identity,
        wish: Wish,
        ref: str | None = None,
    ) -> Submitted:
        """Submit a wish with its pictures; a repeated `Idempotency-Key` joins its job. Raises `ClientFault`.

        What becomes of the job when its client goes away is the door's matter: no two requests differ by it.
        """
        brought = [await self.pictures.brought(one) for one in wish.sent]
        given = {name: value for name, value in wish.params.items() if value is not None}
        asked = Submit(
            ref=self._ref(request, ref), task=wish.task, model=wish.model or UNSET,
            params=Raw(msgspec.json.encode(given)), inputs=[one for one, _ in brought],
        )  # fmt: skip
        return await self.node.admission.submit(identity, asked, {}, None, [kept for _, kept in brought])

    def fitted(self, wish: Wish) -> tuple[Wish, frozenset[str]]:
        """Return the wish for the model that its name means, and the hints that this has no use for."""
        return fitted(wish, self.terms.aliases, self.node.models)

    def _ref(self, request: Request, other: str | None) -> str:
        """The job's ref: the client's key if it sent one, in a form that a ref may have."""
        key = key_sent(request)
        if key is None:
            return other or self.new_ref()
        return key if _REF.match(key) else f"key-{hashlib.sha256(key.encode()).hexdigest()[:48]}"

    def new_ref(self) -> str:
        """Return a ref that nobody has."""
        return make_ulid(self.node.clock.time_ms(), self._chance)

    def policy(self, request: Request) -> OnDisconnect:
        """Return what becomes of a job when the last client that waits for it goes away."""
        return _POLICIES.get(request.headers.get("x-on-disconnect", ""), self.terms.on_disconnect)

    # --- headers ---

    def _headers(self, request: Request, dialect: Dialect, job: str, ignored: Sequence[str]) -> dict[str, str]:
        headers = {"X-Job-Id": job} | ({"X-Ignored": ", ".join(ignored)} if ignored else {})
        identity: Identity = request.scope[WHO]
        return headers | rate_headers(self.node.admission.allowance(identity), x_names=dialect.tells_x_ratelimit)

    def refuse(self, request: Request, trouble: Trouble, dialect: Dialect) -> Response:
        """Return how a dialect says what went wrong, with the headers that all doors share."""
        response = dialect.refusal(trouble, request.scope["safelight.request"])
        identity: Identity | None = request.scope.get(WHO)
        allowance = None if identity is None else self.node.admission.allowance(identity)
        status = response.status_code
        response.headers.update(trouble_headers(trouble, status, allowance, x_names=dialect.tells_x_ratelimit))
        if status == 401:
            response.headers["WWW-Authenticate"] = dialect.challenge
        return response


@dataclass(frozen=True, slots=True)
class _Ending:
    """See `gateway.edges.compat.patience.Told`."""

    doors: Doors
    request: Request
    dialect: Dialect
    view: View

    async def ended(self, feed: Feed) -> Response:
        told = await self.doors.ended(feed, self.view.finished)
        return self.doors.refuse(self.request, told, self.dialect) if isinstance(told, Trouble) else told

    def gave_up(self, trouble: Trouble) -> Response:
        return self.doors.refuse(self.request, trouble, self.dialect)

    async def left(self, job: str) -> None:
        await self.doors.abandon(job)


def key_sent(request: Request) -> str | None:
    """Return the client's `Idempotency-Key`; one without a letter is none, as of a program whose variable is empty.

    The IETF's draft has it quoted, vendors have it bare.
    """
    return request.headers.get("idempotency-key", "").strip().strip('"').strip() or None


def _preferences(request: Request) -> set[str]:
    told = ",".join(request.headers.getlist("prefer"))
    return {one.partition(";")[0].strip().lower() for one in told.split(",")}
