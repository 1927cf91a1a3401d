"""What users of Triton's own client do over gRPC, against a running server.

    python grpc_clients.py CASE GRPC HTTP

Runs in an environment of its own, which has that client, unmodified, and nothing of Heed. GRPC and HTTP are
addresses of one server, which is on the fake runtime but for `triton_is_told_the_same_as_over_http`, whose
model is minilm. A case that fails ends with a traceback. The fake's z is twice the embeddings.
"""

import asyncio
import queue
import sys

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

X = (np.arange(12, dtype=np.float32).reshape(3, 4) - 5) / 4
MODEL = "fake"
KEY = {"authorization": "Bearer secret"}


def refusal(ask):
    """Return what `ask` is refused with."""
    try:
        ask()
    except InferenceServerException as error:
        return error
    raise AssertionError("it was not refused")


def tensor(name, array, datatype, client=triton):
    made = client.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def triton_asks_what_is_there(url, http):
    client = triton.InferenceServerClient(url)
    over_http = triton_http.InferenceServerClient(http)
    assert client.is_server_live(headers=KEY)
    assert client.is_server_ready()  # needs no key
    assert client.is_model_ready(MODEL, headers=KEY)
    assert client.is_model_ready(MODEL, "1", headers=KEY)
    assert not client.is_model_ready("none", headers=KEY)
    about = client.get_server_metadata(headers=KEY, as_json=True)
    assert about == over_http.get_server_metadata(headers=KEY)
    page = client.get_model_metadata(MODEL, headers=KEY)
    expected = over_http.get_model_metadata(MODEL, headers=KEY)
    for ours, theirs in ((page.inputs, expected["inputs"]), (page.outputs, expected["outputs"])):
        described = [{"name": o.name, "datatype": o.datatype, "shape": list(o.shape)} for o in ours]
        assert described == theirs
    config = client.get_model_config(MODEL, "1", headers=KEY).config
    assert (config.name, config.backend, config.max_batch_size) == (MODEL, "heed", 0)
    assert [one.name for one in config.output] == [one.name for one in page.outputs]
    stats = client.get_inference_statistics(MODEL, headers=KEY, as_json=True)["model_stats"]
    expected = over_http.get_inference_statistics(MODEL, headers=KEY)["model_stats"]
    for one, other in zip(stats, expected, strict=True):
        for name in ("inference_count", "execution_count"):
            assert int(one.get(name, 0)) == other[name]
        for name, spent in other["inference_stats"].items():
            found = one["inference_stats"][name]
            assert {part: int(found.get(part, 0)) for part in spent} == spent
    assert len(client.get_inference_statistics(headers=KEY).model_stats) >= 1
    for ask in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        assert refusal(lambda ask=ask: ask("none", headers=KEY)).status() == "StatusCode.NOT_FOUND"
    assert refusal(lambda: client.get_model_metadata(MODEL)).status() == "StatusCode.UNAUTHENTICATED"


def triton_infers_tensors(url, http):
    client = triton.InferenceServerClient(url)
    outputs = [triton.InferRequestedOutput(name) for name in ("z", "weights", "top_k_keys")]
    for chosen in (None, outputs):
        result = client.infer(
            MODEL, [tensor("embeddings", X, "FP32")], outputs=chosen, request_id="7", headers=KEY
        )
        assert result.get_response().id == "7"
        np.testing.assert_array_equal(result.as_numpy("z"), 2 * X)
        assert result.as_numpy("weights").shape == (2, 3, 3)
    assert result.as_numpy("top_k_keys").dtype == np.int32
    batch, lengths = np.stack([X, X]), np.array([3, 1], np.int32)
    result = client.infer(
        MODEL,
        [tensor("embeddings", batch, "FP32"), tensor("lengths", lengths, "INT32")],
        outputs=[triton.InferRequestedOutput("z")],
        parameters={"layers": "all", "heads": "1", "deterministic": True},
        headers=KEY,
    )
    np.testing.assert_array_equal(result.as_numpy("z")[0, 1], 2 * X)
    for datatype, dtype, name in (("FP16", np.float16, "float16"), ("BF16", ml_dtypes.bfloat16, "bfloat16")):
        half = tensor("embeddings", X.astype(dtype), datatype)
        result = client.infer(MODEL, [half], parameters={"dtype": name}, headers=KEY)
        assert result.get_output("z").datatype == datatype
        got = result.as_numpy("z").astype(np.float32)
        np.testing.assert_array_equal(got, 2 * X.astype(dtype).astype(np.float32))


