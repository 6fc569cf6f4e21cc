"""Figures of the engines on KServe's page of metrics, by the names that they have under Ray Serve."""

from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.admission import Gate
from serving.batcher import Load
from serving.local import LocalParts

_GAUGES: dict[str, tuple[str, Callable[[Load], int]]] = {
    "v2meow_rows_used": ("Rows of the cache in use", lambda load: load.rows),
    "v2meow_rows": ("Rows of the cache", lambda load: load.room),
    "v2meow_windows_waiting": ("Windows that wait for a row", lambda load: load.waiting),
}


class EngineCollector(Collector):
    """Looks whenever somebody asks. Stages that were never used have no figures."""

    def __init__(self, parts: LocalParts, gate: Gate) -> None:
        self._parts, self._gate = parts, gate

    def collect(self) -> Iterator[Metric]:
        loads = [(stage, load) for stage, worker in self._parts.stages.items() for load in worker.loads]
        for name, (text, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["stage"])
            for stage, load in loads:
                gauge.add_metric([stage], value(load))
            yield gauge
        codes = CounterMetricFamily("v2meow_codes", "Codes that were made", labels=["stage"])
        for stage, load in loads:
            codes.add_metric([stage], load.codes)
        yield codes
        pieces = GaugeMetricFamily("v2meow_pieces", "Pieces at work, and those that wait for a place", labels=["state"])
        pieces.add_metric(["at work"], self._gate.inside)
        pieces.add_metric(["waiting"], self._gate.queued)
        yield pieces
