"""`safelight generate`: one job, watched to its end, its pictures kept as files.

Three parts that know little of each other. `Course` folds the events of a job into what a person wants to know; it does
no I/O. A `Display` shows it: a bar on a terminal, plain lines elsewhere, or JSON. `_converse` speaks to the gateway
through `protocol.client`. Whatever ends the conversation, the pictures that came are kept: they are paid for.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec
from msgspec import UNSET, UnsetType

from gateway.cli_keys import DEV_KEY, read_dev_key
from gateway.core.secret import Secret
from protocol.client import Client
from protocol.errors import ERRORS
from protocol.messages import (
    Accepted,
    Canceled,
    Completed,
    ErrorBody,
    Failed,
    Image,
    ImageReady,
    Input,
    Notice,
    Previews,
    Progress,
    Queued,
    Snapshot,
    Started,
    Welcome,
)
from protocol.refusals import Closed, Refused
from protocol.replica_effects import (
    Disconnected,
    Event,
    ImageBytes,
    JobLost,
    Preview,
    Resumed,
    ends_job,
)
from protocol.streams import Job
from protocol.unanswered import ClientBusy

DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
CANCELED: Final = 130
_SUFFIXES: Final = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_PREVIEW_EDGE: Final = 128
"""The smallest that there is: previews are counted here, not shown."""
_SLUG_LENGTH: Final = 48
_FETCH_SECONDS: Final = 60
_PATIENCE_SECONDS: Final = 20.0


class Trouble(Exception):
    """The command ends with this status; the text says what is wrong, and what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person asked for; `None` leaves it to the gateway."""

    prompt: str
    steps: int | None = None
    size: tuple[int, int] | None = None
    seed: int | None = None
    n: int | None = None
    model: str | None = None
    init: Path | None = None
    mask: Path | None = None
    strength: float | None = None
    output: Path | None = None
    """`None` = a name made from the prompt, in the working directory."""

    @property
    def task(self) -> str:
        """The protocol's name of it."""
        if self.init is None:
            return "txt2img"
        return "img2img" if self.mask is None else "inpaint"

    def params(self) -> dict[str, Any]:
        """Return the `params` of the submit."""
        width, height = self.size or (None, None)
        given = {
            "prompt": self.prompt,
            "steps": self.steps,
            "width": width,
            "height": height,
            "seed": self.seed,
            "n": self.n,
            "strength": self.strength,
        }
        return {name: value for name, value in given.items() if value is not None}


# --- what is known of the job ---


@dataclass(slots=True)
class Picture:
    """A finished picture, as far as it came."""

    format: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    url: str | None = None
    data: bytes | None = None


