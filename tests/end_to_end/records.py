"""What a client's application saw, and whether that is what the contract promises."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

from protocol.client import Client
from protocol.messages import END_TYPES, NUMBERED_TYPES, Previews
from protocol.replica_effects import ImageBytes, Resumed


class NoWait(random.Random):
    """Chance whose waits are all zero: a test need not be patient."""

    def random(self) -> float:
        return 0.0


@dataclass(slots=True)
class Record:
    """Every event in the order in which the application got it."""

    events: list[Any] = field(default_factory=list)

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def numbers(self, job: str) -> list[int]:
        """The numbers of a job, as handled; an inline final stands for its `image`."""
        return [
            event.seq for event in self.events if isinstance(event, (*NUMBERED_TYPES, ImageBytes)) and event.job == job
        ]

    def ends(self, job: str) -> list[Any]:
        """The end events of a job."""
        return [event for event in self.events if isinstance(event, END_TYPES) and event.job == job]

    def finals(self, job: str) -> list[bytes]:
        """The inline finals of a job."""
        return [bytes(event.data) for event in self.events if isinstance(event, ImageBytes) and event.job == job]

    @property
    def resumed(self) -> list[bool]:
        """For each connection whether the session went on."""
        return [event.is_same for event in self.events if isinstance(event, Resumed)]

    def check(self, job: str) -> None:
        """Every number once and in order, one end, nothing of the job after it, every final the bytes of its asset."""
        numbers = self.numbers(job)
        assert numbers == list(range(1, len(numbers) + 1)), (job, numbers)
        ends = self.ends(job)
        assert len(ends) == 1, (job, ends)
        mine = [event for event in self.events if getattr(event, "job", None) == job]
        assert mine[-1] is ends[0], (job, mine[-1])
        hashes = ["sha256:" + hashlib.sha256(content).hexdigest() for content in self.finals(job)]
        assert sorted(hashes) == sorted(image.asset for image in ends[0].images), job


def client(url: str, key: str, record: Record, **options: Any) -> Client:
    """Return a client that records, comes back at once, and takes its finals inline."""
    options = {"finals": "inline", "previews": Previews(max_edge=64, format="png"), **options}
    return Client(url, token=key, hook=record, chance=NoWait(), **options)
