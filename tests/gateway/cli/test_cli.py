"""The command line: the program, its settings, and how it begins to serve."""

import asyncio
import errno
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import gateway
from gateway.cli.keys import DEV_KEY
from gateway.config import Config
from gateway.ledger import FolderInUse
from tests.gateway.cli.scripted import ENVIRONMENT, run


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


def test_check_config_prints_effective_settings_without_secrets(tmp_path: Path) -> None:
    """Each setting comes with its value and where that came from; a vendor's key does not come."""
    (tmp_path / "f.toml").write_text('[upstreams.v]\nkind = "stability_v1"\napi_key_env = "K"\n')
    done = run("check-config", "--config", "f.toml", env={"K": "sk-planted-1", "SAFELIGHT_SERVER__PORT": "81"})
    assert done.exit_code == 0
    assert "server.port = 81  # SAFELIGHT_SERVER__PORT" in done.stdout.splitlines()
    assert 'server.host = "127.0.0.1"  # default' in done.stdout.splitlines()
    assert 'upstreams.v.kind = "stability_v1"  # f.toml' in done.stdout.splitlines()
    assert "# upstreams.v.credentials.default = ***  # variable K" in done.stdout.splitlines()
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

    monkeypatch.setattr(gateway, "serving", SimpleNamespace(serve=pretend), raising=False)
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
