"""What a ComfyUI server says on its socket, and what that means for one prompt; without I/O.

`parse_text` and `parse_frame` read a message. A `Track` follows one prompt through those that are its own, and turns
them into reports. Three habits of the server shape it:

- The last word on a prompt is `executing` with no node, after success, error and interrupt alike; what became of the
  work stands in the history, never here.
- A preview that names its node comes before the `progress` of its step, one that does not comes after it.
- Nodes whose results are cached never appear, so a total is made of those that will run.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.core.reports import Picture, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.upstreams.comfyui.graph import SAVE_TO_SOCKET, is_sampler, planned_steps
from gateway.upstreams.pictures import picture_of
from protocol.messages import Phase

_PREVIEW: Final = 1
_PREVIEW_WITH_METADATA: Final = 4
_PNG: Final = 2
_MOST_FINISHED: Final = 8
"""Finished pictures that one prompt may send over the socket; we ask for one."""


@dataclass(frozen=True, slots=True)
class Event:
    """A text message; `prompt_id` is missing where it is nobody's."""

    kind: str
    prompt_id: str | None = None
    node: str | None = None
    value: float = 0
    most: float = 0
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture from the socket; `prompt_id` and `node` are missing where the server was not asked to name them."""

    content: bytes
    is_png: bool
    prompt_id: str | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The server has done with the prompt, well or not."""


Note = Report | Ended


class _Message(msgspec.Struct, frozen=True):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _Data(msgspec.Struct, frozen=True):
    prompt_id: str | None = None
    node: str | None = None
    value: float = 0
    max: float = 0
    nodes: list[str] = msgspec.field(default_factory=list)


class _Metadata(msgspec.Struct, frozen=True):
    prompt_id: str = ""
    node_id: str = ""
    image_type: str = ""


_MESSAGE: Final = msgspec.json.Decoder(_Message)
_DATA: Final = msgspec.json.Decoder(_Data)
_METADATA: Final = msgspec.json.Decoder(_Metadata)
_TOLD: Final = frozenset({"execution_start", "execution_cached", "executing", "progress"})
"""The kinds whose data are read. `progress_state` repeats all nodes each time, `execution_error` has whole tensors."""


def parse_text(text: str) -> Event | None:
    """Return what a text message says, if we know its kind."""
    try:
        message = _MESSAGE.decode(text)
        if message.type not in _TOLD:
            return Event(message.type)
        data = _DATA.decode(message.data)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return Event(message.type, data.prompt_id, data.node, data.value, data.max, tuple(data.nodes))


def parse_frame(data: bytes) -> Frame | None:
    """Return the picture of a binary message, if it is one: text for the server's own page comes this way too."""
    if len(data) < 8:
        return None
    event, second = struct.unpack(">II", data[:8])
    if event == _PREVIEW:
        return Frame(data[8:], second == _PNG)
    if event != _PREVIEW_WITH_METADATA or second > len(data) - 8:
        return None
    try:
        told = _METADATA.decode(data[8 : 8 + second])
    except (msgspec.DecodeError, UnicodeError):
        return None
    return Frame(data[8 + second :], told.image_type == "image/png", told.prompt_id, told.node_id)


@dataclass(slots=True)
class Track:
    """One prompt's way, as far as the socket tells it."""

    graph: Mapping[str, Any]
    has_begun: bool = False
    finished: list[bytes] = field(default_factory=list)
    """Pictures that the prompt sent instead of saving them."""
    _steps: dict[str, int] = field(default_factory=dict)
    """Steps of each node that counts, done or to come."""
    _done: dict[str, int] = field(default_factory=dict)
    _node: str | None = None
    _waiting: dict[str, Picture] = field(default_factory=dict)
    """The newest preview of a node, until its step is told."""
    _last: tuple[int, int] = (0, 0)
    _phase: Phase = "denoising"

    def __post_init__(self) -> None:
        self._steps = planned_steps(self.graph)
        if not any(is_sampler(node) for node in self.graph.values()):
            self._phase = "upscaling"

    @property
    def total(self) -> int:
        """All steps that are known of."""
        return sum(self._steps.values())

    @property
    def sends_results(self) -> bool:
        """Whether some results come over the socket and are kept nowhere."""
        return any(self._kind(name) == SAVE_TO_SOCKET for name in self.graph)

    def begin(self) -> list[Report]:
        """Say that the work has begun, unless that was said."""
        if self.has_begun:
            return []
        self.has_begun = True
        return [WorkBegun(self.total)]

    def take(self, event: Event) -> Sequence[Note]:
        """Return what an event of this prompt means."""
        match event.kind:
            case "execution_start":
                # What is cached comes with the next message, and with it the total.
                return []
            case "execution_cached":
                self._leave_out(event.nodes)
                return self.begin()
            case "executing" if event.node is None:
                return [Ended()]
            case "executing":
                self._node = event.node
                return self.begin()
            case "progress" if event.node is not None and self._counts(event.node):
                return [*self.begin(), *self._step(event.node, int(event.value), int(event.most))]
        return []

    def take_frame(self, frame: Frame) -> Sequence[Note]:
        """Return what a picture of this prompt means: a preview, or a finished one that is kept here."""
        node = frame.node or self._node
        if node is None:
            return []
        if self._kind(node) == SAVE_TO_SOCKET:
            if frame.is_png and len(self.finished) < _MOST_FINISHED:
                self.finished.append(frame.content)
            return []
        if not self._counts(node):
            return []
        try:
            picture = picture_of(frame.content)
        except UpstreamFault:
            return []
        if frame.node is not None:
            self._waiting[node] = picture
            return []
        return [_preview(picture, self._last)] if self._last[0] else []

    def _leave_out(self, nodes: Collection[str]) -> None:
        for node in nodes:
            self._steps.pop(node, None)

    def _step(self, node: str, value: int, most: int) -> list[Report]:
        if value <= 0 or most <= 0:
            return []
        self._node = node
        self._steps[node] = most
        self._done[node] = min(value, most)
        self._last = sum(self._done.values()), self.total
        notes: list[Report] = [StepDone(self._phase, *self._last)]
        preview = self._waiting.pop(node, None)
        if preview is not None:
            notes.append(_preview(preview, self._last))
        return notes

    def _counts(self, node: str) -> bool:
        """Whether a node's ticks are steps of the work: those of samplers, or of any node where there is no sampler."""
        if self._phase == "upscaling":
            return self._kind(node) != SAVE_TO_SOCKET
        return is_sampler(self.graph.get(node))

    def _kind(self, node: str) -> str:
        found = self.graph.get(node)
        return str(found.get("class_type", "")) if isinstance(found, dict) else ""


def _preview(picture: Picture, at: tuple[int, int]) -> PreviewMade:
    # Made from latents, by a formula or a tiny decoder.
    return PreviewMade(picture, *at, approximate=True)
