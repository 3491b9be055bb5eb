"""What came over HTTP, whichever client asked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The gateway's error, checked for the one shape that errors have."""
        assert set(self.json) == {"error"}, self.json
        error: dict[str, Any] = self.json["error"]
        assert {"code", "message", "retryable"} <= set(error)
        return error

    @property
    def code(self) -> str:
        """The code of the gateway's error."""
        return str(self.error["code"])
