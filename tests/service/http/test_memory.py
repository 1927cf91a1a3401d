"""The budget of memory along the request line: refused before anything is computed, given back in the end."""

import gc
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO

import httpx
import ml_dtypes
import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.http.replies import reply_bytes
from service.memory_budget import COUNTED_BYTES, MIB, Budget
from service.settings import Settings
from tests.asgi import call
from tests.fakes import FakeRuntime, fake_card

LIMIT = 16 * MIB  # 2 of which are kept back
ATTEND, INFER = "/v1/models/fake/attend", "/v2/models/fake/infer"
JSON = {"content-type": "application/json"}
ROWS = 2048


class Server:
    """A whole application under a budget that others hold a part of; without a connection of ours."""

    def __init__(self, stack: ExitStack, held: int) -> None:
        self.runtime = FakeRuntime(fake_card(max_tokens=1 << 20))
        self.budget = Budget(LIMIT)
        if held:
            self.budget.claim().take(held)
        self.client = stack.enter_context(
            TestClient(create_app(Settings(), self.runtime, budget=self.budget))
        )

    def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        before = self.budget.held
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        reply: httpx.Response = self.client.post(path, content=content, headers=JSON | names)
        assert self.budget.held == before
        return reply


Serve = Callable[[int], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda held: Server(stack, held)


def attend(rows: int, outputs: str = "z") -> bytes:
    numbers = [[0.5] * 4] * rows
    return json.dumps({"inputs": [{"embeddings": numbers}], "outputs": [outputs]}).encode()


def refused(response: httpx.Response, status: int, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), error
    assert "MAX_MEMORY_BYTES" in error["message"]
    assert ("retry-after" in response.headers) == (status == 503)
    return str(error["message"])


@pytest.mark.parametrize("form", ["application/json", "application/x-safetensors"])
def test_a_result_that_there_is_no_room_for_is_refused_before_it_is_computed(form: str, serve: Serve) -> None:
    server = serve(12 * MIB)
    body = attend(ROWS // 2, "weights")  # 8 MiB
    refused(server.post(ATTEND, body, accept=form), 503, "out_of_memory")
    assert server.runtime.batches == []
    assert server.post(ATTEND, attend(3, "weights"), accept=form).status_code == 200


def test_a_result_that_can_never_fit_is_too_large(serve: Serve) -> None:
    server = serve(0)
    message = refused(server.post(ATTEND, attend(ROWS, "weights")), 413, "result_too_large")
    assert str(LIMIT) in message
    assert server.runtime.batches == []


def test_json_counts_by_what_it_is_written_in(serve: Serve) -> None:
    """Of 2 MiB, 6 are held for JSON in pieces, and 2 for what is sent as it is."""
    server = serve(9 * MIB)
    body = attend(512, "weights")
    refused(server.post(ATTEND, body), 503, "out_of_memory")
    assert server.post(ATTEND, body, accept="application/x-safetensors").status_code == 200


def test_while_it_is_computed_a_request_holds_what_was_read_and_its_reply(serve: Serve) -> None:
    server = serve(0)
    seen: list[int] = []
    server.runtime.before_run = lambda _: seen.append(server.budget.held)
    body = attend(2 * ROWS)
    assert len(body) > COUNTED_BYTES
    arrays = reply = 2 * ROWS * 4 * 4
    form = "application/x-safetensors"
    assert server.post(ATTEND, body, accept=form).status_code == 200
    text = b'{"inputs": [{"text": "a b"}]%s}' % (COUNTED_BYTES * b" ")
    assert server.post(ATTEND, text, accept=form).status_code == 200
    of_arrays, of_text = seen
    assert of_arrays == arrays + reply
    assert of_text > len(text)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_numbers_of_16_bits_are_held_as_16_bits(kind: type, serve: Serve) -> None:
    server = serve(0)
    seen: list[int] = []
    server.runtime.before_run = lambda _: seen.append(server.budget.held)
    file = BytesIO()
    np.save(file, np.zeros((8 * ROWS, 4), kind))
    body, form = file.getvalue(), "application/x-npy"
    reply = server.post(f"{ATTEND}?outputs=z", body, content_type=form, accept=form)
    assert reply.status_code == 200
    ((item,),) = server.runtime.batches
    assert item.input.embeddings.nbytes == 8 * ROWS * 4 * 2  # a view of the body
    assert seen == [len(body) + 8 * ROWS * 4 * 4]  # which is held, and the reply


def test_matrices_of_edits_are_held_while_it_is_computed(serve: Serve) -> None:
    server = serve(0)
    seen: list[int] = []
    server.runtime.before_run = lambda _: seen.append(server.budget.held)
    matrix = np.full((4, 128, 128), 0.5)
    one = {"token_ids": [7] * 128, "edits": [{"edit": "pattern", "layers": "all", "value": matrix.tolist()}]}
    body = json.dumps({"inputs": [one], "outputs": ["z"]}).encode()
    assert len(body) > COUNTED_BYTES
    assert server.post(ATTEND, body, accept="application/x-safetensors").status_code == 200
    assert seen == [8 * 128 + 4 * matrix.size + 4 * 4 * 128]


def infer_of(ids: list[int]) -> bytes:
    one = {"name": "token_ids", "shape": [len(ids)], "datatype": "INT64", "data": ids}
    return json.dumps({"inputs": [one], "outputs": [{"name": "pooled"}]}).encode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ATTEND, lambda ids: json.dumps({"inputs": [{"token_ids": ids}], "outputs": ["pooled"]}).encode()),
        (INFER, infer_of),
        ("/v1/embeddings", lambda ids: json.dumps({"input": ids}).encode()),
    ],
)
def test_json_of_every_route_is_held_no_longer_than_it_is_read(
    path: str, body: Callable[[list[int]], bytes], serve: Serve
) -> None:
    server = serve(0)
    seen: list[int] = []
    server.runtime.before_run = lambda _: seen.append(server.budget.held)
    ids = [7] * 30_000
    assert server.post(path, body(ids)).status_code == 200
    numbers = 4  # of the pooled vector, in float32 and in JSON
    assert seen == [8 * len(ids) + reply_bytes(4 * numbers, number_bytes=4, largest_whole=LIMIT)]


