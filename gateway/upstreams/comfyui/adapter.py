"""ComfyUI: graphs posted over HTTP, progress and previews heard on one WebSocket, results fetched from its history.

`graph` makes graphs, `template` fills those of users; `events`, `wire` and
`models` say what the server's messages, answers and lists mean: all without I/O. `socket` hears,
`rest` asks, and `ComfyUI` here leads a call through them.

A call's prompt has an id that we make of the call's own, so it can be looked up after anything: in the history it has
ended, in the queue it waits or runs, in neither it is lost. The queue and the history are the truth; the socket only
tells of them sooner. Silence alone never ends a call, for a node may be busy for minutes.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, Final

import msgspec

from gateway.core.models import Model
from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Findings
from gateway.upstreams.comfyui.events import Ended, Track
from gateway.upstreams.comfyui.graph import Graph, Library, build
from gateway.upstreams.comfyui.models import (
    control_files,
    findings_of,
    is_targeted,
    models_of,
    sampler_names,
    short_names,
    stock,
    version_of,
)
from gateway.upstreams.comfyui.rest import Found, Rest, choices_of
from gateway.upstreams.comfyui.socket import Ear, Mailbox, connector
from gateway.upstreams.comfyui.template import Template
from gateway.upstreams.comfyui.wire import (
    TAG,
    Entry,
    Waiting,
    failed,
    graph_fault,
    prompt_id_of,
    read_accepted,
    refusal,
)
from gateway.upstreams.http import Beside, Departure
from gateway.upstreams.pictures import Wanted, needs_preparing, picture_of, prepare, unusable
from gateway.upstreams.vendor import Answer, Ask, Vendor

__all__ = ["ComfyUI"]

_HEARTBEAT_SECONDS: Final = 30.0
"""A socket that answers no ping for half of this is dead."""
_STRAY_SECONDS: Final = 1.0
"""How often a prompt is asked for whose events go elsewhere."""
_FIRST_SECONDS: Final = 2.0
"""How long after a prompt's acceptance some message must have come, whoever's, if the socket hears at all."""
_MISSES: Final = 5
"""So often a prompt may be nowhere, over some 1.5 seconds, until it is lost: the history may be a little late."""
_ON_ITS_WAY_SECONDS: Final = 0.1
"""How much later than an HTTP answer a message on the socket may come."""
_GRACE_SECONDS: Final = 0.5
"""How long a cancel waits for the answer to a prompt on its way: what is stopped before it arrives would start."""


class ComfyUI:
    """One server; see `Upstream`. It works on one prompt at a time, whoever's.

    `checkpoints` are the checkpoint files to offer, by file name or our short name; none = all it has. `templates` maps
    names to workflows in API format, which are offered as models: see `template`. `controls` maps kinds of
    control images to ControlNet files where the names of the files do not tell. `token` goes along as a bearer.

    `reconnect_seconds` is how long a server that went away may stay away before a call's outcome is unknown;
    `quiet_seconds` how long nothing may be heard of a prompt before it is asked for; `timeout_seconds` is for one HTTP
    request, a whole call has no limit here; `max_answer_bytes` is for one picture.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        checkpoints: Sequence[str] = (),
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        controls: Mapping[str, str] | None = None,
        token: str | None = None,
        reconnect_seconds: float = 30.0,
        quiet_seconds: float = 5.0,
        timeout_seconds: float = 30.0,
        connect_timeout_seconds: float = 10.0,
        max_answer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.name = name
        self._asked_for = tuple(checkpoints)
        self._templates = {key: Template.parse(key, given) for key, given in (templates or {}).items()}
        self._controls = dict(controls or {})
        self._library = stock(self._asked_for, self._controls)
        self._version: tuple[int, ...] = ()
        self._quiet_seconds = quiet_seconds
        self._secret = secret = Secret(token or "")
        self._vendor = Vendor(
            name,
            base_url,
            secret=secret,
            headers=lambda: {"Authorization": f"Bearer {secret.reveal()}"} if token else {},
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
        )
        self._rest = Rest(self._vendor, secret, patience_seconds=reconnect_seconds, most_bytes=max_answer_bytes)
        connect = connector(
            lambda: self._vendor.session,
            self._vendor.base_url,
            self._vendor.own_headers,
            connect_seconds=connect_timeout_seconds,
            most_bytes=max_answer_bytes,
            heartbeat_seconds=_HEARTBEAT_SECONDS,
        )
        self._ear = Ear(connect, patience_seconds=connect_timeout_seconds + 3)
        self._open = AsyncExitStack()
        self._is_closed = False
        self.models = self._offered()

    def __repr__(self) -> str:
        return f"<ComfyUI {self.name} at {self._vendor.base_url}>"

    async def open(self) -> None:
        """See `Upstream.open`: the socket is opened by the first call."""
        await self._vendor.open()
        self._is_closed = False
        self._open.push_async_callback(self._vendor.close)
        await self._open.enter_async_context(Beside(self._ear.listen(), f"{self.name} socket"))

    async def close(self) -> None:
        """Close all connections; calls under way fail, their work goes on."""
        self._is_closed = True
        await self._open.aclose()

    # --- what it offers ---

    async def refresh(self) -> None:
        """See `Upstream.refresh`."""
        rest = self._rest
        self._version = version_of(await rest.read("/system_stats", dict[str, Any]))
        checkpoints = short_names(await rest.choices("CheckpointLoaderSimple", "ckpt_name"))
        wanted = set(self._asked_for)
        files = await rest.choices("ControlNetLoader", "control_net_name")
        sampling = await rest.read("/object_info/KSampler", dict[str, Any])
        self._library = Library(
            {name: file for name, file in checkpoints.items() if not wanted or wanted & {name, file}},
            loras=short_names(await rest.choices("LoraLoader", "lora_name")),
            upscalers=short_names(await rest.choices("UpscaleModelLoader", "model_name")),
            controls=control_files(files, self._controls),
            samplers=sampler_names(choices_of(sampling, "KSampler", "sampler_name")),
            schedulers=choices_of(sampling, "KSampler", "scheduler"),
            finds_edges=bool(await rest.read("/object_info/Canny", dict[str, Any])),
        )
        self.models = self._offered()

    def _offered(self) -> tuple[Model, ...]:
        templates = [template.model(self.name, self._library) for template in self._templates.values()]
        found = models_of(self.name, self._library) if self._library.checkpoints or self._version else ()
        return (*templates, *(model for model in found if model.id not in self._templates))

    async def probe(self) -> Findings:
        """See `Upstream.probe`."""
        stats = await self._rest.read("/system_stats", dict[str, Any])
        await self.refresh()
        there = {name for pair in self._library.checkpoints.items() for name in pair}
        missing = [name for name in self._asked_for if name not in there]
        return findings_of(stats, self.models, missing, has_seen_previews=self._ear.previews > 0)

    # --- a call ---

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling takes the prompt out of the queue, or interrupts it."""
        template = self._templates.get(order.model.id)
        wanted = _WANTED if template is None and order.request.task not in _OF_ANY_SIZE else _WANTED_AS_IT_IS
        if needs_preparing(order, wanted):
            order = await asyncio.to_thread(prepare, order, wanted)
        graph = await self._graph(order, template)
        box = Mailbox(prompt_id_of(order.id), Track(graph))
        with self._ear.listening(box):
            box.client_id = await self._ear.ready()
            async with aclosing(self._work(order, box, graph)) as reports:
                async for report in reports:
                    yield report

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: a prompt's id is made of the call's, so it can always be asked for."""
        return True

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: asks the history, then the queue."""
        tag = prompt_id_of(order.id)
        box = Mailbox(handle or tag, Track({}))
        try:
            found = await self._rest.search(box.prompt_id, tag)
        except asyncio.CancelledError:
            await self._stop(order, box)
            raise
        if found is None:
            raise _gone()
        box = Mailbox(found.prompt_id, Track(found.graph))
        box.was_found = True
        with self._ear.listening(box):
            if isinstance(found, Waiting):
                box.client_id = found.client_id
            await order.noted(found.prompt_id)
            async with aclosing(self._to_its_end(order, box, found)) as reports:
                async for report in reports:
                    yield report

    async def _graph(self, order: CallOrder, template: Template | None) -> Graph:
        images = {slot: await self._rest.upload(content) for slot, content in order.inputs.items()}
        prefix = f"safelight/{order.id}"
        if template is None:
            return build(order, self._library, images, prefix)
        return template.fill(order, self._library, images, prefix)

    async def _work(self, order: CallOrder, box: Mailbox, graph: Graph) -> AsyncGenerator[Report, None]:
        """Send the prompt and follow it."""
        try:
            found = await self._submit(order, box, graph)
        except asyncio.CancelledError:
            await self._stop(order, box)
            raise
        async with aclosing(self._to_its_end(order, box, found)) as reports:
            async for report in reports:
                yield report

    async def _to_its_end(self, order: CallOrder, box: Mailbox, found: Found | None) -> AsyncGenerator[Report, None]:
        """Follow a prompt; whoever stops listening stops the prompt."""
        try:
            async with aclosing(self._follow(order, box, found)) as reports:
                async for report in reports:
                    yield report
        except (GeneratorExit, asyncio.CancelledError):
            await self._stop(order, box)
            raise

    async def _stop(self, order: CallOrder, box: Mailbox) -> None:
        if self._is_closed:
            return
        await self._rest.stop(
            box.prompt_id,
            prompt_id_of(order.id),
            is_targeted=is_targeted(self._version),
            has_begun=box.track.has_begun,
        )

    # --- sending ---

    async def _submit(self, order: CallOrder, box: Mailbox, graph: Graph) -> Found | None:
        """Send the prompt; returns where it is, if that had to be looked up."""
        gone = Departure(order)

        box.heard_before = self._ear.heard
        async with Beside(self._vendor.ask(_asked(box, graph), gone), f"{self.name} call {order.id}") as beside:
            try:
                answer = await beside.result()
            except asyncio.CancelledError:
                with suppress(TimeoutError, UpstreamFault):
                    async with asyncio.timeout(_GRACE_SECONDS):
                        self._note(box, await beside.result())
                raise
        if answer.status != 200:
            return await self._refused(order, box, answer)
        wrong = self._note(box, answer)
        await order.noted(box.prompt_id)
        if wrong:
            # One result of several cannot be made, and the others run; nobody asked for a part.
            await self._stop(order, box)
            raise graph_fault(wrong, self.name)
        return None

    def _note(self, box: Mailbox, answer: Answer) -> tuple[str, ...]:
        """Learn the server's id of the prompt; returns what is wrong with the graph."""
        try:
            accepted = read_accepted(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            message = "the server's answer to the prompt cannot be read"
            raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message) from None
        self._ear.rename(box, accepted.prompt_id)
        return accepted.wrong

    async def _refused(self, order: CallOrder, box: Mailbox, answer: Answer) -> Found:
        """Raise what a refusal means, unless the prompt was taken all the same: after an error of 500 that is open."""
        fault = refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        if answer.status < 500 or fault.outcome is Outcome.REFUSED:
            raise fault
        found = await self._rest.find(box.prompt_id, box.prompt_id)
        if found is None:
            fault.outcome, fault.code = Outcome.FAILED, "upstream_error"
            raise fault
        self._ear.rename(box, found.prompt_id)
        await order.noted(found.prompt_id)
        return found

    # --- following ---

    async def _follow(self, order: CallOrder, box: Mailbox, found: Found | None) -> AsyncGenerator[Report, None]:
        """Report what is heard until the prompt has ended, then its pictures; `found` is where it was seen before."""
        while not isinstance(found, Entry):
            note = await box.next(self._patience(box))
            if note is None or isinstance(note, Ended):
                found = await self._look(box, was_told=note is not None)
            else:
                yield note
        for report in box.track.begin() if found.is_good else ():
            yield report
        for made in await self._made(order, box, found):
            yield made

    def _patience(self, box: Mailbox) -> float:
        """How long to listen before the server is asked."""
        if box.client_id is None or box.client_id != self._ear.client_id:
            return min(_STRAY_SECONDS, self._quiet_seconds)
        if self._ear.heard == box.heard_before:
            return min(_FIRST_SECONDS, self._quiet_seconds)
        return self._quiet_seconds

    async def _look(self, box: Mailbox, *, was_told: bool) -> Found:
        """Ask where the prompt is; raises `GONE` when it is nowhere, time and again."""
        pause = 0.05
        for _ in range(_MISSES):
            found = await self._rest.find(box.prompt_id, box.prompt_id)
            if found is not None:
                if not was_told and box.client_id == self._ear.client_id:
                    await self._doubt(box, found)
                if isinstance(found, Waiting) and found.is_running:
                    box.put(box.track.begin())
                return found
            await asyncio.sleep(pause)
            pause *= 2
        raise _gone()

    async def _doubt(self, box: Mailbox, found: Found) -> None:
        """Give the socket up if it should have told long ago what the server now says."""
        if self._ear.heard != box.heard_before:
            await asyncio.sleep(_ON_ITS_WAY_SECONDS)
            if isinstance(found, Entry):
                is_deaf = not box.has_ended
            else:
                is_deaf = found.is_running and not box.track.has_begun
            if not is_deaf:
                return
        await self._ear.renew(box.client_id)

    async def _made(self, order: CallOrder, box: Mailbox, entry: Entry) -> list[ImageMade]:
        if entry.was_interrupted and box.was_found:
            raise _gone()  # by ourselves, most likely, when a gateway let go of it
        if not entry.is_good:
            raise failed(entry, order.request, self._secret, self.name)
        contents = list(box.track.finished[: order.count])
        contents += [await self._rest.view(place) for place in entry.places[: order.count - len(contents)]]
        if len(contents) < order.count:
            raise _nothing(box, len(contents), order.count)
        # A batch has one seed; but no order of ours is for more than one picture.
        return [
            ImageMade(picture_of(content), index, order.seed + index)
            for index, content in enumerate(contents[: order.count])
        ]


_WANTED: Final = Wanted(frozenset({"png", "jpeg", "webp"}))
_WANTED_AS_IT_IS: Final = Wanted(frozenset({"png", "jpeg", "webp"}), mask_like_init=True)
_OF_ANY_SIZE: Final = frozenset({"outpaint", "upscale"})
"""Tasks whose result has another size than the given picture."""


def _asked(box: Mailbox, graph: Graph) -> Ask:
    body = {
        "prompt": graph,
        "prompt_id": box.prompt_id,
        "client_id": box.client_id,
        # Newer servers take the way to make previews from here, others pass over it.
        "extra_data": {TAG: box.prompt_id, "preview_method": "auto"},
    }
    return Ask("POST", "/prompt", msgspec.json.encode(body))


def _gone() -> UpstreamFault:
    return UpstreamFault(Outcome.GONE, "worker_lost", "the server knows nothing of the work any more")


def _nothing(box: Mailbox, have: int, want: int) -> UpstreamFault:
    if box.track.sends_results:
        # They were told once, on a socket that was not there; nothing was charged, so it may be done again.
        return UpstreamFault(Outcome.GONE, "worker_lost", "the result was sent while there was no connection")
    return unusable(f"{have} pictures came instead of {want}", charged=False)
