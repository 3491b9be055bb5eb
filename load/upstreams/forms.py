"""Reading `multipart/form-data` as a typical hosted service does: strict on framing, blind to extras."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

_PARAMETER = re.compile(r';\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')
# The three escapes browsers write inside a quoted name. Other percent sequences are part of the name, so a
# client that encodes the brackets of `text_prompts[0][text]` sends a field nobody knows, as it would to the
# vendor.
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}


class FormError(ValueError):
    """The body is no form: no boundary, no closing delimiter, or a part without a name."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    name: str
    data: bytes
    filename: str | None = None
    content_type: str | None = None
    """The declared media type in lower case without parameters; None when the part declares none."""

    def text(self) -> str:
        """The value as text; raises `FormError` when it is not UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise FormError(f"{self.name}: not UTF-8") from error


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """The parts of a whole form in their order; raises `FormError` when it is damaged."""
    delimiter = b"\r\n--" + _boundary(content_type).encode("latin-1")
    # The first delimiter may open the body without the line break that belongs to all later ones.
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise FormError("the closing boundary is missing")
    return [_part(piece) for piece in pieces[1:-1]]


def media_type(header: str) -> str:
    """The media type of a Content-Type header in lower case, without its parameters."""
    return header.partition(";")[0].strip().lower()


def _boundary(content_type: str) -> str:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if media_type(content_type) != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise FormError("expected multipart/form-data with a boundary")
    return boundary


def _part(piece: bytes) -> Part:
    head, gap, data = piece.partition(b"\r\n\r\n")
    if not gap:
        raise FormError("a part has no headers")
    headers = dict(_header_lines(head.decode("utf-8", "replace")))
    disposition = headers.get("content-disposition", "")
    parameters = {match[1].lower(): _unquote(match) for match in _PARAMETER.finditer(disposition)}
    if "name" not in parameters:
        raise FormError("a part has no name")
    declared = headers.get("content-type")
    return Part(parameters["name"], data, parameters.get("filename"), media_type(declared) if declared else None)


def _header_lines(head: str) -> list[tuple[str, str]]:
    lines = [line.partition(":") for line in head.split("\r\n") if ":" in line]
    return [(name.strip().lower(), value.strip()) for name, _, value in lines]


def _unquote(match: re.Match[str]) -> str:
    if match[2] is None:
        return match[3]
    text = re.sub(r"\\(.)", r"\1", match[2])
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text
