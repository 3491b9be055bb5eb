"""Stability AI REST v1: one blocking request per call, JSON in and out, or multipart in where images go along.

Above, what the two vocabularies mean to each other, without I/O: `to_vendor`, `from_vendor`, `refusal`. Below,
`StabilityV1`, which does the I/O and decides nothing but how far a call had come when its connection broke.

The vendor tells nothing while it works, has no idempotency and no way to ask what became of a call. So each call is
billed, and one whose answer did not come whole has an unknown outcome.
"""

import asyncio
import binascii
import io
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec
import pybase64
from PIL import Image

from gateway.core.images import ImageFacts, ImageFault, measure
from gateway.core.models import Model, Sizes
from gateway.core.reports import ImageMade, Outcome, Picture, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.http import Beside, TrackedBody, retry_after_seconds

# ------------------------------------------------------------------------------------------------ what the vendor has

_XL: Final = Sizes(
    listed=(
        (1024, 1024),
        (1152, 896),
        (1216, 832),
        (1344, 768),
        (1536, 640),
        (640, 1536),
        (768, 1344),
        (832, 1216),
        (896, 1152),
    )
)
SIZES: Final[dict[str, tuple[Sizes, tuple[int, int]]]] = {
    "stable-diffusion-xl-1024-v1-0": (_XL, (1024, 1024)),
    "stable-diffusion-xl-1024-v0-9": (_XL, (1024, 1024)),
    "stable-diffusion-v1-6": (
        Sizes(smallest=320, largest=1536, multiple_of=64, max_pixels=1536 * 1536),
        (512, 512),
    ),
}
"""Engine id -> the sizes it draws, and the one it draws when asked for none."""

SAMPLERS: Final[dict[str, str]] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "K_EULER",
    "euler_a": "K_EULER_ANCESTRAL",
    "heun": "K_HEUN",
    "dpm2": "K_DPM_2",
    "dpm2_a": "K_DPM_2_ANCESTRAL",
    "dpmpp_2m": "K_DPMPP_2M",
    "dpmpp_2s_a": "K_DPMPP_2S_ANCESTRAL",
    "lms": "K_LMS",
}
STYLES: Final = (
    "3d-model",
    "analog-film",
    "anime",
    "cinematic",
    "comic-book",
    "digital-art",
    "enhance",
    "fantasy-art",
    "isometric",
    "line-art",
    "low-poly",
    "modeling-compound",
    "neon-punk",
    "origami",
    "photographic",
    "pixel-art",
    "tile-texture",
)
_PATHS: Final = {
    "txt2img": "text-to-image",
    "img2img": "image-to-image",
    "inpaint": "image-to-image/masking",
}
_PARAMS: Final = frozenset(
    [
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "steps",
        "guidance",
        "sampler",
        "seed",
        "n",
        "strength",
        "style",
    ]
)
_LARGEST_SEED: Final = 4_294_967_295
_MOST_GUIDANCE: Final = 35
_MOST_INPUT_PIXELS: Final = 16_777_216
"""What an input image may have before we decode it: the protocol's own limit."""
_MOST_OUTPUT_PIXELS: Final = 16_777_216
_MOST_ERROR_BYTES: Final = 64 * 1024
_ERROR_BODY_SECONDS: Final = 5.0
_INLINE_BYTES: Final = 1024 * 1024
"""Answers up to this size are decoded on the loop: some 2 ms; above, a thread's hop costs less than the stall."""
_MOST_MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Engine:
    """How one of the vendor's engines is offered."""

    model: str
    """The name that clients ask for."""
    price_micros: int
    """Price of one image, in millionths of the currency."""
    max_n: int = 10
    """Most images of one job; default 10, which the vendor makes in one call."""
    sizes: Sizes | None = None
    """`None` = as `SIZES` says of the engine's id."""
    default_size: tuple[int, int] | None = None
    """`None` = as `SIZES` says of the engine's id."""
    description: str = ""


def model_of(upstream: str, engine_id: str, engine: Engine) -> Model:
    """Return the model that `engine_id` is, for the upstream of that configured name."""
    sizes, default_size = SIZES.get(engine_id, (Sizes(multiple_of=64), (512, 512)))
    return Model(
        id=engine.model,
        upstream=upstream,
        vendor_model=engine_id,
        tasks=frozenset(_PATHS),
        params=_PARAMS,
        sizes=engine.sizes or sizes,
        default_size=engine.default_size or default_size,
        # The specification goes up to 150, later documents to 50: what both allow.
        steps=(10, 50),
        default_steps=30,
        default_guidance=7.0,
        max_n=engine.max_n,
        images_per_call=10,
        samplers=tuple(SAMPLERS),
        styles=STYLES,
        max_prompt=2000,
        progress="none",
        previews=False,
        # Dropping the connection is all there is, and nobody says that it stops the work or the bill.
        cancel="no",
        billed=True,
        price_micros=engine.price_micros,
        description=engine.description,
    )


