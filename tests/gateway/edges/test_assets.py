import asyncio
import hashlib
import io
from collections.abc import AsyncIterator

import pytest

from gateway.edges.assets import MAX_UPLOADS_EACH
from gateway.edges.http import SMALL
from tests.gateway.edges.conftest import Site
from tests.gateway.node import picture_bytes

PICTURE = picture_bytes("PNG", 64, shade=9)
DIGITS = hashlib.sha256(PICTURE).hexdigest()


async def put(site: Site, content: bytes = PICTURE) -> str:
    """Store a picture; returns its id."""
    return str((await site.ask("PUT", "/v1/assets", data=content)).json["asset"])


async def signed(site: Site, asset: str, tenant: str = "acme") -> str:
    """Return the signed path of a picture."""
    query, _ = site.test.node.access.asset_query(tenant, asset, site.test.clock.time_ms())
    return f"/v1/assets/{asset.removeprefix('sha256:')}?sig={query}"


async def test_put_answers_as_an_upload_is_answered(site: Site) -> None:
    """The answer is the `asset` message."""
    answer = await site.ask("PUT", "/v1/assets", data=PICTURE)
    assert answer.status == 200
    assert answer.json == {
        "type": "asset", "asset": f"sha256:{DIGITS}", "format": "png", "w": 64, "h": 64, "bytes": len(PICTURE),
        "expires_in_ms": 86_400_000,
    }  # fmt: skip


@pytest.mark.parametrize("content,status,code", [
    (b"no picture", 415, "unsupported_media"),
    (b"", 415, "unsupported_media"),
    (PICTURE[:40], 422, "image_decode_failed"),
])  # fmt: skip
async def test_put_refuses_what_is_no_picture(site: Site, content: bytes, status: int, code: str) -> None:
    """A body is measured before it is kept."""
    answer = await site.ask("PUT", "/v1/assets", data=content)
    assert (answer.status, answer.code) == (status, code)


async def test_put_refuses_a_body_over_the_limit_before_it_is_read(site: Site) -> None:
    """The declared length is enough to refuse."""
    answer = await site.ask("PUT", "/v1/assets", data=io.BytesIO(bytes(site.test.node.limits.max_upload_bytes + 1)))
    assert (answer.status, answer.code) == (413, "payload_too_large")


