"""The main job as a user does it: `heed serve` on the demo models, a real socket, real attention."""

import asyncio
import io
import json
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy
from prometheus_client.parser import text_string_to_metric_families

from tests.real_server import ATTEND, Server, serving
from tests.waiting import wait_until

TOLERANCE = 1e-5


def test_the_readme_request_returns_vectors_and_matrices_of_every_layer(server: Server) -> None:
    reply = server.post({"inputs": [{"text": "She sat on the bank of the river."}], "layers": "all"})
    assert reply.status_code == 200
    body = reply.json()
    (output,) = body["outputs"]
    tokens = ["[CLS]", "she", "sat", "on", "the", "bank", "of", "the", "river", ".", "[SEP]"]
    assert body["model"] == "minilm"
    assert output["tokens"] == tokens
    assert np.array(output["z"]).shape == (6, 11, 384)
    weights = np.array(output["weights"])
    assert weights.shape == (6, 12, 11, 11)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert weights.std() > 0.01
    assert body["usage"] == {"sequences": 1, "tokens": 11}
    assert "compute;dur=" in reply.headers["server-timing"]
    assert reply.headers["x-request-id"]


def test_embeddings_in_place_of_text_give_the_same_answer(server: Server, minilm_folder: Path) -> None:
    from safetensors import safe_open

    text = {"inputs": [{"text": "the bank of the river"}], "outputs": ["z", "weights", "hidden"]}
    by_text = server.post(text).json()["outputs"][0]
    with safe_open(minilm_folder / "model.safetensors", "np") as tensors:
        table = tensors.get_tensor("embeddings.word_embeddings.weight")
    ids = [101, 1996, 2924, 1997, 1996, 2314, 102]
    rows = table[ids].tolist()
    by_vectors = server.post({**text, "inputs": [{"embeddings": rows}]}).json()["outputs"][0]
    for name in ("z", "weights", "hidden"):
        np.testing.assert_allclose(by_vectors[name], by_text[name], atol=TOLERANCE)


def test_heads_norms_and_what_is_embedded_come_alike_in_every_format(server: Server) -> None:
    names = ("z_heads", "output_norms", "embedded")
    texts = ["the bank of the river", "a loan"]
    body = {
        "inputs": [{"text": text} for text in texts],
        "outputs": [*names],
        "heads": [3, 0],
        "layers": [1, 4],
    }
    plain = [{name: np.array(one[name]) for name in names} for one in server.post(body).json()["outputs"]]
    for one, tokens in zip(plain, (7, 4), strict=True):
        shapes = ((2, 2, tokens, 32), (2, 2, tokens, tokens), (tokens, 384))
        assert tuple(one[name].shape for name in names) == shapes
    url = server.url + ATTEND
    reply = httpx.post(url, json=body, headers={"Accept": "application/x-safetensors"})
    tensors = safetensors.numpy.load(reply.content)
    for name in names:
        alone = {**body, "inputs": body["inputs"][:1], "outputs": [name]}
        npy = httpx.post(url, json=alone, headers={"Accept": "application/x-npy"}).content
        np.testing.assert_allclose(np.load(io.BytesIO(npy)), plain[0][name], atol=TOLERANCE)
        for place, one in enumerate(plain):
            np.testing.assert_allclose(tensors[f"{place}.{name}"], one[name], atol=TOLERANCE)
    infer = {
        "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": texts}],
        "outputs": [{"name": name} for name in names],
        "parameters": {"heads": "3,0", "layers": "1,4"},
    }
    made = httpx.post(f"{server.url}/v2/models/minilm/infer", json=infer).json()["outputs"]
    padded = {one["name"]: np.reshape(one["data"], one["shape"]) for one in made}
    assert padded["output_norms"].shape == (2, 2, 2, 7, 7)
    for place, one in enumerate(plain):
        for name in names:
            inside = padded[name][place][tuple(slice(size) for size in one[name].shape)]
            np.testing.assert_allclose(inside, one[name], atol=TOLERANCE)
    refusal = httpx.post(
        f"{server.url}/v1/attention",
        json={"inputs": [{"query": [[1.0]], "key": [[1.0]], "value": [[1.0]]}], "outputs": ["output_norms"]},
    )
    assert refusal.status_code == 422
    assert "needs an output projection W_O" in refusal.json()["error"]["message"]