def test_reading_counts_what_it_takes_and_keeps_what_is_left(serve: Serve) -> None:
    ids = json.dumps({"inputs": [{"token_ids": [7] * 30_000}], "outputs": ["z"]}).encode()
    assert len(ids) > COUNTED_BYTES
    refused(serve(13 * MIB).post(ATTEND, ids), 503, "out_of_memory")
    assert serve(8 * MIB).post(ATTEND, ids, accept="application/x-safetensors").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        (ATTEND, {"content_type": "application/x-npy"}, bytes(100)),
        (ATTEND, {}, attend(2)),
        (ATTEND, {}, attend(2 * ROWS)),
        (ATTEND, {}, attend(2 * ROWS)[:-1]),
        (ATTEND, {"content_encoding": "gzip"}, gzip.compress(attend(2 * ROWS))),
        (ATTEND, {"content_encoding": "gzip"}, gzip.compress(attend(2 * ROWS))[:-9]),
        (INFER, {}, attend(2)),
        ("/v1/embeddings", {}, json.dumps({"input": ["a"]}).encode()),
        ("/v1/embeddings", {}, json.dumps({"input": ["a"] * 20_000}).encode()),
        ("/v1/nothing", {}, attend(ROWS)),
    ],
)
def test_nothing_is_held_after_any_answer(
    path: str, headers: dict[str, str], body: bytes, serve: Serve
) -> None:
    serve(0).post(path, body, **headers)  # which looks at what is held


def test_a_body_that_unpacks_to_more_than_is_free_is_refused_while_it_is_unpacked(serve: Serve) -> None:
    packed = gzip.compress(bytes(30 * MIB))
    assert len(packed) < COUNTED_BYTES
    refused(serve(0).post(ATTEND, packed, content_encoding="gzip"), 413, "body_too_large")
    refused(
        serve(12 * MIB).post(ATTEND, gzip.compress(bytes(8 * MIB)), content_encoding="gzip"),
        503,
        "out_of_memory",
    )


def test_another_server_s_bodies_are_counted_by_the_gate(serve: Serve) -> None:
    refused(serve(13 * MIB).post(ATTEND, bytes(2 * MIB)), 503, "out_of_memory")
    refused(serve(0).post(ATTEND, bytes(15 * MIB)), 413, "body_too_large")


def test_numbers_of_other_widths_are_counted_before_they_are_widened(serve: Serve) -> None:
    narrow = BytesIO()
    np.save(narrow, np.zeros(MIB, np.int8))
    refused(
        serve(8 * MIB).post(ATTEND, narrow.getvalue(), content_type="application/x-npy"),
        503,
        "out_of_memory",
    )


def test_health_and_metrics_are_served_while_all_is_held(serve: Serve) -> None:
    server = serve(14 * MIB)
    server.budget.claim().take(MIB)
    server.budget.claim().take(MIB)
    assert server.budget.held == LIMIT

    health, metrics, models = (server.client.get(path) for path in ("/health", "/metrics", "/v1/models"))
    assert (health.status_code, models.status_code) == (200, 200)
    assert "heed_memory_held_bytes 1.6777216e+07" in metrics.text
    assert "heed_memory_limit_bytes 1.6777216e+07" in metrics.text
    assert "heed_memory_refused_total 0.0" in metrics.text
    refused(server.post(ATTEND, attend(2)), 503, "out_of_memory")


@pytest.mark.parametrize(
    ("settings", "status"), [({}, 413), ({"max_memory_bytes": LIMIT}, 413), ({"max_body_bytes": MIB}, 413)]
)
def test_a_refused_body_is_let_go_of_at_once_and_not_when_the_collector_comes(
    settings: dict[str, int], status: int
) -> None:
    head = {"name": "embeddings", "shape": [2**21, 4], "datatype": "FP32"}
    head["parameters"] = {"binary_data_size": 2**25}  # read on a thread, and refused, or over a limit
    text = json.dumps({"inputs": [head]}).encode()
    body = text + bytes(2**25)
    app = create_app(Settings(**settings), FakeRuntime())  # type: ignore[arg-type]
    names = [("inference-header-content-length", str(len(text)))]
    with TestClient(app):
        gc.collect()
        gc.disable()
        try:
            before = sys.getrefcount(body)
            reply = call(app, INFER, method="POST", headers=names, body=body)
            assert (reply.status, sys.getrefcount(body)) == (status, before)
        finally:
            gc.enable()