@dataclass(slots=True)
class Course:
    """A job as its events tell it so far."""

    job: str = ""
    """Empty until it is accepted."""
    model: str = ""
    phase: str = ""
    position: int | None = None
    """Place in the queue; `None` = not queued any more, or not yet known."""
    eta_ms: int | None = None
    step: int = 0
    steps: int = 0
    is_estimated: bool = False
    steps_seen: set[int] = field(default_factory=set)
    previews: int = 0
    pictures: dict[int, Picture] = field(default_factory=dict)
    currency: str = ""
    cost_micros: int | None = None
    cost_max_micros: int | None = None
    is_welcome: bool = False
    """Whether the gateway has ever answered."""
    offline: Disconnected | None = None
    """How the connection was lost; `None` = it stands."""
    end: Event | None = None
    is_canceled: bool = False
    """Whether the person wants no more of it."""
    _count: int = 0

    @property
    def count(self) -> int:
        """How many pictures the job has, as far as is known."""
        return max(self._count, 1, *(index + 1 for index in self.pictures))

    def apply(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Welcome():
                self.is_welcome, self.offline, self.currency = True, None, event.currency
            case Disconnected():
                self.offline = event
            case Resumed():
                self.offline = None
            case Accepted():
                self.job, self.model = event.job, event.model
                self.cost_max_micros = _known(event.cost_max_micros)
            case Queued():
                self.position, self.eta_ms = event.position, _known(event.eta_ms)
            case Started():
                # A second one means that the steps begin anew.
                self.position, self.step, self.steps, self.model = None, 0, event.steps, event.model
                self.steps_seen.clear()
            case Progress():
                self._progress(event)
            case Preview():
                self.previews += 1
                self._step(event.step, event.steps)
            case _:
                self._picture_or_end(event)

    def _progress(self, event: Progress) -> None:
        self.position, self.phase, self.eta_ms = None, event.phase, _known(event.eta_ms)
        self.is_estimated = event.estimated
        self._step(event.step, event.steps)

    def _step(self, step: int, steps: int) -> None:
        if steps:
            self.step, self.steps = step, steps
        if step:
            self.steps_seen.add(step)

    def _picture_or_end(self, event: Event) -> None:
        match event:
            case ImageBytes(is_auxiliary=False):
                self._count = event.count
                picture = self.pictures.setdefault(event.index, Picture())
                picture.format, picture.data = event.format, event.data
                picture.width, picture.height = event.width, event.height
                picture.seed, picture.url = event.metadata.get("seed"), event.metadata.get("url")
            case ImageReady():
                self._count = event.count
                self._note(event)
            case Completed() | Failed() | Canceled() | Snapshot():
                for image in event.images:
                    self._note(image)
                self.cost_micros = None if isinstance(event, Snapshot) else _known(event.cost_micros)
        if ends_job(event):
            self.end = event

    def _note(self, image: ImageReady | Image) -> None:
        """Remember a picture that is only told of; its bytes may have come already."""
        picture = self.pictures.setdefault(image.index, Picture())
        picture.format, picture.width, picture.height = image.format, image.w, image.h
        if image.seed is not UNSET:
            picture.seed = image.seed
        if image.url is not UNSET:
            picture.url = image.url

    def steps_text(self) -> str:
        """Say how many steps were seen, and previews."""
        about = "about " if self.is_estimated else ""
        previews = _counted(self.previews, "preview")
        if not self.steps:
            return previews
        return f"{about}{len(self.steps_seen)} of {_counted(self.steps, 'step')}, {previews}"

    def cost_text(self) -> str:
        """Say what it cost, or may cost while it runs."""
        if self.cost_micros is not None:
            return f"cost {_money(self.cost_micros, self.currency)}"
        if self.cost_max_micros is not None and self.end is None:
            return f"cost at most {_money(self.cost_max_micros, self.currency)}"
        return "cost unknown"

    def state_text(self) -> str:
        """Say in a few words what is going on."""
        if not self.is_welcome:
            return "connecting"
        if self.offline is not None:
            return f"connection lost, again in {self.offline.after_seconds:.1f} s"
        if not self.job:
            return "asking"
        if self.position is not None:
            return f"number {self.position} in the queue"
        return self.phase or ("started" if self.steps else "waiting")


def _known(value: int | UnsetType) -> int | None:
    return None if isinstance(value, UnsetType) else value


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _money(micros: int, currency: str) -> str:
    whole, rest = divmod(micros, 1_000_000)
    digits = f"{rest:06}".rstrip("0")
    text = f"{whole}.{digits:0<2}" if digits else str(whole)
    return f"{text} {currency}".rstrip()


# --- how it is shown ---


class Display(Protocol):
    """Shows a course while it goes on; a context, because a terminal must be left as it was found."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event, course: Course) -> None: ...

    def say(self, sentence: str) -> None: ...


class Bar:
    """A live line at the bottom of a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - not needed where no terminal is
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Bars  # noqa: PLC0415

        self._bars = Bars(
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bars.add_task("connecting", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, event: Event, course: Course) -> None:
        parts = [course.state_text()]
        if course.steps:
            about = "about " if course.is_estimated else ""
            parts.append(f"step {about}{course.step}/{course.steps}")
        if course.eta_ms is not None:
            parts.append(f"{course.eta_ms / 1000:.1f} s left")
        if course.job:
            parts += [_counted(course.previews, "preview"), course.cost_text()]
        total = course.steps or None
        self._bars.update(self._task, description="  ".join(parts), completed=course.step, total=total)

    def say(self, sentence: str) -> None:
        self._bars.console.print(sentence, markup=False, highlight=False)


class Lines:
    """Plain lines to standard error: what changed, and each quarter of the steps."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, event: Event, course: Course) -> None:
        if isinstance(event, Preview | ImageBytes | ImageReady):
            return
        line = course.state_text()
        if course.offline is None and course.steps and course.position is None:
            quarter = course.step * 4 // course.steps
            line = f"{course.phase or 'started'}, {quarter * 25} % of {_counted(course.steps, 'step')}"
        if line != self._last and course.end is None:
            self._last = line
            self.say(line)

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - this is what it is for


class JsonLines(Lines):
    """Every event as a line of JSON on standard output; pictures without their bytes."""

    def show(self, event: Event, course: Course) -> None:
        print(to_json(event), flush=True)  # noqa: T201


def to_json(event: Event) -> str:
    """Return an event as the protocol writes it; those of the client's own are written alike."""
    if isinstance(event, msgspec.Struct):
        return msgspec.json.encode(event).decode()
    assert dataclasses.is_dataclass(event), "an event is a message or a dataclass"
    names = {Preview: "preview", ImageBytes: "image", JobLost: "job_lost"}
    fields: dict[str, Any] = {"type": names.get(type(event), type(event).__name__.lower())}
    for one in dataclasses.fields(event):
        value = getattr(event, one.name)
        if one.name == "data":
            fields["bytes"] = len(value)
        elif one.name == "type":
            fields["of"] = value
        else:
            fields[one.name] = value
    return msgspec.json.encode(fields).decode()


# --- where the pictures go ---


@dataclass(frozen=True, slots=True)
class Target:
    """How the files are named; made before anything is asked for, because a picture nobody can keep costs as much."""

    folder: Path
    stem: str
    suffix: str | None
    """`None` = the name is ours: the suffix is that of the format, and no other file gives way."""

    @classmethod
    def of(cls, wish: Wish) -> Self:
        """Return the target of a wish; raises `Trouble` if its folder is not there."""
        if wish.output is None:
            return cls(Path(), slug(wish.prompt), None)
        if not wish.output.parent.is_dir():
            raise Trouble(REFUSED, f"there is no folder {wish.output.parent}; make it, or write elsewhere with -o")
        return cls(wish.output.parent, wish.output.stem, wish.output.suffix)

    def paths(self, pictures: Mapping[int, Picture], count: int) -> dict[int, Path]:
        """Return a path for each of the pictures, of which the job has `count`."""
        for stem in self._stems():
            paths = {index: self._path(stem, index, count, picture) for index, picture in pictures.items()}
            if self.suffix is not None or not any(path.exists() for path in paths.values()):
                return paths
        raise AssertionError("there is no end of stems")

    def _stems(self) -> Iterator[str]:
        yield self.stem
        yield from (f"{self.stem}-v{number}" for number in itertools.count(2))

    def _path(self, stem: str, index: int, count: int, picture: Picture) -> Path:
        suffix = _SUFFIXES.get(picture.format, f".{picture.format}") if self.suffix is None else self.suffix
        return self.folder / (f"{stem}-{index}{suffix}" if count > 1 else f"{stem}{suffix}")


def slug(prompt: str) -> str:
    """Return a prompt as the stem of a file's name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:_SLUG_LENGTH].strip("-") or "picture"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _save(course: Course, target: Target, *, as_json: bool) -> None:
    """Write the pictures that came, and tell of each on standard output."""
    pictures = {index: one for index, one in sorted(course.pictures.items()) if one.data is not None}
    for index, path in target.paths(pictures, course.count).items():
        picture = pictures[index]
        try:
            write_whole(path, picture.data or b"")
        except OSError as error:
            raise Trouble(FAILED, f"{path} cannot be written ({error.strerror}); write elsewhere with -o") from error
        print(_saved_json(path, picture, course) if as_json else _saved_line(path, picture, course))  # noqa: T201


def _saved_line(path: Path, picture: Picture, course: Course) -> str:
    seed = "unknown" if picture.seed is None else picture.seed
    size = f"{picture.width}x{picture.height}"
    return f"{path}  {size}  seed {seed}  {course.steps_text()}  {course.cost_text()}"


def _saved_json(path: Path, picture: Picture, course: Course) -> str:
    fields = {
        "type": "saved",
        "path": str(path),
        "w": picture.width,
        "h": picture.height,
        "seed": picture.seed,
        "steps_seen": len(course.steps_seen),
        "steps": course.steps,
        "previews": course.previews,
        "cost_micros": course.cost_micros,
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None}).decode()


# --- the conversation ---


@dataclass(frozen=True, slots=True)
class Credential:
    """The API key, and where it was found."""

    key: Secret
    origin: str

    @classmethod
    def find(cls, key: str, folder: Path) -> Self:
        """Take `key`, else that of the data folder; raises `Trouble` if there is neither."""
        if key:
            return cls(Secret(key), "SAFELIGHT_API_KEY")
        path = folder / DEV_KEY
        try:
            found = read_dev_key(folder)
        except (OSError, UnicodeDecodeError):
            raise Trouble(REFUSED, f"{path} cannot be read; set SAFELIGHT_API_KEY to the gateway's key") from None
        if not found:
            raise Trouble(
                REFUSED,
                f"there is no API key: SAFELIGHT_API_KEY is not set, and there is no {path}; start a gateway with "
                "`make run`, which makes one, or name its folder with --data",
            )
        return cls(Secret(found), str(path))


async def _converse(wish: Wish, url: str, credential: Credential, course: Course, display: Display) -> None:
    """Ask for the job and follow it to its end; raises `Trouble` where it comes to none."""
    loop = asyncio.get_running_loop()

    def take(event: Event) -> None:
        course.apply(event)
        display.show(event, course)
        if isinstance(event, Notice) and not isinstance(display, JsonLines):
            display.say(f"note ({event.code}): {event.message}")
        # Later on we come back as often as it takes, but who was never there needs to be started.
        if isinstance(event, Disconnected) and not course.is_welcome:
            patience.reschedule(loop.time())

    try:
        async with asyncio.timeout(_PATIENCE_SECONDS) as patience:
            client = Client(
                url,
                token=credential.key.reveal(),
                agent="safelight-cli",
                previews=Previews(max_edge=_PREVIEW_EDGE),
                finals="inline",
                patience=None,
                hook=take,
            )
            with _interrupts(course) as is_canceled:
                async with client:
                    patience.reschedule(None)
                    await _follow(await _submit(client, wish), is_canceled, display)
    except TimeoutError:
        raise Trouble(FAILED, f"no gateway answers at {url}{_why_lost(course)}; start one with: make run") from None
    except Refused as refused:
        raise Trouble(*_why_refused(refused.error, credential)) from None
    except Closed as closed:
        raise Trouble(*_why_closed(closed, credential)) from None
    except (ValueError, ClientBusy) as error:
        raise Trouble(REFUSED, str(error)) from None
    await _fetch_missing(course)


async def _submit(client: Client, wish: Wish) -> Job:
    inputs = []
    for role, path in (("init", wish.init), ("mask", wish.mask)):
        if path is not None:
            inputs.append(Input(role=role, upload=client.upload(_picture_at(path))))
    # Who leaves without a word wants no picture any more, and shall not pay for one.
    return await client.submit(wish.task, wish.params(), model=wish.model, inputs=inputs, on_disconnect="cancel")


def _picture_at(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Trouble(REFUSED, f"{path} cannot be read ({error.strerror})") from None


async def _follow(job: Job, is_canceled: asyncio.Event, display: Display) -> None:
    """Take the job's events to its end; they were shown when they came."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        canceler = tasks.create_task(_cancel_when(is_canceled, job, display), name="cancels on Ctrl-C")
        try:
            async for _ in job:
                pass
        except (Refused, Closed) as error:
            failure = error
        finally:
            canceler.cancel()
    if failure is not None:
        raise failure


async def _cancel_when(is_canceled: asyncio.Event, job: Job, display: Display) -> None:
    await is_canceled.wait()
    display.say("canceling; Ctrl-C again leaves at once")
    # What the gateway thinks of it, the job's end tells; a session that is over tells the follower.
    with contextlib.suppress(Refused, Closed):
        await job.cancel()


@contextlib.contextmanager
def _interrupts(course: Course) -> Iterator[asyncio.Event]:
    """Let the first Ctrl-C set the event if there is a job to cancel, and any other end the task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "a coroutine that runs is in a task"

    def interrupt() -> None:
        if course.job and not course.is_canceled:
            course.is_canceled = True
            wished.set()
        else:
            task.cancel()

    wished = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield wished
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _fetch_missing(course: Course) -> None:
    """Fetch the pictures that were told of only; their addresses carry their own signature."""
    for picture in course.pictures.values():
        if picture.data is None and picture.url is not None:
            try:
                picture.data = await asyncio.to_thread(_fetch, picture.url)
            except OSError as error:
                raise Trouble(FAILED, f"a picture could not be fetched ({error}); it is at {picture.url}") from None


def _fetch(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise OSError("its address is no http address")
    try:
        with urllib.request.urlopen(url, timeout=_FETCH_SECONDS) as answer:  # noqa: S310 - looked at above
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"HTTP {error.code}") from None
    return content


# --- how it ended ---


def _why_refused(error: ErrorBody, credential: Credential) -> tuple[int, str]:
    if error.code in {"unauthorized", "token_expired"}:
        return REFUSED, _wrong_key(credential)
    status = FAILED if error.code in ERRORS and ERRORS[error.code].group == "run" else REFUSED
    return status, f"refused ({_reason(error)}"


def _why_lost(course: Course) -> str:
    reason = "" if course.offline is None else course.offline.reason
    # That nobody listens there has been said already.
    return "" if not reason or reason.startswith("ConnectionRefusedError") else f" ({reason})"


def _why_closed(closed: Closed, credential: Credential) -> tuple[int, str]:
    return (REFUSED, _wrong_key(credential)) if closed.code == 4502 else (FAILED, f"the session ended: {closed}")


def _wrong_key(credential: Credential) -> str:
    return (
        f"the gateway does not accept the key from {credential.origin}; set SAFELIGHT_API_KEY to a key of this "
        "gateway, or name its data folder with --data"
    )


def _reason(error: ErrorBody) -> str:
    """Say what was wrong where, and what is allowed, or what the registry advises."""
    details = error.details if isinstance(error.details, dict) else {}
    where = f" at {details['path']}" if "path" in details else ""
    facts = [f"{name.replace('_', ' ')}: {_listed(one)}" for name, one in details.items() if name != "path"]
    if not facts and error.code in ERRORS:
        facts = [ERRORS[error.code].advice]
    return "; ".join([f"{error.code}{where}): {error.message.rstrip('.')}", *facts])


def _listed(fact: object) -> str:
    return ", ".join(str(one) for one in fact) if isinstance(fact, list) else str(fact)


def _check_end(course: Course) -> None:
    """Raise `Trouble` unless the job ended well and nobody wanted it canceled."""
    end = course.end
    steps = f" at step {course.step} of {course.steps}" if course.steps else ""
    match end:
        case Failed():
            raise Trouble(FAILED, f"failed ({_reason(end.error)}; {course.cost_text()}")
        case Canceled():
            raise Trouble(CANCELED, f"canceled by {end.by}{steps}; {course.cost_text()}")
        case Snapshot(state="failed", error=ErrorBody() as error):
            raise Trouble(FAILED, f"failed ({_reason(error)}")
        case Snapshot(state="canceled"):
            raise Trouble(CANCELED, "canceled")
        case Completed() | Snapshot(state="completed"):
            pass
        case _:
            raise Trouble(FAILED, "the job's end could not be read; use a client of the gateway's version")
    if course.is_canceled:
        raise Trouble(CANCELED, "the job was done before it could be canceled")
    if not course.pictures:
        raise Trouble(FAILED, "no picture came: each was filtered; change the prompt")


def _display(*, as_json: bool) -> Display:
    if as_json:
        return JsonLines()
    return Bar() if sys.stderr.isatty() else Lines()


def generate_and_save(wish: Wish, *, url: str, key: str, folder: Path, as_json: bool) -> int:
    """Make the pictures and keep them; return the exit status. `key` is empty where only the folder can have one."""
    course, display = Course(), _display(as_json=as_json)
    status, trouble = DONE, ""
    try:
        target, credential = Target.of(wish), Credential.find(key, folder)
        try:
            with display:
                asyncio.run(_converse(wish, url, credential, course, display))
        finally:
            # Whatever ended it: these are paid for.
            _save(course, target, as_json=as_json)
        _check_end(course)
    except Trouble as fault:
        status, trouble = fault.status, str(fault)
    except (KeyboardInterrupt, asyncio.CancelledError):
        status, trouble = CANCELED, "left; the job is canceled" if course.job else "left; nothing was asked for"
    if trouble:
        Lines().say(f"safelight: {trouble}")
    return status
