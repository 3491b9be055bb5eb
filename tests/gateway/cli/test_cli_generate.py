"""`generate` against a scripted gateway on a real socket, to its end or to Ctrl-C."""

import asyncio
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.cli import generate as conversation
from protocol.messages import Cancel, ImageReady, Notice, Ok, Started, Submit
from tests.gateway.cli.scripted import (
    ASSET,
    JOB,
    PNG,
    Peer,
    ScriptedGateway,
    canceled,
    completed,
    final,
    generate,
    image,
    paint,
    progress,
)
from tests.gateway.cli.test_cli_trouble import ending


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

    monkeypatch.setattr(conversation, "_fetch", fetch)
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
            assert conversation._fetch(f"http://127.0.0.1:{server.server_port}/x") == PNG
            with pytest.raises(OSError, match="HTTP 410"):
                conversation._fetch(f"http://127.0.0.1:{server.server_port}/old")
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
