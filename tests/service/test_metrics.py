import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.batching.engine import BatchReport
from service.metrics import Metrics

CONTRACT = {
    "heed_requests_total": {"route", "model", "code"},
    "heed_request_seconds": {"route"},
    "heed_queue_seconds": set(),
    "heed_compute_seconds": {"model"},
    "heed_decode_seconds": {"format"},
    "heed_encode_seconds": {"format"},
    "heed_batch_sequences": set(),
    "heed_batch_tokens": set(),
    "heed_batch_fill_ratio": set(),
    "heed_connections": set(),
    "heed_connections_closed_total": {"reason"},
    "heed_queued_requests": set(),
    "heed_queued_tokens": set(),
    "heed_memory_held_bytes": set(),
    "heed_memory_limit_bytes": set(),
    "heed_memory_refused_total": set(),
    "heed_rejected_total": {"reason"},
    "heed_cancelled_total": {"reason"},
    "heed_received_bytes_total": set(),
    "heed_sent_bytes_total": set(),
    "heed_device_memory_bytes": {"kind"},
    "heed_models_loaded": set(),
    "heed_model_memory_bytes": {"model"},
    "heed_event_loop_lag_seconds": set(),
}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics with every series touched once."""
    metrics = Metrics()
    metrics.request(
        route="/v1/models/{model}/attend", model="fake", code=200, seconds=0.01, received=10, sent=20
    )
    metrics.batch(
        BatchReport(
            model="fake",
            sequences=8,
            tokens=30,
            computed_tokens=40,
            compute_seconds=0.02,
            queue_seconds=(0.002,),
        )
    )
    metrics.decoded("json", 0.001)
    metrics.encoded("npy", 0.001)
    metrics.rejected("overloaded")
    metrics.cancelled("disconnected")
    metrics.connection_ended("slow_body")
    metrics.lag(0.001)
    metrics.watch(
        queued_requests=lambda: 3,
        queued_tokens=lambda: 300,
        connections=lambda: 5,
        model_bytes=lambda: {"fake": 512, "other": 512},
        device_memory=lambda: {"weights": 1024},
    )
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def test_page_has_every_metric_of_the_contract_with_its_labels(metrics: Metrics) -> None:
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        seen[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.documentation
    assert seen == CONTRACT


def test_counts_and_gauges_have_the_values_given(metrics: Metrics) -> None:
    values = samples(metrics)
    labels = (("code", "200"), ("model", "fake"), ("route", "/v1/models/{model}/attend"))
    assert values["heed_requests_total", labels] == 1
    assert values["heed_batch_sequences_sum", ()] == 8
    assert values["heed_batch_fill_ratio_sum", ()] == 0.75
    assert values["heed_queued_requests", ()] == 3
    assert values["heed_queued_tokens", ()] == 300
    assert values["heed_connections", ()] == 5
    assert values["heed_connections_closed_total", (("reason", "slow_body"),)] == 1
    assert values["heed_device_memory_bytes", (("kind", "weights"),)] == 1024
    assert values["heed_model_memory_bytes", (("model", "other"),)] == 512
    assert values["heed_models_loaded", ()] == 2
    assert values["heed_sent_bytes_total", ()] == 20


def test_gauges_are_read_when_the_page_is_made() -> None:
    metrics = Metrics()
    waiting = [1]
    metrics.watch(
        queued_requests=lambda: waiting[0],
        queued_tokens=lambda: 0,
        connections=lambda: 0,
        model_bytes=dict,
        device_memory=dict,
    )
    assert samples(metrics)["heed_queued_requests", ()] == 1
    waiting[0] = 7
    assert samples(metrics)["heed_queued_requests", ()] == 7


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.request(route="/", model="", code=200, seconds=0.0, sent=5)
    assert samples(one)["heed_sent_bytes_total", ()] == 5
    assert samples(other)["heed_sent_bytes_total", ()] == 0


def test_page_passes_promtool(metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus package) is not installed")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.page(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