async def test_uploads_of_one_user_are_not_in_the_way_of_anothers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has as many under way as one may have waits, and is refused after a while; another is not."""
    monkeypatch.setattr("gateway.edges.room.WAIT_SECONDS", 0.1)
    large = picture_bytes("PNG", 64, shade=9) + bytes(2 * SMALL)
    ends = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield large[: SMALL + 1]
        await ends.wait()
        yield large[SMALL + 1 :]

    ann = await site.token("ann")
    slow = [asyncio.create_task(site.ask("PUT", "/v1/assets", data=slowly(), key=ann)) for _ in range(MAX_UPLOADS_EACH)]
    while (refused := await site.ask("PUT", "/v1/assets", data=large, key=ann)).status == 200:
        await asyncio.sleep(0.01)  # the slow ones are on their way
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "overloaded", "1")
    assert (await site.ask("PUT", "/v1/assets", data=large, key=await site.test.add_key("other"))).status == 200
    assert (await site.ask("PUT", "/v1/assets", data=PICTURE, key=ann)).status == 200
    ends.set()
    assert {(await one).status for one in slow} == {200}


async def test_get_gives_the_bytes_for_good(site: Site) -> None:
    """The answer may be kept as long as the picture is, by the reader alone."""
    asset = await put(site)
    for path in (f"/v1/assets/{asset}", f"/v1/assets/{DIGITS}"):
        answer = await site.ask("GET", path)
        assert (answer.status, answer.body) == (200, PICTURE)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["ETag"] == f'"{DIGITS}"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"] == f'inline; filename="{DIGITS[:16]}.png"'
        kept, age, immutable = answer.headers["Cache-Control"].split(", ")
        assert (kept, immutable) == ("private", "immutable")
        assert 86_300 < int(age.removeprefix("max-age=")) <= 86_400


async def test_head_tells_the_size_and_sends_nothing(site: Site) -> None:
    """HEAD is GET without the bytes."""
    answer = await site.ask("HEAD", f"/v1/assets/{await put(site)}")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", str(len(PICTURE)))


async def test_get_sends_nothing_to_who_has_it(site: Site) -> None:
    """`If-None-Match` with the hash is answered 304."""
    answer = await site.ask("GET", f"/v1/assets/{await put(site)}", if_none_match=f'W/"x", "{DIGITS}"')
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("asked,start,stop", [
    ("bytes=0-0", 0, 1),
    ("bytes=10-19", 10, 20),
    ("bytes=10-", 10, len(PICTURE)),
    ("bytes=-5", len(PICTURE) - 5, len(PICTURE)),
    ("bytes=10-99999999", 10, len(PICTURE)),
    ("bytes=-99999999", 0, len(PICTURE)),
])  # fmt: skip
async def test_get_gives_the_range_that_is_asked_for(site: Site, asked: str, start: int, stop: int) -> None:
    """One range is answered 206 with where it is."""
    answer = await site.ask("GET", f"/v1/assets/{await put(site)}", range=asked)
    assert (answer.status, answer.body) == (206, PICTURE[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(PICTURE)}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,4-5", "bytes=-", "lines=1-2", "bytes=a-b"])
async def test_get_gives_the_whole_where_a_range_is_none_we_serve(site: Site, asked: str) -> None:
    """What cannot be read as one range is ignored, as HTTP wants it."""
    answer = await site.ask("GET", f"/v1/assets/{await put(site)}", range=asked)
    assert (answer.status, answer.body) == (200, PICTURE)


async def test_get_ignores_a_range_of_other_bytes(site: Site) -> None:
    """`If-Range` with another tag asks for the whole."""
    asset = await put(site)
    answer = await site.ask("GET", f"/v1/assets/{asset}", range="bytes=0-1", if_range='"other"')
    assert answer.status == 200
    answer = await site.ask("GET", f"/v1/assets/{asset}", range="bytes=0-1", if_range=f'"{DIGITS}"')
    assert answer.status == 206


@pytest.mark.parametrize("asked", [f"bytes={len(PICTURE)}-", "bytes=-0"])
async def test_get_refuses_a_range_beyond_the_end(site: Site, asked: str) -> None:
    """416 tells how long the picture is."""
    answer = await site.ask("GET", f"/v1/assets/{await put(site)}", range=asked)
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(PICTURE)}")


async def test_signed_address_needs_no_bearer_until_its_time_is_over(site: Site) -> None:
    """The address of an `image` event opens that picture, for an hour and a step."""
    path = await signed(site, await put(site))
    assert (await site.ask("GET", path, key=None)).body == PICTURE
    site.test.clock.advance(3_600 + 301)
    answer = await site.ask("GET", path, key=None)
    assert (answer.status, answer.code) == (410, "expired")


async def test_signature_opens_no_other_picture(site: Site) -> None:
    """A signature is for one hash."""
    path = await signed(site, await put(site))
    other = (await put(site, picture_bytes("PNG", 64, shade=10))).removeprefix("sha256:")
    answer = await site.ask("GET", path.replace(DIGITS, other), key=None)
    assert (answer.status, answer.code) == (403, "forbidden")
    answer = await site.ask("GET", f"/v1/assets/{DIGITS}?sig=a1.k1.e30.AAAA", key=None)
    assert (answer.status, answer.code) == (401, "unauthorized")


async def test_picture_of_another_account_is_as_if_there_were_none(site: Site) -> None:
    """A hash alone opens nothing, and tells nothing."""
    asset = await put(site)
    stranger = await site.test.add_key("other")
    for path in (f"/v1/assets/{asset}", f"/v1/assets/{'0' * 64}", "/v1/assets/..", "/v1/assets/x"):
        answer = await site.ask("GET", path, key=stranger)
        assert answer.status == 404
        assert answer.code in {"asset_not_found", "not_found"}
