"""`multipart/form-data` from bytes in memory: pure, and linear in what it is given. Whoever calls bounds the bytes."""

import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import ClientFault

MOST_PARTS: Final = 256
MOST_TEXT: Final = 65_536
"""Bytes of a field that is no picture: twice what all words of a request may have together."""
MOST_HEAD: Final = 4096
_MOST_TOLD: Final = 64
"""Characters of a field's name in a refusal."""
_SEARCHED: Final = 4_194_304
"""Bytes that are looked through in one go, in some milliseconds: between them other work has its turn."""
_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')
_ESCAPES: Final = {"%22": '"', "%0D": "\r", "%0A": "\n"}
"""What browsers write inside a quoted name; other percent signs are part of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    name: str
    content: bytes
    file_name: str | None = None

    @property
    def text(self) -> str:
        """The value as text. Raises `ClientFault` `bad_request` if it is none, `payload_too_large` if it is long."""
        if len(self.content) > MOST_TEXT:
            # Its place is that of words which are too many together: at the field's own it would be a large picture.
            details = {"path": "params", "max_bytes": MOST_TEXT}
            message = f"{self.name[:_MOST_TOLD]}: a field that is no picture here has at most {MOST_TEXT} bytes"
            raise ClientFault("payload_too_large", message, details=details)
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            raise ClientFault("bad_request", "a field of the form is no text", details={"path": self.name}) from None


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """Return the parts of a form in their order. Raises `ClientFault` `bad_request` if it is damaged."""
    found = _BOUNDARY.search(content_type)
    if found is None or content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise _damaged("the body must be multipart/form-data with a boundary")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    # The first delimiter may open the body without the line break that belongs to all later ones.
    start = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _after(body, delimiter, 0)
    parts: list[Part] = []
    while not body.startswith(b"--", start):
        if len(parts) == MOST_PARTS:
            raise _damaged(f"a form has at most {MOST_PARTS} fields")
        end = _after(body, delimiter, start)
        parts.append(_part(body, start, end - len(delimiter)))
        start = end
    return parts


def _after(body: bytes, delimiter: bytes, start: int) -> int:
    """Return where the first delimiter from `start` on ends."""
    for begin in range(start, len(body), _SEARCHED):
        found = body.find(delimiter, begin, begin + _SEARCHED + len(delimiter) - 1)
        if found >= 0:
            return found + len(delimiter)
    raise _damaged("the form's closing boundary is missing")


def _part(body: bytes, start: int, end: int) -> Part:
    """Return the part between two delimiters; its content is the one copy of it that is made."""
    gap = body.find(b"\r\n\r\n", start, min(end, start + MOST_HEAD + 4))
    if gap < 0:
        raise _damaged("a field of the form has no head")
    lines = (line.partition(":") for line in body[start:gap].decode("utf-8", "replace").split("\r\n"))
    heads = {name.strip().lower(): value for name, _, value in lines}
    told = {one[1].lower(): _unquoted(one) for one in _PARAMETER.finditer(heads.get("content-disposition", ""))}
    if "name" not in told:
        raise _damaged("a field of the form has no name")
    return Part(told["name"], body[gap + 4 : end], told.get("filename"))


def _unquoted(found: re.Match[str]) -> str:
    if found[2] is None:
        return found[3]
    text = re.sub(r"\\(.)", r"\1", found[2])
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def _damaged(message: str) -> ClientFault:
    return ClientFault("bad_request", message, details={"path": "body"})
