"""Faults said in the words of the door at which they happened; elsewhere in the gateway's own."""

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.edges.compat.dialect import Dialect, Trouble
from gateway.edges.compat.doors import Doors
from gateway.edges.http import internal, refusal, refuse_routing
from protocol.errors import ClientFault


class Refusals:
    """Starlette's handlers of exceptions: which dialect answers follows from the path."""

    def __init__(self, doors: Doors, dialects: Sequence[Dialect]) -> None:
        self._doors = doors
        self._dialects = [(prefix, dialect) for dialect in dialects for prefix in dialect.prefixes]

    async def client(self, request: Request, fault: Exception) -> Response:
        """Tell a `ClientFault`, or what a door says of itself."""
        if isinstance(fault, Trouble):
            told = self._told(request, fault)
            assert told is not None, "trouble is raised at doors alone"
            return told
        assert isinstance(fault, ClientFault), "it is registered for nothing else"
        return self.told(request, fault)

    async def routing(self, request: Request, fault: Exception) -> Response:
        """Tell that there is no such path, or not by this method."""
        native = await refuse_routing(request, fault)
        assert isinstance(fault, HTTPException), "it is registered for nothing else"
        code = {404: "not_found", 405: "method_not_allowed"}.get(fault.status_code, "bad_request")
        told = self._told(request, Trouble(code, _SAID.get(code, fault.detail)))
        if told is not None and "allow" in native.headers:
            told.headers["Allow"] = native.headers["allow"]
        return native if told is None else told

    async def failure(self, request: Request, _: Exception) -> Response:
        """Tell a failure of ours; the log has the reason."""
        reference = request.scope["safelight.request"]
        trouble = Trouble("internal", "the gateway failed; its log has the reason", details={"reference": reference})
        return self._told(request, trouble) or internal(reference)

    async def busy(self, request: Request, _: Exception) -> Response:
        """Tell that the ledger cannot follow."""
        return self.told(request, ClientFault("overloaded", "too much is waiting to be written", retry_after_ms=1000))

    def told(self, request: Request, fault: ClientFault) -> Response:
        """Return the answer that tells a fault, whoever found it."""
        return self._told(request, Trouble.of(fault)) or refusal(fault)

    def _told(self, request: Request, trouble: Trouble) -> Response | None:
        path = request.url.path
        found = next((dialect for prefix, dialect in self._dialects if path.startswith(prefix)), None)
        return None if found is None else self._doors.refuse(request, trouble, found)


_SAID = {"not_found": "there is nothing at this path", "method_not_allowed": "this path has other methods"}
