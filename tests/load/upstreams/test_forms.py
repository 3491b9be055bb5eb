"""Reading multipart forms."""

from __future__ import annotations

import pytest

from load.upstreams.forms import FormError, Part, media_type, parse_form

TYPE = "multipart/form-data; boundary=xyz"


def form(*parts: bytes) -> bytes:
    """A body of these parts, each with its headers."""
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + b"--xyz--\r\n"


def test_form_gives_parts_in_order_with_bytes_untouched() -> None:
    """Line breaks, dashes and half boundaries inside a part belong to it."""
    data = b"\r\n--xy\r\n\x00\xff--xyz\n"
    body = form(
        b'Content-Disposition: form-data; name="a"\r\n\r\none',
        b'content-disposition: form-data; name=b; filename="p;q.png"\r\nContent-Type: Image/PNG; x=1\r\n\r\n' + data,
    )
    assert parse_form(TYPE, body) == [Part("a", b"one"), Part("b", data, "p;q.png", "image/png")]


def test_form_ignores_what_stands_before_the_first_boundary() -> None:
    """A preamble is no part."""
    body = b"hello\r\n" + form(b'Content-Disposition: form-data; name="a"\r\n\r\n1')
    assert parse_form(TYPE, body) == [Part("a", b"1")]


@pytest.mark.parametrize(
    "written,name",
    [
        (rb"a\"b", 'a"b'),
        (b"a%22b", 'a"b'),
        (b"text_prompts[0][text]", "text_prompts[0][text]"),
        (b"text_prompts%5B0%5D%5Btext%5D", "text_prompts%5B0%5D%5Btext%5D"),
        ("Größe".encode(), "Größe"),
    ],
)
def test_form_undoes_only_the_escapes_browsers_write(written: bytes, name: str) -> None:
    """Percent-encoded brackets stay encoded, so such a field is another field."""
    body = form(b'Content-Disposition: form-data; name="' + written + b'"\r\n\r\n1')
    assert parse_form(TYPE, body)[0].name == name


@pytest.mark.parametrize(
    "content_type,body",
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--xyz--"),
        (TYPE, b""),
        (TYPE, b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n"),
        (TYPE, form(b"no headers end here")),
        (TYPE, form(b"Content-Type: text/plain\r\n\r\n1")),
    ],
)
def test_form_refuses_damage(content_type: str, body: bytes) -> None:
    """Wrong types, missing boundaries and nameless parts are errors."""
    with pytest.raises(FormError):
        parse_form(content_type, body)


def test_part_refuses_text_that_is_not_utf8() -> None:
    """Bytes that are no text are named by their field."""
    with pytest.raises(FormError, match="a: not UTF-8"):
        Part("a", b"\xff").text()


def test_media_type_drops_parameters_and_case() -> None:
    """Only the type itself is compared."""
    assert media_type("Application/JSON; charset=utf-8") == "application/json"
