"""The composition: what is opened is closed, in order, whatever fails; and what a restart keeps."""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import Raw

from gateway import config
from gateway.app import Gateway, running
from gateway.core.records import Identity, Plan
from gateway.core.reports import Outcome, UpstreamFault
from gateway.flow.catalog import Catalog
from gateway.ledger import FolderInUse, open_ledger
from gateway.ports import Upstream
from gateway.serving import address_of, listen
from protocol.messages import Completed, Submit
from tests.end_to_end.harness import settings_for
from tests.end_to_end.papers import PaperUpstream
from tests.gateway.parts import migrated

PUBLIC_URL = "http://gw.example"
WHO = Identity("acme", "", Plan(), "key-1")


class LoudUpstream(PaperUpstream):
    """Notes when it is opened and closed, in a list that is shared."""

    def __init__(self, name: str, notes: list[str], *, opens: bool = True) -> None:
        super().__init__(name)
        self._notes = notes
        self._opens = opens

    async def open(self) -> None:
        """Open, or fail to."""
        self._notes.append(f"open {self.name}")
        if not self._opens:
            raise OSError("no painting process can be started")

    async def close(self) -> None:
        """Close."""
        self._notes.append(f"close {self.name}")


def settings_with(folder: Path, *upstreams: Upstream) -> config.Config:
    """Return settings for a gateway on `folder` with these upstreams."""
    if not (folder / "ledger.db").exists():
        (folder / "ledger.db").write_bytes(migrated())
    settings = settings_for(folder, protocol__drain_grace_ms=50)
    return replace(settings, upstreams={upstream.name: config.Engine() for upstream in upstreams})


async def painted(gateway: Gateway) -> Completed:
    """Submit a job, and return its end once it is there."""
    await gateway.ledger.accounts.add_tenant("acme", Plan(), 1)
    submit = Submit(ref="ref-1", task="txt2img", params=Raw(b'{"prompt":"x","steps":2}'))
    made = await gateway.node.admission.submit(WHO, submit, {}, None)
    feed = await gateway.node.feeds.open(made.job.id)
    ended = Ended()
    gateway.node.feeds.follow(feed, ended)
    async with asyncio.timeout(20):
        while not feed.has_ended:
            ended.news.clear()
            await ended.news.wait()
    gateway.node.feeds.leave(made.job.id, ended)
    end = feed.tail.event(feed.tail.head)
    assert isinstance(end, Completed)
    return end


class Ended:
    """A watcher that wants no previews and wakes whoever waits."""

    def __init__(self) -> None:
        self.news = asyncio.Event()

    def changed(self, job: str) -> None:
        """Wake."""
        self.news.set()

    def rung(self, job: str) -> None:
        """Want nothing."""


def left_behind(tasks: set["asyncio.Task[object]"], threads: set[threading.Thread]) -> list[str]:
    """Return the names of tasks and threads that are there now and were not before."""
    new_tasks = [task.get_name() for task in asyncio.all_tasks() - tasks]
    return new_tasks + [one.name for one in set(threading.enumerate()) - threads if not one.name.startswith("asyncio_")]


def state() -> Callable[[], list[str]]:
    """Note what runs now; the result tells what was left behind since."""
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    return lambda: left_behind(tasks, threads)


async def test_gateway_opens_works_and_closes_without_a_trace(tmp_path: Path) -> None:
    """Upstreams are closed in the other order, and no task or thread outlives the context."""
    notes: list[str] = []
    upstreams = [LoudUpstream("first", notes), LoudUpstream("second", notes)]
    left = state()
    async with running(settings_with(tmp_path, *upstreams), PUBLIC_URL + "/", upstreams=upstreams) as gateway:
        assert notes == ["open first", "open second"]
        end = await painted(gateway)
        assert len(end.images) == 1
        assert set(gateway.node.models) == {"first", "second"}
    assert notes == ["open first", "open second", "close second", "close first"]
    assert left() == []


async def test_gateway_that_is_closed_amid_work_gives_it_back(tmp_path: Path) -> None:
    """The job is queued again, and the next gateway does it."""
    upstream = PaperUpstream()
    upstream.hold = asyncio.Event()
    left = state()
    async with running(settings_with(tmp_path, upstream), PUBLIC_URL, upstreams=[upstream]) as gateway:
        painting = asyncio.ensure_future(painted(gateway))
        async with asyncio.timeout(20):
            while not upstream.calls:
                await asyncio.sleep(0.005)  # a call has no event for those who are not its worker
        painting.cancel()
        await asyncio.wait([painting])
        await gateway.drain()
        assert gateway.dispatch.working == 0
        assert (await gateway.ledger.jobs.counts()) == {("paper", "queued"): 1}
    assert left() == []
    upstream.hold = None
    async with running(settings_with(tmp_path, upstream), PUBLIC_URL, upstreams=[upstream]) as gateway:
        assert len((await painted(gateway)).images) == 1


