"""`/v1/images`: OpenAI's Images API. Its `/v1/models` is the gateway's own list, which has the vendor's form."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.models import Model
from gateway.core.records import Identity
from gateway.edges.compat.bodies import PARSED_HERE
from gateway.edges.compat.dialect import Result, Trouble
from gateway.edges.compat.doors import Doors, key_sent
from gateway.edges.compat.openai_images import pictures, wire
from gateway.edges.compat.openai_images.retries import COUNT, Attempt, Followed, Retries, key_of
from gateway.edges.compat.openai_images.streaming import ImageStream
from gateway.edges.compat.openai_images.tables import FIELDS, MODELS_WITH_URLS
from gateway.edges.compat.openai_images.views import PATH, ImagesView, as_stored, unfinished
from gateway.edges.http import answer, read_query
from protocol.codec import convert_fields
from protocol.errors import ClientFault

_AGAIN: Final = frozenset({408, 409, 429})
"""Statuses below 500 at which the vendor's clients try again by themselves."""


class _Form(Struct, frozen=True):
    """How a result is asked for afterwards; the job does not know how it was asked for at first."""

    output_format: wire.Format = "png"
    output_compression: Annotated[int, Meta(ge=0, le=100)] = 100
    response_format: str = "b64_json"


class Words:
    """How the vendor says what goes wrong; see `gateway.edges.compat.dialect.Dialect`."""

    prefixes: tuple[str, ...] = ("/v1/images/",)
    challenge = "Bearer"
    names: Mapping[str, str] = FIELDS
    tells_x_ratelimit = True

    def __init__(self, filtered: str = "moderation_blocked") -> None:
        self._filtered = filtered

    def routes(self) -> list[BaseRoute]:
        """See `Dialect.routes`: words have none."""
        return []

    def refusal(self, trouble: Trouble, reference: str) -> Response:
        """See `Dialect.refusal`: `{"error": {"message", "type", "param", "code"}}`."""
        status, body = wire.error(trouble, self._filtered)
        response = answer(body, status)
        if (status in _AGAIN or status >= 500) and not trouble.may_be_repeated:
            response.headers["x-should-retry"] = "false"
        return response

    def error(self, trouble: Trouble) -> dict[str, Any]:
        """Return the body alone, for a stream that has begun."""
        return wire.error(trouble, self._filtered)[1]


class OpenaiImagesDoor(Words):
    """The routes."""

    def __init__(self, doors: Doors, public_url: str) -> None:
        super().__init__()
        self._doors = doors
        self._public_url = public_url
        self._older_words = Words("content_policy_violation")
        """Those of the models before the GPT ones."""
        self.retries = Retries(doors.node.clock.now, doors.new_ref)

    def routes(self) -> list[BaseRoute]:
        """Return the dialect's routes."""
        holding = self._doors.bodies.holding
        return [
            Route("/v1/images/generations", holding(self.generations), methods=["POST"]),
            Route("/v1/images/edits", holding(self.edits), methods=["POST"]),
            Route(f"{PATH}{{job}}", self.result, methods=["GET"]),
        ]

    async def generations(self, request: Request) -> Any:
        """Make pictures of words."""
        identity = await self._doors.identify(request, "generate")
        asked = await self._doors.bodies.json(request, wire.Generation)
        wire.check(asked)
        task, model = self._able(asked.model, ("txt2img",))
        return await self._answer(request, identity, asked, wire.wished(asked, task, model))

    async def edits(self, request: Request) -> Any:
        """Make pictures of pictures and words."""
        identity = await self._doors.identify(request, "generate")
        asked, uploads = await self._edit(request)
        wire.check(asked)
        size = pictures.checked(self._doors, uploads)
        mask = await pictures.mask_of(self._doors, uploads, asked.model)
        task, model = self._able(asked.model, wire.tasks_of(len(uploads.images), has_mask=mask is not None))
        wished = wire.wished(asked, task, model, pictures.sent(uploads, mask, task), size)
        return await self._answer(request, identity, asked, wished)

    async def result(self, request: Request) -> Response:
        """Tell how far a job is, and its pictures once it has ended well."""
        identity = await self._doors.identify(request, "read")
        record = await self._doors.own_job(identity, request.path_params["job"])
        if not record.has_ended:
            return answer(unfinished(record.id, "running" if record.attempt else "queued"))
        told = read_query(request, _Form)
        shape = wire.Shape(told.output_format, told.output_compression, told.response_format == "url")

        async def body_of(result: Result) -> bytes:
            view = ImagesView(self._doors, as_stored(shape, result), self._public_url, identity.tenant)
            return await view.body(result, {"id": record.id, "status": "completed"})

        body = await self._doors.told(identity, record.id, body_of)
        return Response(body, media_type="application/json")

    # --- inside ---

    async def _edit(self, request: Request) -> tuple[wire.EditForm, pictures.Uploads]:
        if not request.headers.get("content-type", "").lower().startswith("multipart/"):
            asked = await self._doors.bodies.json(request, wire.EditJson)
            return asked, await pictures.of_json(self._doors.bodies, asked)
        texts, uploads = pictures.of_form(await self._doors.bodies.form(request))
        return convert_fields(texts, wire.EditForm), uploads

    def _able(self, name: str | None, tasks: tuple[str, ...]) -> tuple[str, Model | None]:
        """The first of the tasks that what the client names can do, and the model; else the first task alone."""
        models = self._doors.node.models
        for task in tasks:
            found = self._doors.terms.aliases.find(name or None, task, models)
            if found is not None and found in models and task in models[found].tasks:
                return task, models[found]
        return tasks[0], None

    async def _answer(self, request: Request, identity: Identity, asked: wire.Common, wished: wire.Wished) -> Any:
        words = self._older_words if (asked.model or "").startswith(MODELS_WITH_URLS) else self
        attempt = await self._attempt(request, identity, wished)
        try:
            begun = await self._doors.begin(
                request, identity, wished.wish, words,
                ref=None if attempt is None else attempt.ref, ignored=wished.ignored,
            )  # fmt: skip
        except ClientFault as fault:
            trouble = Trouble.of(fault)
            if attempt is not None:
                self.retries.refuse(attempt, may_come_again=trouble.may_be_repeated)
            return self._doors.refuse(request, trouble, words)
        except BaseException:
            if attempt is not None:
                self.retries.lose(attempt)
            raise
        if asked.stream:
            family = "image_edit" if isinstance(asked, wire.EditForm) else "image_generation"
            partials = asked.partial_images or 0
            app: Any = ImageStream(self._doors, begun, family, partials, wished.shape, words.error)
        else:
            view = ImagesView(self._doors, wished.shape, self._public_url, identity.tenant)
            app = await self._doors.answer(request, begun, words, view)
        return app if attempt is None else Followed(app, partial(self.retries.end, attempt))

    async def _attempt(self, request: Request, identity: Identity, wished: wire.Wished) -> Attempt | None:
        """What the request is among those that may come again; `None` if its client does not count them."""
        count = request.headers.get(COUNT, "")
        if not count.isdecimal() or key_sent(request) is not None:
            return None
        who = (identity.tenant, identity.subject)
        size = sum(len(one.content) for one in wished.wish.sent)
        key = key_of(who, wished.wish) if size <= PARSED_HERE else await asyncio.to_thread(key_of, who, wished.wish)
        is_lost_with_client = self._doors.policy(request) == "cancel"
        return self.retries.enter(who, key, is_again=int(count[:4]) > 0, is_lost_with_client=is_lost_with_client)
