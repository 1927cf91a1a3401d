"""What users of Triton's and KServe's own clients do, against a running server on the fake runtime.

    python oip_clients.py URL CASE

Runs in an environment of its own, which has those clients, unmodified, and nothing of Heed. A case that fails
ends with a traceback. The fake's z is twice the embeddings, its weights are 1/S.
"""

import asyncio
import json
import sys
import urllib.request

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from tritonclient.utils import InferenceServerException

X = (np.arange(12, dtype=np.float32).reshape(3, 4) - 5) / 4
MODEL = "fake"


def attend(url, body):
    """The same question to the main route, in JSON."""
    request = urllib.request.Request(
        f"http://{url}/v1/models/{MODEL}/attend",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)["outputs"]


def refusal(ask):
    """Return what `ask` is refused with."""
    try:
        ask()
    except InferenceServerException as error:
        return error
    raise AssertionError("it was not refused")


def tensor(name, array, datatype, binary=True):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def triton_asks_what_is_there(url):
    client = triton.InferenceServerClient(url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("none")
    about = client.get_server_metadata()
    assert about["name"] == "heed"
    assert {"binary_tensor_data", "model_configuration", "model_repository", "statistics"} <= set(
        about["extensions"]
    )
    page = client.get_model_metadata(MODEL)
    assert page["versions"] == ["1"]
    assert {"name": "embeddings", "datatype": "FP32", "shape": [-1, 4]} in page["inputs"]
    assert refusal(lambda: client.get_model_metadata("none")).status() == "404"
    for version in ("", "1"):
        configuration = client.get_model_config(MODEL, version)
        assert (configuration["name"], configuration["max_batch_size"]) == (MODEL, 0)
        kinds = {one["name"]: (one["data_type"], one["dims"]) for one in configuration["input"]}
        assert kinds["embeddings"] == ("TYPE_FP32", [-1, 4])
        assert kinds["text"] == ("TYPE_STRING", [-1])
        assert [one["name"] for one in configuration["output"]] == [one["name"] for one in page["outputs"]]
    assert refusal(lambda: client.get_model_config("none")).status() == "404"
    (stats,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
    assert (stats["name"], stats["version"]) == (MODEL, "1")
    assert stats["inference_stats"]["success"]["count"] <= stats["inference_count"]
    assert refusal(lambda: client.get_inference_statistics("none")).status() == "404"


def triton_infers_in_every_mix_of_json_and_binary(url):
    client = triton.InferenceServerClient(url)
    (expected,) = attend(url, {"inputs": [{"embeddings": X.tolist()}], "outputs": ["z", "weights", "top_k"]})
    for binary_in in (True, False):
        for binary_out in (True, False, None):
            outputs = None
            if binary_out is not None:
                names = ("z", "weights", "top_k_keys")
                outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
            result = client.infer(
                MODEL, [tensor("embeddings", X, "FP32", binary_in)], outputs=outputs, request_id="7"
            )
            assert result.get_response()["id"] == "7"
            for name in ("z", "weights") if outputs is None else names:
                got = result.as_numpy(name)
                wanted = np.array(expected[name], got.dtype)
                assert got.dtype == (np.int32 if name == "top_k_keys" else np.float32)
                np.testing.assert_array_equal(got, wanted)


def triton_infers_in_half_precision(url):
    client = triton.InferenceServerClient(url)
    for datatype, dtype, name in (("FP16", np.float16, "float16"), ("BF16", ml_dtypes.bfloat16, "bfloat16")):
        result = client.infer(
            MODEL, [tensor("embeddings", X.astype(dtype), datatype)], parameters={"dtype": name}
        )
        assert result.get_output("z")["datatype"] == datatype
        got = result.as_numpy("z")
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.astype(np.float32), 2 * X.astype(dtype).astype(np.float32))


def triton_infers_texts(url):
    client = triton.InferenceServerClient(url)
    words = ["the bank of the river", "the bank"]
    answers = attend(url, {"inputs": [{"text": text} for text in words]})
    for binary in (True, False):
        texts = tensor("text", np.array(words, dtype=np.object_), "BYTES", binary)
        names = ("z", "weights", "lengths", "tokens")
        result = client.infer(
            MODEL,
            [texts],
            outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in names],
        )
        lengths = result.as_numpy("lengths")
        assert lengths.tolist() == [5, 2]
        for place, (answer, length) in enumerate(zip(answers, lengths, strict=True)):
            np.testing.assert_array_equal(
                result.as_numpy("z")[place, :length], np.array(answer["z"], np.float32)
            )
            weights = result.as_numpy("weights")[place, :, :length, :length]
            np.testing.assert_array_equal(weights, np.array(answer["weights"], np.float32))
        tokens = [t.decode() if isinstance(t, bytes) else t for t in result.as_numpy("tokens")[1]]
        assert tokens == ["the", "bank", "", "", ""]


