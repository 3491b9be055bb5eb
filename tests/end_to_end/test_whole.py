"""The straight path: from a prompt to a picture, as users and client authors go it."""

import asyncio
import hashlib
import os
import sys
from pathlib import Path

from PIL import Image

from tests.end_to_end.harness import GatewayProcess, gateway_here
from tests.end_to_end.newcomer import Newcomer
from tests.end_to_end.papers import PaperUpstream
from tests.end_to_end.ports import free_port


async def test_command_line_shows_every_step_and_leaves_a_valid_png(tmp_path: Path) -> None:
    """`safelight generate` against `safelight serve`, as the README says."""
    async with GatewayProcess(tmp_path, free_port()) as gateway:
        picture = tmp_path / "out.png"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from gateway.cli.commands import main; main()",
            "generate", "a lighthouse at dusk", "--steps", "20", "--size", "256x256", "-o", str(picture),
            env={**os.environ, "SAFELIGHT_URL": gateway.url, "SAFELIGHT_API_KEY": gateway.key},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert "20 of 20 steps" in out.decode()
        with Image.open(picture) as image:
            image.load()
            assert (image.format, image.size) == ("PNG", (256, 256))
        assert await gateway.stop() == 0


async def test_client_written_from_the_contract_alone_gets_everything(tmp_path: Path) -> None:
    """Every step, every preview that its policy asks for, and a final equal to GET of its asset."""
    async with gateway_here(tmp_path) as running:
        client = Newcomer(running.url.replace("http", "ws") + "/v1/stream", running.key)
        story = await client.picture(
            "a lighthouse at dusk", steps=20, width=256, height=256, previews={"max_edge": 128}
        )
        assert story.progress == list(range(1, 21))
        assert [preview.header.step for preview in story.previews] == list(range(1, 21))
        assert story.end["type"] == "completed"
        image = story.end["images"][0]
        assert hashlib.sha256(story.images[0]).hexdigest() == image["asset"].removeprefix("sha256:")
        assert await client.fetch(image["url"]) == story.images[0]


async def test_twenty_steps_in_one_turn_of_the_loop_reach_a_reading_client_as_twenty(tmp_path: Path) -> None:
    """Passing events are merged only when the socket or the window is full."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()]) as running:
        client = Newcomer(running.url.replace("http", "ws") + "/v1/stream", running.key)
        story = await client.picture("x", steps=20, previews={"max_edge": 64, "format": "png"})
        assert story.progress == list(range(1, 21))
        assert [preview.header.step for preview in story.previews] == list(range(1, 21))


async def test_connection_cut_in_the_middle_resumes_without_loss(tmp_path: Path) -> None:
    """The newcomer's own resume, at each message of the conversation."""
    async with gateway_here(tmp_path, upstreams=[PaperUpstream(pace=lambda _: 0.01)]) as running:
        for cut in range(2, 12):
            client = Newcomer(running.url.replace("http", "ws") + "/v1/stream", running.key)
            story = await client.picture(f"cut {cut}", steps=6, previews={"max_edge": 64}, cut_after=cut)
            assert story.end["type"] == "completed"
            assert story.handled == list(range(1, story.end["seq"] + 1))
            assert hashlib.sha256(story.images[0]).hexdigest() == story.end["images"][0]["asset"].removeprefix(
                "sha256:"
            )


async def test_worker_process_ends_with_its_gateway(tmp_path: Path) -> None:
    """A gateway that is killed leaves no painting process behind after two seconds."""
    gateway = GatewayProcess(tmp_path, free_port())
    await gateway.start()
    children = _children(gateway.pid)
    assert children, "the engine has a process"
    await gateway.kill()
    async with asyncio.timeout(2):
        while any(Path(f"/proc/{child}").exists() and _state(child) != "Z" for child in children):
            await asyncio.sleep(0.05)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(one) for task in tasks.iterdir() for one in (task / "children").read_text().split()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
