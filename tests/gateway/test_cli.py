"""The command line: settings, keys, and `generate` against a scripted gateway on a real socket."""

import asyncio
import contextlib
import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result
from msgspec import Struct
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import gateway
from gateway import cli_generate
from gateway.cli import main
from gateway.cli_files import Target, slug, write_whole
from gateway.cli_job import Course, Picture, Wish
from gateway.cli_keys import DEV_KEY, ensure_dev_key, make_key
from gateway.cli_show import Bar, JsonLines, Lines, to_json
from gateway.cli_trouble import Trouble, check_end
from gateway.config import Config
from gateway.core.signing import digest
from gateway.ledger import FolderInUse, open_ledger
from protocol.codec import decode_client, encode
from protocol.header import Flag, Format, Header, Kind, pack
from protocol.header import parse as parse_header
from protocol.messages import (
    Accepted,
    Cancel,
    Canceled,
    Completed,
    Error,
    ErrorBody,
    Failed,
    Hello,
    Image,
    ImageReady,
    Limits,
    Notice,
    Ok,
    Progress,
    Queued,
    Snapshot,
    Started,
    Submit,
    Synced,
    Timings,
    Welcome,
)
from protocol.replica_effects import Disconnected, JobLost, Preview, Resumed, Unreadable
from tests.virtual_time import ManualClock

JOB = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
ASSET = "sha256:" + "0" * 64
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
ROOT = Path(cli_generate.__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
TIMINGS = Timings(queue_ms=1, load_ms=2, run_ms=3, total_ms=6)


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    """Run `safelight` with these arguments and no variable of ours but `env`."""
    ours = {name: None for name in os.environ if name.startswith("SAFELIGHT_")}
    return CliRunner().invoke(main, [str(one) for one in arguments], env={**ours, **(env or {})})


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every command run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- the program ---


@pytest.mark.timing
def test_help_answers_at_once() -> None:
    """`safelight --help` imports none of the heavy parts."""
    code = (
        "import sys, time, runpy; sys.argv = ['safelight', '--help']\n"
        "try: runpy.run_module('gateway.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(time.process_time(), *(name for name in sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert "Usage" in done.stdout
    seconds, *modules = done.stderr.split()
    assert {"aiohttp", "sqlalchemy", "PIL", "numpy", "rich", "uvicorn", "asyncio"}.isdisjoint(modules)
    assert float(seconds) < 0.3


def test_version_is_told() -> None:
    """`--version` tells a name and a number, also in a working tree that is not installed."""
    assert run("--version").stdout.startswith("safelight ")


# --- check-config ---


def test_check_config_prints_effective_settings_without_secrets(tmp_path: Path) -> None:
    """Each setting comes with its value and where that came from; a vendor's key does not come."""
    (tmp_path / "f.toml").write_text('[upstreams.v]\nkind = "stability_v1"\napi_key_env = "K"\n')
    done = run("check-config", "--config", "f.toml", env={"K": "sk-planted-1", "SAFELIGHT_SERVER__PORT": "81"})
    assert done.exit_code == 0
    assert "server.port = 81  # SAFELIGHT_SERVER__PORT" in done.stdout.splitlines()
    assert 'server.host = "127.0.0.1"  # default' in done.stdout.splitlines()
    assert 'upstreams.v.kind = "stability_v1"  # f.toml' in done.stdout.splitlines()
    assert "# upstreams.v.api_key = ***  # variable K" in done.stdout.splitlines()
    assert "planted" not in done.output


def test_check_config_prints_every_fault(tmp_path: Path) -> None:
    """A wrong file ends with status 2 and a line for each fault."""
    (tmp_path / "f.toml").write_text("[server]\nport = -1\nhots = 1\n")
    done = run("check-config", "--config", "f.toml")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "f.toml: there is no setting server.hots; did you mean server.host?",
        "f.toml: server.port is -1; allowed: an integer from 0 to 65535",
        "safelight: the settings have 2 faults; nothing was done",
    ]


def test_serve_refuses_wrong_settings() -> None:
    """Nothing is started or made with settings that have faults."""
    done = run("serve", "--port", "99999")
    assert done.exit_code == 2
    assert "server.port is 99999" in done.stderr
    assert not Path("var").exists()


# --- serve, with a gateway that only tells its address ---


def serving(monkeypatch: pytest.MonkeyPatch, failure: BaseException | None = None) -> list[Config]:
    """Put a gateway in place of the real one that announces itself and ends; return the settings it will be given."""
    given: list[Config] = []

    async def pretend(settings: Config, *, announce: Callable[[str], None]) -> None:
        given.append(settings)
        async with asyncio.TaskGroup():
            if failure is not None:
                raise failure
            announce("http://127.0.0.1:43210")

    monkeypatch.setattr(gateway, "app", SimpleNamespace(serve=pretend), raising=False)
    return given


def test_first_start_prints_the_key_and_later_ones_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real port is in the address; the key is on the terminal once and then only in its file."""
    given = serving(monkeypatch)
    first = run("serve", "--data", "d", "--port", "0", "--host", "::1")
    assert first.exit_code == 0, first.output
    dev_key = Path("d", DEV_KEY).read_text().strip()
    assert first.stdout == f"http://127.0.0.1:43210/#key={dev_key}\n"
    assert (given[0].server.port, given[0].server.host, given[0].data.folder) == (0, "::1", Path("d"))
    later = run("serve", "--data", "d")
    assert later.stdout == "http://127.0.0.1:43210/\n"
    assert later.stderr == "The key lies in d/dev-key.\n"
    assert dev_key not in later.output


def test_start_without_a_key_file_tells_how_to_make_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever deleted the file has a key of his own, or needs one."""
    serving(monkeypatch)
    run("key", "add", "--data", "d")
    done = run("serve", "--data", "d")
    assert done.stdout == "http://127.0.0.1:43210/\n"
    assert "safelight key add --data d" in done.stderr


@pytest.mark.parametrize(
    "failure,told",
    [
        (FolderInUse("another gateway uses d; give this one its own --data"), "another gateway uses d"),
        (OSError(errno.EADDRINUSE, "in use"), "port 8080 of 127.0.0.1 is taken; choose another with --port"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "this machine has no address 127.0.0.1; choose another with --host"),
        (PermissionError(errno.EACCES, "no"), "port 8080 of 127.0.0.1 is not allowed to this user"),
        (PermissionError(errno.EACCES, "Permission denied", "d/x"), "Permission denied: d/x"),
    ],
)
def test_start_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch, failure: Exception, told: str) -> None:
    """What a person can mend is one sentence, also where a task group wrapped it."""
    serving(monkeypatch, failure)
    done = run("serve", "--data", "d")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"safelight: {told}")


