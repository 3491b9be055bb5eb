"""What a credential may do: the table of scopes, and what a ticket leaves of them.

Whatever is made of a credential narrows it; nothing here ever widens one. A scope is a word of a token's `scope` (RFC
6749, section 3.3). A credential without a scope for something is refused with `forbidden` and the scope's name, whoever
its owner is.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

from msgspec import Struct

from protocol.errors import ClientFault

Scope = Literal["generate", "read", "cancel", "assets", "grant", "admin"]
SCOPES: Final[Mapping[Scope, str]] = {
    "generate": "submit jobs, and follow those",
    "read": "look at jobs, follow them, fetch their previews; ask for models and limits",
    "cancel": "cancel jobs",
    "assets": "store and fetch pictures",
    "grant": "give others rights to jobs",
    "admin": "make tokens for end users, and revoke tokens of the same key",
}
"""Each scope, and what it allows. PROTOCOL.md tells them."""
ALL: Final[frozenset[str]] = frozenset(get_args(Scope))
END_USER: Final = ALL - {"admin"}
"""What a credential of an end user may have: one that makes tokens could make one for somebody else."""


def named(names: Iterable[str], allowed: frozenset[str], path: str = "scopes") -> frozenset[str]:
    """Return the scopes of these names. Raises `ClientFault` `invalid_param` with those that are not `allowed`."""
    wanted = frozenset(names)
    unknown = sorted(wanted - allowed)
    if unknown:
        details = {"path": path, "unknown": unknown[:32], "allowed": sorted(allowed)}
        raise ClientFault("invalid_param", "there is no such scope here", details=details)
    return wanted


def require(scopes: frozenset[str], scope: Scope) -> None:
    """Raise `ClientFault` `forbidden` unless `scope` is one of `scopes`."""
    if scope not in scopes:
        details = {"scope": scope, "scopes": sorted(scopes)}
        raise ClientFault("forbidden", f"this credential may not {SCOPES[scope]}", details=details)


class Restriction(Struct, frozen=True, omit_defaults=True):
    """What a ticket leaves of its credential; it stays with the session. `None` leaves everything."""

    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    """The models that may be asked for, by the names that clients use."""
    max_cost_micros: int | None = None
    """The most that all jobs of the session together may cost."""

    def within(self, other: "Restriction") -> "Restriction":
        """Return what both leave."""
        costs = [one for one in (self.max_cost_micros, other.max_cost_micros) if one is not None]
        return Restriction(
            scopes=_common(self.scopes, other.scopes),
            models=_common(self.models, other.models),
            max_cost_micros=min(costs, default=None),
        )

    def scopes_of(self, scopes: frozenset[str]) -> frozenset[str]:
        """Return what is left of a credential's scopes."""
        return scopes if self.scopes is None else scopes & frozenset(self.scopes)

    def allows(self, model: str) -> bool:
        """Whether a model may be asked for."""
        return self.models is None or model in self.models

    def check_model(self, model: str) -> None:
        """Raise `ClientFault` `forbidden` if a model may not be asked for."""
        if not self.allows(model):
            details = {"path": "model", "allowed": sorted(self.models or ())[:64]}
            raise ClientFault("forbidden", "this session's ticket does not allow the model", details=details)


UNRESTRICTED: Final = Restriction()


def _common(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(name for name in one if name in other)