# ------------------------------------------------------------------------------------------------------- to the vendor


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body; `media_type` makes it a file."""

    name: str
    content: bytes
    media_type: str | None = None


def to_vendor(order: CallOrder) -> tuple[str, dict[str, object] | list[Part]]:
    """Return the path and the body: an object to send as JSON, or the parts to send as multipart.

    The input images must be ones that the vendor takes, of the request's size: see `prepare`.
    """
    request = order.request
    path = f"/v1/generation/{quote(order.model.vendor_model, safe='')}/{_PATHS[request.task]}"
    if request.task == "txt2img":
        return path, {
            **_common(order),
            "text_prompts": _prompts(order),
            "width": request.width,
            "height": request.height,
        }
    return path, [*_files(order), *_fields(order)]


def _common(order: CallOrder) -> dict[str, object]:
    request = order.request
    fields: dict[str, object] = {
        "cfg_scale": request.guidance,
        "samples": order.count,
        "seed": _vendor_seed(order.seed),
        "steps": request.steps,
    }
    if request.sampler is not None:
        fields["sampler"] = SAMPLERS[request.sampler]
    if request.style is not None:
        fields["style_preset"] = request.style
    return fields


def _vendor_seed(seed: int) -> int:
    # 0 would be "random" there, and more than 32 bits an error.
    return seed if 0 < seed <= _LARGEST_SEED else seed % _LARGEST_SEED + 1


def _prompts(order: CallOrder) -> list[dict[str, object]]:
    prompts: list[dict[str, object]] = [{"text": order.request.prompt, "weight": 1}]
    if order.request.negative_prompt:
        prompts.append({"text": order.request.negative_prompt, "weight": -1})
    return prompts


def _files(order: CallOrder) -> list[Part]:
    init = _file("init_image", order.inputs["init"])
    if order.request.task == "inpaint":
        return [init, _file("mask_image", order.inputs["mask"]), Part("mask_source", b"MASK_IMAGE_WHITE")]
    strength = order.request.strength
    assert strength is not None, "the normal form gives every init image a strength"
    # Theirs is how much of the init image to keep. Masking has no such field.
    kept = f"{1 - strength:.6g}"
    return [init, Part("init_image_mode", b"IMAGE_STRENGTH"), Part("image_strength", kept.encode())]


def _file(name: str, content: bytes) -> Part:
    return Part(name, content, f"image/{measure(content).format}")


def _fields(order: CallOrder) -> list[Part]:
    parts = [Part(name, str(value).encode()) for name, value in _common(order).items()]
    for number, prompt in enumerate(_prompts(order)):
        for name, value in prompt.items():
            parts.append(Part(f"text_prompts[{number}][{name}]", str(value).encode()))
    return parts


def encode_multipart(parts: list[Part], boundary: str) -> tuple[bytes, str]:
    """Return the body and its content type; `boundary` must be one that nobody could foresee and put in an image."""
    pieces: list[bytes] = []
    for part in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"'
        if part.media_type is not None:
            suffix = part.media_type.partition("/")[2]
            head += f'; filename="{part.name}.{suffix}"\r\nContent-Type: {part.media_type}'
        pieces += [head.encode(), b"\r\n\r\n", part.content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def check(order: CallOrder) -> None:
    """Raise `UpstreamFault` for what the model's description can't say and the vendor would refuse."""
    if order.request.guidance > _MOST_GUIDANCE:
        raise UpstreamFault(
            Outcome.FAILED,
            "invalid_param",
            f"guidance is at most {_MOST_GUIDANCE} here",
            details={"path": "params.guidance", "max": _MOST_GUIDANCE},
        )


def needs_preparing(order: CallOrder) -> bool:
    """Whether an input must be converted before the vendor takes it; raises `UpstreamFault` if it can't be used."""
    fitting = [_fits(order, _facts(role, content)) for role, content in order.inputs.items()]
    return not all(fitting)


