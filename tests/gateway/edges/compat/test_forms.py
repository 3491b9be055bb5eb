import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.edges.compat.forms import MOST_PARTS, MOST_TEXT, Part, parse_form
from gateway.upstreams.multipart import Part as Sent
from gateway.upstreams.multipart import encode_multipart
from protocol.errors import ClientFault
from tests.memory import most_memory

TYPE = "multipart/form-data; boundary=b"


def body(*parts: str) -> bytes:
    """Return a form of parts written out."""
    return "".join(f"--b\r\n{part}\r\n" for part in parts).encode() + b"--b--\r\n"


@given(some.lists(some.tuples(some.text("abc[]0", min_size=1), some.binary(max_size=200), some.booleans()), max_size=9))
def test_form_is_read_back_as_it_was_written(parts: list[tuple[str, bytes, bool]]) -> None:
    """Names, bytes and whether each is a file, in their order."""
    sent = [Sent(name, content, "image/png" if is_file else None) for name, content, is_file in parts]
    raw, content_type = encode_multipart(sent, "a-boundary-that-nobody-draws-7")
    read = parse_form(content_type, raw)
    assert [(one.name, one.content, one.file_name is not None) for one in read] == parts


def test_delimiter_is_found_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is looked through in pieces, and a delimiter may lie in two of them."""
    monkeypatch.setattr("gateway.edges.compat.forms._SEARCHED", 5)
    for size in range(12):
        content = b"\r\n-\r\n--" + b"x" * size
        raw, content_type = encode_multipart([Sent("a", content, "image/png"), Sent("b", b"1", None)], "bb")
        assert [one.content for one in parse_form(content_type, b"before\r\n" + raw + b"after")] == [content, b"1"]


def test_heads_are_read_as_browsers_and_libraries_write_them() -> None:
    """Quotes, escapes, bare words, other headers, any case."""
    read = parse_form(
        'Multipart/Form-Data; charset=x; BOUNDARY="b"',
        body(
            'content-disposition: form-data; name="a%22b"; filename="c\\"d.png"\r\nX: y\r\n\r\n1',
            "Content-Disposition: form-data; name=bare\r\n\r\n",
        ),
    )
    assert read == [Part('a"b', b"1", 'c"d.png'), Part("bare", b"")]
    assert read[0].text == "1"


@pytest.mark.parametrize("content_type,raw", [
    ("application/json; boundary=b", body()),
    ("multipart/form-data", body()),
    (TYPE, b""),
    (TYPE, b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1"),
    (TYPE, body("Content-Disposition: form-data; name=a")),
    (TYPE, body("Content-Disposition: form-data\r\n\r\n1")),
    (TYPE, body(*["Content-Disposition: form-data; name=a\r\n\r\n"] * (MOST_PARTS + 1))),
    (TYPE, body(f"Content-Disposition: form-data; name={'a' * 5000}\r\n\r\n1")),
])  # fmt: skip
def test_damaged_form_is_refused(content_type: str, raw: bytes) -> None:
    """Nothing is guessed, and nothing grows."""
    with pytest.raises(ClientFault) as fault:
        parse_form(content_type, raw)
    assert fault.value.code == "bad_request"


def test_content_is_copied_once() -> None:
    """What is large lies in memory as the body, and as the part."""
    [raw, content_type] = encode_multipart([Sent("a", bytes(4_000_000), "image/png")], "b")
    assert 4_000_000 < most_memory(lambda: parse_form(content_type, raw)) < 4_100_000


def test_field_that_is_too_long_for_a_text_is_refused_where_text_is_wanted() -> None:
    """A picture may be longer."""
    with pytest.raises(ClientFault) as fault:
        _ = Part("prompt", b"x" * (MOST_TEXT + 1)).text
    assert (fault.value.code, fault.value.details["path"]) == ("payload_too_large", "params")
    assert Part("prompt", b"x" * MOST_TEXT).text == "x" * MOST_TEXT


def test_field_that_is_no_text_is_refused_where_text_is_wanted() -> None:
    """A file's bytes are no fault, until somebody reads them as a number."""
    with pytest.raises(ClientFault) as fault:
        _ = Part("steps", b"\xff").text
    assert fault.value.details == {"path": "steps"}
