import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest

from gateway.core.records import Plan
from gateway.edges.compat.bodies import MAX_LARGE_EACH, MOST_VALUES, decode_picture
from gateway.edges.compat.forms import MOST_TEXT
from gateway.edges.http import SMALL
from gateway.flow.pictures import Brought, Pictures
from protocol.errors import ClientFault
from tests.gateway.edges.compat.conftest import Door
from tests.memory import most_memory
from tests.pictures import flat

V1: Final = "/v1/generation/easel/text-to-image"
PICTURE: Final = base64.b64encode(flat(9, (64, 64)))
LARGE: Final[dict[str, Any]] = {"text_prompts": [{"text": "a lighthouse"}], "extras": "x" * 3 * SMALL}
MANY: Final = b"[" + b"[]," * MOST_VALUES + b"[]]"


@pytest.mark.parametrize("path,body", [
    ("/sdapi/v1/txt2img", b'{"prompt":"a","override_settings":{"x":%b}}'),
    ("/sdapi/v1/options", b'{"samples_save":%b}'),
    (V1, b'{"text_prompts":[{"text":"a"}],"extras":%b}'),
    ("/v1/images/generations", b'{"prompt":"a","x":%b}'),
])  # fmt: skip
@pytest.mark.parametrize("values", [MANY, MANY.replace(b"[]", b"{}"), b"[" + b"1," * MOST_VALUES + b"1]"])
async def test_json_of_too_many_values_is_refused_before_it_is_decoded(
    door: Door, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes, values: bytes
) -> None:
    """Each would take some thirty times its bytes."""
    monkeypatch.setattr("gateway.edges.compat.bodies.decode_fields", None)
    answer = await door.ask("POST", path, body % values)
    assert (answer.status, door.easel.orders) == (413, [])


async def test_json_of_many_words_and_pictures_is_no_json_of_many_values(door: Door) -> None:
    """What is large in an honest request has nothing in it that is counted."""
    body = {"prompt": "a, " * 3000, "init_images": ["A" * 3_000_000], "extras": "x" * 3_000_000}
    answer = await door.ask("POST", "/sdapi/v1/img2img", body)
    assert answer.status == 422
    assert (await door.ask("POST", V1, LARGE)).status == 200


async def test_text_of_a_form_is_bounded(door: Door) -> None:
    """What is JSON in it would be decoded on the loop."""
    part = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n'
    for path, image, name in (
        ("/v1/generation/easel/image-to-image", b"init_image", b"text_prompts"),
        ("/v1/images/edits", b"image", b"prompt"),
        ("/v2beta/stable-image/generate/core", b"image", b"prompt"),
    ):
        body = part % (image, flat(9, (64, 64))) + part % (name, b"[" * (MOST_TEXT + 1)) + b"--b--\r\n"
        answer = await door.ask("POST", path, body, Content_Type="multipart/form-data; boundary=b")
        assert answer.status == 413, (path, answer.body)


async def test_picture_that_is_text_in_a_form_may_be_as_large_as_a_file(door: Door) -> None:
    """It is no words."""
    text = base64.b64encode(flat(9, (64, 64)) + bytes(MOST_TEXT))
    fields = {b"init_image": text, b"text_prompts[0][text]": b"a"}
    parts = [b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % one for one in fields.items()]
    path = "/v1/generation/easel/image-to-image"
    answer = await door.ask("POST", path, b"".join(parts) + b"--b--", Content_Type="multipart/form-data; boundary=b")
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("wrapped", [
    lambda text: text,
    lambda text: f"data:image/png;base64,{text}",
    lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + "\r\n",
    lambda text: f" {text}\t".encode(),
])  # fmt: skip
def test_base64_is_read_as_clients_write_it(wrapped: Callable[[str], str | bytes]) -> None:
    """Bare, as an address, and broken into lines."""
    assert decode_picture(wrapped(PICTURE.decode()), "image") == flat(9, (64, 64))


def test_base64_without_line_breaks_is_not_copied() -> None:
    """All that is made of it is the picture."""
    text = base64.b64encode(bytes(3_000_000)).decode()
    assert 3_000_000 <= most_memory(lambda: decode_picture(text, "image")) < 3_100_000


@pytest.mark.parametrize("text", ["a", "ä" * 8, "ä".encode() * 8, "AAAA!AAA", "AA\x00A"])
def test_what_is_no_base64_is_refused_by_its_field(text: str | bytes) -> None:
    """Whatever it is instead."""
    with pytest.raises(ClientFault) as fault:
        decode_picture(text, "image")
    assert (fault.value.code, fault.value.details) == ("image_decode_failed", {"path": "image"})


# ---------------------------------------------------------------------------------------------------------------- room


async def test_large_body_has_its_room_until_what_was_in_it_is_stored(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in memory for as long: a third of one user waits, and is refused after a while."""
    monkeypatch.setattr("gateway.edges.room.WAIT_SECONDS", 0.1)
    may_store, bring = asyncio.Event(), Pictures.brought

    async def slowly(self: Pictures, content: bytes) -> Brought:
        await may_store.wait()
        return await bring(self, content)

    monkeypatch.setattr(Pictures, "brought", slowly)
    room, ann = door.running.gateway.doors.bodies.room, await door.token_of("ann")
    body = {"prompt": "a", "init_images": [PICTURE.decode()], "x": "x" * 2 * SMALL}
    asked = [asyncio.create_task(door.ask("POST", "/sdapi/v1/img2img", body, key=ann)) for _ in range(MAX_LARGE_EACH)]
    while len(room) < MAX_LARGE_EACH:
        await asyncio.sleep(0.01)
    refused = await door.ask("POST", V1, LARGE, key=ann)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert (await door.ask("POST", V1, LARGE | {"extras": "x"}, key=ann)).status == 200
    may_store.set()
    assert {(await one).status for one in asked} == {200}
    assert (len(room), room.waiting) == (0, 0)


async def test_job_that_is_waited_for_has_no_room(door: Door) -> None:
    """Its body is stored, and gone."""
    door.easel.hold = asyncio.Event()
    ann = await door.token_of("ann")
    asked = [asyncio.create_task(door.ask("POST", V1, LARGE, key=ann)) for _ in range(MAX_LARGE_EACH + 1)]
    while len(door.running.gateway.doors.waiting) <= MAX_LARGE_EACH:
        await asyncio.sleep(0.01)
    assert len(door.running.gateway.doors.bodies.room) == 0
    door.easel.hold.set()
    assert {(await one).status for one in asked} == {200}


async def test_bodies_that_trickle_shut_the_doors_for_nobody_else(door: Door) -> None:
    """Eight of one end user: two have room, and others theirs; a small one of the same user needs none."""
    ends = asyncio.Event()

    async def trickling() -> AsyncIterator[bytes]:
        yield b'{"prompt":"' + b"x" * SMALL
        await ends.wait()

    mallory, other = await door.token_of("mallory"), await door.key_of("other", Plan())
    asked = [
        asyncio.create_task(door.ask("POST", "/sdapi/v1/txt2img", trickling(), key=mallory)) for _ in range(8)
    ]  # fmt: skip
    room = door.running.gateway.doors.bodies.room
    while room.waiting < 8 - MAX_LARGE_EACH:
        await asyncio.sleep(0.01)
    assert len(room) == MAX_LARGE_EACH
    assert (await door.ask("POST", V1, LARGE, key=other)).status == 200
    assert (await door.ask("POST", V1, LARGE | {"extras": None}, key=mallory)).status == 200
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
    while len(room) + room.waiting:
        await asyncio.sleep(0.01)