def test_200_concurrent_ragged_requests_equal_the_ones_given_alone(server: Server) -> None:
    chance = random.Random(0)
    bodies = [
        {
            "inputs": [
                {"token_ids": [101, *chance.choices(range(1000, 30000), k=chance.randint(1, 120)), 102]}
            ],
            "outputs": ["z", "weights"] if number % 2 else ["z"],
            "layers": chance.choice([-1, 0, 2, [1, 4]]),
        }
        for number in range(200)
    ]
    alone = [server.post(body).json()["outputs"][0] for body in bodies]
    batches_before = server.metric("heed_batch_sequences_count")
    together = asyncio.run(post_all(server.url + ATTEND, bodies))
    for body, one, other in zip(bodies, alone, together, strict=True):
        tokens = len(body["inputs"][0]["token_ids"])  # type: ignore[index]
        assert other.keys() == one.keys()
        assert np.array(other["z"]).shape[-2] == tokens
        for name in body["outputs"]:  # type: ignore[attr-defined]
            np.testing.assert_allclose(other[name], one[name], atol=TOLERANCE)
    assert server.metric("heed_batch_sequences_count") - batches_before < 200


async def post_all(url: str, bodies: list[dict[str, object]]) -> list[dict[str, object]]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        replies = await asyncio.gather(*(client.post(url, json=body) for body in bodies))
    assert {reply.status_code for reply in replies} == {200}
    return [reply.json()["outputs"][0] for reply in replies]


def test_one_poisoned_request_fails_alone_among_eight(server: Server) -> None:
    sound = {"inputs": [{"text": "attention is all you need"}], "outputs": ["z"]}
    expected = server.post(sound).json()["outputs"][0]["z"]
    poisoned = {"inputs": [{"embeddings": [[3e38] * 384, [-3e38] * 384]}], "outputs": ["z"]}
    slow = {"inputs": [{"token_ids": [101] * 500}] * 8, "outputs": ["z"]}  # the rest queues behind it

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            bodies = [slow, *(sound for _ in range(4)), poisoned, *(sound for _ in range(3))]
            return list(await asyncio.gather(*(client.post(ATTEND, json=body) for body in bodies)))

    replies = asyncio.run(all_at_once())
    assert [reply.status_code for reply in replies] == [200] * 5 + [422] + [200] * 3
    assert replies[5].json()["error"]["code"] == "not_finite"
    for reply in (*replies[1:5], *replies[6:]):
        np.testing.assert_allclose(reply.json()["outputs"][0]["z"], expected, atol=TOLERANCE)


def test_result_too_large_is_refused_with_both_numbers_before_any_compute(repository: Path) -> None:
    with serving(repository, "--max-result-bytes", "1000000") as small:
        before = small.metric("heed_compute_seconds_count")
        reply = small.post({"inputs": [{"token_ids": [101] * 200}], "outputs": ["weights"], "layers": "all"})
        assert reply.status_code == 413
        error = reply.json()["error"]
        assert error["code"] == "result_too_large"
        assert str(6 * 12 * 200 * 200 * 4) in error["message"].replace(",", "")
        assert "1000000" in error["message"].replace(",", "")
        assert small.metric("heed_compute_seconds_count") == before
        assert small.post({"inputs": [{"text": "still here"}]}).status_code == 200


def test_client_gone_while_queued_costs_no_forward_pass(server: Server) -> None:
    slow = json.dumps({"inputs": [{"token_ids": [101] * 510}] * 32, "outputs": ["pooled"]}).encode()
    leaving = json.dumps({"inputs": [{"text": "gone"}] * 3, "outputs": ["z"]}).encode()
    sequences = server.metric("heed_batch_sequences_sum")
    cancelled = server.metric("heed_cancelled_total")
    with raw_request(server, slow) as first:
        wait_until(lambda: server.metric("heed_queued_requests") >= 1, "the slow request is queued")
        raw_request(server, leaving).close()
        assert first.recv(15).startswith(b"HTTP/1.1 200")
    wait_until(lambda: server.metric("heed_cancelled_total") > cancelled, "the caller's leave is counted")
    assert server.metric("heed_batch_sequences_sum") == sequences + 32


def raw_request(server: Server, body: bytes) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST {ATTEND} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_metrics_are_well_formed(server: Server) -> None:
    page = httpx.get(server.url + "/metrics").text
    assert {family.name for family in text_string_to_metric_families(page)} >= {"heed_batch_sequences"}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus package) is not installed")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=page.encode(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_sigterm_under_load_answers_every_accepted_request(repository: Path) -> None:
    with serving(repository) as stopping:
        body = {"inputs": [{"token_ids": [101] * 100}] * 2, "outputs": ["z"]}

        async def load() -> list[int]:
            limits = httpx.Limits(max_connections=64)
            async with httpx.AsyncClient(base_url=stopping.url, timeout=60, limits=limits) as client:
                tasks = [asyncio.create_task(client.post(ATTEND, json=body)) for _ in range(64)]
                await tasks[0]
                stopping.process.send_signal(signal.SIGTERM)
                return [reply.status_code for reply in await asyncio.gather(*tasks)]

        assert asyncio.run(load()) == [200] * 64
        assert stopping.process.wait(timeout=60) == 0