@pytest.mark.parametrize("failing", [0, 1])
async def test_upstream_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path, failing: int) -> None:
    """Those before it are closed, the folder is free again, and the reason reaches whoever started."""
    notes: list[str] = []
    upstreams = [LoudUpstream(name, notes, opens=at != failing) for at, name in enumerate(("first", "second"))]
    left = state()
    with pytest.raises(OSError, match="no painting process"):
        async with running(settings_with(tmp_path, *upstreams), PUBLIC_URL, upstreams=upstreams):
            pytest.fail("it cannot run")
    assert notes == (["open first"] if failing == 0 else ["open first", "open second", "close first"])
    assert left() == []
    async with open_ledger(tmp_path):
        pass


async def test_failure_inside_reaches_whoever_started_as_it_is(tmp_path: Path) -> None:
    """Not wrapped in a group, and everything is closed."""
    left = state()
    with pytest.raises(UpstreamFault) as raised:
        async with running(settings_with(tmp_path, PaperUpstream()), PUBLIC_URL, upstreams=[PaperUpstream()]):
            raise UpstreamFault(Outcome.FAILED, "internal", "a mistake of the caller's")
    assert raised.value.code == "internal"
    assert left() == []


async def test_second_gateway_on_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    """It says which folder, opens no upstream, and the first one goes on."""
    notes: list[str] = []
    upstream, other = PaperUpstream(), LoudUpstream("paper", notes)
    async with running(settings_with(tmp_path, upstream), PUBLIC_URL, upstreams=[upstream]) as gateway:
        with pytest.raises(FolderInUse, match=str(tmp_path)):
            async with running(settings_with(tmp_path, other), PUBLIC_URL, upstreams=[other]):
                pytest.fail("it cannot run")
        assert notes == []
        assert len((await painted(gateway)).images) == 1


async def test_restart_keeps_epoch_and_what_was_signed(tmp_path: Path) -> None:
    """Session tokens, grants and addresses of yesterday count; those of another folder do not."""
    upstream = PaperUpstream()
    (tmp_path / "other").mkdir()
    signed: list[str] = []
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        async with running(settings_with(folder, upstream), PUBLIC_URL, upstreams=[upstream]) as gateway:
            access = gateway.node.access
            if not signed:
                signed = [access.epoch, access.make_resume("s", gateway.node.clock.time_ms() + 60_000)]
            resumed = access.read_resume(signed[1])
            assert (access.epoch == signed[0], resumed is not None) == (folder == tmp_path, folder == tmp_path)


async def test_claims_of_a_gateway_that_was_killed_are_free_at_the_start(tmp_path: Path) -> None:
    """The folder is ours alone, so nobody waits for a lease of 30 s."""
    upstream = PaperUpstream()
    settings = settings_with(tmp_path, upstream)
    # A claim that nobody works is all that a killed gateway leaves.
    async with running(replace(settings, upstreams={}), PUBLIC_URL, upstreams=[]) as gateway:
        gateway.node.admission._catalog = Catalog([upstream])
        await gateway.ledger.accounts.add_tenant("acme", Plan(), 1)
        submit = Submit(ref="ref-1", task="txt2img", params=Raw(b'{"prompt":"x","steps":2}'))
        await gateway.node.admission.submit(WHO, submit, {}, None)
        now = gateway.node.clock.time_ms()
        assert len(await gateway.ledger.work.claim(["paper"], "killed", now, now + 3_600_000, 1)) == 1
    async with running(settings, PUBLIC_URL, upstreams=[upstream]) as gateway:
        assert len((await painted(gateway)).images) == 1


def test_listener_is_closed_when_its_port_is_taken() -> None:
    """The error says so, and no socket is left for the collector to complain of."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            listen(config.Server(port=taken.getsockname()[1]))


@pytest.mark.parametrize(
    "host,address", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")]
)
def test_address_is_one_that_a_client_here_can_use(host: str, address: str) -> None:
    """An address of every interface is none that one can connect to."""
    try:
        listener = listen(config.Server(host=host, port=0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        assert address_of(host, listener) == f"http://{address}:{listener.getsockname()[1]}"
