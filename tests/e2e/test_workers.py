"""Two HTTP processes in front of one device process: the same answers, and the same promises as of one."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.conftest import ATTEND, Answer, Caller, FakeServer, Start, attend_request, read, request
from tests.e2e.test_drain import CALLERS, term_under_load
from tests.waiting import wait_until

TWO = {"http_workers": 2}


def workers(server: FakeServer) -> list[int]:
    """The HTTP processes' ids, from the kernel."""
    pid = server.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def served(server: FakeServer, pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def waits_for_it(pid: int) -> bool:
    """Whether a process has been sent a signal to end that it has not taken yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = next(int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd"))
    return bool(pending >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def shared(start_once: Start) -> FakeServer:
    return start_once(settings=TWO)


def post(server: FakeServer, path: str, body: bytes, *lines: str) -> Answer:
    answer = server.send(request("POST", path, *lines, f"Content-Length: {len(body)}", body=body))
    assert answer is not None
    return answer


def ask(server: FakeServer, fields: dict[str, object]) -> Answer:
    return post(server, ATTEND, json.dumps(fields).encode(), "Content-Type: application/json")


def test_every_kind_of_input_is_answered_as_by_one_process(shared: FakeServer, start: Start) -> None:
    one = start()
    x = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    scale = {"edit": "scale", "layers": 0, "value": 3}
    put = {"edit": "pattern", "heads": [[1, 0]], "queries": [0], "value": [[0.25, 0.5, -1, 2, 0]]}
    taken = [scale, {"edit": "from", "layers": "all", "heads": [0], "queries": [1], "input": 2}]
    asked: list[dict[str, object]] = [
        {"inputs": [{"embeddings": x.tolist()}], "outputs": ["z", "weights", "top_k"], "layers": "all"},
        {"inputs": [{"embeddings": x.tolist(), "memory": x.tolist(), "mask": [True] * 4 + [False]}]},
        {"inputs": [{"text": "ein Satz"}, {"token_ids": [1, 2, 3]}], "rows": [0], "heads": [1]},
        {"inputs": [{"text": "a b c d", "spans": [[0, 2], [2, 4]]}], "outputs": ["weights"]},
        {"inputs": [{"text": "a"}], "outputs": ["pooled"], "dtype": "float16"},
        {"inputs": [{"text": "a"}], "outputs": ["no such"]},
        {"inputs": [{"text": " ".join("abcdefghijklmnopqrstuvwxyz")}]},
        {"inputs": [{"embeddings": [[2e30] * 4]}]},
        {"inputs": [{"token_ids": [1]}], "deterministic": True},
        {"inputs": [{"embeddings": x.tolist(), "edits": [scale, put]}], "layers": "all"},
        {
            "inputs": [{"token_ids": [1, 2], "edits": taken}, {"text": "a"}, {"token_ids": [3, 4]}],
            "layers": 0,
        },
        {"inputs": [{"token_ids": [1], "edits": [{"edit": "from", "layers": 0, "input": 0}]}]},
    ]
    for fields in asked:
        ours, theirs = ask(shared, fields), ask(one, fields)
        mine, other = (json.loads(reply.body) for reply in (ours, theirs))
        for reply in (mine, other):
            reply.get("error", {}).pop("request_id", None)
        assert (ours.status, mine) == (theirs.status, other), fields


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_numbers_of_16_bits_are_answered_as_their_float32(shared: FakeServer, kind: str) -> None:
    chance = np.random.default_rng(0)
    x, y = (chance.standard_normal((5, 4)).astype(getattr(ml_dtypes, kind, kind)) for _ in "xy")
    lines = ("Content-Type: application/x-safetensors", "Accept: application/x-safetensors")
    own = {"0.query": x, "0.key": x, "0.value": y, "0.mask": y @ x.T}
    for path, tensors in (
        (ATTEND, {"0.embeddings": x, "0.memory": y, "1.embeddings": y}),
        ("/v1/attention", own),
    ):
        wide = {name: one.astype(np.float32) for name, one in tensors.items()}
        ours, theirs = (
            post(shared, f"{path}?outputs=z,weights", safetensors.numpy.save(one), *lines)
            for one in (tensors, wide)
        )
        assert ours.status == theirs.status == 200
        found, expected = (safetensors.numpy.load(one.body) for one in (ours, theirs))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_callers_own_queries_keys_and_values_cross_too(shared: FakeServer) -> None:
    body = {"inputs": [{"query": [[1.0, 2.0]], "key": [[1.0, 2.0]], "value": [[3.0]]}], "softcap": 5.0}
    answer = post(shared, "/v1/attention", json.dumps(body).encode(), "Content-Type: application/json")
    assert answer.status == 200
    assert answer.json()["outputs"][0]["weights"] == [[1.0]]


def test_large_tensors_come_back_bit_by_bit(start: Start) -> None:
    server = start(settings={**TWO, "max_batch_tokens": 300_000, "max_queued_tokens": 300_000})
    chance = np.random.default_rng(1)
    inputs = {f"{n}.embeddings": chance.standard_normal((16, 4), dtype=np.float32) for n in range(1000)}
    kind = "Content-Type: application/x-safetensors"
    accept = "Accept: application/x-safetensors"
    for _ in range(3):
        answer = post(server, f"{ATTEND}?outputs=z", safetensors.numpy.save(inputs), kind, accept)
        assert answer.status == 200
        tensors = safetensors.numpy.load(answer.body)
        for name, x in inputs.items():
            assert np.array_equal(tensors[name.replace("embeddings", "z")], 2 * x)


def test_connections_are_spread_and_metrics_are_of_all_processes(start: Start) -> None:
    server = start(settings=TWO)
    before = server.get("/metrics").body.decode()
    for _ in range(40):
        assert server.attend().status == 200
    line = 'heed_requests_total{code="200",model="fake",route="/v1/models/{model}/attend"} '
    # A request is counted behind its reply, which the other process does not wait for.
    wait_until(lambda: f"{line}40.0\n" in server.get("/metrics").body.decode(), "all are counted")
    pages = [server.get("/metrics").body.decode() for _ in range(8)]  # by whichever process answers
    assert line not in before
    assert all(f"{line}40.0\n" in page for page in pages)
    assert all("heed_models_loaded 1.0\n" in page for page in pages)
    assert all('heed_device_memory_bytes{kind="weights"} 1024.0\n' in page for page in pages)
    assert server.stop() == 0
    ids = {line["id"][:24] for line in server.log if line["message"] == "request"}
    assert len(ids) == 2  # each process has a prefix of its own


async def ask_at_once(server: FakeServer, count: int) -> list[Answer]:
    """Ask on so many connections, which the kernel spreads over both processes; return what is answered."""
    callers = await asyncio.gather(*(Caller.to(server.port) for _ in range(count)))
    answers = await asyncio.gather(*(caller.ask(attend_request()) for caller in callers))
    await asyncio.gather(*(caller.leave() for caller in callers))
    return answers


def test_batches_hold_requests_of_both_processes(start: Start) -> None:
    server = start(batch_seconds=1, settings=TWO)

    async def ask() -> list[Answer]:
        first = asyncio.create_task(ask_at_once(server, 1))
        await asyncio.to_thread(queued, server, 1)
        return [*await ask_at_once(server, 16), *await first]

    assert {answer.status for answer in asyncio.run(ask())} == {200}
    wait_until(lambda: "heed_batch_sequences_sum 17.0" in metrics(server), "both batches are counted")
    assert "heed_batch_sequences_count 2.0" in metrics(server)
    assert "heed_queue_seconds_count 17.0" in metrics(server)
    assert server.stop() == 0
    assert len({line["id"][:24] for line in server.log if line["message"] == "request"}) == 2


def test_limits_of_the_queue_hold_for_both_processes_together(start: Start) -> None:
    server = start(batch_seconds=1, settings={**TWO, "max_queued_requests": 5})
    answers = asyncio.run(ask_at_once(server, 16))
    assert [answer.status for answer in answers].count(200) == 5
    refused = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.code) for answer in refused} == {(429, "overloaded")}
    assert server.attend().status == 200


def metrics(server: FakeServer) -> str:
    return server.get("/metrics").body.decode()


def queued(server: FakeServer, requests: int) -> None:
    wait_until(lambda: f"heed_queued_requests {requests}.0" in metrics(server), f"{requests} are queued")


def test_every_process_shows_the_exemplars_of_all(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    server = start(settings=TWO)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    body = json.dumps({"inputs": [{"token_ids": [1, 2]}], "outputs": ["z"]}).encode()
    kind = "Content-Type: application/json"
    assert post(server, ATTEND, body, kind, f"traceparent: 00-{trace_id}-b7ad6b7169203331-01").status == 200

    def shown() -> bool:
        accept = "Accept: application/openmetrics-text"
        pages = [server.send(request("GET", "/metrics", accept)) for _ in range(8)]  # by whichever answers
        return all(page is not None and f'trace_id="{trace_id}"'.encode() in page.body for page in pages)

    wait_until(shown, "all pages name the trace")
    assert server.stop() == 0
    assert len({line["id"][:24] for line in server.log if line["message"] == "request"}) == 2


def test_model_loaded_through_one_process_is_served_by_all(start: Start) -> None:
    server = start(settings={**TWO, "admin": True})
    answer = post(server, "/v2/repository/models/another/load", b"")
    assert answer.status == 200
    for _ in range(8):
        assert [m["name"] for m in server.get("/v1/models").json()["models"]] == ["another", "fake"]
    assert post(server, "/v2/repository/models/fake/unload", b"").status == 200
    assert {server.attend().status for _ in range(8)} == {404}
    assert post(server, "/v2/repository/models/none/unload", b"").status == 404


def test_sigterm_under_load_answers_every_request_and_exits_0(start: Start) -> None:
    settings = {**TWO, "max_batch_tokens": 16, "max_queued_tokens": 40_000}
    server = start(batch_seconds=0.01, settings=settings)
    answers = asyncio.run(term_under_load(server))
    assert {answer.status for answer in answers} == {200}
    assert sum(answer.closes for answer in answers) == CALLERS
    assert server.ended() == 0
    logged = [line for line in server.log if line["message"] == "request" and line["method"] == "POST"]
    assert len(logged) == len(answers)
    assert not [line for line in server.log if line["level"] in ("warning", "error", "critical")]


def test_device_failure_ends_every_process_and_nothing_is_answered_with_200(start: Start) -> None:
    server = start(fail_after=3, settings=TWO)
    ours = workers(server)
    assert len(ours) == 2
    assert [server.attend().status for _ in range(3)] == [200] * 3
    failed_at = time.monotonic()
    first = server.attend()
    assert (first.status, first.code) == (503, "device_failed")
    seen = set()
    try:
        while True:
            for raw in (request("GET", "/health"), attend_request()):
                answer = server.send(raw)
                seen.add(answer.status if answer else None)
    except ConnectionRefusedError:
        pass
    assert seen <= {503, None}
    assert server.ended(timeout_seconds=5 - (time.monotonic() - failed_at)) == 1
    assert not [pid for pid in ours if served(server, pid)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_http_process_that_dies_makes_all_unready_and_ends_the_whole(start: Start, number: int) -> None:
    server = start(settings=TWO)
    victim, other = workers(server)
    os.kill(victim, number)
    assert server.ended(timeout_seconds=6) == 1
    assert not served(server, other)
    assert [line for line in server.log if "has ended" in line["message"]]


def test_callers_of_the_other_processes_are_told_that_one_has_ended(start: Start) -> None:
    server = start(hang_after=0, settings=TWO)
    waiting = [server.connect() for _ in range(24)]  # the kernel spreads them over both
    for connection in waiting:
        connection.sendall(attend_request())
    queued(server, 24)
    os.kill(workers(server)[0], signal.SIGKILL)
    answers = [read(connection) for connection in waiting]
    for connection in waiting:
        connection.close()
    told = {(answer.status, answer.code, answer.json()["error"]["message"]) for answer in answers if answer}
    assert told == {(503, "draining", "an HTTP process has ended; the server is going down")}
    assert server.ended(timeout_seconds=6) == 1


def test_device_process_that_dies_ends_its_http_processes_and_leaves_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = start(settings=TWO)
    assert len(list(tmp_path.glob("heed-metrics-*"))) == 1
    ours = workers(server)
    server.process.kill()
    server.process.wait(timeout=20)
    until = time.monotonic() + 6
    while any(served(server, pid) for pid in ours):
        assert time.monotonic() < until
    assert list(tmp_path.glob("heed-metrics-*")) == []


def test_kernel_that_runs_out_of_memory_would_choose_an_http_process(shared: FakeServer) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert all(score(pid) > score(shared.process.pid) for pid in workers(shared))


def test_second_signal_ends_every_process_at_once(start: Start) -> None:
    server = start(hang_after=0, grace_seconds=60, settings={**TWO, "drain_seconds": 3600})
    ours = workers(server)
    with server.connect() as waiting:
        waiting.sendall(attend_request())
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health").json()["status"] == "draining", "the server drains")
        assert server.stop() == 128 + signal.SIGTERM
    assert not any(served(server, pid) for pid in ours)


def test_second_signal_ends_a_process_that_has_not_taken_the_first(start: Start) -> None:
    server = start(hang_after=0, grace_seconds=60, settings={**TWO, "drain_seconds": 3600})
    stopped, other = workers(server)
    os.kill(stopped, signal.SIGSTOP)
    with server.connect() as waiting:
        waiting.sendall(attend_request())
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: waits_for_it(stopped), "the first is passed on")
        assert server.stop() == 128 + signal.SIGTERM
    assert not served(server, stopped)
    assert not served(server, other)


def test_requests_that_cannot_be_finished_in_time_are_told_and_the_status_says_so(start: Start) -> None:
    server = start(hang_after=0, grace_seconds=0.1, settings={**TWO, "drain_seconds": 1})

    async def ask_all() -> list[Answer]:
        callers = await asyncio.gather(*(Caller.to(server.port) for _ in range(6)))
        asked = [asyncio.create_task(caller.ask(attend_request())) for caller in callers]
        await asyncio.to_thread(queued, server, 6)
        server.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)
        await asyncio.gather(*(caller.leave() for caller in callers))
        return answers

    answers = asyncio.run(ask_all())
    assert {(answer.status, answer.code) for answer in answers} == {(503, "draining")}
    assert server.ended() == 1
    with pytest.raises(ConnectionRefusedError):
        read(server.connect())
