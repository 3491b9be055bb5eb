"""`/v1/jobs`: submit, list, look, cancel and grant over HTTP; what happens as it happens is in `events.py`."""

import random
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.jobs import State
from gateway.core.records import JobRecord, images_of
from gateway.edges.http import (
    SCOPES,
    allowed_job,
    answer,
    authenticate,
    matches,
    own_job,
    read_body,
    read_fields,
    read_query,
)
from gateway.edges.links import TenantLinks
from gateway.flow.access import Right
from gateway.flow.node import Node
from gateway.flow.tokens import TOKEN_MAX_MS
from protocol.codec import decode_client, decode_fields
from protocol.errors import ClientFault, ConnectionFault
from protocol.header import HEADER_SIZE, parse
from protocol.ids import make_ulid
from protocol.ladder import rung_for
from protocol.messages import END_TYPES, ErrorBody, Failed, Image, Job, Numbered, Previews, Ref, Submit
from protocol.tail import JobState, render

MAX_GRANT_BODY: Final = 4096
GRANT_MS: Final = 3_600_000
MAX_LIST: Final = 100
_STATES: Final[dict[str, tuple[State, ...]]] = {
    "queued": (State.QUEUED, State.CLAIMED),
    "running": (State.QUEUED, State.CLAIMED, State.RUNNING),
    "completed": (State.COMPLETED,),
    "failed": (State.FAILED,),
    "canceled": (State.CANCELED,),
}
"""The ledger's states behind each that is told: work given back to the queue after it had begun is told as running."""
_MEDIA: Final = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "raw": "application/octet-stream"}


class ListQuery(Struct, frozen=True):
    """The query of `GET /v1/jobs`."""

    ref: Ref | UnsetType = UNSET
    state: JobState | UnsetType = UNSET
    after: Job | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = 20


class NewGrant(Struct, frozen=True):
    """The body of `POST /v1/jobs/{id}/grants`."""

    rights: Annotated[list[Literal["watch", "cancel"]], Meta(min_length=1, max_length=8)] = field(
        default_factory=lambda: ["watch"]
    )
    ttl_ms: Annotated[int, Meta(ge=1, lt=2**53)] = GRANT_MS


