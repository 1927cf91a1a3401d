"""Exemplars and numbers of several HTTP processes, each of which is a real one: a process has its files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
PROCESS = """
import json, os, sys
from service.metrics.exposition import OPENMETRICS
from service.metrics.gauges import Readings
from service.metrics.registry import Metrics
metrics = Metrics()
metrics.watch(Readings(
    queued_requests=lambda: 2, queued_tokens=int, connections=int, model_bytes=dict, device_memory=dict,
    waiting_requests=lambda: 3, about=lambda: {"version": "1"},
))
for line in sys.stdin:
    does, given = json.loads(line)
    if does == "request":
        metrics.request(route="/", model="", code=200, **given)
    elif does == "note":
        metrics.note()
    elif does == "inference":
        metrics.inference("m", ok=True, seconds=0.5, stages={"queue": 0.25}, **given)
    elif does == "statistics":
        tally = metrics.statistics()["m"]
        print(json.dumps([tally.requests, tally.sequences, tally.seconds]), flush=True)
        continue
    print(json.dumps(metrics.page(OPENMETRICS).decode() if does == "page" else None), flush=True)
"""


class Process:
    """An HTTP process' metrics; does one thing after another."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, what: str, **given: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, given]) + "\n")
        self.process.stdin.flush()
        page: str = json.loads(self.process.stdout.readline())
        return page

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def pair(tmp_path: Path):
    both = Process(tmp_path), Process(tmp_path)
    yield both
    for process in both:
        process.end()


def samples(page: str) -> dict[str, float]:
    families = text_string_to_metric_families(page)  # strictly: OpenMetrics as it is specified
    return {sample.name: sample.value for family in families for sample in family.samples}


def exemplars(page: str) -> dict[str, tuple[str, float]]:
    return {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.exemplar
    }


def test_each_process_shows_the_last_exemplar_of_any(pair) -> None:
    one, other = pair
    one.do("request", seconds=0.003, trace_id=FIRST)
    one.do("request", seconds=0.3, trace_id=FIRST)
    other.do("request", seconds=0.004, trace_id=SECOND)
    one.do("note")
    other.do("note")
    last = {"0.005": (SECOND, 0.004), "0.5": (FIRST, 0.3)}
    assert [exemplars(process.do("page")) for process in pair] == [last, last]


def test_exemplars_of_a_process_are_shown_by_it_at_once(pair) -> None:
    pair[0].do("note")
    pair[0].do("request", seconds=0.02, trace_id=FIRST)
    assert exemplars(pair[0].do("page")) == {"0.025": (FIRST, 0.02)}


def test_processes_without_traces_write_no_exemplars(pair, tmp_path: Path) -> None:
    pair[0].do("request", seconds=0.003)
    pair[0].do("note")
    assert exemplars(pair[0].do("page")) == {}
    assert list(tmp_path.glob("exemplars*")) == []


def test_folder_that_cannot_be_written_costs_the_others_exemplars_and_nothing_else(
    pair, tmp_path: Path
) -> None:
    one, other = pair
    (tmp_path / f"exemplars_{one.process.pid}.new").mkdir()
    one.do("request", seconds=0.003, trace_id=FIRST)
    one.do("note")
    assert exemplars(one.do("page")) == {"0.005": (FIRST, 0.003)}
    assert exemplars(other.do("page")) == {}
    assert samples(other.do("page"))["heed_request_seconds_count"] == 1


def test_waiting_and_running_are_of_all_processes(pair) -> None:
    for process in pair:
        process.do("note")
    values = samples(pair[0].do("page"))
    assert values["heed_queued_requests"] == 4
    assert (values["heed_waiting_requests"], values["heed_running_requests"]) == (3, 1)


def test_numbers_of_the_processes_are_those_of_all_together(pair) -> None:
    one, other = pair
    for process in pair:
        process.do("request", seconds=0.0)  # has its files from then on
    values = samples(one.do("page"))
    ids = (os.getpid(), one.process.pid, other.process.pid)
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in ids]
    assert values["process_resident_memory_bytes"] == pytest.approx(
        sum(pages) * os.sysconf("SC_PAGESIZE"), rel=0.2
    )
    files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in ids]
    assert values["process_open_fds"] == pytest.approx(sum(files), abs=6)  # listing them opens one
    assert values["process_start_time_seconds"] < Path(f"/proc/{one.process.pid}").stat().st_ctime
    other.end()
    fewer = samples(one.do("page"))
    assert fewer["process_resident_memory_bytes"] < values["process_resident_memory_bytes"]


def test_statistics_of_a_model_are_of_all_processes(pair) -> None:
    one, other = pair
    one.do("inference", sequences=2)
    other.do("inference", sequences=3)
    other.do("note")
    found = [{"success": 2}, 5, {"success": 1.0, "queue": 0.5}]
    assert one.do("statistics") == found
    assert other.do("statistics") == found
