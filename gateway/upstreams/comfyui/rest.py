"""A ComfyUI server's HTTP side: look-ups that may be repeated, stopping a prompt, pictures in and out.

Nothing here begins work. What only reads is asked again until `patience_seconds` are over; then what became of the work
is `UNKNOWN`, for it may go on unseen.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec

from gateway.core.images import measure
from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.upstreams.comfyui.wire import Entry, Place, Waiting, read_history, read_queue, refusal, without_texts
from gateway.upstreams.multipart import Part, encode_multipart
from gateway.upstreams.pictures import unusable
from gateway.upstreams.vendor import Answer, Ask, Vendor

Found = Entry | Waiting
_Read = TypeVar("_Read")
_POLL_SECONDS: Final = 10.0
"""How long one look-up may take."""
_STOP_SECONDS: Final = 0.9
_MOST_LISTED: Final = 64 * 1024 * 1024
"""Bytes of a queue or a history: each entry holds its whole graph, and errors hold tensors."""
_SEARCHED: Final = 100
"""How many of the newest history entries are searched for our tag."""


class Rest:
    """Asks one server; `most_bytes` is for one picture."""

    def __init__(self, vendor: Vendor, secret: Secret, *, patience_seconds: float, most_bytes: int) -> None:
        self._vendor = vendor
        self._secret = secret
        self._patience_seconds = patience_seconds
        self._most_bytes = most_bytes

    # --- what became of a prompt ---

    async def find(self, prompt_id: str, tag: str) -> Found | None:
        """Return where a prompt is: the history, the queue or, as far as the server knows, nowhere."""
        entry = await self._history(prompt_id, tag)
        if entry is not None:
            return entry
        # From the queue a prompt goes into the history in one step, so it is in the second if not in the first.
        return await self._queue(prompt_id, tag) or await self._history(prompt_id, tag)

    async def search(self, prompt_id: str, tag: str) -> Found | None:
        """As `find`, and among the newest prompts of all: for a server that may have made an id of its own."""
        found = await self.find(prompt_id, tag)
        if found is not None:
            return found
        ask = Ask("GET", "/history", query={"max_items": str(_SEARCHED)}, most=_MOST_LISTED)
        return await self._patiently(ask, lambda body: read_history(body, prompt_id, tag))

    async def _history(self, prompt_id: str, tag: str) -> Entry | None:
        ask = Ask("GET", f"/history/{prompt_id}", most=_MOST_LISTED)
        return await self._patiently(ask, lambda body: read_history(body, prompt_id, tag))

    async def _queue(self, prompt_id: str, tag: str) -> Waiting | None:
        ask = Ask("GET", "/queue", most=_MOST_LISTED)
        return await self._patiently(ask, lambda body: read_queue(body, prompt_id, tag))

    # --- stopping ---

    async def stop(self, prompt_id: str, tag: str, *, is_targeted: bool, has_begun: bool) -> None:
        """Take a prompt out of the queue or interrupt it, within a second; a failure to is passed over.

        `is_targeted` is whether this server's interrupt stops only the prompt that it names. Any other stops whatever
        runs, so it is sent only while ours is seen to run. `has_begun` is whether the prompt was heard at work: one
        that just begins forgets an interrupt.
        """
        loop = asyncio.get_running_loop()
        # Not `asyncio.timeout`: aiohttp's own, when both ring at once, takes the other's cancellation for its own.
        end, pause = loop.time() + _STOP_SECONDS, 0.02
        if is_targeted and has_begun and await self._interrupt(prompt_id, end):
            return
        while not await self._is_stopped(prompt_id, tag, end) and loop.time() + pause < end:
            await asyncio.sleep(pause)
            pause *= 2

    async def _is_stopped(self, prompt_id: str, tag: str, end: float) -> bool:
        """Delete or interrupt the prompt, whichever it needs; returns whether it was found to need neither."""
        with suppress(UpstreamFault, msgspec.DecodeError):
            await self._post("/queue", {"delete": [prompt_id]}, end)
            # The answer is the same for a prompt that was pending, runs, or is unknown; the queue tells.
            answer = await self._vendor.ask(Ask("GET", "/queue", most=_MOST_LISTED, seconds=_left(end)))
            waiting = read_queue(answer.body, prompt_id, tag)
            if waiting is None:
                return True
            if waiting.is_running:
                await self._interrupt(waiting.prompt_id, end)
            elif waiting.prompt_id != prompt_id:
                await self._post("/queue", {"delete": [waiting.prompt_id]}, end)
        return False

    async def _interrupt(self, prompt_id: str, end: float) -> bool:
        with suppress(UpstreamFault):
            return (await self._post("/interrupt", {"prompt_id": prompt_id}, end)).status == 200
        return False

    async def _post(self, path: str, body: object, end: float) -> Answer:
        return await self._vendor.ask(Ask("POST", path, msgspec.json.encode(body), seconds=_left(end)))

    # --- pictures ---

    async def upload(self, content: bytes) -> str:
        """Put an input image on the server and return the name that a graph has for it.

        It is named after its bytes, so that it lies there once however often it is sent, and among the passing files,
        which the server removes when it starts. Raises `UpstreamFault`; no work has begun then.
        """
        kind = measure(content).format
        name = f"safelight-{hashlib.sha256(content).hexdigest()[:32]}.{kind}"
        parts = [Part("image", content, f"image/{kind}", name), Part("type", b"temp")]
        body, content_type = encode_multipart(parts, secrets.token_hex(16))
        try:
            answer = await self._vendor.ask(Ask("POST", "/upload/image", body, content_type))
        except UpstreamFault as fault:
            fault.outcome, fault.code = Outcome.NOT_SENT, "model_unavailable"
            raise
        if answer.status != 200:
            raise self._refused_upload(answer)
        try:
            place = msgspec.json.decode(answer.body, type=_Uploaded)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise unusable("the server's answer to an upload is not JSON", charged=False) from None
        return f"{place.subfolder}{'/' if place.subfolder else ''}{place.name} [{place.type}]"

    def _refused_upload(self, answer: Answer) -> UpstreamFault:
        fault = refusal(answer.status, answer.headers, answer.body, self._secret, self._vendor.name)
        if answer.status >= 500:  # whatever happened to it, no work was asked for
            fault.outcome, fault.code = Outcome.REFUSED, "model_unavailable"
        return fault

    async def view(self, place: Place) -> bytes:
        """Return a result without the texts beside its pixels; raises `GONE` if its file is no longer there."""
        query = {"filename": place.filename, "subfolder": place.subfolder, "type": place.type}
        answer = await self._ask_patiently(Ask("GET", "/view", query=query, most=self._most_bytes))
        if answer.status == 404:
            raise UpstreamFault(Outcome.GONE, "worker_lost", "the server no longer has the file of the result")
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self._vendor.name)
        if not answer.is_whole:
            raise unusable(f"a picture has more than {self._most_bytes} bytes")
        return without_texts(answer.body)

    # --- what the server is and has ---

    async def read(self, path: str, kind: type[_Read]) -> _Read:
        """Read something once. Raises `UpstreamFault`."""
        answer = await self._vendor.ask(Ask("GET", path, most=_MOST_LISTED, seconds=_POLL_SECONDS))
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self._vendor.name)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise unusable(f"{path} does not answer as a ComfyUI server does", charged=False) from None

    async def choices(self, node: str, name: str) -> tuple[str, ...]:
        """Return what an input of a node class may be; nothing if the server has no such node."""
        return choices_of(await self.read(f"/object_info/{node}", dict[str, Any]), node, name)

    # --- asking again ---

    async def _patiently(self, ask: Ask, read: Callable[[bytes], _Read]) -> _Read:
        """Ask until there is an answer that can be read."""

        def check(answer: Answer) -> _Read:
            if answer.status != 200:
                raise refusal(answer.status, answer.headers, answer.body, self._secret, self._vendor.name)
            return read(answer.body)

        return await self._until(ask, check)

    async def _ask_patiently(self, ask: Ask) -> Answer:
        return await self._until(ask, lambda answer: answer)

    async def _until(self, ask: Ask, check: Callable[[Answer], _Read]) -> _Read:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + self._patience_seconds, 0.05
        ask = replace(ask, seconds=ask.seconds or _POLL_SECONDS)
        while True:
            try:
                answer = await self._vendor.ask(ask)
                if answer.status < 500:
                    return check(answer)
            except (UpstreamFault, msgspec.DecodeError, UnicodeDecodeError) as error:
                why = error.code if isinstance(error, UpstreamFault) else "no JSON"
            else:
                why = str(answer.status)
            if loop.time() + pause >= end:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        message = "the server cannot be asked what became of the work"
        details = {"upstream": self._vendor.name, "cause": why}
        raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message, details=details)


def _left(end: float) -> float:
    return max(0.01, end - asyncio.get_running_loop().time())


class _Uploaded(msgspec.Struct, frozen=True):
    name: str
    subfolder: str = ""
    type: str = "input"


def choices_of(info: dict[str, Any], node: str, name: str) -> tuple[str, ...]:
    """Return an input's choices from `/object_info`, in either of the forms that nodes tell them in."""
    try:
        kind, *options = info[node]["input"]["required"][name]
        listed = options[0]["options"] if kind == "COMBO" else kind
    except (KeyError, IndexError, TypeError, ValueError):
        return ()
    return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()
