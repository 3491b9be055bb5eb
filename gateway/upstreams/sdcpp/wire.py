"""What our words and those of stable-diffusion.cpp's job API mean to each other, without I/O.

`to_vendor` asks, `check` refuses what the server would take and should not, `accepted` and `state_of` read what it
tells of a job, `from_vendor` takes the pictures, `refusal` and `failed` tell what anything else means.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.core.reports import ImageMade, Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.failures import COMMON, Failure, Told, fault_of, find
from gateway.upstreams.pictures import decode_base64, picture_of, unusable
from gateway.upstreams.sdcpp.models import SAMPLERS
from protocol.errors import ClientFault
from protocol.messages import ImageFormat

BUSY_SECONDS: Final = 1.0
"""How long nothing is asked of a server whose queue is full: one picture of its 64 may be done by then."""
_PNG: Final[frozenset[ImageFormat]] = frozenset({"png"})
_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PATH: Final = re.compile(r"(?:\b[A-Za-z]:)?(?:[/\\][^\s/\\'\"`,;:()\[\]]+){2,}")

# ------------------------------------------------------------------------------------------------------- to the vendor


def check(order: CallOrder, loras: Mapping[str, str]) -> None:
    """Raise `UpstreamFault` for whatever the server must not be asked: it refuses next to nothing itself."""
    request, model = order.request, order.model
    try:
        model.sizes_of(request.task).check(request.width, request.height)
    except ClientFault as fault:
        raise UpstreamFault(Outcome.FAILED, fault.code, fault.message, details=fault.details) from None
    low, high = model.steps
    rows = (
        (request.task in model.tasks, "task_not_supported", "task"),
        (low <= request.steps <= high, "invalid_param", "params.steps"),
        (1 <= order.count <= model.images_per_call, "invalid_param", "params.n"),
        (request.guidance >= 0, "invalid_param", "params.guidance"),
        (request.strength is None or 0 <= request.strength <= 1, "invalid_param", "params.strength"),
        (request.sampler is None or request.sampler in model.samplers, "sampler_not_supported", "params.sampler"),
        (request.scheduler is None or request.scheduler in model.schedulers, "invalid_param", "params.scheduler"),
        (all(lora.name in loras for lora in request.loras), "adapter_not_found", "params.loras"),
        ("mask" not in order.inputs or "init" in order.inputs, "invalid_param", "inputs"),
        (len(request.controls) <= 1, "invalid_param", "inputs"),
        (all(_is_whole_run(one.start, one.end) for one in request.controls), "invalid_param", "inputs"),
    )
    for is_good, code, path in rows:
        if not is_good:
            message = "the server cannot do this as it is asked"
            raise UpstreamFault(Outcome.FAILED, code, message, details={"path": path})


def _is_whole_run(start: float | None, end: float | None) -> bool:
    return start in (None, 0) and end in (None, 1)


def to_vendor(order: CallOrder, loras: Mapping[str, str]) -> dict[str, object]:
    """Return the body of `img_gen`; `bytes` in it are to be encoded as base64. Call `check` before."""
    request = order.request
    fields: dict[str, object] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "seed": order.seed,
        "batch_count": order.count,
        "sample_params": _sampling(order),
        # The server may have been started with another habit: the size would not be the one that was asked.
        "hires": {"enabled": False},
        "output_format": "png",
        # Else the file tells the prompt and the server's settings to whoever gets it.
        "embed_image_metadata": False,
    }
    if request.loras:
        fields["lora"] = [{"path": loras[lora.name], "multiplier": lora.weight} for lora in request.loras]
    return {**fields, **_pictures(order)}


def _sampling(order: CallOrder) -> dict[str, object]:
    request = order.request
    sampling: dict[str, object] = {"sample_steps": request.steps, "guidance": {"txt_cfg": request.guidance}}
    if request.sampler is not None:
        sampling["sample_method"] = SAMPLERS.get(request.sampler, request.sampler)
    if request.scheduler is not None:
        sampling["scheduler"] = request.scheduler
    return sampling


def _pictures(order: CallOrder) -> dict[str, object]:
    request, fields = order.request, dict[str, object]()
    if "init" in order.inputs:
        fields["init_image"] = order.inputs["init"]
        fields["strength"] = request.strength
    if "mask" in order.inputs:
        fields["mask_image"] = order.inputs["mask"]
    for control in request.controls:
        fields["control_image"] = order.inputs[control.slot or control.role]
        fields["control_strength"] = 1.0 if control.weight is None else control.weight
    return fields


# ----------------------------------------------------------------------------------------------------- from the vendor


class _Image(msgspec.Struct, frozen=True):
    b64_json: msgspec.Raw


class _Result(msgspec.Struct, frozen=True):
    images: list[_Image]


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class State(msgspec.Struct, frozen=True):
    """A job as the server tells it; its pictures or its error are not read yet."""

    id: str = ""
    status: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def is_pending(self) -> bool:
        """Whether its end is still to come."""
        return self.status in ("queued", "generating")


# `Raw` leaves the pictures where they lie: they are checked and decoded once, straight from the answer's bytes.
_STATE: Final = msgspec.json.Decoder(State)
_RESULT: Final = msgspec.json.Decoder(_Result)
_ERROR: Final = msgspec.json.Decoder(_Error)
_STATUSES: Final = frozenset({"queued", "generating", "completed", "failed", "cancelled"})


def is_job_id(text: str) -> bool:
    """Whether a text can stand in a path as the id of a job."""
    return _JOB_ID.fullmatch(text) is not None


def accepted(body: bytes) -> str | None:
    """Return the id in an answer with status 202; `None` if there is none."""
    state = _decoded(body)
    return state.id if state is not None and is_job_id(state.id) else None


def state_of(body: bytes) -> State | None:
    """Return the job that an answer with status 200 tells of; `None` if it tells of none."""
    state = _decoded(body)
    return state if state is not None and state.status in _STATUSES else None


def _decoded(body: bytes) -> State | None:
    try:
        return _STATE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def from_vendor(order: CallOrder, state: State) -> list[ImageMade]:
    """Return the pictures of a completed job; raise `UpstreamFault` `invalid_output` if they are not whole."""
    try:
        images = _RESULT.decode(state.result).images
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise unusable("the job has ended and tells of no pictures", charged=False) from None
    if len(images) != order.count:
        raise unusable(f"{len(images)} pictures came instead of {order.count}", charged=False)
    try:
        return [_made(order, index, image) for index, image in enumerate(images)]
    except UpstreamFault as fault:
        fault.charged = False  # nothing here costs money
        raise


def _made(order: CallOrder, index: int, image: _Image) -> ImageMade:
    return ImageMade(picture_of(decode_base64(image.b64_json), _PNG), index, order.seed + index)


# ------------------------------------------------------------------------------------------------------------ failures

_FAILURES: Final[dict[int | str, Failure]] = {
    **COMMON,
    "2xx": Failure(Outcome.FAILED, "invalid_output", "the server answered without a job"),
    404: Failure(Outcome.FAILED, "upstream_error", "the server has no job API: it is too old, or another program"),
    429: Failure(Outcome.REFUSED, "model_unavailable", "the server's queue is full", retryable=True, locked_out=True),
}


class _Refused(msgspec.Struct, frozen=True):
    error: str = ""
    message: str = ""
    """Only where an exception was the reason; it is the exception's text."""


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer without a job is; `body` may be cut short or missing."""
    row = find(_FAILURES, status, "")
    fault = fault_of(row, _told(body), status=status, headers=headers, secret=secret, upstream=upstream)
    if fault.locked_out and fault.retry_after_seconds is None:
        # The server never says how long. Without this the gate would close for as long as a hosted vendor asks.
        fault.retry_after_seconds = BUSY_SECONDS
    return fault


def _told(body: bytes) -> Told:
    try:
        refused = msgspec.json.decode(body, type=_Refused)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A proxy's page; nothing in it is for clients.
        return Told()
    return Told(_without_paths(refused.error), _without_paths(refused.message or refused.error))


def failed(state: State, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that a failed job is. The server has the same words for a lack of memory as for all else."""
    try:
        error = _ERROR.decode(state.error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _Error()
    message = "the server could not make the picture; a smaller one, or fewer, may do"
    told = Told(error.code, _without_paths(error.message))
    row = Failure(Outcome.FAILED, "upstream_error", message, retryable=True)
    fault = fault_of(row, told, status=200, headers={}, secret=secret, upstream=upstream)
    # It says how the server answered, and is read as how the request fared.
    del fault.details["status"]
    return fault


def _without_paths(text: str) -> str:
    return _PATH.sub("(path)", text)
