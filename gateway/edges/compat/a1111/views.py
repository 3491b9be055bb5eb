"""How the routes of the web UI's API tell what became of a request."""

from typing import Final, cast

from starlette.responses import Response

from gateway.edges.compat.a1111.answers import Asked, enlarged, pictures
from gateway.edges.compat.dialect import Piece, Result
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.pictures import put_together
from gateway.edges.http import answer
from protocol.messages import PreviewFormat

BLACK: Final = 0
"""What is shown where a filter held a picture back, as the web UI's own filter does."""


class PicturesView:
    """`{"images", "parameters", "info"}`; see `gateway.edges.compat.dialect.View`."""

    is_json = True

    def __init__(self, doors: Doors, asked: Asked) -> None:
        self._doors = doors
        self._asked = asked

    async def accepted(self, job: str) -> Response:
        """Return 202 with the id, and where to ask for more."""
        return answer({"id": job}, 202, {"Location": f"/sdapi/v1/jobs/{job}"})

    async def finished(self, result: Result) -> Response:
        """Return the pictures, each as base64."""
        contents = [await self._content(piece) for piece in result.pieces]
        body = await put_together(contents, lambda: pictures(result, contents, self._asked))
        return Response(body, media_type="application/json")

    async def _content(self, piece: Piece) -> bytes:
        return await self._doors.pictures.shown(piece, cast("PreviewFormat", self._asked.format), BLACK)


class EnlargedView(PicturesView):
    """`{"html_info", "image"}`."""

    def __init__(self, doors: Doors) -> None:
        super().__init__(doors, Asked())

    async def finished(self, result: Result) -> Response:
        """Return the one picture as base64."""
        contents = [await self._content(piece) for piece in result.pieces]
        body = await put_together(contents, lambda: enlarged(contents[0]))
        return Response(body, media_type="application/json")
