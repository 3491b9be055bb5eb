"""Metrics for Prometheus: one literal table, from which the registry, the checks and README's table come."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX: Final = "safelight_"
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
T = TypeVar("T", Counter, Histogram)
Reading = float | Mapping[tuple[str, ...], float]
"""What a watched metric says now: a number, or one for each tuple of its labels' values."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric. A counter is counted, a histogram observed; a gauge and a total are read when somebody asks."""

    kind: Literal["counter", "histogram", "gauge", "total"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: Final[Mapping[str, Entry]] = {
    "calls": Entry("counter", "Calls committed to be sent to an upstream.", ("upstream",)),
    "call_retries": Entry("counter", "Calls that are repeated, by what became of them.", ("upstream", "outcome")),
    "reroutes": Entry("counter", "Jobs that went to another upstream because theirs was not well.", ("upstream",)),
    "steps": Entry("counter", "Steps that upstreams told.", ("upstream",)),
    "jobs_ended": Entry("counter", "Jobs that ended, by their end.", ("upstream", "end")),
    "stale_claims": Entry("counter", "Jobs that were taken from a worker.", ("upstream",)),
    "http_requests": Entry("counter", "HTTP requests answered, by route and status.", ("route", "status")),
    "closes": Entry("counter", "WebSocket connections that this node closed, by close code.", ("code",)),
    "events_given_up": Entry("counter", "Event streams that were cut because nobody read them."),
    "task_failures": Entry("counter", "Tasks of the gateway that failed; its log has the reason.", ("task",)),
    "job_seconds": Entry("histogram", "Seconds from a job's submit to its end.", ("upstream", "end")),
    "queue_seconds": Entry("histogram", "Seconds from a job's submit to its first start.", ("upstream",)),
    "connections": Entry("gauge", "WebSocket connections open on this node."),
    "sessions": Entry("gauge", "Sessions held by a connection of this node."),
    "feeds": Entry("gauge", "Jobs that somebody watches or works on this node."),
    "jobs_working": Entry("gauge", "Jobs that this node works."),
    "jobs": Entry("gauge", "Live jobs of the whole ledger.", ("upstream", "state")),
    "gate_waiting": Entry("gauge", "Calls that wait for an upstream's limit.", ("upstream", "credential")),
    "gate_running": Entry("gauge", "Calls that are under way.", ("upstream", "credential")),
    "gate_free": Entry("gauge", "Calls that an upstream's limit would let out now.", ("upstream", "credential")),
    "previews_encoded": Entry("total", "Previews that were made smaller."),
    "previews_dropped": Entry("total", "Previews dropped because too many waited to be encoded."),
    "ledger_reads": Entry("total", "Read transactions of the ledger."),
}


class PrometheusMeter:
    """See `gateway.ports.Meter`. An unknown name or wrong labels are a bug, and asserted."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters = {
            name: Counter(PREFIX + name, entry.help, entry.labels, registry=self._registry)
            for name, entry in METRICS.items()
            if entry.kind == "counter"
        }
        self._histograms = {
            name: Histogram(PREFIX + name, entry.help, entry.labels, registry=self._registry, buckets=_SECONDS)
            for name, entry in METRICS.items()
            if entry.kind == "histogram"
        }
        self._watched = _Watched()
        self._registry.register(self._watched)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        assert name in self._counters, f"{name} is no counter of the table"
        _child(self._counters[name], name, labels).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        assert name in self._histograms, f"{name} is no histogram of the table"
        _child(self._histograms[name], name, labels).observe(value)

    def watch(self, name: str, read: Callable[[], Reading]) -> None:
        """Have a gauge or total read by `read` each time metrics are asked for; it must not block."""
        assert name in METRICS, f"{name} is not in the table"
        assert METRICS[name].kind in ("gauge", "total"), f"{name} is nothing to watch"
        self._watched.readers[name] = read

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


def describe() -> str:
    """Return the table of metrics as Markdown, for README."""
    rows = [
        f"| `{exposed_name(name)}` | {_SHOWN.get(entry.kind, entry.kind)} | {', '.join(entry.labels)} | {entry.help} |"
        for name, entry in METRICS.items()
    ]
    return "\n".join(["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |", *rows])


def exposed_name(name: str) -> str:
    """Return the name under which Prometheus finds a metric of the table."""
    return PREFIX + name + ("_total" if METRICS[name].kind in ("counter", "total") else "")


_SHOWN: Final = {"total": "counter"}


def _child(metric: T, name: str, labels: Mapping[str, str]) -> T:
    assert labels.keys() == set(METRICS[name].labels), f"{name} has the labels {METRICS[name].labels}"
    return metric.labels(**labels) if labels else metric


class _Watched(Collector):
    """The metrics that others know and that are read when they are asked for."""

    def __init__(self) -> None:
        self.readers: dict[str, Callable[[], Reading]] = {}

    def describe(self) -> Iterator[Metric]:
        return iter(())  # or the registry would read them when it is told of them

    def collect(self) -> Iterator[Metric]:
        for name, read in self.readers.items():
            entry = METRICS[name]
            make = GaugeMetricFamily if entry.kind == "gauge" else CounterMetricFamily
            family = make(PREFIX + name, entry.help, labels=entry.labels)
            found = read()
            for values, number in found.items() if isinstance(found, Mapping) else [((), found)]:
                assert len(values) == len(entry.labels), f"{name} has the labels {entry.labels}"
                family.add_metric(values, number)
            yield family
