"""What a setting may be: types that carry their bounds, and the words for them in a fault."""

from typing import Annotated, Final, TypeVar

from msgspec import Meta

SettingPath = tuple[str, ...]
"""Where a setting stands: its section, then its field."""

A_YEAR_MS: Final = 31_536_000_000
LARGEST: Final = 2**53 - 1

Milliseconds = Annotated[int, Meta(ge=1, le=A_YEAR_MS)]
MillisecondsFromZero = Annotated[int, Meta(ge=0, le=A_YEAR_MS)]
Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Size = Annotated[int, Meta(ge=1024, le=LARGEST)]
Text = Annotated[str, Meta(min_length=1, description="text that is not empty")]
HostName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._\-]+\Z|\A\[[0-9A-Fa-f:.]+\]\Z", description="a host's name, without a port")
]
Origin = Annotated[
    str, Meta(pattern=r"\Ahttps?://[^/?#\s@]+\Z", description="an origin as in https://example.org:8443")
]
Address = Annotated[
    str, Meta(pattern=r"\Ahttps?://[^/?#\s@]+(/[^?#\s]*)?\Z", description="an address as in https://example.org")
]
VariableName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z", description="the name of an environment variable")
]
MODEL_NAME: Final = r"\A[A-Za-z0-9._\-/]{1,128}\Z"
MODEL_NAME_ALLOWED: Final = "1-128 letters, digits, ., _, - and /"
ModelName = Annotated[str, Meta(pattern=MODEL_NAME, description=MODEL_NAME_ALLOWED)]

_One = TypeVar("_One")
ONE_OR_MORE: Final = {"one_or_more": True}
OneOrMore = Annotated[tuple[_One, ...], Meta(extra=ONE_OR_MORE)]
"""A list that may be written as its only element."""