def prepare(order: CallOrder) -> CallOrder:
    """Return the order with its inputs as the vendor takes them: PNG or JPEG, all of the request's size.

    There, the output's size is the init image's, and a mask must have the same. Decodes pixels: call it in a thread.
    """
    inputs = {role: _converted(order, role, content) for role, content in order.inputs.items()}
    return replace(order, inputs=inputs)


def _facts(role: str, content: bytes) -> ImageFacts:
    try:
        facts = measure(content)
    except ImageFault as fault:
        raise _bad_input(role, fault.code, fault.message) from None
    if facts.width * facts.height > _MOST_INPUT_PIXELS:
        raise _bad_input(role, "payload_too_large", f"an input image has at most {_MOST_INPUT_PIXELS} pixels")
    return facts


def _bad_input(role: str, code: str, message: str) -> UpstreamFault:
    return UpstreamFault(Outcome.FAILED, code, message, details={"path": "inputs", "role": role})


def _fits(order: CallOrder, facts: ImageFacts) -> bool:
    size = (order.request.width, order.request.height)
    return facts.format != "webp" and (facts.width, facts.height) == size


def _converted(order: CallOrder, role: str, content: bytes) -> bytes:
    facts = _facts(role, content)
    if _fits(order, facts):
        return content
    # A mask is as good as its grey values; an init image keeps its alpha.
    mode = "L" if role == "mask" else "RGBA" if facts.has_alpha else "RGB"
    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content), formats=[facts.format.upper()]) as opened:
            picture = opened.convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _bad_input(role, "image_decode_failed", "the image is broken") from error
    picture.resize((order.request.width, order.request.height), Image.Resampling.LANCZOS).save(made, "PNG")
    return made.getvalue()


# ----------------------------------------------------------------------------------------------------- from the vendor


class _Artifact(msgspec.Struct, frozen=True):
    base64: msgspec.Raw = msgspec.Raw(b'""')
    seed: int | None = None
    finish_reason: str = msgspec.field(name="finishReason", default="SUCCESS")


class _Flat(msgspec.Struct, frozen=True):
    artifacts: list[_Artifact]


class _Nested(msgspec.Struct, frozen=True):
    artifacts: list[list[_Artifact]]


# `Raw` leaves the pictures where they lie: they are checked and decoded once, straight from the answer's bytes.
_FLAT: Final = msgspec.json.Decoder(_Flat)
_NESTED: Final = msgspec.json.Decoder(_Nested)


def from_vendor(order: CallOrder, body: bytes) -> list[ImageMade]:
    """Return the pictures of an answer with status 200; raise `UpstreamFault` `invalid_output` if it is not whole."""
    artifacts = _artifacts(body)
    if len(artifacts) < order.count:
        raise _unusable(f"{len(artifacts)} pictures came instead of {order.count}")
    return [_made(order, index, artifact) for index, artifact in enumerate(artifacts[: order.count])]


def _unusable(message: str) -> UpstreamFault:
    return UpstreamFault(Outcome.FAILED, "invalid_output", message, charged=True)


def _artifacts(body: bytes) -> list[_Artifact]:
    # The specification's example has a list within the list, the vendor's sample code reads a flat one.
    try:
        return _FLAT.decode(body).artifacts
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return [artifact for batch in _NESTED.decode(body).artifacts for artifact in batch]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unusable("the answer is not the JSON that the vendor documents") from None


def _made(order: CallOrder, index: int, artifact: _Artifact) -> ImageMade:
    is_filtered = artifact.finish_reason == "CONTENT_FILTERED"
    if artifact.finish_reason not in ("SUCCESS", "CONTENT_FILTERED"):
        raise _unusable("the vendor failed to make a picture")
    content = _decoded(artifact.base64)
    seed = _vendor_seed(order.seed) + index if artifact.seed is None else artifact.seed
    if is_filtered and not content:
        held_back = Picture(b"", "png", order.request.width, order.request.height)
        return ImageMade(held_back, index, seed, filtered=True)
    return ImageMade(_picture(content), index, seed, filtered=is_filtered)


