"""Numbers of the server in a host's own gauges."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.metrics.registry import Metrics
from service.replicas.forwarding import Forwarding


class Kept:
    """A host's metrics."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, tuple[str, ...]]] = []
        self.written: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def make(self, name: str, meaning: str, labels: tuple[str, ...]) -> "KeptGauge":
        self.made.append((name, meaning, labels))
        return KeptGauge(self, name)


class KeptGauge:
    def __init__(self, kept: Kept, name: str) -> None:
        self.kept = kept
        self.name = name

    def set(self, value: float, labels: dict[str, str]) -> None:
        self.kept.written[self.name, frozenset(labels.items())] = value


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_every_sample_keeps_its_name_labels_and_count(kept):
    registry = CollectorRegistry()
    counter = Counter("asked_total", "Asked.", ["route"], registry=registry)
    held = Gauge("held", "Held.", registry=registry)
    sizes = Histogram("size", "Sizes.", buckets=(1, 2), registry=registry)
    forwarding = Forwarding(lambda: generate_latest(registry), kept.make)
    counter.labels("a").inc(3)
    held.set(7)
    sizes.observe(2)
    forwarding.forward()
    counter.labels("a").inc()
    counter.labels("b").inc()
    held.set(1)
    forwarding.forward()
    assert kept.written == {
        ("asked_total", frozenset({("route", "a")})): 4,
        ("asked_total", frozenset({("route", "b")})): 1,
        ("held", frozenset()): 1,
        ("size_bucket", frozenset({("le", "1.0")})): 0,
        ("size_bucket", frozenset({("le", "2.0")})): 1,
        ("size_bucket", frozenset({("le", "+Inf")})): 1,
        ("size_count", frozenset()): 1,
        ("size_sum", frozenset()): 2,
    }
    assert ("asked_total", "Asked.", ("route",)) in kept.made
    assert len({name for name, *_ in kept.made}) == len(kept.made)


def test_the_server_s_own_page_is_read_whole(kept):
    metrics = Metrics()
    metrics.request(route="/v1/embeddings", model="minilm", code=200, seconds=0.01)
    Forwarding(metrics.page, kept.make).forward()
    labels = {"route": "/v1/embeddings", "model": "minilm", "code": "200"}
    assert kept.written["heed_requests_total", frozenset(labels.items())] == 1
