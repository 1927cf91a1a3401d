"""What was asked of each model: how many requests and sequences, and where their time went.

Kept in plain numbers, and put into the counters now and then: a request would count in eight of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock

from prometheus_client import Counter
from prometheus_client.metrics_core import Metric

STAGES = ("success", "fail", "decode", "queue", "compute", "encode")
SEQUENCES, REQUESTS, SECONDS = "heed_inference_sequences", "heed_inferences", "heed_inference_seconds"
BATCHES = "heed_compute_seconds_count"


@dataclass(slots=True)
class ModelTally:
    """One model's numbers; `requests` by outcome, `success` or `fail`, `seconds` by stage."""

    requests: dict[str, int] = field(default_factory=dict)
    sequences: int = 0
    batches: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Inferences:
    """Counters of requests that a model computed, or did not; any thread may call."""

    def __init__(self, count: Callable[..., Counter]) -> None:
        self._requests = count(
            REQUESTS, "Requests for inference, by what became of them.", "model", "outcome"
        )
        self._sequences = count(SEQUENCES, "Sequences of those that succeeded.", "model")
        self._seconds = count(SECONDS, "Whole time by outcome, and stages of successes.", "model", "stage")
        self._lock = Lock()
        self._left: dict[str, ModelTally] = {}

    @property
    def counters(self) -> tuple[Counter, ...]:
        """All of them."""
        return self._requests, self._sequences, self._seconds

    def add(self, model: str, *, sequences: int, seconds: Mapping[str, float]) -> None:
        """Count one request; `seconds` by stage have `success` or `fail`."""
        outcome = "success" if "success" in seconds else "fail"
        with self._lock:
            tally = self._left.setdefault(model, ModelTally())
            tally.requests[outcome] = tally.requests.get(outcome, 0) + 1
            tally.sequences += sequences
            for stage, spent in seconds.items():
                tally.seconds[stage] = tally.seconds.get(stage, 0.0) + spent

    def put(self) -> None:
        """Put what was added into the counters."""
        with self._lock:
            left, self._left = self._left, {}
        for model, tally in left.items():
            for outcome, requests in tally.requests.items():
                self._requests.labels(model, outcome).inc(requests)
            for stage, seconds in tally.seconds.items():
                self._seconds.labels(model, stage).inc(seconds)
            self._sequences.labels(model).inc(tally.sequences)


def tallies(metrics: Iterable[Metric]) -> dict[str, ModelTally]:
    """Return what metrics say of each model that they name."""
    found: dict[str, ModelTally] = {}
    for metric in metrics:
        for sample in metric.samples:
            model = sample.labels.get("model")
            if not model:
                continue
            tally = found.setdefault(model, ModelTally())
            if sample.name == f"{REQUESTS}_total":
                tally.requests[sample.labels["outcome"]] = int(sample.value)
            elif sample.name == f"{SEQUENCES}_total":
                tally.sequences = int(sample.value)
            elif sample.name == f"{SECONDS}_total":
                tally.seconds[sample.labels["stage"]] = sample.value
            elif sample.name == BATCHES:
                tally.batches = int(sample.value)
    return found
