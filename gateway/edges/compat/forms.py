"""`multipart/form-data` from bytes in memory: pure, and linear in what it is given. Whoever calls bounds the bytes."""

import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import ClientFault

MOST_PARTS: Final = 256
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
        """The value as text. Raises `ClientFault` `bad_request` if it is none."""
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
    pieces = (b"\r\n" + body).split(delimiter, MOST_PARTS + 1)
    if len(pieces) > MOST_PARTS + 1:
        raise _damaged(f"a form has at most {MOST_PARTS} fields")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise _damaged("the form's closing boundary is missing")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, gap, content = piece.partition(b"\r\n\r\n")
    if not gap or len(head) > 4096:
        raise _damaged("a field of the form has no head")
    lines = (line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n"))
    heads = {name.strip().lower(): value for name, _, value in lines}
    told = {one[1].lower(): _unquoted(one) for one in _PARAMETER.finditer(heads.get("content-disposition", ""))}
    if "name" not in told:
        raise _damaged("a field of the form has no name")
    return Part(told["name"], content, told.get("filename"))


def _unquoted(found: re.Match[str]) -> str:
    if found[2] is None:
        return found[3]
    text = re.sub(r"\\(.)", r"\1", found[2])
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def _damaged(message: str) -> ClientFault:
    return ClientFault("bad_request", message, details={"path": "body"})
