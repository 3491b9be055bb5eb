"""Keys: made, listed and revoked, and the one that a fresh folder gets."""

import asyncio
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.cli.keys import DEV_KEY, ensure_dev_key, make_key
from gateway.clock import SystemClock
from gateway.core.signing import SigningKey, digest
from gateway.flow.tokens import new_signing_keys
from gateway.ledger import open_ledger
from tests.gateway.cli.scripted import ENVIRONMENT, run
from tests.virtual_time import ManualClock


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


def test_tokens_of_a_key_are_revoked(tmp_path: Path) -> None:
    """The key stays valid; a key that nobody made has none."""
    run("key", "add", "--data", "d")
    name = run("key", "list", "--data", "d").stdout.split()[0]
    done = run("key", "revoke-tokens", name, "--data", "d")
    assert (done.exit_code, "within 2 seconds" in done.stdout) == (0, True)
    assert "valid" in run("key", "list", "--data", "d").stdout
    unknown = run("key", "revoke-tokens", "X", "--data", "d")
    assert unknown.exit_code == 2
    assert "there is no key X" in unknown.stderr


@pytest.mark.parametrize("grace,left", [((), 2), (("--grace", "0.5"), 2), (("--grace", "0"), 0)])
def test_signing_keys_are_rotated_and_never_printed(tmp_path: Path, grace: Sequence[str], left: int) -> None:
    """One of each kind; the old ones count for their grace, and no secret is shown."""
    run("key", "add", "--data", "d")

    async def keys(now_ms: int) -> list[SigningKey]:
        async with open_ledger(tmp_path / "d", exclusive=False) as ledger:
            return await ledger.accounts.signing_keys(now_ms)

    async def found() -> None:
        async with open_ledger(tmp_path / "d", exclusive=False) as ledger:
            await ledger.accounts.found("e", new_signing_keys(SystemClock().time_ms()))

    asyncio.run(found())
    done = run("key", "rotate-signing", "--data", "d", *grace)
    assert done.exit_code == 0
    assert "New signing keys are made" in done.stdout
    kept = asyncio.run(keys(SystemClock().time_ms()))
    assert sorted(key.kind for key in kept) == sorted(["mac", "ed25519"] * (1 + left // 2))
    for key in kept:
        assert key.secret.hex() not in done.output
    assert run("key", "rotate-signing", "--data", "d", "--grace", "-1").exit_code == 2


def test_ledger_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds private keys; so do the files beside it."""
    run("key", "add", "--data", "d")
    for path in (tmp_path / "d").glob("ledger.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize(
    "arguments", [("key", "list"), ("key", "revoke", "X"), ("key", "revoke-tokens", "X"), ("key", "rotate-signing")]
)
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
