"""How each hosted kind's table of failures is gone through."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.core.reports import Outcome, UpstreamFault
from load.upstreams.faults import Fault, Rule, Stall
from load.upstreams.standin import StandIn

MARKS: Mapping[str, Any] = {"locked_out": False, "retry_after_seconds": None, "credential": False, "charged": False}
"""What a fault may say besides its outcome and code, where it says nothing."""


async def check_failure(
    standin: StandIn,
    what: Fault,
    told: tuple[Outcome, str, Mapping[str, Any]],
    call: Callable[[float, Callable[[], None]], Awaitable[UpstreamFault]],
    *,
    short: float = 0.3,
) -> None:
    """Check that one call which meets `what` ends as `told`: outcome, code and the marks that are set.

    `call` is given its patience, `short` where nothing comes, and what to call when the request is out. It is made
    once: the adapter tries nothing again.
    """
    standin.script(Rule(do=what))
    sent: list[None] = []
    found = await call(short if isinstance(what, Stall) else 10.0, lambda: sent.append(None))
    outcome, code, marks = told
    assert (found.outcome, found.code) == (outcome, code)
    assert {name: getattr(found, name) for name in MARKS} == {**MARKS, **marks}
    assert (standin.calls, len(sent)) == (1, 1)