def triton_infers_a_padded_batch(url):
    client = triton.InferenceServerClient(url)
    batch = np.stack([X, X])
    lengths = np.array([3, 1], np.int32)
    result = client.infer(
        MODEL,
        [tensor("embeddings", batch, "FP32"), tensor("lengths", lengths, "INT32")],
        outputs=[triton.InferRequestedOutput("z"), triton.InferRequestedOutput("entropy")],
        parameters={"layers": "all", "heads": "1"},
    )
    z = result.as_numpy("z")
    assert z.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(z[0, 1], 2 * X)
    np.testing.assert_array_equal(z[1, 0, 0], 2 * X[0])
    assert not z[1, :, 1:].any()
    assert result.as_numpy("entropy").shape == (2, 2, 1, 3)


def triton_infers_32_at_once(url):
    async def ask():
        async with triton_aio.InferenceServerClient(url, conn_limit=32) as client:
            arrays = [np.full((1 + place % 7, 4), place, np.float32) for place in range(32)]
            results = await asyncio.gather(
                *(client.infer(MODEL, [tensor("embeddings", array, "FP32")]) for array in arrays)
            )
            for array, result in zip(arrays, results, strict=True):
                np.testing.assert_array_equal(result.as_numpy("z"), 2 * array)

    asyncio.run(ask())


def triton_is_told_what_is_wrong(url):
    client = triton.InferenceServerClient(url)
    for status, ask in (
        ("422", lambda: client.infer(MODEL, [tensor("embeddings", X[:, :3].copy(), "FP32")])),
        ("404", lambda: client.infer("none", [tensor("embeddings", X, "FP32")])),
        ("422", lambda: client.infer(MODEL, [tensor("embeddings", X, "FP32")], parameters={"layer": 1})),
    ):
        error = refusal(ask)
        assert (error.status(), bool(error.message())) == (status, True), error


def triton_manages_the_repository(url):
    client = triton.InferenceServerClient(url)
    assert {
        "name": MODEL,
        "version": "1",
        "state": "READY",
        "reason": "",
    } in client.get_model_repository_index()
    client.load_model("another")
    assert client.is_model_ready("another")
    client.unload_model("another")
    assert not client.is_model_ready("another")


def kserve_does_the_same_job(url):
    async def ask():
        base = f"http://{url}"
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=1)) as client:
            assert await client.is_server_live(base)
            assert await client.is_server_ready(base)
            assert await client.is_model_ready(base, MODEL)
            assert not await client.is_model_ready(base, "none")
            (expected,) = attend(url, {"inputs": [{"embeddings": X.tolist()}]})
            for binary_in in (True, False):
                for binary_out in (True, False):
                    given = InferInput("embeddings", list(X.shape), "FP32")
                    given.set_data_from_numpy(X, binary_data=binary_in)
                    request = InferRequest(
                        MODEL,
                        [given],
                        request_id="7",
                        request_outputs=[
                            RequestedOutput(name, {"binary_data": binary_out}) for name in ("z", "weights")
                        ],
                    )
                    response = await client.infer(base, request, model_name=MODEL)
                    assert (response.id, response.model_name) == ("7", MODEL)
                    for output in response.outputs:
                        wanted = np.array(expected[output.name], np.float32)
                        np.testing.assert_array_equal(output.as_numpy(), wanted)
            half = InferInput("embeddings", list(X.shape), "FP16")
            half.set_data_from_numpy(X.astype(np.float16), binary_data=True)
            request = InferRequest(
                MODEL, [half], parameters={"dtype": "float16", "binary_data_output": True, "layers": "all"}
            )
            response = await client.infer(base, request, model_name=MODEL)
            z = next(output for output in response.outputs if output.name == "z")
            assert z.datatype == "FP16"
            np.testing.assert_array_equal(z.as_numpy(), [2 * X.astype(np.float16)] * 2)

    asyncio.run(ask())


CASES = {
    case.__name__: case
    for case in (
        triton_asks_what_is_there,
        triton_infers_in_every_mix_of_json_and_binary,
        triton_infers_in_half_precision,
        triton_infers_texts,
        triton_infers_a_padded_batch,
        triton_infers_32_at_once,
        triton_is_told_what_is_wrong,
        triton_manages_the_repository,
        kserve_does_the_same_job,
    )
}

if __name__ == "__main__":
    CASES[sys.argv[2]](sys.argv[1])
