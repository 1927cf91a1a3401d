import resource
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from service.batching.engine import BatchReport
from service.metrics.exposition import OPENMETRICS
from service.metrics.gauges import Readings
from service.metrics.inferences import STAGES
from service.metrics.registry import Metrics

CONTRACT = {
    "heed_requests_total": {"route", "model", "code"},
    "heed_request_seconds": {"route"},
    "heed_queue_seconds": set(),
    "heed_inferences_total": {"model", "outcome"},
    "heed_inference_sequences_total": {"model"},
    "heed_inference_seconds_total": {"model", "stage"},
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
    "heed_waiting_requests": set(),
    "heed_running_requests": set(),
    "heed_tokens_total": {"model"},
    "heed_info": {"version", "torch"},
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
    "process_cpu_seconds_total": set(),
    "process_max_fds": set(),
    "process_open_fds": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
    "process_virtual_memory_bytes": set(),
}
NONE = Readings(queued_requests=int, queued_tokens=int, connections=int, model_bytes=dict, device_memory=dict)
TRACE, OTHER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"


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
    stages = {"decode": 0.25, "queue": 0.5, "compute": 0.125, "encode": 0.0}
    metrics.inference("fake", ok=True, sequences=8, seconds=1.0, stages=stages)
    metrics.inference("fake", ok=False, sequences=3, seconds=2.0, stages={"decode": 0.25})
    metrics.decoded("json", 0.001)
    metrics.encoded("npy", 0.001)
    metrics.rejected("overloaded")
    metrics.cancelled("disconnected")
    metrics.connection_ended("slow_body")
    metrics.lag(0.001)
    readings = Readings(
        queued_requests=lambda: 3,
        queued_tokens=lambda: 300,
        connections=lambda: 5,
        model_bytes=lambda: {"fake": 512, "other": 512},
        device_memory=lambda: {"weights": 1024},
        waiting_requests=lambda: 1,
        about=lambda: {"version": "1.2", "torch": "2.9"},
    )
    metrics.watch(readings)
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


def test_inferences_are_told_by_outcome_and_the_time_of_those_that_succeeded_by_stage(
    metrics: Metrics,
) -> None:
    def of(name: str, **labels: str) -> float:
        return values[f"heed_{name}_total", tuple(sorted({"model": "fake", **labels}.items()))]

    for _ in range(2):  # reading them counts nothing anew
        values = samples(metrics)
        assert [of("inferences", outcome=one) for one in ("success", "fail")] == [1, 1]
        assert of("inference_sequences") == 8
        seconds = [of("inference_seconds", stage=one) for one in STAGES]
        assert seconds == [1.0, 2.0, 0.25, 0.5, 0.125, 0.0]
        (model,) = metrics.statistics().items()
        name, tally = model
        assert (name, tally.requests, tally.sequences) == ("fake", {"success": 1, "fail": 1}, 8)
        assert (tally.batches, [tally.seconds[one] for one in STAGES]) == (1, seconds)


def test_gauges_are_read_when_the_page_is_made() -> None:
    metrics = Metrics()
    inside = [1]
    metrics.watch(replace(NONE, queued_requests=lambda: inside[0]))
    assert samples(metrics)["heed_queued_requests", ()] == 1
    inside[0] = 7
    assert samples(metrics)["heed_queued_requests", ()] == 7


@pytest.mark.parametrize(("waiting", "shown", "running"), [(0, 0, 3), (2, 2, 1), (5, 3, 0)])
def test_waiting_and_running_add_up_to_what_is_inside(waiting: int, shown: int, running: int) -> None:
    metrics = Metrics()
    metrics.watch(replace(NONE, queued_requests=lambda: 3, waiting_requests=lambda: waiting))
    values = samples(metrics)
    assert values["heed_waiting_requests", ()] == shown
    assert values["heed_running_requests", ()] == running


def test_tokens_are_counted_by_model_and_without_padding(metrics: Metrics) -> None:
    assert samples(metrics)["heed_tokens_total", (("model", "fake"),)] == 30


def test_info_is_what_the_server_is_made_of(metrics: Metrics) -> None:
    assert samples(metrics)["heed_info", (("torch", "2.9"), ("version", "1.2"))] == 1


def test_numbers_of_the_process_are_this_process(metrics: Metrics) -> None:
    values = {name: value for (name, _), value in samples(metrics).items() if name.startswith("process_")}
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert values["process_cpu_seconds_total"] == pytest.approx(used.ru_utime + used.ru_stime, abs=0.5)
    assert 0 < values["process_resident_memory_bytes"] <= 1024 * used.ru_maxrss
    assert values["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < values["process_start_time_seconds"] < time.time()


def exemplars(metrics: Metrics) -> dict[tuple[str, str], tuple[str, float]]:
    """Return trace id and value by series' name and bucket, read strictly as OpenMetrics."""
    page = metrics.page(OPENMETRICS).decode()
    return {
        (sample.name, sample.labels["le"]): (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in openmetrics_families(page)
        for sample in family.samples
        if sample.exemplar
    }


def test_traced_requests_are_exemplars_of_their_buckets_the_last_of_each() -> None:
    metrics = Metrics()
    for seconds, trace_id in ((0.003, TRACE), (0.004, OTHER), (0.3, TRACE), (0.02, None)):
        metrics.request(route="/", model="", code=200, seconds=seconds, trace_id=trace_id)
    metrics.decoded("json", 0.0004, OTHER)
    metrics.encoded("npy", 0.02, TRACE)
    assert exemplars(metrics) == {
        ("heed_request_seconds_bucket", "0.005"): (OTHER, 0.004),
        ("heed_request_seconds_bucket", "0.5"): (TRACE, 0.3),
        ("heed_decode_seconds_bucket", "0.0005"): (OTHER, 0.0004),
        ("heed_encode_seconds_bucket", "0.025"): (TRACE, 0.02),
    }
    assert TRACE not in metrics.page().decode()  # the text format has none


def test_untraced_requests_leave_no_exemplar(metrics: Metrics) -> None:
    assert exemplars(metrics) == {}


def test_openmetrics_says_what_the_text_format_says(metrics: Metrics) -> None:
    def numbers(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            if not family.name.startswith("process_")  # they move on
            for sample in family.samples
        }

    text = metrics.page().decode()
    assert numbers(openmetrics_families(metrics.page(OPENMETRICS).decode())) == numbers(
        text_string_to_metric_families(text)
    )


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
