"""Numbers and exemplars of several HTTP processes: each keeps its own in files beside the others'.

Whichever process is asked writes the page of all of them. Counters, histograms and some gauges are in
prometheus_client's own files, exemplars, for which it has none, in a JSON file a process.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from service.metrics.gauges import QUEUED, waiting_and_running

SHARED_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported
KINDS = ("counter", "histogram", "gauge_livesum")  # of metrics: each process has a file of each
FILE_BYTES = 1 << 16  # of a file at first; it doubles when it is full
ENTRY_BYTES = 32  # of a number in it, beside its name
EXEMPLARS = "exemplars_{}.json"
TELL_SECONDS = 1.0  # after which another process knows an exemplar

log = logging.getLogger(__name__)


class Sharing:
    """What this process keeps in `folder` for the others, and reads of theirs. One a process."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._first = os.getppid()  # which has the device, and starts the others
        self._exemplars: dict[str, Exemplar] = {}
        self._changed = False
        self._told = 0.0
        _use_files(self._keep)

    def processes(self) -> list[int]:
        """Return the ids of all processes of the server, the first of them first."""
        found = {int(file.stem.rpartition("_")[2]) for file in self._folder.glob(f"{KINDS[0]}_*.db")}
        return [self._first, *sorted(found)]

    def tell(self) -> None:
        """Write this process's exemplars down where there are new ones, once a second."""
        if not self._changed or time.monotonic() < self._told + TELL_SECONDS:
            return
        self._changed, self._told = False, time.monotonic()
        with suppress(OSError):  # without room for it, others have none of them
            file = self._folder / EXEMPLARS.format(os.getpid())
            new = file.with_suffix(".new")
            new.write_text(json.dumps(self._exemplars.copy()))
            new.replace(file)

    def collector(self, waiting: Callable[[], int]) -> Collector:
        """Return what collects the metrics of all processes; `waiting` is told by the first."""
        return _OfAll(str(self._folder), self._newest, waiting)

    def numbers(self) -> Iterator[Metric]:
        """Yield the metrics of all processes, without exemplars."""
        collector = MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]
        yield from collector.collect()  # type: ignore[no-untyped-call]

    def _keep(self, key: str, exemplar: Exemplar) -> None:
        self._exemplars[key] = exemplar
        self._changed = True

    def _newest(self) -> dict[str, Exemplar]:
        """Return the last exemplar of each bucket, in whichever process."""
        newest = self._exemplars.copy()
        for file in self._folder.glob(EXEMPLARS.format("*")):
            with suppress(OSError):  # its process ends
                for key, (labels, value, at) in json.loads(file.read_bytes()).items():
                    if key not in newest or newest[key].timestamp < at:
                        newest[key] = Exemplar(labels, value, at)
        return newest


def reserve(folder: str, process: int) -> None:
    """Make a process's files before it opens them; raise OSError where there is no room for them."""
    for kind in KINDS:
        with Path(folder, f"{kind}_{process}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)


class _OfAll(Collector):
    """Metrics of all processes, with exemplars, which prometheus_client leaves out."""

    def __init__(
        self, folder: str, exemplars: Callable[[], dict[str, Exemplar]], waiting: Callable[[], int]
    ) -> None:
        self._numbers = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]
        self._exemplars = exemplars
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        shown = {_of_key(key): exemplar for key, exemplar in self._exemplars().items()}
        for metric in self._numbers.collect():  # type: ignore[no-untyped-call]
            if metric.type == "histogram" and shown:
                metric.samples = [
                    sample._replace(exemplar=shown.get(_series(sample.name, sample.labels)))
                    for sample in metric.samples
                ]
            yield metric
            if metric.name == QUEUED:
                yield from waiting_and_running(metric, self._waiting())


Series = tuple[str, frozenset[tuple[str, str]]]


def _series(name: str, labels: dict[str, str]) -> Series:
    return name, frozenset(labels.items())


def _of_key(key: str) -> Series:
    """Return the series that prometheus_client has under a key of its files."""
    _, name, labels, _ = json.loads(key)
    return _series(name, labels)


def _use_files(keep: Callable[[str, Exemplar], None]) -> None:
    """Have prometheus_client use files that have room, and give `keep` its exemplars by their keys.

    Both classes are looked up in its module, the one when a metric is made, the other when a file is opened.
    """
    there: Any = values.ValueClass

    class Value(there):  # type: ignore[misc]  # a class that is made when it is imported
        def set_exemplar(self, exemplar: Exemplar) -> None:
            keep(self._key, exemplar)

    values.ValueClass = Value
    values.MmapedDict = _Reserved  # type: ignore[attr-defined]


class _Reserved(MmapedDict):
    """A file of numbers whose room is there before it is mapped: the kernel kills who writes where none is.

    What there is no room for is counted in this process alone, and shared again when there is.
    """

    _told = False

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002  its signature
        with open(filename, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a number and its time; one that is not there yet is 0."""
        return super().read_value(key) if self._has_room(key) else (0.0, 0.0)  # type: ignore[no-untyped-call]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a number where there is room for it."""
        if self._has_room(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _has_room(self, key: str) -> bool:
        """Whether a number is in the file, or fits in; the file grows for it."""
        if key in self._positions:
            return True
        room = self._capacity
        while self._used + len(key.encode()) + ENTRY_BYTES > room:
            room *= 2
        if room == self._capacity:
            return True
        try:
            os.posix_fallocate(self._f.fileno(), 0, room)
        except OSError as error:
            if not self._told:
                _Reserved._told = True
                told = "%s cannot grow (%s): new series on /metrics are of one process until there is room"
                log.warning(told, self._fname, error.strerror)
            return False
        return True
