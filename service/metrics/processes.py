"""Processor time, memory and files of the server's processes, by the names that operators know.

Of several processes each number is the sum, so that it is held against what the container may have; the
server starts with the first of them.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

STARTED = "process_start_time_seconds"


class Processes(Collector):
    """`process_*` of all processes together; those that have ended count no more."""

    def __init__(self, ids: Callable[[], Iterable[int]]) -> None:
        self._ids = ids
        self._collectors: dict[int, ProcessCollector] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield one sample a name."""
        found: dict[str, list[Metric]] = {}
        for process in self._ids():
            if process not in self._collectors:
                self._collectors[process] = ProcessCollector(pid=partial(int, process), registry=None)
            for metric in self._collectors[process].collect():
                found.setdefault(metric.name, []).append(metric)
        for name, metrics in found.items():
            values = [metric.samples[0].value for metric in metrics]
            together = min(values) if name == STARTED else sum(values)
            metrics[0].samples = [metrics[0].samples[0]._replace(value=together)]
            yield metrics[0]