def _decoded(raw: msgspec.Raw) -> bytes:
    view = memoryview(raw)
    if bytes(view[:5]) == b"null":
        return b""
    if view[0] != ord('"'):
        raise _unusable("a picture is not base64")
    try:
        return pybase64.b64decode(view[1:-1], validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        # JSON may write "/" as "\/"; nobody is known to, so this comes second.
        return pybase64.b64decode(msgspec.json.decode(raw, type=str), validate=True)
    except (binascii.Error, ValueError):
        raise _unusable("a picture is not base64") from None


def _picture(content: bytes) -> Picture:
    try:
        facts = measure(content)
    except ImageFault as fault:
        raise _unusable(fault.message) from None
    if facts.format != "png" or facts.width * facts.height > _MOST_OUTPUT_PIXELS:
        raise _unusable(f"a picture is {facts.format} of {facts.width}x{facts.height}")
    return Picture(content, facts.format, facts.width, facts.height)


# ------------------------------------------------------------------------------------------------------------ failures


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a status means, and what the client is told."""

    outcome: Outcome
    code: str
    message: str
    retryable: bool = False
    locked_out: bool = False
    credential: bool = False
    charged: bool = False


_F = _Failure
_FAILURES: Final[dict[int | str, _Failure]] = {
    401: _F(Outcome.FAILED, "upstream_error", "the vendor does not accept our credential", credential=True),
    403: _F(Outcome.FAILED, "upstream_error", "the vendor does not allow this to our credential", credential=True),
    429: _F(Outcome.REFUSED, "model_unavailable", "the vendor's rate limit is used up", True, locked_out=True),
    500: _F(Outcome.FAILED, "upstream_error", "the vendor failed", retryable=True),
    503: _F(Outcome.REFUSED, "model_unavailable", "the vendor is out of service", retryable=True),
    # A proxy speaks, not the vendor: what stood behind it may have worked on, and the bill comes.
    502: _F(Outcome.UNKNOWN, "outcome_unknown", "a proxy of the vendor's lost the answer"),
    504: _F(Outcome.UNKNOWN, "outcome_unknown", "a proxy of the vendor's did not wait for the answer"),
    "invalid_prompts": _F(Outcome.FAILED, "content_filtered", "the vendor refuses the prompt"),
    "2xx": _F(Outcome.FAILED, "invalid_output", "the vendor answered without pictures", charged=True),
    "3xx": _F(Outcome.FAILED, "upstream_error", "the vendor's address has moved"),
    "4xx": _F(Outcome.FAILED, "upstream_error", "the vendor does not accept the request"),
    "5xx": _F(Outcome.FAILED, "upstream_error", "the vendor failed", retryable=True),
    "odd": _F(Outcome.FAILED, "upstream_error", "the vendor's answer is no HTTP that we know"),
}
"""By status; by the vendor's own name for a 400; by the status's class. The first that is there counts."""


class _VendorError(msgspec.Struct, frozen=True):
    name: str = ""
    message: str = ""


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    told = _vendor_error(body)
    row = _row(status, told.name)
    # Their words may repeat what we sent, our key included; redacted before it is cut, so that no half of it is left.
    details: dict[str, object] = {
        "upstream": upstream,
        "status": status,
        "retryable": row.retryable,
        "vendor_code": secret.redact(told.name)[:100],
        "vendor_message": secret.redact(told.message)[:_MOST_MESSAGE],
    }
    if row.code == "content_filtered":
        details["stage"] = "prompt"
    return UpstreamFault(
        row.outcome,
        row.code,
        row.message,
        retry_after_seconds=retry_after_seconds(headers) if row.outcome is Outcome.REFUSED else None,
        locked_out=row.locked_out,
        credential=row.credential,
        charged=row.charged,
        details=details,
    )


def _row(status: int, name: str) -> _Failure:
    named = name if status == 400 else ""
    return _FAILURES.get(status) or _FAILURES.get(named) or _FAILURES.get(f"{status // 100}xx") or _FAILURES["odd"]


def _vendor_error(body: bytes) -> _VendorError:
    try:
        return msgspec.json.decode(body, type=_VendorError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _VendorError(message=body[:_MOST_ERROR_BYTES].decode("utf-8", "replace"))


# ----------------------------------------------------------------------------------------------------------------- I/O


@dataclass(slots=True)
class _Progress:
    """How far a request has come."""

    begun: bool = False
    """Its head was written, or is about to be."""
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True


class StabilityV1:
    """One account of the vendor's; see `Upstream`. `engines` maps the vendor's engine ids to how they are offered.

    `timeout_seconds` is for a whole call, from connecting to the answer's last byte. A connection that lay idle for
    `keepalive_seconds` is not used again, 0 = never: the shorter, the rarer that the vendor closes one just as a call
    goes out on it, whose outcome is then unknown.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str,
        engines: Mapping[str, Engine],
        timeout_seconds: float = 120.0,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float = 2.0,
        max_answer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.name = name
        self.models = tuple(model_of(name, engine_id, engine) for engine_id, engine in engines.items())
        self._base_url = base_url.rstrip("/")
        self._secret = Secret(api_key)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=connect_timeout_seconds)
        self._keepalive_seconds = keepalive_seconds
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<StabilityV1 {self.name} at {self._base_url}>"

    async def open(self) -> None:
        """Make the connection pool; no connection is made yet."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_begun)
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The environment's proxies and .netrc are the operator's, not this vendor's.
            trust_env=False,
            trace_configs=[trace],
        )

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling drops the connection."""
        check(order)
        if needs_preparing(order):
            order = await asyncio.to_thread(prepare, order)
        progress = _Progress()

        def gone() -> None:
            # Once only: nothing sends a POST twice, but the port's promise should not rest on that.
            if not progress.sent:
                progress.sent = True
                order.sent()
                beside.move()

        async with Beside(self._ask(order, progress, gone), f"{self.name} call {order.id}") as beside:
            await beside.moved()
            if progress.sent:
                yield WorkBegun(order.request.steps)
            answer = await beside.result()
        for image in await self._images(order, answer):
            yield image

    def _connector(self) -> aiohttp.TCPConnector:
        # No limit of its own: how many calls go out at once is the gate's decision, and a call that waits here has
        # been let through there.
        if self._keepalive_seconds == 0:
            return aiohttp.TCPConnector(limit=0, force_close=True)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive_seconds)

    async def _images(self, order: CallOrder, answer: _Answer) -> list[ImageMade]:
        if answer.status != 200:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        if not answer.is_whole:
            raise _unusable(f"the answer has more than {self._max_answer_bytes} bytes")
        if len(answer.body) <= _INLINE_BYTES:
            return from_vendor(order, answer.body)
        return await asyncio.to_thread(from_vendor, order, answer.body)

    async def _ask(self, order: CallOrder, progress: _Progress, gone: Callable[[], None]) -> _Answer:
        path, content = to_vendor(order)
        body, content_type = (
            encode_multipart(content, secrets.token_hex(16))
            if isinstance(content, list)
            else (msgspec.json.encode(content), "application/json")
        )
        try:
            return await self._post(path, TrackedBody(body, content_type, gone), progress)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            kind = type(error).__name__
        # Outside of `except`, so that the foreign exception is not chained: some carry our headers, key and all.
        raise _lost(kind, self.name, begun=progress.begun)

    async def _post(self, path: str, body: TrackedBody, progress: _Progress) -> _Answer:
        assert self._session is not None, "open() comes first"
        headers = {
            "Accept": "application/json",
            # The answer is base64 of compressed pictures; and what is not compressed can't be a bomb.
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self._secret.reveal()}",
            "Stability-Client-ID": "safelight",
        }
        async with self._session.post(
            f"{self._base_url}{path}",
            data=body,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=progress,
        ) as response:
            return await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> _Answer:
        if response.status == 200:
            content, is_whole = await _bounded(response, self._max_answer_bytes)
        else:
            # The status says enough: a body that breaks off or never ends takes nothing from it.
            content, is_whole = b"", False
            try:
                async with asyncio.timeout(_ERROR_BODY_SECONDS):
                    content, is_whole = await _bounded(response, _MOST_ERROR_BYTES)
            except (aiohttp.ClientError, TimeoutError, OSError):
                response.close()
        return _Answer(response.status, response.headers, content, is_whole)


async def _bounded(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """Return the body and whether that is all of it; stop reading, and drop the connection, at `most` bytes."""
    pieces: list[bytes] = []
    size = response.content_length or 0
    if size <= most:
        size = 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                break
        else:
            return b"".join(pieces), True
    response.close()
    return b"".join(pieces)[:most], False


def _lost(kind: str, upstream: str, *, begun: bool) -> UpstreamFault:
    details = {"upstream": upstream, "cause": kind}
    if begun:
        message = "the connection to the vendor broke before its answer was whole"
        return UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message, details=details)
    message = "there is no connection to the vendor"
    return UpstreamFault(Outcome.NOT_SENT, "model_unavailable", message, details=details)


async def _note_begun(
    _session: aiohttp.ClientSession, context: object, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    # Called just before the head is written, which is the right side to err on: from here on bytes may be out.
    progress = getattr(context, "trace_request_ctx", None)
    assert isinstance(progress, _Progress), "every request of this session has one"
    progress.begun = True