@pytest.mark.parametrize("command", [("serve",), ("key", "add")])
def test_folder_that_cannot_be_made_is_told(command: Sequence[str]) -> None:
    """A file stands where the folder should be."""
    Path("file").touch()
    done = run(*command, "--data", "file/d")
    assert done.exit_code == 1
    assert "the data folder file/d cannot be made" in done.stderr


# --- keys ---


def test_key_is_shown_once_and_kept_as_its_digest(tmp_path: Path) -> None:
    """`key add` prints the key alone on standard output; the ledger has only what it is checked against."""
    done = run("key", "add", "--data", "d", "--tenant", "acme", "--label", "for tests")
    assert done.exit_code == 0
    new_key = done.stdout.strip()
    assert new_key.startswith("sk-sl-")
    assert len(new_key) == 38
    assert new_key not in done.stderr
    assert new_key.encode() not in (tmp_path / "d" / "ledger.db").read_bytes()

    async def look_up() -> str:
        async with open_ledger(tmp_path / "d", exclusive=False) as ledger:
            found = await ledger.accounts.key(digest(new_key))
        assert found is not None
        return f"{found[0].tenant} {found[0].label}"

    assert asyncio.run(look_up()) == "acme for tests"


def test_keys_are_listed_and_revoked(tmp_path: Path) -> None:
    """A revoked key stays in the list as such; to revoke it again is refused."""
    run("key", "add", "--data", "d", "--label", "first")
    run("key", "add", "--data", "d", "--label", "second")
    first, second = run("key", "list", "--data", "d").stdout.splitlines()
    assert first.endswith("first")
    assert "valid" in second
    name = first.split()[0]
    assert run("key", "revoke", name, "--data", "d").exit_code == 0
    assert "revoked" in run("key", "list", "--data", "d").stdout.splitlines()[0]
    again = run("key", "revoke", name, "--data", "d")
    assert again.exit_code == 2
    assert f"there is no valid key {name}" in again.stderr


def test_keys_are_made_beside_a_running_gateway(tmp_path: Path) -> None:
    """Who holds the folder does not stop the command line."""

    async def hold() -> int:
        async with open_ledger(tmp_path / "d"):
            command = [sys.executable, "-m", "gateway.cli", "key", "add", "--data", "d"]
            process = await asyncio.create_subprocess_exec(*command, env=ENVIRONMENT, stdout=asyncio.subprocess.DEVNULL)
            return await process.wait()

    assert asyncio.run(hold()) == 0


