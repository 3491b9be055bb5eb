"""How the routes of Stability AI's REST v1 tell what became of a request: as JSON, or as one bare picture."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.edges.compat.accepting import JSON, Accepted
from gateway.edges.compat.dialect import Result
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.pictures import put_together
from gateway.edges.compat.stability_both import GREY, finish_reason
from gateway.edges.compat.stability_v1.answers import artifacts, encoded
from gateway.edges.http import answer
from protocol.errors import ClientFault

_PNG: Final = ("image/png", "image/*", "*/*")


def wants_png(request: Request, samples: int | None) -> bool:
    """Whether the client wants the bare picture. Raises `ClientFault` `bad_request` where that cannot be.

    Of two that it wants alike it gets JSON, unless the picture is the one that it names.
    """
    accepted = Accepted(request)
    png, json = accepted.quality(*_PNG), accepted.quality(*JSON)
    if png == json == 0:
        raise ClientFault("bad_request", "must be application/json or image/png", details={"path": "accept"})
    names_png_alone = accepted.names(*_PNG[:2]) and not accepted.names(*JSON[:2])
    if png < json or (png == json and not names_png_alone):
        return False
    if (samples or 1) > 1:
        raise ClientFault("bad_request", "image/png has room for one sample", details={"path": "accept"})
    return True


class JsonView:
    """`{"artifacts": [...]}`; see `gateway.edges.compat.dialect.View`."""

    is_json = True

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def accepted(self, job: str) -> Response:
        """Return 202 with the id, and where to ask for more."""
        path = f"/v1/generation/{job}/status"
        return answer({"id": job, "state": "queued", "status_url": path}, 202, {"Location": path})

    async def finished(self, result: Result) -> Response:
        """Return the artifacts, each a PNG in base64."""
        return Response(await self.body(result, {}), media_type="application/json")

    async def body(self, result: Result, beside: dict[str, Any]) -> bytes:
        """Return the JSON of a result with other fields beside it."""
        contents = [await self._doors.pictures.shown(piece, "png", GREY) for piece in result.pieces]

        def whole() -> bytes:
            return encoded({"id": result.job, **beside, "artifacts": artifacts(result, contents)})

        return await put_together(contents, whole)


class PngView(JsonView):
    """The bare picture; `Finish-Reason` and `Seed` are headers in this form alone."""

    is_json = False

    async def finished(self, result: Result) -> Response:
        """Return the one picture."""
        [piece] = result.pieces
        headers = {"Finish-Reason": finish_reason(piece), "Seed": str(piece.seed)}
        content = await self._doors.pictures.shown(piece, "png", GREY)
        return Response(content, headers=headers, media_type="image/png")
