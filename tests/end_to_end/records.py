"""What a client's application saw, and whether that is what the contract promises."""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from protocol.client import Client
from protocol.messages import END_TYPES, NUMBERED_TYPES, Previews
from protocol.replica_effects import ImageBytes, Resumed


class ShortWaits(random.Random):
    """Chance whose waits are short: a test need not be patient, nor hammer a gateway that is just starting."""

    def random(self) -> float:
        return 0.02


@dataclass(slots=True)
class Record:
    """What the application got, each job's events in their order."""

    jobs: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    resumed: list[bool] = field(default_factory=list)
    """For each connection whether the session went on."""

    def __call__(self, event: Any) -> None:
        if isinstance(event, Resumed):
            self.resumed.append(event.is_same)
        elif (job := getattr(event, "job", None)) is not None:
            self.jobs[job].append(event)

    def numbers(self, job: str) -> list[int]:
        """The numbers of a job, as handled; an inline final stands for its `image`."""
        return [event.seq for event in self.jobs[job] if isinstance(event, (*NUMBERED_TYPES, ImageBytes))]

    def ends(self, job: str) -> list[Any]:
        """The end events of a job."""
        return [event for event in self.jobs[job] if isinstance(event, END_TYPES)]

    def finals(self, job: str) -> list[bytes]:
        """The inline finals of a job."""
        return [bytes(event.data) for event in self.jobs[job] if isinstance(event, ImageBytes)]

    def check(self, job: str) -> None:
        """Every number once and in order, one end, nothing of the job after it, every final the bytes of its asset."""
        numbers = self.numbers(job)
        assert numbers == list(range(1, len(numbers) + 1)), (job, numbers)
        ends = self.ends(job)
        assert len(ends) == 1, (job, ends)
        assert self.jobs[job][-1] is ends[0], (job, self.jobs[job][-1])
        hashes = ["sha256:" + hashlib.sha256(content).hexdigest() for content in self.finals(job)]
        assert sorted(hashes) == sorted(image.asset for image in ends[0].images), job


def client(url: str, key: str, record: Record, **options: Any) -> Client:
    """Return a client that records, comes back at once, and takes its finals inline."""
    options = {"finals": "inline", "previews": Previews(max_edge=64, format="png"), **options}
    return Client(url, token=key, hook=record, chance=ShortWaits(), **options)
