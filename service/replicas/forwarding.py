"""Numbers of the server as a host's own metrics take them: behind a proxy, `/metrics` is any one replica's.

Each sample of the page becomes a gauge of the same name: a counter's is its count so far and a histogram's
buckets keep their `le`, so that `rate` and `histogram_quantile` read them as they read ours.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

FORWARD_SECONDS = 5.0

log = logging.getLogger(__name__)


class Gauge(Protocol):
    """One number of the host's, for each set of labels."""

    def set(self, value: float, labels: dict[str, str]) -> object:
        """Write it."""
        ...


MakeGauge = Callable[[str, str, tuple[str, ...]], Gauge]  # of a name, what it means, names of labels


class Forwarding:
    """Writes the samples of a page into gauges, which `make` makes the first time that a name is seen."""

    def __init__(self, page: Callable[[], bytes], make: MakeGauge) -> None:
        self._page = page
        self._make = make
        self._gauges: dict[str, Gauge] = {}

    def forward(self) -> None:
        """Write all samples once."""
        for family in text_string_to_metric_families(self._page().decode()):
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    self._write(sample.name, family.documentation, sample.labels, sample.value)

    def start(self) -> None:
        """Do so every five seconds, on a thread of its own, as long as the process lives."""
        threading.Thread(target=self._live, name="heed-forward", daemon=True).start()

    def _live(self) -> None:
        rest = threading.Event()
        while True:
            try:
                self.forward()
            except Exception:  # of the host's: requests are served without its metrics as well
                log.exception("metrics could not be given to the host")
            rest.wait(FORWARD_SECONDS)

    def _write(self, name: str, meaning: str, labels: Mapping[str, str], value: float) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = self._make(name, meaning, tuple(sorted(labels)))
        gauge.set(value, dict(labels))
