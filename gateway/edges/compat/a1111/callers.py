"""Who asks at the web UI's door, which checkpoint each has chosen, and which job of theirs is the one that runs."""

import base64
import binascii
import re
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from starlette.requests import Request

from gateway.core.jobs import State
from gateway.core.records import Identity, JobRecord
from gateway.core.scopes import Scope
from gateway.edges.http import authenticate
from gateway.flow.access import KEY_PREFIX
from gateway.flow.node import Node
from protocol.errors import ClientFault

MAX_CALLERS: Final = 256
"""Of one account, whose checkpoints are kept."""
_MOST_JOBS: Final = 256
_SUBJECT: Final = re.compile(r"[A-Za-z0-9_.@:-]{1,128}\Z")


async def identify(request: Request, node: Node, scope: Scope | None) -> Identity:
    """Return who asks: by Basic with an API key or a token as password, or by a bearer. Raises `ClientFault`.

    With a key the user name says for which end user it asks, as a key may for any; a token has its own.
    """
    scheme, _, coded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return await authenticate(request, node, scope)
    user, password = _read(coded.strip())
    identity = await node.access.identify(password)
    if scope is not None:
        identity.require(scope)
    if not user or not password.startswith(KEY_PREFIX):
        return identity
    if not _SUBJECT.match(user):
        raise ClientFault("unauthorized", "a user name has letters, digits and _.@:- only, 128 at most")
    return replace(identity, subject=user)


def _read(coded: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        user, colon, password = "", "", ""
    if not colon or not password:
        raise ClientFault("unauthorized", "send Basic with an API key as the password, or Bearer")
    return user, password


class Chosen:
    """The checkpoint that each caller has set for themselves; the web UI has one for all. Kept while the node runs."""

    def __init__(self) -> None:
        self._names: dict[str, OrderedDict[str, str]] = {}
        """By account and end user: no account can have another's forgotten."""

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def get(self, identity: Identity) -> str | None:
        """Return the caller's checkpoint, if they set one."""
        names = self._names.get(identity.tenant)
        return None if names is None else names.get(identity.subject)

    def set(self, identity: Identity, name: str) -> None:
        """Keep the caller's checkpoint; of an account with too many the one is forgotten who set it longest ago.

        Asking does not count: who is forgotten finds the first model, and `info` says which one it was.
        """
        names = self._names.setdefault(identity.tenant, OrderedDict())
        names[identity.subject] = name
        names.move_to_end(identity.subject)
        while len(names) > MAX_CALLERS:
            names.popitem(last=False)


async def own_work(identity: Identity, node: Node) -> JobRecord | None:
    """Return the caller's job that runs, or else the one that waits longest, if it was asked for over plain HTTP.

    A session's jobs are left out: whoever follows them there does not mean them here.
    """
    best: JobRecord | None = None
    # In the order in which a job goes through them, or one that moves on between two looks would be in none of them.
    for state in (State.QUEUED, State.CLAIMED, State.RUNNING):
        found = await node.jobs.listed(
            identity.tenant, identity.subject, ref=None, state=state, after=None, limit=_MOST_JOBS
        )
        best = next((record for record in reversed(found) if record.session is None), best)
    return best
