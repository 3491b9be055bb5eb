"""Uploads and `/view`: files over HTTP as the server handles them."""

from __future__ import annotations

import email.utils
import io
import json
import mimetypes
import posixpath
import time
from collections.abc import Mapping
from typing import cast

from PIL import Image

from load.upstreams.comfyui.answers import SERVER, empty, trouble
from load.upstreams.comfyui.folders import KINDS, File, Folders, Kind, OutsideError, Place, annotated, clean
from load.upstreams.forms import FormError, Part, parse_form
from load.upstreams.wire import Answer

Texts = Mapping[str, str]

_USUAL_QUALITY = 90


def take_upload(
    folders: Folders, content_type: str, body: bytes, *, mask: bool
) -> tuple[Answer, dict[str, str] | None]:
    """Store the form's picture; gives the answer, and what it says when it is good."""
    try:
        parts = {part.name: part for part in parse_form(content_type, body)}
    except FormError:
        return trouble(), None
    texts = {name: part.data.decode("utf-8", "replace") for name, part in parts.items() if part.filename is None}
    image, kind = parts.get("image"), texts.get("type") or "input"
    if image is None or not image.filename or kind not in KINDS:
        return empty(400), None
    try:
        place = _place(kind, texts.get("subfolder", ""), image.filename)
    except OutsideError:
        return empty(400), None
    overwrite = texts.get("overwrite") in ("true", "1")
    place, known = (place, False) if overwrite else _free_place(folders, place, image.data)
    if not known:
        refused = _store(folders, place, image, texts, mask=mask)
        if refused is not None:
            return refused, None
    return empty(), {"name": place[2], "subfolder": texts.get("subfolder", ""), "type": kind}


def _place(kind: Kind, subfolder: str, filename: str) -> Place:
    path = clean(posixpath.join(subfolder, filename))
    return kind, posixpath.dirname(path), posixpath.basename(path)


def _free_place(folders: Folders, place: Place, data: bytes) -> tuple[Place, bool]:
    """Where the file can go, and whether it is there already; another file's name gets a number."""
    kind, subfolder, name = place
    stem, ending = posixpath.splitext(name)
    number = 0
    while (file := folders.get((kind, subfolder, name))) is not None:
        if file.data == data:
            return (kind, subfolder, name), True
        number += 1
        name = f"{stem} ({number}){ending}"
    return (kind, subfolder, name), False


def _store(folders: Folders, place: Place, image: Part, texts: Texts, *, mask: bool) -> Answer | None:
    if not mask:
        folders.put(place, File(image.data, time.time()))
        return None
    try:
        original = json.loads(texts["original_ref"])
        source, refused = find(folders, original)
    except (KeyError, ValueError, TypeError, AttributeError):
        return trouble()
    if refused is not None or source is None:
        # An original that is not there is passed over in silence.
        return refused if refused is not None and refused.status != 404 else None
    folders.put(place, File(_with_alpha(source.data, image.data), time.time()))
    return None


def _with_alpha(original: bytes, mask: bytes) -> bytes:
    picture = Image.open(io.BytesIO(original)).convert("RGBA")
    picture.putalpha(Image.open(io.BytesIO(mask)).convert("RGBA").getchannel("A"))
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def find(folders: Folders, query: Texts) -> tuple[File | None, Answer | None]:
    """The file that a reference names, or the answer that refuses it."""
    name, kind = annotated(query.get("filename", ""))
    if "filename" not in query:
        return None, empty(404)
    kind = kind or cast("Kind", query.get("type", "output"))
    if not name or name[0] == "/" or ".." in name or kind not in KINDS:
        return None, empty(400)
    try:
        subfolder = clean(query.get("subfolder", ""))
    except OutsideError:
        return None, empty(403)
    file = folders.get((kind, subfolder, posixpath.basename(name)))
    return file, (None if file is not None else empty(404))


def view(folders: Folders, query: Texts, byte_range: str | None) -> Answer:
    """The answer to `/view`."""
    file, refused = find(folders, query)
    if file is None or refused is not None:
        return refused or empty(404)
    name = posixpath.basename(annotated(query["filename"])[0])
    if "preview" in query:
        return _preview(file, name, query)
    match query.get("channel", "rgba"):
        case "rgb":
            return _rendered(_picture(file).convert("RGB"), "png", name)
        case "a":
            return _rendered(_alpha_of(_picture(file)), "png", name)
    return _whole(file, name, byte_range)


def _picture(file: File) -> Image.Image:
    return Image.open(io.BytesIO(file.data))


def _alpha_of(picture: Image.Image) -> Image.Image:
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else Image.new("L", picture.size, 255)
    shown = Image.new("RGBA", picture.size)
    shown.putalpha(alpha)
    return shown


def _preview(file: File, name: str, query: Texts) -> Answer:
    kind, _, quality = query["preview"].partition(";")
    channel = query.get("channel", "")
    if kind not in ("webp", "jpeg") or "a" in channel:
        kind = "webp"
    picture = _picture(file)
    if kind == "jpeg" or channel == "rgb":
        picture = picture.convert("RGB")
    return _rendered(picture, kind, name, int(quality) if quality.isdecimal() else _USUAL_QUALITY)


def _rendered(picture: Image.Image, kind: str, name: str, quality: int | None = None) -> Answer:
    out = io.BytesIO()
    picture.save(out, kind, **({} if quality is None else {"quality": quality}))
    return Answer(200, (_disposition(name), ("Content-Type", f"image/{kind}"), SERVER), out.getvalue())


def _disposition(name: str) -> tuple[str, str]:
    return "Content-Disposition", f'filename="{name}"'


def _whole(file: File, name: str, byte_range: str | None) -> Answer:
    size = len(file.data)
    headers = (
        _disposition(name),
        ("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream"),
        ("Etag", f'"{int(file.changed * 1e9):x}-{size:x}"'),
        ("Last-Modified", email.utils.formatdate(file.changed, usegmt=True)),
        ("Accept-Ranges", "bytes"),
        SERVER,
    )
    if byte_range is None:
        return Answer(200, headers, file.data)
    first, last = _read_range(byte_range, size)
    if first > last:
        return Answer(416, (("Content-Range", f"bytes */{size}"), SERVER), b"")
    return Answer(206, (*headers, ("Content-Range", f"bytes {first}-{last}/{size}")), file.data[first : last + 1])


def _read_range(header: str, size: int) -> tuple[int, int]:
    first, _, last = header.removeprefix("bytes=").partition("-")
    try:
        if not first:
            return max(0, size - int(last)), size - 1
        return int(first), min(size - 1, int(last)) if last else size - 1
    except ValueError:
        return 1, 0
