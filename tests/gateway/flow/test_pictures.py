"""Pictures in and out: checked before they are kept, opened only to their tenant, deleted after their time."""

import asyncio
import struct
import zlib
from pathlib import Path

import pytest

from protocol.errors import ClientFault
from protocol.ids import asset_id
from protocol.messages import Limits
from tests.end_to_end.papers import png
from tests.gateway.flow.studio import ScriptedUpstream, open_studio, outside, patiently, picture

DAY_SECONDS = 86_400


def claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its few bytes do not have."""
    size = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = png(8, 8, (1, 2, 3))
    return content[:12] + size + struct.pack(">I", zlib.crc32(size)) + content[33:]


@patiently
async def test_input_is_measured_kept_and_found_again(tmp_path: Path) -> None:
    """By its hash, with its true size; putting it twice is one picture."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        pictures, content = studio.node.pictures, picture(1).content
        first, second = [await pictures.store_input("acme", content) for _ in range(2)]
        assert (first.id, first.width, first.height, first.format) == (asset_id(content), 8, 8, "png")
        assert second.id == first.id
        stored = await pictures.fetch("acme", first.id)
        assert (stored.content, stored.record.bytes) == (content, len(content))
        found = await pictures.input("acme", "init", first.id)
        assert (found.role, found.asset, found.width) == ("init", first.id, 8)


@pytest.mark.parametrize(
    "content,code",
    [
        pytest.param(b"", "unsupported_media", id="nothing"),
        pytest.param(b"GIF89a" + bytes(20), "unsupported_media", id="another-format"),
        pytest.param(picture(1).content[:20], "image_decode_failed", id="cut"),
        pytest.param(claiming(5000, 5000), "payload_too_large", id="bomb"),
        pytest.param(bytes(2000), "payload_too_large", id="too-many-bytes"),
    ],
)
@patiently
async def test_input_that_is_refused_is_not_kept(tmp_path: Path, content: bytes, code: str) -> None:
    """By name, and before anything decodes it."""
    limits = Limits(max_upload_bytes=1000, max_input_pixels=1_000_000)
    async with open_studio(tmp_path, ScriptedUpstream(), limits=limits) as studio:
        with pytest.raises(ClientFault) as refused:
            await studio.node.pictures.store_input("acme", content)
        assert (refused.value.code, studio.store.puts) == (code, [])


@patiently
async def test_picture_of_another_tenant_is_not_found(tmp_path: Path) -> None:
    """Knowing its hash opens nothing."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        pictures = studio.node.pictures
        stored = await pictures.store_input("acme", picture(1).content)
        for attempt in (
            pictures.fetch("other", stored.id),
            pictures.input("other", "init", stored.id),
            pictures.content("other", stored.id),
            pictures.fetch("acme", asset_id(b"another")),
        ):
            with pytest.raises(ClientFault) as refused:
                await attempt
            assert refused.value.code == "asset_not_found"


@patiently
async def test_picture_is_deleted_after_its_time_and_use_prolongs_it(tmp_path: Path) -> None:
    """One that was used as an input half a day ago stays as long as from then."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        pictures = studio.node.pictures
        used = await pictures.store_input("acme", picture(1).content)
        unused = await pictures.store_output("acme", picture(2))
        await asyncio.sleep(DAY_SECONDS / 2)  # virtual
        await pictures.input("acme", "init", used.id)
        await asyncio.sleep(DAY_SECONDS / 2 + 1)  # virtual
        with pytest.raises(ClientFault):  # at once, not only after the sweep
            await pictures.fetch("acme", unused.id)
        assert await pictures.sweep() == 1
        assert await outside(studio.store.get("acme", unused.id)) is None
        assert (await pictures.fetch("acme", used.id)).content == picture(1).content
        assert await pictures.sweep() == 0


@patiently
async def test_row_without_bytes_is_as_nothing(tmp_path: Path) -> None:
    """The bucket lost them: the client is told to upload again."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        stored = await studio.node.pictures.store_input("acme", picture(1).content)
        await studio.store.delete("acme", stored.id)
        with pytest.raises(ClientFault) as refused:
            await studio.node.pictures.fetch("acme", stored.id)
        assert refused.value.code == "asset_not_found"


@patiently
async def test_full_disk_keeps_no_row(tmp_path: Path) -> None:
    """The bytes come before the row that promises them."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        studio.store.broken = OSError(28, "No space left on device")
        with pytest.raises(OSError, match="No space"):
            await studio.node.pictures.store_output("acme", picture(1))
        found = await studio.ledger.assets.find("acme", asset_id(picture(1).content), studio.clock.time_ms())
        assert found is None