def triton_infers_texts(url, http):
    client = triton.InferenceServerClient(url)
    texts = tensor("text", np.array(["a b c d e", "a b"], dtype=np.object_), "BYTES")
    outputs = [triton.InferRequestedOutput(name) for name in ("z", "lengths", "tokens")]
    for compression in (None, "gzip", "deflate"):
        result = client.infer(MODEL, [texts], outputs=outputs, headers=KEY, compression_algorithm=compression)
        assert result.as_numpy("lengths").tolist() == [5, 2]
        assert [one.decode() for one in result.as_numpy("tokens")[1]] == ["a", "b", "", "", ""]


def triton_infers_32_at_once(url, http):
    arrays = [np.full((1 + place % 7, 4), place, np.float32) for place in range(32)]
    client = triton.InferenceServerClient(url)
    done = queue.Queue()
    for place, array in enumerate(arrays):

        def told(result, error, place=place):
            done.put((place, result, error))

        client.async_infer(MODEL, [tensor("embeddings", array, "FP32")], told, headers=KEY)
    for _ in arrays:
        place, result, error = done.get(timeout=60)
        assert error is None, error
        np.testing.assert_array_equal(result.as_numpy("z"), 2 * arrays[place])

    async def ask():
        async with triton_aio.InferenceServerClient(url) as client:
            inputs = [[tensor("embeddings", array, "FP32", triton_aio)] for array in arrays]
            results = await asyncio.gather(*(client.infer(MODEL, one, headers=KEY) for one in inputs))
            for array, result in zip(arrays, results, strict=True):
                np.testing.assert_array_equal(result.as_numpy("z"), 2 * array)

    asyncio.run(ask())


def triton_is_told_what_is_wrong(url, http):
    client = triton.InferenceServerClient(url)
    given = [tensor("embeddings", X, "FP32")]
    large = [tensor("embeddings", np.zeros((2**18, 4), np.float32), "FP32")]
    for status, ask in (
        (
            "INVALID_ARGUMENT",
            lambda: client.infer(MODEL, [tensor("embeddings", X[:, :3].copy(), "FP32")], headers=KEY),
        ),
        ("INVALID_ARGUMENT", lambda: client.infer(MODEL, given, parameters={"layer": 1}, headers=KEY)),
        ("NOT_FOUND", lambda: client.infer("none", given, headers=KEY)),
        ("UNAUTHENTICATED", lambda: client.infer(MODEL, given)),
        ("RESOURCE_EXHAUSTED", lambda: client.infer(MODEL, large, headers=KEY)),
        ("DEADLINE_EXCEEDED", lambda: client.infer(MODEL, given, headers=KEY, client_timeout=0.0001)),
    ):
        error = refusal(ask)
        assert (error.status(), bool(error.message())) == (f"StatusCode.{status}", True), error


def triton_manages_the_repository(url, http):
    client = triton.InferenceServerClient(url)
    rows = client.get_model_repository_index(headers=KEY).models
    assert (MODEL, "1", "READY") in [(row.name, row.version, row.state) for row in rows]
    client.load_model("another", headers=KEY)
    assert client.is_model_ready("another", headers=KEY)
    client.unload_model("another", headers=KEY)
    assert not client.is_model_ready("another", headers=KEY)


def triton_is_told_the_same_as_over_http(url, http):
    model = "minilm"
    texts = np.array(["She sat on the bank of the river.", "attention"], dtype=np.object_)
    rows = np.random.default_rng(0).standard_normal((64, 384), dtype=np.float32)
    replies = []
    for client, address in ((triton, url), (triton_http, http)):
        names = ("z", "weights", "lengths", "tokens", "pooled")
        asked = client.InferenceServerClient(address)
        of_texts = asked.infer(
            model,
            [tensor("text", texts, "BYTES", client)],
            outputs=[client.InferRequestedOutput(name) for name in names],
            parameters={"layers": "all", "deterministic": True},
        )
        of_rows = asked.infer(
            model,
            [tensor("embeddings", rows, "FP32", client)],
            outputs=[client.InferRequestedOutput("z")],
            parameters={"deterministic": True},
        )
        replies.append([of_texts.as_numpy(name) for name in names] + [of_rows.as_numpy("z")])
    for ours, theirs in zip(*replies, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


CASES = {
    case.__name__: case
    for case in (
        triton_asks_what_is_there,
        triton_infers_tensors,
        triton_infers_texts,
        triton_infers_32_at_once,
        triton_is_told_what_is_wrong,
        triton_manages_the_repository,
        triton_is_told_the_same_as_over_http,
    )
}

if __name__ == "__main__":
    CASES[sys.argv[1]](*sys.argv[2:])