@pytest.mark.parametrize("arguments", [("key", "list"), ("key", "revoke", "X")])
def test_folder_without_a_ledger_is_refused(arguments: Sequence[str]) -> None:
    """A typing error in --data makes no empty ledger."""
    done = run(*arguments, "--data", "nowhere")
    assert done.exit_code == 2
    assert "nowhere holds no ledger" in done.stderr
    assert not Path("nowhere").exists()


def test_tenant_without_a_name_is_refused() -> None:
    """An empty name would be nobody's."""
    assert run("key", "add", "--data", "d", "--tenant", " ").exit_code == 2


async def test_fresh_folder_gets_one_key_for_its_owner_only(tmp_path: Path) -> None:
    """The first start makes a key, readable by its owner; every later start finds it."""
    async with open_ledger(tmp_path) as ledger:
        first = await ensure_dev_key(ledger.accounts, tmp_path, ManualClock())
        later = await ensure_dev_key(ledger.accounts, tmp_path, ManualClock())
        found = await ledger.accounts.key(digest(first.key))
    assert found is not None
    assert found[0].tenant == "default"
    assert found[1].max_jobs is None
    assert (first.is_new, later.is_new) == (True, False)
    assert first.key == later.key == (tmp_path / DEV_KEY).read_text().strip()
    assert stat.S_IMODE((tmp_path / DEV_KEY).stat().st_mode) == 0o600


async def test_start_that_died_after_writing_its_key_is_continued(tmp_path: Path) -> None:
    """A key file without a row in the ledger becomes valid instead of useless."""
    (tmp_path / DEV_KEY).write_text("sk-sl-left-behind\n")
    async with open_ledger(tmp_path) as ledger:
        found = await ensure_dev_key(ledger.accounts, tmp_path, ManualClock())
        assert await ledger.accounts.key(digest("sk-sl-left-behind")) is not None
    assert found.key == "sk-sl-left-behind"


async def test_ledger_with_keys_gets_none(tmp_path: Path) -> None:
    """Whoever made keys of his own, or deleted the file, wants no other."""
    async with open_ledger(tmp_path) as ledger:
        await ensure_dev_key(ledger.accounts, tmp_path, ManualClock())
        (tmp_path / DEV_KEY).unlink()
        found = await ensure_dev_key(ledger.accounts, tmp_path, ManualClock())
    assert found.key == ""
    assert not (tmp_path / DEV_KEY).exists()


async def test_dev_key_is_never_written_through_a_link(tmp_path: Path) -> None:
    """A link that somebody laid where the key goes does not get it."""
    (tmp_path / DEV_KEY).symlink_to(tmp_path / "elsewhere")
    async with open_ledger(tmp_path) as ledger:
        with pytest.raises(FileExistsError):
            await ensure_dev_key(ledger.accounts, tmp_path, ManualClock())
    assert not (tmp_path / "elsewhere").exists()


def test_no_two_keys_are_alike() -> None:
    """A key is 160 random bits as 32 characters."""
    assert make_key() != make_key()
    assert set(make_key().removeprefix("sk-sl-")) <= set("abcdefghijklmnopqrstuvwxyz234567")


