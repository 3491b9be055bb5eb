"""The client's wishes: how each becomes a request, is sent again until it is answered, and what its answer changes.

Like `Inbox` it knows no connection: whoever calls it drops the `Send`s that cannot go out now; `repeat` makes them
again once they can.
"""

import random
from typing import Final

from msgspec import structs

from protocol.codec import encode
from protocol.ids import UploadId, make_ulid
from protocol.inbox import Inbox
from protocol.messages import (
    Accepted,
    AssetStored,
    Cancel,
    Error,
    ImageFormat,
    Limits,
    Ok,
    Prefs,
    Submit,
    Unwatch,
    Watch,
)
from protocol.replica_effects import Answer, Effect, Send
from protocol.sequence import Positions
from protocol.unanswered import Picture, Request, Unanswered, Wish

_MAX_CHUNK: Final = Limits().max_chunk


class Outbox:
    """The user's requests; `positions`, `unanswered` and `inbox` are shared with the session machine."""

    def __init__(self, positions: Positions, unanswered: Unanswered, inbox: Inbox, chance: random.Random) -> None:
        self.max_chunk = _MAX_CHUNK
        self._positions = positions
        self._unanswered = unanswered
        self._inbox = inbox
        self._chance = chance

    def __repr__(self) -> str:
        return f"<Outbox {self._unanswered}>"

    # Wishes

    def ask(self, wish: Submit | Cancel | Unwatch | Prefs) -> list[Effect]:
        """Make a request of a wish that needs nothing else."""
        return [*self._unanswered.sends(self._keep(wish), self.max_chunk)]

    def watch(self, watch: Watch, now: float) -> list[Effect]:
        """Follow a job from `after`; a repair under way is superseded, for this is one as well."""
        request = self._keep(watch)
        follow = self._inbox.open(watch.job, watch.after, now)
        follow.take_terms(watch)
        return [Send(encode(follow.watch(request.ref, watch.after, now)))]

    def unwatch(self, unwatch: Unwatch) -> list[Effect]:
        """Follow a job no longer."""
        return [*self.ask(unwatch), *self._inbox.close(unwatch.job)]

    def prefs(self, prefs: Prefs) -> list[Effect]:
        """Change a job's policy, also for the watches that the machine makes; or the connection's."""
        effects = self.ask(prefs)
        follow = self._inbox.find(prefs.job) if isinstance(prefs.job, str) else None
        if follow is not None:
            follow.take_terms(prefs)
        return effects

    def upload(self, data: bytes, image_format: ImageFormat) -> tuple[UploadId, list[Effect]]:
        """Send an image in chunks; return its id too."""
        if not data:
            raise ValueError("an image has at least one byte")
        upload = UploadId(make_ulid(self._chance.getrandbits(48), self._chance))
        request = self._keep(Picture(upload, image_format, data))
        return upload, [*self._unanswered.sends(request, self.max_chunk)]

    # A connection that is live

    def repeat(self, *, is_same_session: bool, now: float) -> list[Effect]:
        """Send every request again (R9); a new session has to be told what is followed as well (R8)."""
        requests = list(self._unanswered)
        effects = [] if is_same_session else self._inbox.watch_all(now)
        for request in requests:
            effects += self._again(request, now)
        return effects

    def _again(self, request: Request, now: float) -> list[Send]:
        if isinstance(request.wish, Watch):
            return [Send(encode(self._inbox.renew(request.wish, now)))]
        return self._unanswered.sends(request, self.max_chunk)

    # Answers

    def receive_accepted(self, accepted: Accepted, now: float) -> list[Effect]:
        """Take a job's first event, which answers a submit, also where the event itself is a repeat."""
        request = self._unanswered.find(accepted.ref) if isinstance(accepted.ref, str) else None
        if request is None or not isinstance(request.wish, Submit):
            return self._inbox.receive_numbered(accepted, now)
        self._unanswered.pop(request.ref)
        if self._positions.is_ended(accepted.job):
            # The user asks again for what has ended: it is read once more from its start.
            self._inbox.open(accepted.job, 0, now)
        self._inbox.follow(accepted.job, now).take_terms(request.wish)
        return [Answer(request.ref, accepted), *self._inbox.receive_numbered(accepted, now)]

    def receive_ok(self, ok: Ok, now: float) -> list[Effect]:
        """Take the answer to a request that is neither a submit nor an upload."""
        request = self._unanswered.find(ok.ref)
        if request is None or isinstance(request.wish, Submit | Picture):
            return []
        self._unanswered.pop(ok.ref)
        if isinstance(request.wish, Watch):
            self._inbox.receive_ok(request, now)
        return _answer(request, ok)

    def receive_error(self, error: Error, now: float) -> list[Effect]:
        """Take a refusal; one that names a request which is not under way is ignored."""
        names = [name for name in (error.ref, error.upload) if isinstance(name, str)]
        if not names:
            return self._inbox.receive_error(error)
        effects: list[Effect] = []
        for request in filter(None, map(self._unanswered.pop, names)):
            effects += _answer(request, error)
            if isinstance(request.wish, Watch):
                effects += self._inbox.receive_refusal(request, error.error, now)
        return effects

    def receive_asset(self, stored: AssetStored, now: float) -> list[Effect]:
        """Take the answer to an upload: its picture is kept no longer."""
        request = self._unanswered.pop(stored.upload) if isinstance(stored.upload, str) else None
        if request is None:
            return []
        self._unanswered.note_asset(request.ref, stored.asset)
        return _answer(request, stored)

    # Within

    def _keep(self, wish: Wish) -> Request:
        """Name the wish if it has no name, and keep it until it is answered."""
        if isinstance(wish, Picture):
            request = Request(wish.upload, wish)
        elif isinstance(wish.ref, str):
            request = Request(wish.ref, wish)
        else:
            ref = self._inbox.make_ref()
            request = Request(ref, structs.replace(wish, ref=ref), is_own=True)
        self._unanswered.add(request)
        return request


def _answer(request: Request, message: Ok | Error | AssetStored) -> list[Effect]:
    return [] if request.is_own else [Answer(request.ref, message)]
