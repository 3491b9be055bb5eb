import hashlib
import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from gateway.blobs import BrokenBlob, ObjectBlobs, local
from gateway.ports import Blobs
from protocol.ids import asset_id

PICTURE = b"a picture" * 1000
ASSET = asset_id(PICTURE)
DIGITS = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Return each kind of store, empty."""
    return local(tmp_path / "blobs") if request.param == "folder" else ObjectBlobs(MemoryStore())


async def test_blobs_return_what_was_put(blobs: Blobs) -> None:
    """The bytes come back whole, and putting them twice is harmless."""
    await blobs.put("tenant", ASSET, PICTURE)
    await blobs.put("tenant", ASSET, PICTURE)
    found = await blobs.get("tenant", ASSET)
    assert found == PICTURE
    assert type(found) is bytes


async def test_blobs_tell_what_they_do_not_have(blobs: Blobs) -> None:
    """An unknown asset, or another tenant's, is `None`."""
    await blobs.put("tenant", ASSET, PICTURE)
    assert await blobs.get("tenant", asset_id(b"other")) is None
    assert await blobs.get("somebody-else", ASSET) is None


async def test_blobs_delete_what_was_put_for_one_tenant(blobs: Blobs) -> None:
    """Deleting is for one tenant, and may be repeated."""
    await blobs.put("one", ASSET, PICTURE)
    await blobs.put("two", ASSET, PICTURE)
    await blobs.delete("one", ASSET)
    await blobs.delete("one", ASSET)
    assert await blobs.get("one", ASSET) is None
    assert await blobs.get("two", ASSET) == PICTURE


async def test_blobs_lie_under_their_tenant_and_hash(tmp_path: Path) -> None:
    """The file's name is the hash, below two digits of it, below the tenant."""
    await local(tmp_path).put("tenant", ASSET, PICTURE)
    assert (tmp_path / "tenant" / DIGITS[:2] / DIGITS).read_bytes() == PICTURE


@pytest.mark.parametrize(
    "tenant", ["..", ".", "../..", "/etc", "a/b", "a/../b", "a\\b", "%2e%2e", "a b", "müller", "\x00"]
)
async def test_blobs_let_no_tenant_leave_its_prefix(tenant: str, tmp_path: Path) -> None:
    """Whatever a tenant is called, its blobs lie in one folder of its own."""
    folder = tmp_path / "data" / "blobs"
    blobs = local(folder)
    await blobs.put(tenant, ASSET, PICTURE)
    assert await blobs.get(tenant, ASSET) == PICTURE
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent.parent.parent for path in files] == [folder]


async def test_blobs_keep_tenants_apart_whose_names_are_alike() -> None:
    """Escaping maps no two names to one."""
    blobs = ObjectBlobs(MemoryStore())
    await blobs.put("a.b", ASSET, PICTURE)
    assert await blobs.get("a%2Eb", ASSET) is None


@pytest.mark.parametrize("tenant,asset", [("", ASSET), ("t", "sha256:../../x"), ("t", DIGITS), ("t", ASSET.upper())])
async def test_blobs_refuse_a_key_that_is_none(tenant: str, asset: str) -> None:
    """No tenant and no hash: the caller is at fault, and nothing is stored."""
    blobs = ObjectBlobs(MemoryStore())
    with pytest.raises(ValueError, match=r"asset id|belongs to a tenant"):
        await blobs.put(tenant, asset, PICTURE)
    with pytest.raises(ValueError, match=r"asset id|belongs to a tenant"):
        await blobs.get(tenant, asset)


@pytest.mark.parametrize("left", [b"", PICTURE[:-1], PICTURE + b"x", b"z" + PICTURE[1:]])
async def test_blobs_report_broken_bytes_and_count_them_as_missing(left: bytes, tmp_path: Path) -> None:
    """What a crash or a bad disk made of a file is never handed out, and the next put mends it."""
    told: list[BrokenBlob] = []
    whole = local(tmp_path)
    blobs = ObjectBlobs(whole._store, told.append)
    await blobs.put("tenant", ASSET, PICTURE)
    (tmp_path / "tenant" / DIGITS[:2] / DIGITS).write_bytes(left)
    assert await blobs.get("tenant", ASSET) is None
    assert [str(one) for one in told] == [
        f"the blob tenant/{DIGITS[:2]}/{DIGITS} has {len(left)} bytes that are not its own"
    ]
    await blobs.put("tenant", ASSET, PICTURE)
    assert await blobs.get("tenant", ASSET) == PICTURE


async def test_blobs_report_to_the_log_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody is told, also where nobody asked."""
    blobs = local(tmp_path)
    await blobs.put("tenant", ASSET, PICTURE)
    (tmp_path / "tenant" / DIGITS[:2] / DIGITS).write_bytes(b"")
    assert await blobs.get("tenant", ASSET) is None
    assert "0 bytes that are not its own" in caplog.text


async def test_blobs_in_a_folder_are_synced_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, and each folder whose names are new, is brought to the disk after the file has its name."""
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        assert path.exists()
        synced.append(path.relative_to(tmp_path))

    monkeypatch.setattr(os, "fsync", fsync)
    await local(tmp_path / "blobs").put("tenant", ASSET, PICTURE)
    prefix = Path("blobs/tenant")
    assert synced == [prefix / DIGITS[:2] / DIGITS, prefix / DIGITS[:2], prefix, prefix.parent, Path()]


async def test_blobs_leave_nothing_half_written_beside(tmp_path: Path) -> None:
    """The temporary file has become the file."""
    await local(tmp_path).put("tenant", ASSET, PICTURE)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [DIGITS]