class JobEntry(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A job as a list shows it."""

    job: str
    ref: str
    task: str
    model: str
    state: JobState
    seq: int
    step: int
    attempt: int
    created_ms: int
    cost_max_micros: int
    cost_micros: int
    started_ms: int | UnsetType = UNSET
    ended_ms: int | UnsetType = UNSET


class JobView(JobEntry, frozen=True, omit_defaults=True, kw_only=True, tag_field="type", tag="snapshot"):
    """A job as its log tells it: what a `snapshot` has, and the entry of the list."""

    time_ms: int
    images: list[Image]
    error: ErrorBody | UnsetType = UNSET


class JobList(Struct, frozen=True, omit_defaults=True):
    """A page of jobs; `next` is the `after` of the next page."""

    jobs: list[JobEntry]
    next: str | UnsetType = UNSET


class GrantGiven(Struct, frozen=True, omit_defaults=True):
    """A grant, for how long it is good, and where it watches."""

    grant: str
    expires_in_ms: int
    events_url: str | UnsetType = UNSET


class JobRoutes:
    """The HTTP twin of `submit`, `cancel` and `snapshot`."""

    def __init__(self, node: Node, public_url: str, chance: random.Random) -> None:
        self._node = node
        self._public_url = public_url
        self._chance = chance

    def routes(self) -> list[Route]:
        """Return the edge's routes."""
        return [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs", self.page, methods=["GET"]),
            Route("/v1/jobs/{job}", self.view, methods=["GET"]),
            Route("/v1/jobs/{job}", self.cancel, methods=["DELETE"]),
            Route("/v1/jobs/{job}/grants", self.grant, methods=["POST"]),
            Route("/v1/jobs/{job}/preview", self.preview, methods=["GET"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Make a job, or tell the one that the ref has: 202 for a new one, 200 for a duplicate."""
        identity = await authenticate(request, self._node, "generate")
        submit = await self._read_submit(request)
        made = await self._node.admission.submit(identity, submit, {}, None)
        links, now = self._links(identity.tenant), self._node.clock.time_ms()
        accepted = render(made.accepted, links, owner=True, time_ms=now)
        return answer(accepted, 200 if made.duplicate else 202, {"Location": f"/v1/jobs/{made.job.id}"})

    async def page(self, request: Request) -> Response:
        """List the subject's own jobs, newest first."""
        identity = await authenticate(request, self._node, "read")
        query = read_query(request, ListQuery)
        after = None if query.after is UNSET else query.after
        pages = [
            await self._node.jobs.listed(
                identity.tenant,
                identity.subject,
                ref=None if query.ref is UNSET else query.ref,
                state=state,
                after=after,
                limit=query.limit,
            )
            for state in (_STATES[query.state] if query.state is not UNSET else (None,))
        ]
        found, following = _merged(pages, query)
        return answer(JobList([_entry(record) for record in found], following))

    async def view(self, request: Request) -> Response:
        """Tell what the job's log comes to."""
        _, record = await own_job(request, self._node, "read")
        found = await self._node.jobs.log(record.id)
        if found is None:
            raise ClientFault("job_not_found", "there is no such job", details={"path": "job"})
        record, log = found
        etag = f'"{record.seq}"'
        if matches(request, etag):
            return Response(status_code=304, headers={"ETag": etag})
        return answer(self._folded(record, log), headers={"ETag": etag})

    async def cancel(self, request: Request) -> Response:
        """Note the wish that the job end; its end event tells what happened."""
        allowed = await allowed_job(request, self._node, "cancel")
        await self._node.admission.cancel(allowed.job, "client")
        return answer({"job": allowed.job.id}, 202)

    async def grant(self, request: Request) -> Response:
        """Give rights to the job to whoever holds the text."""
        identity, record = await own_job(request, self._node, "grant")
        wanted = await read_fields(request, NewGrant, MAX_GRANT_BODY)
        rights: list[Right] = sorted(set(wanted.rights))
        for right in rights:  # nobody gives what he does not have, not to himself either
            identity.require(SCOPES[right])
        ttl_ms = min(wanted.ttl_ms, TOKEN_MAX_MS)
        grant = self._node.access.make_grant(record.id, rights, ttl_ms)
        events_url = self._links(record.tenant).events_by(record.id, grant) if "watch" in rights else UNSET
        return answer(GrantGiven(grant, ttl_ms, events_url))

    async def preview(self, request: Request) -> Response:
        """Give the newest preview within the policy of the query; 204 while there is none."""
        allowed = await allowed_job(request, self._node, "watch")
        rung = rung_for(read_query(request, Previews), self._node.limits.max_preview_edge)
        preview = await self._node.feeds.preview(allowed.job.id, rung)
        if preview is None:
            return Response(status_code=204)
        message = memoryview(preview.wire)[-preview.size :]
        header = parse(message)
        headers = {
            "ETag": f'"{header.frame}"',
            "Preview-Frame": str(header.frame),
            "Preview-Step": f"{header.step}/{header.steps}",
            "Preview-Size": f"{header.width}x{header.height}",
        }
        if matches(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(message[HEADER_SIZE:], headers=headers, media_type=_MEDIA[rung.format])

    # --- inside ---

    def _links(self, tenant: str) -> TenantLinks:
        return TenantLinks(self._public_url, self._node.access, tenant)

    async def _read_submit(self, request: Request) -> Submit:
        """Return the body as a `submit`, with the ref that the body or `Idempotency-Key` has, or a new one."""
        raw = await read_body(request, self._node.limits.max_json)
        fields: dict[str, Raw] = decode_fields(raw, dict[str, Raw], "")
        key = request.headers.get("idempotency-key")
        if key is not None:
            told = Raw(msgspec.json.encode(key))
            if bytes(fields.setdefault("ref", told)) != bytes(told):
                details = {"path": "ref"}
                raise ClientFault("invalid_param", "`ref` and `Idempotency-Key` are not the same", details=details)
        elif "ref" not in fields:
            fields["ref"] = Raw(msgspec.json.encode(make_ulid(self._node.clock.time_ms(), self._chance)))
        fields["type"] = Raw(b'"submit"')
        whole = msgspec.json.encode(fields)
        try:
            message = decode_client(whole, len(whole))
        except ConnectionFault as fault:
            raise ClientFault("bad_request", fault.message, details={"path": "body"}) from fault
        assert isinstance(message, Submit), "its type was set above"
        return message

    def _folded(self, record: JobRecord, log: Sequence[Numbered]) -> JobView:
        now, links = self._node.clock.time_ms(), self._links(record.tenant)
        last = log[-1] if log else None
        images = last.images if isinstance(last, END_TYPES) else images_of(log)
        entry: dict[str, Any] = msgspec.structs.asdict(_entry(record))
        return JobView(
            **entry,
            time_ms=now,
            images=[_with_url(image, record.id, links, now) for image in images],
            error=last.error if isinstance(last, Failed) else UNSET,
        )


def _with_url(image: Image, job: str, links: TenantLinks, time_ms: int) -> Image:
    url, expires_in_ms = links.asset(job, image.asset, time_ms)
    return msgspec.structs.replace(image, url=url, url_expires_in_ms=expires_in_ms)


def _state(record: JobRecord) -> JobState:
    """The state as it is told: running from `started` to the end, whoever has the job meanwhile."""
    match record.state:
        case State.COMPLETED:
            return "completed"
        case State.FAILED:
            return "failed"
        case State.CANCELED:
            return "canceled"
    return "running" if record.attempt else "queued"


def _entry(record: JobRecord) -> JobEntry:
    return JobEntry(
        job=record.id,
        ref=record.ref,
        task=record.task,
        model=record.model,
        state=_state(record),
        seq=record.seq,
        step=record.step,
        attempt=record.attempt,
        created_ms=record.created_ms,
        cost_max_micros=record.price_micros,
        cost_micros=record.cost_micros,
        started_ms=UNSET if record.started_ms is None else record.started_ms,
        ended_ms=UNSET if record.ended_ms is None else record.ended_ms,
    )


def _merged(pages: Sequence[Sequence[JobRecord]], query: ListQuery) -> tuple[Sequence[JobRecord], str | UnsetType]:
    """Return one page out of those of several states, and where the next begins.

    A full page says nothing about what comes after its last job, so nothing older than that is told from any page.
    """
    horizon = max((page[-1].id for page in pages if len(page) == query.limit), default="")
    known = {record.id: record for page in pages for record in page if record.id >= horizon}
    fitting = [record for record in known.values() if query.state is UNSET or _state(record) == query.state]
    found = sorted(fitting, key=lambda record: record.id, reverse=True)[: query.limit]
    if len(found) == query.limit:
        return found, found[-1].id
    return found, horizon or UNSET
