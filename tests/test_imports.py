"""The arrows between our packages, and the proof that a wrong one is found."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "gateway", "load")

# One wrong arrow for each contract: the module that has it, and the one it imports.
WRONG_ARROWS = {
    "roots": ("load.planted", "gateway.core.planted"),
    "spine": ("gateway.flow.planted", "gateway.edges.planted"),
    "adapters": ("gateway.ledger.planted", "gateway.live.planted"),
    "cli": ("gateway.cli.show", "gateway.cli.generate"),
    "flow": ("gateway.flow.planted", "gateway.upstreams.planted"),
    "engine": ("gateway.upstreams.planted", "gateway.engine.planted"),
    "doors": ("gateway.edges.compat.planted", "gateway.core.limits"),
    "client": ("gateway.app", "protocol.client"),
    "pure": ("gateway.core.planted", "time"),
}


def contracts() -> dict[str, str]:
    """Return the name of each contract by its id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {contract["id"]: contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]}


def check_imports(root: Path, *options: str) -> tuple[int, str]:
    """Run the contracts over the tree at `root`; return the exit status and what was printed."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo", *options],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def plant(root: Path, importer: str, imported: str) -> None:
    """Let `importer` import `imported`; make whichever of them is not there."""
    for name in (importer, imported):
        *parents, module = name.split(".")
        if not parents:
            continue
        folder = root.joinpath(*parents)
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / f"{module}.py").touch()
    with root.joinpath(*importer.split(".")).with_suffix(".py").open("a") as file:
        file.write(f"\nimport {imported}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of everything the contracts look at."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_our_imports_keep_every_contract() -> None:
    """No import of ours goes against the arrows of the architecture."""
    status, printed = check_imports(ROOT)
    assert status == 0, printed


def test_every_contract_has_a_wrong_arrow() -> None:
    """A contract that no wrong arrow of this module breaks is not tested."""
    assert contracts().keys() == WRONG_ARROWS.keys()


@pytest.mark.parametrize("contract", WRONG_ARROWS)
def test_wrong_arrow_breaks_contract(contract: str, tree: Path) -> None:
    """One planted import is enough to break the contract that forbids it."""
    plant(tree, *WRONG_ARROWS[contract])
    status, printed = check_imports(tree, "--contract", contract)
    assert status == 1, printed
    assert f"{contracts()[contract]} BROKEN" in " ".join(printed.split())
