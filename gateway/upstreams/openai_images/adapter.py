"""The OpenAI Images API, and self-hosted servers that speak it: one request per call, answered whole or as a stream.

`models` has the dialects and what is offered, `wire` what the two vocabularies mean to each
other, `inputs` what becomes of input images, `events` the stream's framing; all are without
I/O. `OpenAIImages` here does the I/O.

A call for one picture is asked for as a stream where the model streams, so that partial pictures come; whatever then
comes back is taken, a plain answer as well. There is no idempotency and no way to ask what became of a call: one whose
answer did not come whole has an unknown outcome.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from gateway.core.reports import ImageMade, Outcome, Picture, PreviewMade, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Findings
from gateway.upstreams.failures import Told
from gateway.upstreams.http import Beside, Departure
from gateway.upstreams.multipart import encode_multipart
from gateway.upstreams.openai_images.events import Frame, Frames, FrameTooLarge, Mail
from gateway.upstreams.openai_images.inputs import must_prepare, prepared
from gateway.upstreams.openai_images.models import (
    DIALECTS,
    DialectName,
    ImageModel,
    Offer,
    Way,
    everything,
    is_known,
    offered,
)
from gateway.upstreams.openai_images.wire import (
    Ended,
    Event,
    Finished,
    Found,
    Partial,
    Trouble,
    check,
    check_files,
    cut_short,
    pictures_in,
    read_event,
    refusal,
    result_url,
    to_vendor,
    trouble,
)
from gateway.upstreams.pictures import picture_of, unusable
from gateway.upstreams.vendor import INLINE_BYTES, Answer, Ask, Vendor, whole_answer

__all__ = ["ImageModel", "OpenAIImages"]

_T = TypeVar("_T")
_FETCH_TRIES: Final = 2
_FETCH_PAUSE_SECONDS: Final = 0.25
_NO_LIST: Final = frozenset({404, 405, 501})


class OpenAIImages:
    """One account of the vendor's, or one server; see `Upstream`.

    `base_url` is the server's address; one with a path, as in `https://a.example/openai/v1`, is what
    `/images/generations` stands under, one without gets the dialect's. `api_key` may be empty. `models` maps the
    vendor's model ids to how they are offered; `discover` maps patterns, as in `flux-*`, to how those ids are offered
    that the server lists, and `True` is all that are known to be for pictures, or all of a server of one's own.
    `dialect` names the kind of server. `result_hosts` are the hosts, as "host" for any port or "host:port", from which
    pictures may be fetched that come as addresses, beside the server's own origin. `organization` and `project` go
    along as the vendor's headers of these names.

    `timeout_seconds` is for a whole call, from connecting to the answer's last byte, `fetch_seconds` for fetching one
    picture; `max_answer_bytes` for a plain answer, one event of a stream, or one picture that is fetched; see `Vendor`
    for the others. Raises `ValueError` for models that contradict each other.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str = "",
        models: Mapping[str, ImageModel],
        discover: Mapping[str, ImageModel] | bool = False,
        dialect: DialectName = "openai",
        result_hosts: Collection[str] = (),
        organization: str = "",
        project: str = "",
        timeout_seconds: float = 300.0,
        fetch_seconds: float = 30.0,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float = 2.0,
        max_answer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.name = name
        self._configured = dict(models)
        self._discover = (everything(dialect) if discover else {}) if isinstance(discover, bool) else dict(discover)
        self._dialect: DialectName = dialect
        self._ways: dict[str, Way] = {}
        self._offer(offered(name, dialect, self._configured, self._discover))
        self._hosts = _hosts(result_hosts)
        secret = Secret(api_key)
        self._secret = secret
        named = {"OpenAI-Organization": organization, "OpenAI-Project": project}
        fixed = {"User-Agent": "safelight", **{header: value for header, value in named.items() if value}}
        has_key = bool(api_key)
        base_url = _rooted(base_url, dialect)
        self._vendor = Vendor(
            name,
            base_url,
            secret=secret,
            headers=lambda: fixed | ({"Authorization": f"Bearer {secret.reveal()}"} if has_key else {}),
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
        )
        # Connections of their own and not one header of the account's: who holds the pictures is not the vendor.
        self._results = Vendor(
            name,
            base_url,
            secret=secret,
            headers=lambda: {"User-Agent": "safelight"},
            timeout_seconds=fetch_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
        )
        self._max_answer_bytes = max_answer_bytes

    def __repr__(self) -> str:
        return f"<OpenAIImages {self.name} at {self._vendor.base_url}>"

    async def open(self) -> None:
        """See `Upstream.open`."""
        await self._vendor.open()
        await self._results.open()

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        await self._vendor.close()
        await self._results.close()

    async def refresh(self) -> None:
        """See `Upstream.refresh`: asks for the list of models if any are to be discovered."""
        if self._discover:
            self._offer(offered(self.name, self._dialect, self._configured, self._discover, await self._listed()))

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling drops the connection."""
        way = self._ways[order.model.id]
        check(order, way)
        if must_prepare(order, way):
            order = await asyncio.to_thread(prepared, order, way)
        check_files(order, way)
        mail = Mail()
        async with Beside(self._made(order, way, mail), f"{self.name} call {order.id}") as beside:
            while (report := await mail.next()) is not None:
                yield report
            pictures = await beside.result()
        for index, picture in enumerate(pictures):
            yield ImageMade(picture, index, order.seed + index)

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: nobody can be asked."""
        return False

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: the vendor cannot be asked."""
        raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", "the vendor cannot be asked what became of a call")
        yield  # pragma: no cover - makes this a generator

    async def probe(self) -> Findings:
        """See `Upstream.probe`: asks for the list of models, which costs nothing."""
        title = DIALECTS[self._dialect].title
        answer = await self._list()
        if answer.status in _NO_LIST:
            problem = (
                f"the server answers {answer.status} to {self._vendor.base_url}/models: if pictures fail as well, "
                "see whether `base_url` has the right path, mostly /v1"
            )
            return Findings(title, problems=(problem, *self._price_problems()))
        listed = self._ids(answer)
        mine = {model.vendor_model for model in self.models}
        told = [one for one in listed if one in mine or self._dialect != "openai" or is_known(one)]
        missing = [
            f"the server does not list the model {model.vendor_model}: see whether the name is right"
            for model in self.models
            if model.vendor_model not in listed
        ]
        facts = (f"{len(listed)} models listed", f"for pictures: {', '.join(sorted(told)[:50]) or 'none'}")
        return Findings(title, facts, (*missing, *self._nothing_problem(listed), *self._price_problems()))

    def _nothing_problem(self, listed: list[str]) -> list[str]:
        found = offered(self.name, self._dialect, self._configured, self._discover, listed)
        return [] if found else ["no model is offered: name one in `models`, or a pattern in `discover` that fits one"]

    def _price_problems(self) -> list[str]:
        if (URL(self._vendor.base_url).host or "") != "api.openai.com":
            return []
        return [
            f"{model.id} has no price: its calls count as free, and are repeated when an answer is lost"
            for model in self.models
            if not model.billed
        ]

    # --- what is offered ---

    def _offer(self, offers: tuple[Offer, ...]) -> None:
        # Ways that are no longer offered stay: an order may have been made just before.
        self._ways.update((offer.model.id, offer.way) for offer in offers)
        self.models = tuple(offer.model for offer in offers)

    async def _listed(self) -> list[str]:
        return self._ids(await self._list())

    async def _list(self) -> Answer:
        return await self._vendor.ask(Ask("GET", "/models", most=INLINE_BYTES, seconds=30.0))

    def _ids(self, answer: Answer) -> list[str]:
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        try:
            return [one.id for one in msgspec.json.decode(answer.body, type=_Listed).data]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise unusable("the list of models is not the JSON that is documented", charged=False) from None

    # --- a call ---

    async def _made(self, order: CallOrder, way: Way, mail: Mail) -> list[Picture]:
        """Ask for the pictures and return all of them; what comes before goes into `mail`."""
        gone = Departure(order)
        gone.then(lambda: mail.put(WorkBegun(order.request.steps)))

        asked = self._asked(order, way)

        async def take(response: aiohttp.ClientResponse) -> Answer | list[Found]:
            if response.status == 200 and response.content_type == "text/event-stream":
                return await self._hear(order, way, response, mail)
            return await whole_answer(response, asked)

        try:
            taken = await self._vendor.exchange(asked, take, gone)
            found = await self._plain(order, taken) if isinstance(taken, Answer) else taken
            return [await self._fetched(one) if isinstance(one, str) else one for one in found]
        finally:
            mail.close()

    def _asked(self, order: CallOrder, way: Way) -> Ask:
        path, content = to_vendor(order, way)
        body, content_type = (
            encode_multipart(content, secrets.token_hex(16))
            if isinstance(content, list)
            else (msgspec.json.encode(content), "application/json")
        )
        return Ask("POST", path, body, content_type, most=self._max_answer_bytes)

    async def _plain(self, order: CallOrder, answer: Answer) -> list[Found]:
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        if not answer.is_whole:
            raise self._too_large()
        found = await _off_loop(answer.body, lambda: pictures_in(answer.body, order.count))
        if isinstance(found, Told):
            raise trouble(found, self._secret, self.name, worked=False)
        return found

    def _too_large(self) -> UpstreamFault:
        return unusable(f"the answer has more than {self._max_answer_bytes} bytes")

    # --- a stream ---

    async def _hear(self, order: CallOrder, way: Way, response: aiohttp.ClientResponse, mail: Mail) -> list[Found]:
        """Read a stream until the last picture; nothing here waits for whoever takes the reports."""
        stream = _Stream(order, way, mail)
        frames = Frames(self._max_answer_bytes)
        left = self._max_answer_bytes * (way.partials + order.count)
        async for piece in response.content.iter_any():
            left -= len(piece)
            for frame in self._split(frames, piece, left):
                if self._is_done(stream, await _event_of(frame)):
                    return stream.found
        for frame in frames.finish():
            event = None
            # Half an event is no event, whatever its name.
            with contextlib.suppress(UpstreamFault):
                event = await _event_of(frame)
            if self._is_done(stream, event):
                return stream.found
        raise cut_short(self.name)

    def _split(self, frames: Frames, piece: bytes, left: int) -> list[Frame]:
        try:
            if left >= 0:
                return frames.feed(piece)
        except FrameTooLarge:
            pass
        raise self._too_large()

    def _is_done(self, stream: "_Stream", event: Event | None) -> bool:
        if isinstance(event, Trouble):
            raise trouble(event.told, self._secret, self.name, worked=stream.has_worked)
        return stream.take(event)

    # --- pictures that lie elsewhere ---

    async def _fetched(self, told: str) -> Picture:
        """Fetch a picture. It is made and paid for, so a failure is tried once more and then final."""
        url = result_url(told, f"{self._vendor.base_url}/", self._hosts)
        if url is None:
            raise unusable("the picture lies on a host that is not among `result_hosts`")
        ask = Ask("GET", url, most=self._max_answer_bytes)
        for attempt in range(_FETCH_TRIES):
            await asyncio.sleep(attempt * _FETCH_PAUSE_SECONDS)
            try:
                answer = await self._results.ask(ask)
            except UpstreamFault:
                continue
            if answer.status == 200:
                if not answer.is_whole:
                    raise self._too_large()
                return picture_of(answer.body)
        raise unusable("the finished picture could not be fetched from where the vendor put it")


class _Listed(msgspec.Struct, frozen=True):
    class One(msgspec.Struct, frozen=True):
        id: str

    data: list[One]


class _Stream:
    """What has come of one stream."""

    def __init__(self, order: CallOrder, way: Way, mail: Mail) -> None:
        self._count = order.count
        self._steps = way.partials + 1
        self._mail = mail
        self._partials = 0
        self.found: list[Found] = []

    @property
    def has_worked(self) -> bool:
        """Whether part of a picture has come."""
        return self._partials > 0 or bool(self.found)

    def take(self, event: Event | None) -> bool:
        """Take an event; returns whether all pictures are there."""
        match event:
            case Partial(picture, index):
                step = min(max(0, self._partials if index is None else index) + 1, self._steps)
                self._partials += 1
                self._mail.put(PreviewMade(picture, step, self._steps))
            case Finished(found):
                self.found.append(found)
            case Ended() if len(self.found) < self._count:
                raise unusable("the vendor's stream ended without the picture")
        return len(self.found) == self._count


async def _event_of(frame: Frame) -> Event | None:
    name, data = frame
    return await _off_loop(data, lambda: read_event(name, data))


async def _off_loop(content: bytes, work: Callable[[], _T]) -> _T:
    """Do work on `content`: here if that is small, else in a thread."""
    return work() if len(content) <= INLINE_BYTES else await asyncio.to_thread(work)


def _rooted(base_url: str, dialect: DialectName) -> str:
    whole = base_url.rstrip("/")
    return whole if URL(whole).path.strip("/") else whole + DIALECTS[dialect].root


def _hosts(result_hosts: Collection[str]) -> frozenset[tuple[str, int | None]]:
    hosts = set()
    for told in result_hosts:
        url = URL(f"//{told}")
        if not url.host or str(url.path) not in ("", "/") or url.user is not None:
            raise ValueError(f"{told} is no host as in pictures.example or pictures.example:8443")
        hosts.add((url.host, url.explicit_port))
    return frozenset(hosts)