# --- generate, against a scripted gateway ---

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The gateway's end of one connection, with words for what scripts say."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.hello: Hello | None = None
        self.uploads: list[bytes] = []

    async def read(self) -> Any:
        """Return the client's next JSON message; chunks of uploads are put aside, acks left out."""
        while True:
            raw = await self.socket.recv(decode=False)
            if raw[:1] != b"{":
                self.uploads.append(raw[parse_header(raw).data_offset :])
            elif not raw.startswith(b'{"type":"ack"'):
                return decode_client(raw, 65_536)

    async def say(self, *messages: Struct | bytes) -> None:
        for message in messages:
            if isinstance(message, bytes):
                await self.socket.send(message)
            else:
                await self.socket.send(encode(message), text=True)

    async def greet(self, *, resumed: bool = False) -> None:
        self.hello = await self.read()
        welcome = Welcome(
            v=1,
            session="01HZZZZZZZZZZZZZZZZZZZZZZS",
            resumed=resumed,
            time_ms=1,
            heartbeat_ms=15_000,
            session_ttl_ms=1,
            event_retention_ms=1,
            asset_retention_ms=1,
            currency="USD",
            features=[],
            limits=Limits(),
        )
        await self.say(welcome, Synced(resume="token", replayed=0))

    async def accept(self) -> Submit:
        """Greet, read the submit and accept it."""
        await self.greet()
        submit = await self.read()
        assert isinstance(submit, Submit)
        await self.say(
            Accepted(
                job=JOB, seq=1, time_ms=1, task=submit.task, model="m", duplicate=False, ref=submit.ref,
                cost_max_micros=9000,
            )
        )  # fmt: skip
        return submit

    async def until_gone(self) -> None:
        """Answer `bye` as a gateway does: the client closes, or we do."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                if type(await self.read()).__name__ == "Bye":
                    await self.socket.close(1000, "normal")


class ScriptedGateway:
    """A WebSocket server in a thread of its own that plays one script for each connection."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = iter(scripts)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.url = ""
        self.keys: list[str | None] = []
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serve(self._play, "127.0.0.1", 0, compression=None, close_timeout=1) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._ready.set()
            await self._stop.wait()

    async def _play(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.keys.append(socket.request.headers.get("Authorization"))
        try:
            await next(self._scripts)(Peer(socket))
        except ConnectionClosed:
            pass
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error


def generate(scripted: ScriptedGateway, *arguments: str) -> Result:
    """Run `safelight generate` against the scripted gateway."""
    return run(
        "generate", "A cat, at dawn!", "--url", scripted.url, *arguments, env={"SAFELIGHT_API_KEY": "sk-sl-test"}
    )


def preview(step: int, steps: int = 4) -> bytes:
    """Return a preview's message."""
    header = Header(
        kind=Kind.PREVIEW, format=Format.JPEG, job_id=JOB, total_size=3, seq=2, frame=step, width=8, height=8,
        step=step, steps=steps, image_count=1, flags=Flag.LAST_CHUNK,
    )  # fmt: skip
    return pack(header) + b"jpg"


def final(seq: int, index: int = 0, count: int = 1, data: bytes = PNG) -> bytes:
    """Return a finished picture's message."""
    header = Header(
        kind=Kind.FINAL, format=Format.PNG, job_id=JOB, total_size=len(data), seq=seq, width=64, height=32,
        image_index=index, image_count=count, flags=Flag.LAST_CHUNK,
    )  # fmt: skip
    return pack(header, {"asset": ASSET, "seed": 7 + index}) + data


def progress(step: int, steps: int = 4, *, estimated: bool = False) -> Progress:
    """Return a step's progress."""
    return Progress(
        job=JOB, phase="denoising", step=step, steps=steps, ratio=step / steps, eta_ms=100, estimated=estimated
    )


def image(index: int = 0, **more: Any) -> Image:
    """Return a picture as end events list it."""
    return Image(index=index, format="png", w=64, h=32, bytes=len(PNG), asset=ASSET, **more)


def completed(seq: int, *images: Image) -> Completed:
    """Return the good end."""
    return Completed(job=JOB, seq=seq, time_ms=9, images=list(images), timings=TIMINGS, cost_micros=8000)


def canceled(seq: int, by: Any = "client") -> Canceled:
    """Return the end that somebody wished."""
    return Canceled(job=JOB, seq=seq, time_ms=9, by=by, step=2, images=[], cost_micros=400)


async def paint(peer: Peer) -> None:
    """Play a job of four steps to its good end."""
    await peer.accept()
    await peer.say(Queued(job=JOB, position=2), Started(job=JOB, seq=2, time_ms=2, attempt=1, model="m", steps=4))
    for step in range(1, 5):
        await peer.say(progress(step), preview(step))
    await peer.say(final(3), completed(4, image(seq=3)))
    await peer.until_gone()


def test_picture_is_made_and_told_of() -> None:
    """The file is there, and one line tells its path, size, seed, steps, previews and cost."""
    with ScriptedGateway(paint) as scripted:
        done = generate(scripted)
    assert done.exit_code == 0, done.output
    assert done.stdout == "a-cat-at-dawn.png  64x32  seed 7  4 of 4 steps, 4 previews  cost 0.008 USD\n"
    assert Path("a-cat-at-dawn.png").read_bytes() == PNG
    assert scripted.keys == ["Bearer sk-sl-test"]
    lines = done.stderr.splitlines()
    assert "number 2 in the queue" in lines
    assert lines[-1] == "denoising, 100 % of 4 steps"
    assert not [path for path in Path().iterdir() if path.suffix == ".part"]


def test_every_option_is_asked_for() -> None:
    """What the person gives goes into the submit, what he leaves open does not."""
    asked: list[tuple[Submit, Peer]] = []

    async def script(peer: Peer) -> None:
        asked.append((await peer.accept(), peer))
        await peer.say(final(2), completed(3, image(seq=2)))
        await peer.until_gone()

    Path("i.png").write_bytes(PNG)
    Path("m.png").write_bytes(PNG + b"mask")
    with ScriptedGateway(script, script) as scripted:
        options = "--steps 9 --size 64x32 --seed 5 --n 2 --model mo --init i.png --mask m.png --strength 0.5"
        assert generate(scripted, *options.split()).exit_code == 0
        assert generate(scripted).exit_code == 0
    (submit, peer), (plain, plain_peer) = asked
    assert submit.task == "inpaint"
    assert submit.model == "mo"
    assert json.loads(bytes(submit.params)) == {
        "prompt": "A cat, at dawn!", "steps": 9, "width": 64, "height": 32, "seed": 5, "n": 2, "strength": 0.5,
    }  # fmt: skip
    assert [one.role for one in submit.inputs] == ["init", "mask"]
    assert b"".join(peer.uploads) == PNG + PNG + b"mask"
    assert submit.on_disconnect == "cancel"
    assert (plain.task, json.loads(bytes(plain.params))) == ("txt2img", {"prompt": "A cat, at dawn!"})
    assert plain_peer.hello is not None
    assert plain_peer.hello.finals == "inline"
    assert plain_peer.hello.previews


def test_several_pictures_are_numbered() -> None:
    """A job of two makes two files and two lines."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(final(2, 0, 2), final(3, 1, 2, PNG + b"2"), completed(4, image(0, seq=2), image(1, seq=3)))
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted, "-o", "out.png")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["out-0.png", "out-1.png"]
    assert "seed 8" in done.stdout
    assert Path("out-1.png").read_bytes() == PNG + b"2"


def test_picture_that_came_as_an_address_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was too large to come inline is got from its address."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        url = "https://gateway.example/v1/assets/x"
        await peer.say(
            ImageReady(
                job=JOB, seq=2, time_ms=2, index=0, count=1, format="webp", w=64, h=32, bytes=3, asset=ASSET, url=url,
                seed=3,
            ),
            completed(3, image(url=url)),
        )  # fmt: skip
        await peer.until_gone()

    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return PNG

    monkeypatch.setattr(cli_generate, "_fetch", fetch)
    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert asked == ["https://gateway.example/v1/assets/x"]
    assert done.stdout.startswith("a-cat-at-dawn.png  64x32  seed 3  0 previews")


def test_picture_that_cannot_be_fetched_is_told_with_its_address() -> None:
    """It is kept by the gateway for a while, so the person can still get it."""
    with ScriptedGateway(ending(completed(2, image(url="file:///etc/passwd")))) as scripted:
        done = generate(scripted)
    assert done.exit_code == 1
    assert "its address is no http address" in done.stderr
    assert "it is at file:///etc/passwd" in done.stderr


def test_picture_is_fetched_over_http() -> None:
    """Nothing but the address is needed: it is signed."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/x" else 410)
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert cli_generate._fetch(f"http://127.0.0.1:{server.server_port}/x") == PNG
            with pytest.raises(OSError, match="HTTP 410"):
                cli_generate._fetch(f"http://127.0.0.1:{server.server_port}/old")
        finally:
            server.shutdown()
            thread.join()


