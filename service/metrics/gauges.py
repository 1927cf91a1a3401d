"""What is read whenever the page is asked for, not kept: gauges, and what the server is made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

Number = tuple[str, str, Callable[[], int]]  # a gauge's name, what it counts, how it is read
QUEUED = "heed_queued_requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The functions that gauges are read by, each quick, and safe on any thread.

    `waiting_requests` is of the whole server, the other requests, tokens and connections of this process.
    `about` is what the server is made of, by label.
    """

    queued_requests: Callable[[], int]
    queued_tokens: Callable[[], int]
    connections: Callable[[], int]
    model_bytes: Callable[[], Mapping[str, int]]
    device_memory: Callable[[], Mapping[str, int]]
    waiting_requests: Callable[[], int] = lambda: 0
    memory_held: Callable[[], int] = lambda: 0
    memory_limit: Callable[[], int] = lambda: 0
    about: Callable[[], Mapping[str, str]] = dict

    @property
    def inside(self) -> tuple[Number, ...]:
        """What each process has a part of."""
        return (
            ("heed_connections", "Connections that are open.", self.connections),
            (QUEUED, "Requests admitted and not let go of.", self.queued_requests),
            ("heed_queued_tokens", "Tokens of those requests.", self.queued_tokens),
            ("heed_memory_held_bytes", "What requests hold: bodies, results, replies.", self.memory_held),
        )


class Gauges(Collector):
    """What is the same in every process, beside `numbers`."""

    def __init__(self, readings: Readings, numbers: Iterable[Number] = ()) -> None:
        self._readings = readings
        self._numbers = tuple(numbers)

    def collect(self) -> Iterator[Metric]:
        """Read them all."""
        readings = self._readings
        for name, meaning, read in self._numbers:
            family = GaugeMetricFamily(name, meaning, value=read())
            yield family
            if name == QUEUED:
                yield from waiting_and_running(family, readings.waiting_requests())
        limit = readings.memory_limit()
        yield GaugeMetricFamily("heed_memory_limit_bytes", "What requests may hold together.", value=limit)
        yield InfoMetricFamily("heed", "What serves, and with what.", value=dict(readings.about()))
        models = readings.model_bytes()
        yield GaugeMetricFamily("heed_models_loaded", "Models that are served.", value=len(models))
        meaning = "Bytes of a model's resident weights."
        yield _family("heed_model_memory_bytes", meaning, "model", models)
        yield _family("heed_device_memory_bytes", "Bytes in use by kind.", "kind", readings.device_memory())


def waiting_and_running(queued: Metric, waiting: int) -> Iterator[Metric]:
    """Yield the two parts of the requests inside: they add up, though `waiting` may be a moment old."""
    requests = sum(sample.value for sample in queued.samples)
    waits = min(waiting, requests)
    meaning = "Those of them of which the device has begun nothing."
    yield GaugeMetricFamily("heed_waiting_requests", meaning, value=waits)
    meaning = "Those of them that are computed, or whose reply is written."
    yield GaugeMetricFamily("heed_running_requests", meaning, value=requests - waits)


def _family(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
