"""A secret in memory that nothing prints by accident."""

import re
from typing import Final

_KEYLIKE: Final = re.compile(r"\b(?:sk|rk|pk)-[\w*.\-]{4,}")


class Secret:
    """Holds a credential; `reveal` is the only way to it, so a search for that word finds every use."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret does not leave the process")

    def reveal(self) -> str:
        """Return the credential itself, for the request that needs it."""
        return self._value

    def redact(self, text: str) -> str:
        """Return `text` without the credential, nor anything that looks like part of one ("sk-ab…yz")."""
        return _KEYLIKE.sub("***", text.replace(self._value, "***") if self._value else text)