def test_lost_connection_is_shown_and_resumed() -> None:
    """The job goes on over a second connection; the person sees that the first was lost."""

    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.say(Started(job=JOB, seq=2, time_ms=2, attempt=1, model="m", steps=4), progress(1))
        await peer.socket.close(4001, "going_away")

    async def second(peer: Peer) -> None:
        await peer.greet(resumed=True)
        assert peer.hello is not None
        assert peer.hello.resume == "token"
        await peer.say(progress(4), final(3), completed(4, image(seq=3)))
        await peer.until_gone()

    with ScriptedGateway(first, second) as scripted:
        done = generate(scripted)
    assert done.exit_code == 0, done.output
    assert "connection lost, again in" in done.stderr
    assert "2 of 4 steps" in done.stdout


def test_json_prints_every_event_as_it_came() -> None:
    """One line each, pictures without their bytes, and at last where the file lies."""
    with ScriptedGateway(paint) as scripted:
        done = generate(scripted, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["type"] for one in events] == [
        "welcome", "resumed", "accepted", "queue", "started", *["progress", "preview"] * 4, "image", "completed",
        "saved",
    ]  # fmt: skip
    shown = next(one for one in events if one["type"] == "preview")
    assert (shown["step"], shown["bytes"], "data" in shown) == (1, 3, False)
    assert next(one for one in events if one["type"] == "image")["metadata"]["seed"] == 7
    assert events[-1] == {
        "type": "saved", "path": "a-cat-at-dawn.png", "w": 64, "h": 32, "seed": 7, "steps_seen": 4, "steps": 4,
        "previews": 4, "cost_micros": 8000,
    }  # fmt: skip
    assert done.stderr == ""


