"""Bodies of `multipart/form-data`, as bytes: an adapter must know when the last of them has left."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body; `media_type` makes it a file, named `file_name` or after the part."""

    name: str
    content: bytes
    media_type: str | None = None
    file_name: str | None = None


def encode_multipart(parts: list[Part], boundary: str) -> tuple[bytes, str]:
    """Return the body and its content type; `boundary` must be one that nobody could foresee and put in an image."""
    pieces: list[bytes] = []
    for part in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"'
        if part.media_type is not None:
            file_name = part.file_name or f"{part.name}.{part.media_type.partition('/')[2]}"
            head += f'; filename="{file_name}"\r\nContent-Type: {part.media_type}'
        pieces += [head.encode(), b"\r\n\r\n", part.content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"
