"""What came in, and the rules of what goes wrong inside; both outlive the server's death."""

from __future__ import annotations

import random
import uuid
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.requests import Request
from load.upstreams.comfyui.troubles import PromptRule, SocketRule, Trouble, prompt_rule, socket_rule

_KEPT = 10_000


class Records:
    """The latest prompts and requests, the numbers they get, and the rules that look at these numbers."""

    def __init__(self, limit: int) -> None:
        self.jobs: deque[Job] = deque(maxlen=min(limit, _KEPT))
        self.requests: deque[Request] = deque(maxlen=min(limit, _KEPT))
        self.ids = random.Random(0)
        self.forget(self.ids)

    def forget(self, ids: random.Random) -> None:
        """Begin anew, with this chance for ids."""
        self.jobs.clear()
        self.requests.clear()
        self.ids = ids
        self.sockets = 0
        """Connections that were accepted."""
        self._job_number = 0
        self._prompt_rules: list[PromptRule] = []
        self._socket_rules: list[SocketRule] = []
        self._accepted = self._connected = 0

    def script_prompts(self, *rules: PromptRule | Mapping[str, Any]) -> None:
        """Put these rules for prompts in force; accepted prompts count from 1 again."""
        self._prompt_rules = [prompt_rule(rule) for rule in rules]
        self._accepted = 0

    def script_sockets(self, *rules: SocketRule | Mapping[str, Any]) -> None:
        """Put these rules for sockets in force; connections count from 1 again."""
        self._socket_rules = [socket_rule(rule) for rule in rules]
        self._connected = 0

    def new_id(self) -> uuid.UUID:
        """An id that the server makes up."""
        return uuid.UUID(int=self.ids.getrandbits(128), version=4)

    def accept(
        self,
        call: int,
        prompt_id: str,
        body: dict[str, Any],
        graph: dict[str, Any],
        extra_data: dict[str, Any],
        outputs: list[str],
    ) -> Job:
        """Note a prompt that was accepted."""
        self._accepted += 1
        self._job_number += 1
        client_id = extra_data.get("client_id")
        job = Job(self._job_number, call, prompt_id, client_id, body, graph, extra_data, outputs)
        self.jobs.append(job)
        return job

    def troubles_of(self, job: Job) -> list[Trouble]:
        """What the rules in force have for a prompt."""
        number = job.number - (self._job_number - self._accepted)
        return [rule.do for rule in self._prompt_rules if rule.fits(number)]

    def connect(self) -> tuple[int, SocketRule | None]:
        """Note a connection; gives its number and the rule it meets."""
        self._connected += 1
        self.sockets += 1
        rule = next((rule for rule in self._socket_rules if rule.fits(self._connected)), None)
        return self._connected, rule

    def counters(self) -> dict[str, object]:
        """All counts beside the shared ones, ready for JSON."""
        states = Counter(job.state for job in self.jobs)
        counted = {"prompts": dict(states), "steps": sum(job.steps for job in self.jobs)}
        return counted | ({"sockets": self.sockets} if self.sockets else {})