def test_notice_is_told() -> None:
    """What the gateway changed or held back is no secret."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(Notice(job=JOB, seq=2, time_ms=2, code="image_filtered", message="not fit to show", index=0))
        await peer.say(completed(3))
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 1
    assert "note (image_filtered): not fit to show" in done.stderr
    assert "no picture came: each was filtered" in done.stderr


# --- Ctrl-C ---


def interrupt() -> None:
    """Do what a terminal does at Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_cancels_the_job_and_waits_for_its_end() -> None:
    """The first Ctrl-C is a wish to the gateway; the end event tells what it came to."""
    seen: list[Cancel] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(Started(job=JOB, seq=2, time_ms=2, attempt=1, model="m", steps=4), progress(2))
        await asyncio.sleep(0.1)  # the client has to take what it was sent, in its own thread
        interrupt()
        seen.append(await peer.read())
        await peer.say(Ok(ref=str(seen[0].ref), job=JOB), canceled(3))
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 130
    assert seen[0].job == JOB
    assert "canceling; Ctrl-C again leaves at once" in done.stderr
    assert "canceled by client at step 2 of 4; cost 0.0004 USD" in done.stderr
    assert done.stdout == ""


def test_job_that_was_faster_than_its_cancel_is_kept() -> None:
    """The picture is paid for, so it is written; the status still tells of Ctrl-C."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(progress(2))
        await asyncio.sleep(0.1)  # as above
        interrupt()
        await peer.read()
        await peer.say(final(2), completed(3, image(seq=2)))
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 130
    assert "was done before it could be canceled" in done.stderr
    assert Path("a-cat-at-dawn.png").exists()


def test_second_ctrl_c_leaves_at_once() -> None:
    """A gateway that does not answer the cancel holds nobody."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(progress(2))
        await asyncio.sleep(0.1)  # as above
        interrupt()
        await peer.read()
        interrupt()
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 130
    assert "safelight: left; the job is canceled" in done.stderr


def test_ctrl_c_before_there_is_a_job_leaves_at_once() -> None:
    """Nothing was accepted, so there is nothing to wait for."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.read()
        interrupt()
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 130
    assert "safelight: left; nothing was asked for" in done.stderr


# --- what goes wrong ---


def ending(*messages: Struct) -> Script:
    """Return a script that accepts the job and says these."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.say(*messages)
        await peer.until_gone()

    return script


def refusing(code: str, message: str, **details: Any) -> Script:
    """Return a script that refuses the submit."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        submit = await peer.read()
        error = ErrorBody(code=code, message=message, retryable=False, details=details)
        await peer.say(Error(ref=submit.ref, error=error))
        await peer.until_gone()

    return script


def closing(code: int, reason: str) -> Script:
    """Return a script that reads the hello and closes."""

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.socket.close(code, reason)

    return script


WRONG_KEY = (
    "the gateway does not accept the key from SAFELIGHT_API_KEY; set SAFELIGHT_API_KEY to a key of this gateway, or "
    "name its data folder with --data"
)
OUT_OF_MEMORY = ErrorBody(code="out_of_memory", message="too large", retryable=False, details={"suggest": "512x512"})
TRIMMED: Any = {"job": JOB, "seq": 5, "time_ms": 9, "attempt": 1, "images": [], "reset": True, "reason": "trimmed"}


@pytest.mark.parametrize(
    "script,status,told",
    [
        (
            refusing("invalid_param", "steps must be 1 to 50", path="params.steps", allowed=["1", "50"]),
            2,
            "refused (invalid_param at params.steps): steps must be 1 to 50; allowed: 1, 50",
        ),
        (
            refusing("model_not_found", "there is no model of that name."),
            2,
            "refused (model_not_found): there is no model of that name; See GET /v1/models.",
        ),
        (
            refusing("unauthorized", "no"),
            2,
            WRONG_KEY,
        ),
        (
            closing(4502, "unauthorized"),
            2,
            WRONG_KEY,
        ),
        (closing(4501, "unsupported_version"), 1, "the session ended: 4501 unsupported_version"),
        (
            ending(Failed(job=JOB, seq=2, time_ms=2, error=OUT_OF_MEMORY, images=[], cost_micros=0)),
            1,
            "failed (out_of_memory): too large; suggest: 512x512; cost 0 USD",
        ),
        (ending(canceled(2, "operator")), 130, "canceled by operator; cost 0.0004 USD"),
        (ending(Snapshot(state="failed", error=OUT_OF_MEMORY, **TRIMMED)), 1, "failed (out_of_memory): too large"),
        (ending(Snapshot(state="canceled", **TRIMMED)), 130, "canceled"),
        (ending(Snapshot(state="completed", **TRIMMED)), 1, "no picture came"),
    ],
)
def test_bad_end_is_one_sentence_and_a_status(script: Script, status: int, told: str) -> None:
    """Whatever goes wrong: what it was, what to do, and no traceback."""
    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == status, done.output
    assert done.stderr.splitlines()[-1].startswith(f"safelight: {told}")
    assert done.stdout == ""


def test_failed_job_keeps_what_it_delivered() -> None:
    """One picture of two came, and is paid for."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        failed = Failed(job=JOB, seq=3, time_ms=2, error=OUT_OF_MEMORY, images=[image(seq=2)], cost_micros=5)
        await peer.say(final(2, 0, 2), failed)
        await peer.until_gone()

    with ScriptedGateway(script) as scripted:
        done = generate(scripted)
    assert done.exit_code == 1
    assert Path("a-cat-at-dawn-0.png").read_bytes() == PNG


