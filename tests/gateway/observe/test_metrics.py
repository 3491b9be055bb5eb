import ast
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.metrics import METRICS, PREFIX, PrometheusMeter, describe, exposed_name
from gateway.ports import Meter

GATEWAY = Path(__file__).parents[3] / "gateway"


def samples(meter: PrometheusMeter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by its name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(meter.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_meter_counts_what_it_is_told() -> None:
    """Counters add up, each set of labels for itself."""
    meter: Meter
    meter = prometheus = PrometheusMeter()
    meter.count("calls", upstream="a")
    meter.count("calls", 2, upstream="a")
    meter.count("calls", upstream="b")
    found = samples(prometheus)
    assert found["safelight_calls_total", (("upstream", "a"),)] == 3
    assert found["safelight_calls_total", (("upstream", "b"),)] == 1


def test_meter_spreads_what_it_observes() -> None:
    """A histogram has a count, a sum and buckets."""
    meter = PrometheusMeter()
    for seconds in (0.2, 3.0):
        meter.observe("job_seconds", seconds, upstream="a", end="completed")
    found = samples(meter)
    labels = (("end", "completed"), ("upstream", "a"))
    assert found["safelight_job_seconds_count", labels] == 2
    assert found["safelight_job_seconds_sum", labels] == 3.2
    assert found["safelight_job_seconds_bucket", (("end", "completed"), ("le", "0.25"), ("upstream", "a"))] == 1


def test_meter_reads_what_it_watches_when_it_is_asked() -> None:
    """A gauge and a total show what their reader says now, whole or by labels."""
    meter = PrometheusMeter()
    held = {"connections": 1.0}
    meter.watch("connections", lambda: held["connections"])
    meter.watch("jobs", lambda: {("a", "queued"): 2, ("a", "running"): 1})
    meter.watch("ledger_reads", lambda: 7)
    held["connections"] = 5
    found = samples(meter)
    assert found["safelight_connections", ()] == 5
    assert found["safelight_jobs", (("state", "queued"), ("upstream", "a"))] == 2
    assert found["safelight_ledger_reads_total", ()] == 7


def test_meters_do_not_share_what_they_count() -> None:
    """Each has a registry of its own, so two gateways can live in one process."""
    one, two = PrometheusMeter(), PrometheusMeter()
    one.count("calls", upstream="a")
    assert ("safelight_calls_total", (("upstream", "a"),)) not in samples(two)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda meter: meter.count("nonsense"),
        lambda meter: meter.count("job_seconds", upstream="a", end="b"),
        lambda meter: meter.count("calls"),
        lambda meter: meter.count("calls", upstream="a", more="b"),
        lambda meter: meter.observe("calls", 1, upstream="a"),
        lambda meter: meter.observe("queue_seconds", 1),
        lambda meter: meter.watch("calls", lambda: 1),
        lambda meter: meter.watch("nonsense", lambda: 1),
    ],
)
def test_meter_takes_only_what_the_table_has(wrong: object) -> None:
    """A wrong name or wrong labels are a bug and never make a metric."""
    assert callable(wrong)
    with pytest.raises(AssertionError):
        wrong(PrometheusMeter())


def test_meter_finds_a_reader_with_wrong_labels() -> None:
    """Values that do not fit the labels are a bug as well."""
    meter = PrometheusMeter()
    meter.watch("jobs", lambda: {("only-upstream",): 1})
    with pytest.raises(AssertionError, match="jobs has the labels"):
        meter.render()


def test_metrics_are_all_in_the_table_for_readers() -> None:
    """README's table names each metric as Prometheus shows it, with its labels."""
    lines = describe().splitlines()
    assert len(lines) == len(METRICS) + 2
    assert lines[2] == "| `safelight_calls_total` | counter | upstream | Calls committed to be sent to an upstream. |"
    for name in METRICS:
        assert f"`{exposed_name(name)}`" in describe()


def test_exposed_names_are_those_that_are_rendered() -> None:
    """What README says is what Prometheus finds."""
    meter = PrometheusMeter()
    for name, entry in METRICS.items():
        labels = dict.fromkeys(entry.labels, "x")
        values = tuple(labels.values())
        if entry.kind == "counter":
            meter.count(name, 1, **labels)
        elif entry.kind == "histogram":
            meter.observe(name, 1, **labels)
        else:
            meter.watch(name, lambda values=values: {values: 1})  # type: ignore[misc]
    found = {name for name, _ in samples(meter)}
    for name, entry in METRICS.items():
        assert exposed_name(name) + ("_count" if entry.kind == "histogram" else "") in found
        assert exposed_name(name).startswith(PREFIX)


def test_every_metric_that_the_gateway_counts_is_in_the_table() -> None:
    """Each `meter.count("name", label=…)` in our code has the table's name and labels."""
    found = 0
    for path in GATEWAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value).rpartition(".")[2].lstrip("_")
            if owner != "meter" or node.func.attr not in ("count", "observe", "watch"):
                continue
            name = node.args[0]
            assert isinstance(name, ast.Constant), f"{path.name}:{node.lineno} counts a name that no reader can find"
            entry = METRICS[str(name.value)]
            if node.func.attr != "watch" and all(keyword.arg for keyword in node.keywords):
                labels = {str(keyword.arg) for keyword in node.keywords} - {"amount", "value"}
                assert labels == set(entry.labels), f"{path.name}:{node.lineno}"
            found += 1
    assert found >= 5
