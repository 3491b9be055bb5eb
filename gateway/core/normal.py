"""The normal form: one picture request with nothing left open, as the ledger keeps it and adapters get it."""

from msgspec import Struct

from gateway.core.params import CONTROLS, Expand, Lora, WeightedPrompt


class InputImage(Struct, frozen=True):
    """An input image that is in the store: its role, its content hash, its edges in pixels, and how it is used."""

    role: str
    asset: str
    width: int
    height: int
    weight: float | None = None
    start: float | None = None
    end: float | None = None
    preprocessor: str | None = None
    slot: str = ""
    """The role, with a number if it is not the first of that role: unique within a request."""


class Note(Struct, frozen=True):
    """What was changed because the request allowed it; a `notice` of the job tells it."""

    code: str
    message: str


class Request(Struct, frozen=True):
    """The normal form: one picture request with nothing left open. Edges in pixels, `strength` 1 ignores the init."""

    task: str
    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    n: int
    strength: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    style: str | None = None
    inputs: tuple[InputImage, ...] = ()
    prompts: tuple[WeightedPrompt, ...] = ()
    """The parts with their weights, negative ones too, where the client gave them; then `prompt` and
    `negative_prompt` have the same in the notation `(text:weight)`."""
    loras: tuple[Lora, ...] = ()
    expand: Expand | None = None
    search: str | None = None
    tiling: bool = False
    """Whether the picture goes on at its opposite edge."""
    background: str = "auto"
    """One of `BACKGROUNDS`."""
    notes: tuple[Note, ...] = ()
    alternatives: tuple[str, ...] = ()
    """Other upstreams that can do this as well, best first; no part of what is asked."""

    def input(self, role: str) -> InputImage | None:
        """The first input image of that role, if there is one."""
        return next((image for image in self.inputs if image.role == role), None)

    @property
    def controls(self) -> tuple[InputImage, ...]:
        """The control images."""
        return tuple(image for image in self.inputs if image.role in CONTROLS)

    @property
    def references(self) -> tuple[InputImage, ...]:
        """The reference pictures."""
        return tuple(image for image in self.inputs if image.role == "reference")