def test_missing_gateway_is_told_with_how_to_start_one() -> None:
    """Nobody waits for what was never there."""
    with ScriptedGateway() as scripted:
        pass
    done = generate(scripted)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        f"safelight: no gateway answers at {scripted.url}; start one with: make run"
    )


def test_wrong_address_is_told() -> None:
    """An address that can't be one is refused before anything is sent."""
    done = run("generate", "x", env={"SAFELIGHT_API_KEY": "k", "SAFELIGHT_URL": "gateway.example"})
    assert done.exit_code == 2
    assert "a gateway's address begins with http" in done.stderr


def test_key_is_taken_from_the_data_folder() -> None:
    """Beside a gateway on the same machine no set-up is needed."""
    Path("var").mkdir()
    (Path("var") / DEV_KEY).write_text("sk-sl-from-folder\n")
    with ScriptedGateway(paint) as scripted:
        assert run("generate", "x", "--url", scripted.url).exit_code == 0
    assert scripted.keys == ["Bearer sk-sl-from-folder"]


def test_missing_key_is_told_with_where_it_was_sought() -> None:
    """Neither the variable nor the folder has one."""
    done = run("generate", "x", "--data", "d")
    assert done.exit_code == 2
    assert f"SAFELIGHT_API_KEY is not set, and there is no {Path('d') / DEV_KEY}" in done.stderr


