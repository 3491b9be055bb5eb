"""Engines that some tests need, of the system or of Python: which there are, which are missing, how to install them.

A test names its engine with a marker of the same name. Without the engine it is skipped, or fails where
SAFELIGHT_REQUIRE names the engine or says `all`. `python -m tests.engines --install` installs what is missing
of those that a test names, where it may: programs as root, with apt-get; modules into the virtual environment that
runs the tests, from a lock file. Those that only deep tests name are installed for a deep run, or where required.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.depth import DEEP


@dataclass(frozen=True, slots=True)
class Engine:
    """A program, or some that belong together, which tests start; or modules that those programs import."""

    name: str
    programs: tuple[tuple[str, ...], ...] = ()
    """One of each group must be on the PATH."""
    packages: tuple[str, ...] = ()
    """What apt-get installs it from."""
    modules: tuple[str, ...] = ()
    """Each must be there to be imported."""
    lock: str = ""
    """The lock file from which modules are installed."""
    is_deep: bool = False
    """Whether only deep tests name it, so that an ordinary run does not spend the time."""

    def is_missing(self) -> bool:
        has_programs = all(any(map(shutil.which, group)) for group in self.programs)
        return not has_programs or any(importlib.util.find_spec(name) is None for name in self.modules)

    def install_command(self) -> str:
        if self.lock:
            return f"pip install --require-hashes -r {self.lock}"
        return f"apt-get install --no-install-recommends {' '.join(self.packages)}"


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("browser", (("chromium", "chromium-browser", "google-chrome"),), ("chromium",)),
        Engine("godot", (("godot3-server",),), ("godot3-server",)),
        Engine("mono", (("mcs",), ("mono",)), ("mono-mcs", "mono-runtime")),
        Engine("node", (("node",),), ("nodejs",)),
        Engine("clang", (("clang++",),), ("clang",)),
        Engine(
            "diffusers",
            modules=("accelerate", "diffusers", "peft", "torch", "transformers"),
            lock="requirements-diffusers.lock",
            is_deep=True,
        ),
    )
}


def required(setting: str) -> frozenset[str]:
    """Return the engines that may not be missing; `setting` is the text of SAFELIGHT_REQUIRE."""
    names = frozenset(name.strip() for name in setting.split(",") if name.strip())
    if unknown := names - ENGINES.keys() - {"all"}:
        message = f"SAFELIGHT_REQUIRE names no engine: {', '.join(sorted(unknown))}"
        raise ValueError(message)
    return frozenset(ENGINES) if "all" in names else names


def named_in(tests: Path) -> list[Engine]:
    """Return the engines whose marker stands in a test file below `tests`."""
    text = "\n".join(path.read_text() for path in sorted(tests.rglob("test_*.py")))
    marked = set(re.findall(r"pytest\.mark\.(\w+)", text))
    return [engine for engine in ENGINES.values() if engine.name in marked]


def install(engines: Iterable[Engine]) -> None:
    """Install what is missing, or say how; whether that matters is for the tests to decide."""
    wanted = required(os.environ.get("SAFELIGHT_REQUIRE", ""))
    engines = [engine for engine in engines if DEEP or not engine.is_deep or engine.name in wanted]
    missing = [engine for engine in engines if engine.is_missing()]
    for engine in missing:
        print(f"engine {engine.name} is missing; it comes with: {engine.install_command()}", flush=True)
    for engine in missing:
        if engine.lock:
            _install_modules(engine)
    missing = [engine for engine in missing if engine.packages]
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # A bare machine's lists are empty or old, and an old list names packages that are gone.
    subprocess.run([*apt, "update"], env=environment, stdout=subprocess.DEVNULL, check=False)
    for engine in missing:
        subprocess.run(
            [*apt, "install", "--yes", "--no-install-recommends", *engine.packages],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        print(f"engine {engine.name} {'could not be' if engine.is_missing() else 'is'} installed", flush=True)


def _install_modules(engine: Engine) -> None:
    """Install from the lock file: by uv, or by pip, which may reach what uv cannot."""
    places = os.environ.get("PIP_FIND_LINKS", "")
    environment = os.environ | ({"UV_FIND_LINKS": places.replace(" ", ",")} if places else {})
    what = ["install", "--quiet", "--require-hashes", "-r", engine.lock]
    uv = [str(Path(sys.executable).parent / "uv"), "pip", *what, "--python", sys.executable]
    pip = [sys.executable, "-m", "pip", *what, "--no-compile", "--disable-pip-version-check"]
    for command in (uv, pip):
        if subprocess.run(command, env=environment, check=False).returncode == 0:
            break
    importlib.invalidate_caches()
    print(f"engine {engine.name} {'could not be' if engine.is_missing() else 'is'} installed", flush=True)


if __name__ == "__main__":
    used = named_in(Path(__file__).parent)
    if sys.argv[1:] == ["--install"]:
        install(used)
    else:
        for engine in used:
            print(engine.name, "missing" if engine.is_missing() else "there")
