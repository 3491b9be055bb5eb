"""Pictures that were answered as URLs and wait to be fetched."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

from load.upstreams.wire import Answer

LIFETIME_SECONDS = 3600.0
_KEPT = 256


@dataclass(frozen=True, slots=True)
class Result:
    """One picture and when it was made, in seconds of the stand-in's clock."""

    picture: bytes
    content_type: str
    made: float


class Results:
    """The latest pictures by their path; older ones are forgotten, and all are gone an hour after they were made."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._pattern = re.compile(re.escape(template).replace(r"\{id\}", "[^/]+").replace(r"\{extension\}", r"\w+"))
        self._kept: OrderedDict[str, Result] = OrderedDict()

    def owns(self, path: str) -> bool:
        """Whether the path is of the kind where pictures lie."""
        return self._pattern.fullmatch(path) is not None

    def keep(self, name: str, extension: str, result: Result) -> str:
        """Store a picture and return its path."""
        path = self._template.format(id=name, extension=extension)
        self._kept[path] = result
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return path

    def fetch(self, path: str, now: float) -> Answer:
        """The answer to whoever fetches it."""
        result = self._kept.get(path)
        if result is None:
            return Answer(404, (("Content-Type", "text/plain"),), b"no such picture")
        if now - result.made > LIFETIME_SECONDS:
            return Answer(403, (("Content-Type", "text/plain"),), b"the address has expired")
        return Answer(200, (("Content-Type", result.content_type),), result.picture)