@pytest.mark.parametrize(
    "arguments,told",
    [
        (("--size", "big"), "'big' is no size; write it as 512x768"),
        (("--mask", "m.png"), "--mask needs the picture to repaint"),
        (("--init", "nowhere.png"), "does not exist"),
        (("-o", "nowhere/x.png"), "there is no folder nowhere"),
        (("--steps", "many"), "not a valid integer"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_asked(arguments: Sequence[str], told: str) -> None:
    """What the command line can see to be wrong costs nothing."""
    Path("m.png").write_bytes(PNG)
    done = run("generate", "x", "--url", "http://127.0.0.1:1", *arguments, env={"SAFELIGHT_API_KEY": "k"})
    assert done.exit_code == 2
    assert told in done.stderr


def test_input_that_is_no_picture_is_refused() -> None:
    """The format is seen before the gateway has to."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.until_gone()

    Path("i.txt").write_text("words")
    with ScriptedGateway(script) as scripted:
        done = generate(scripted, "--init", "i.txt")
    assert done.exit_code == 2
    assert "neither PNG, JPEG nor WebP" in done.stderr


# --- names, files and displays ---


@pytest.mark.parametrize(
    "prompt,stem",
    [("A cat!", "a-cat"), ("../../etc/passwd", "etc-passwd"), ("雪", "picture"), ("x" * 99, "x" * 48)],
)
def test_slug_is_a_harmless_name(prompt: str, stem: str) -> None:
    """A prompt never chooses a folder, and never makes a name too long."""
    assert slug(prompt) == stem


def test_name_of_our_own_never_replaces_a_file(tmp_path: Path) -> None:
    """The second picture of a prompt gets another name; with -o the person has chosen."""
    Path("a.png").touch()
    pictures = {0: Picture(format="png")}
    assert Target.of(Wish(prompt="a")).paths(pictures, 1) == {0: Path("a-v2.png")}
    assert Target.of(Wish(prompt="a", output=Path("a.png"))).paths(pictures, 1) == {0: Path("a.png")}


def test_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    """Half a picture is worse than none."""
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "x.png", PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step, time left, place in the queue, previews, cost and a lost connection are all in one line."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    course, bar = course_of(), Bar()
    with bar:
        for event in (Queued(job=JOB, position=3), progress(2), Disconnected(1006, "cut", 0.5)):
            course.apply(event)
            bar.show(event, course)
            bar._bars.refresh()
        bar.say("note [bold]")
    shown = terminal.getvalue()
    for part in ("number 3 in the queue", "step 2/4", "0.1 s left", "cost at most 0.009 USD", "note [bold]"):
        assert part in shown
    assert "connection lost, again in 0.5 s" in shown


def course_of() -> Course:
    """Return the course of a job that was accepted."""
    course = Course(is_welcome=True, currency="USD")
    course.apply(Accepted(job=JOB, seq=1, time_ms=1, task="txt2img", model="m", duplicate=False, cost_max_micros=9000))
    return course


def test_course_begins_its_steps_anew_with_a_second_attempt() -> None:
    """Steps of a worker that was lost do not count; previews that were seen do."""
    course = course_of()
    for event in (
        Started(job=JOB, seq=2, time_ms=2, attempt=1, model="m", steps=4),
        progress(1),
        Started(job=JOB, seq=3, time_ms=3, attempt=2, model="m", steps=4),
        progress(2),
    ):
        course.apply(event)
    assert course.steps_text() == "1 of 4 steps, 0 previews"


def test_estimated_steps_are_told_as_such() -> None:
    """What the gateway guesses is not told as seen."""
    course = course_of()
    course.apply(progress(1, 4, estimated=True))
    assert course.steps_text() == "about 1 of 4 steps, 0 previews"


def test_end_of_unknown_cost_is_told_as_such() -> None:
    """A watcher is not told the cost."""
    course = course_of()
    course.apply(Completed(job=JOB, seq=2, time_ms=2, images=[], timings=TIMINGS))
    assert course.cost_text() == "cost unknown"


@pytest.mark.parametrize("event", [Unreadable(JOB, 3, "completed", "new field"), JobLost(JOB, OUT_OF_MEMORY)])
def test_end_that_tells_nothing_is_a_failure(event: Unreadable | JobLost) -> None:
    """The job ended, but nobody knows how."""
    course = course_of()
    course.apply(event)
    with pytest.raises(Trouble, match="could not be read"):
        check_end(course)


@pytest.mark.parametrize(
    "event,shown",
    [
        (Resumed("s", True, 2), {"type": "resumed", "session": "s", "is_same": True, "replayed": 2}),
        (
            Disconnected(4001, "going_away", 0.5),
            {"type": "disconnected", "code": 4001, "reason": "going_away", "after_seconds": 0.5},
        ),
        (
            Unreadable(JOB, 3, "image", "why"),
            {"type": "unreadable", "job": JOB, "seq": 3, "of": "image", "reason": "why"},
        ),
        (
            JobLost(JOB, ErrorBody(code="expired", message="m", retryable=False)),
            {"type": "job_lost", "job": JOB, "error": {"code": "expired", "message": "m", "retryable": False}},
        ),
    ],
)
def test_events_of_the_client_itself_are_json_too(event: Any, shown: dict[str, Any]) -> None:
    """Those that no server sends are written as the others are."""
    assert json.loads(to_json(event)) == shown


def test_lines_repeat_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets a line for each change and each quarter, not for each step."""
    course, lines = course_of(), Lines()
    for step in range(1, 101):
        event = progress(step, 100)
        course.apply(event)
        lines.show(event, course)
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_json_lines_say_other_things_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output holds events and nothing else."""
    JsonLines().say("aside")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "aside\n")


def preview_event() -> Preview:
    """Return a preview as the client delivers it."""
    return Preview(
        job=JOB, frame=1, step=1, steps=4, format="jpeg", width=8, height=8, image_index=0, image_count=1,
        has_alpha=False, is_approximate=False, data=memoryview(b"jpg"), metadata={},
    )  # fmt: skip


def test_preview_is_counted_and_moves_the_step() -> None:
    """An upstream that sends previews and no progress is still seen to move."""
    course = course_of()
    course.apply(preview_event())
    assert (course.previews, course.step, course.steps) == (1, 1, 4)


@pytest.fixture(autouse=True)
def no_signal_of_ours_is_left() -> Iterator[None]:
    """Let each test leave Ctrl-C as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before
