"""Uploads that are wrong, mixed up or never finished: each is told, and nothing of it stays."""

import asyncio
import struct
import zlib
from pathlib import Path

import pytest

from protocol import uploads
from tests.end_to_end.fault_parts import answer_to, chunk, chunks, connect, jobs_of, read_until, submit, upload_id
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream, png
from tests.end_to_end.raw import BINARY

INIT = png(64, 64, (9, 9, 9), padding=300)


def _hundred_megapixels() -> bytes:
    """A PNG whose header says 10,000 x 10,000, with the pixels of a tiny one."""
    tiny = png(8, 8, (0, 0, 0))
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return tiny[:16] + header + crc + tiny[33:]


BAD_UPLOADS: dict[str, tuple[list[bytes], str]] = {
    "a gap": ([chunk(upload_id(1), b"x" * 10, 0, 30), chunk(upload_id(1), b"x" * 10, 20, 30, last=True)], "bad_chunk"),
    "an overlap": ([chunk(upload_id(1), b"x" * 10, 0, 30), chunk(upload_id(1), b"x" * 10, 5, 30)], "bad_chunk"),
    "another total": ([chunk(upload_id(1), b"x" * 10, 0, 30), chunk(upload_id(1), b"x" * 10, 10, 31)], "bad_chunk"),
    "a first chunk that is none": ([chunk(upload_id(1), b"x" * 10, 10, 30)], "bad_chunk"),
    "a last chunk too early": ([chunk(upload_id(1), b"x" * 10, 0, 30, last=True)], "bad_chunk"),
    "no last chunk": ([chunk(upload_id(1), b"x" * 30, 0, 30)], "bad_chunk"),
    "an empty chunk": ([chunk(upload_id(1), b"", 0, 30)], "bad_chunk"),
    "zero bytes": ([chunk(upload_id(1), b"", 0, 0, last=True)], "bad_chunk"),
    "wrong magic": (list(chunks(upload_id(1), b"GIF89a" + b"x" * 100)), "unsupported_media"),
    "a broken PNG": (list(chunks(upload_id(1), INIT[:30])), "image_decode_failed"),
    "a PNG header of 100 megapixels": (list(chunks(upload_id(1), _hundred_megapixels())), "payload_too_large"),
    "over 16 MiB announced": ([chunk(upload_id(1), b"x", 0, 16 * 1024 * 1024 + 1)], "payload_too_large"),
    "raw pixels": ([chunk(upload_id(1), b"x" * 12, 0, 12, last=True, form=5)], "unsupported_media"),
    "a kind for servers": ([chunk(upload_id(1), b"x" * 12, 0, 12, last=True, kind=1)], "bad_request"),
    "an unknown kind": ([chunk(upload_id(1), b"x" * 12, 0, 12, last=True, kind=99)], "bad_request"),
}


async def test_upload_that_is_wrong_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """Each has its error with the upload's id; the same id can be used again, and a submit cannot refer to it."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__max_connections=100) as running:
        for name, (messages, code) in BAD_UPLOADS.items():
            one = await connect(running)
            for message in messages:
                one.send_frame(BINARY, message)
            told = await one.until("error")
            assert (told["error"]["code"], told["upload"]) == (code, upload_id(1)), name
            wish = submit("none", task="img2img", inputs=[{"role": "init", "upload": upload_id(1)}])
            assert (await answer_to(one, wish))["error"]["code"] == "asset_not_found", name
            for message in chunks(upload_id(1), INIT):
                one.send_frame(BINARY, message)
            assert (await one.until("asset"))["bytes"] == len(INIT), name
            one.cut()
        assert await jobs_of(running) == []


async def test_message_that_reaches_beyond_its_upload_closes_the_connection(tmp_path: Path) -> None:
    """Its header contradicts itself, so nothing in it can be believed; the session resumes."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        for wrong in (
            chunk(upload_id(1), b"x" * 31, 0, 30, last=True),
            chunk(upload_id(1), b"x", 30, 30),
            b"SFL1" + b"\0" * 20,
            b"XFL1" + chunk(upload_id(1), b"x", 0, 1, last=True)[4:],
            chunk(upload_id(1), b"x", 0, 1, last=True).replace(b"01JD", b"01jd"),
        ):
            one = await connect(running)
            one.send_frame(BINARY, wrong)
            assert await one.closing() == 4500
            one.cut()


async def test_interleaved_uploads_and_the_submit_behind_them_need_no_waiting(tmp_path: Path) -> None:
    """Two uploads chunk by chunk in turn, then the submit that needs both, all in one write."""
    mask = png(64, 64, (255, 255, 255), padding=500)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        for pair in zip(chunks(upload_id(1), INIT, 100), chunks(upload_id(2), mask, 150), strict=False):
            for message in pair:
                one.send_frame(BINARY, message)
        for number, content, size in ((1, INIT, 100), (2, mask, 150)):
            both = min(-(-len(INIT) // 100), -(-len(mask) // 150))
            for message in list(chunks(upload_id(number), content, size))[both:]:
                one.send_frame(BINARY, message)
        inputs = [{"role": "init", "upload": upload_id(1)}, {"role": "mask", "upload": upload_id(2)}]
        one.send(submit("both", task="inpaint", inputs=inputs))
        told, _ = await read_until(one, "completed")
        assert {message["upload"] for message in told if message["type"] == "asset"} == {upload_id(1), upload_id(2)}
        one.cut()


async def test_upload_that_falls_silent_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, and the place is free for another."""
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        one.send_frame(BINARY, chunk(upload_id(1), b"x" * 10, 0, 30))
        told = await asyncio.wait_for(one.until("error"), 10)
        assert (told["error"]["code"], told["upload"]) == ("bad_chunk", upload_id(1))
        one.cut()


async def test_fifth_open_upload_is_refused_and_the_four_go_on(tmp_path: Path) -> None:
    """What is open at once is bounded; when one is whole the next may begin."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        one = await connect(running)
        for number in range(5):
            one.send_frame(BINARY, chunk(upload_id(number), INIT[:10], 0, len(INIT)))
        told = await one.until("error")
        assert (told["error"]["code"], told["upload"]) == ("concurrency_limit", upload_id(4))
        for number in range(4):
            one.send_frame(BINARY, chunk(upload_id(number), INIT[10:], 10, len(INIT), last=True))
            assert (await one.until("asset"))["upload"] == upload_id(number)
        for message in chunks(upload_id(4), INIT):
            one.send_frame(BINARY, message)
        assert (await one.until("asset"))["upload"] == upload_id(4)
        one.cut()
