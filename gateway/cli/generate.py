"""`safelight generate`: one job, watched to its end, its pictures kept as files.

Parts that know little of each other. `job` folds the events of a job into what a person wants to know; it does no
I/O. `show` shows it, `files` keeps its pictures, `trouble` says how it ended. Here is the conversation with
the gateway, through `protocol.client`. Whatever ends it, the pictures that came are kept: they are paid for.
"""

import asyncio
import contextlib
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.cli.basics import CANCELED, DONE, FAILED, REFUSED
from gateway.cli.credential import Credential
from gateway.cli.files import Target, save
from gateway.cli.job import Course
from gateway.cli.show import Display, JsonLines, Lines, choose_display
from gateway.cli.trouble import Trouble, check_end, why_closed, why_lost, why_refused
from gateway.cli.wish import Wish
from protocol.client import Client
from protocol.messages import Input, Notice, Previews
from protocol.refusals import Closed, Refused
from protocol.replica_effects import Disconnected, Event
from protocol.streams import Job
from protocol.unanswered import ClientBusy

_PREVIEW_EDGE: Final = 128
"""The smallest that there is: previews are counted here, not shown."""
_FETCH_SECONDS: Final = 60
_PATIENCE_SECONDS: Final = 20.0


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
        raise Trouble(FAILED, f"no gateway answers at {url}{why_lost(course)}; start one with: make run") from None
    except Refused as refused:
        raise Trouble(*why_refused(refused.error, credential.origin)) from None
    except Closed as closed:
        raise Trouble(*why_closed(closed, credential.origin)) from None
    except (ValueError, ClientBusy) as error:
        raise Trouble(REFUSED, str(error)) from None
    await _fetch_missing(course)


async def _submit(client: Client, wish: Wish) -> Job:
    inputs = [Input(upload=client.upload(_picture_at(path)), **fields) for path, fields in wish.pictures()]
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


def generate_and_save(wish: Wish, *, url: str, key: str, folder: Path, as_json: bool) -> int:
    """Make the pictures and keep them; return the exit status. `key` is empty where only the folder can have one."""
    course, display = Course(), choose_display(as_json=as_json)
    status, trouble = DONE, ""
    try:
        target, credential = Target.of(wish), Credential.find(key, folder)
        try:
            with display:
                asyncio.run(_converse(wish, url, credential, course, display))
        finally:
            # Whatever ended it: these are paid for.
            save(course, target, as_json=as_json)
        check_end(course)
    except Trouble as fault:
        status, trouble = fault.status, str(fault)
    except (KeyboardInterrupt, asyncio.CancelledError):
        status, trouble = CANCELED, "left; the job is canceled" if course.job else "left; nothing was asked for"
    if trouble:
        Lines().say(f"safelight: {trouble}")
    return status
