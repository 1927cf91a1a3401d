"""Requests of `benchmarks.loop` in the Open Inference Protocol, with tensors as bytes and in JSON."""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.loop.requests import Make, Requests, of, post

INFER = "/v2/models/fake/infer"


def protocol_requests() -> Requests:
    """Give every request with its name."""
    for count in (64, 512, 4096):
        ids = np.ones((count, 2), np.int64)
        yield f"infer binary [{count}, 2] ids", _numbers("token_ids", "INT64", ids)
        yield f"infer binary {count} texts, tokens back", _texts(count)
        yield f"infer JSON [{count}, 2] ids", _infer(_tensor("token_ids", "INT64", [count, 2], 1))
        words = _tensor("text", "BYTES", [count], "a b")
        yield f"infer JSON {count} texts, tokens back", _infer(words, "entropy", "tokens")
    ones = np.ones((400, 16, 64), np.float32)
    yield "infer binary embeddings [400, 16, 64]", _numbers("embeddings", "FP32", ones)
    wide = np.ones((2000, 64), np.float64)
    yield "infer binary embeddings [2000, 64] of FP64", _numbers("embeddings", "FP64", wide)
    unknown = [{"name": f"x{at}", "shape": [1], "datatype": "FP32", "data": [1]} for at in range(2000)]
    yield "infer JSON 2,000 unknown tensors", of(INFER, {"inputs": unknown})
    two = {"name": "token_ids", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    yield "infer JSON 30,000 outputs", _infer(two, *(f"z{at}" for at in range(30_000)))
    strange = {**two, "parameters": {f"a{at}": 1 for at in range(60)}}
    yield "infer JSON 60 strange parameters", of(INFER, {"inputs": [strange]})
    many = {
        "inputs": [_tensor("token_ids", "INT64", [4096, 2], 1)],
        "outputs": [{"name": "z", "parameters": {f"p{at}": 1 for at in range(60)}}] * 2000,
    }
    yield "infer JSON 120,000 strange parameters", of(INFER, many)


def _tensor(name: str, datatype: str, shape: list[int], value: object) -> dict[str, Any]:
    """Return a tensor in JSON that holds one value everywhere."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": [value] * int(np.prod(shape))}


def _infer(tensor: dict[str, Any], *outputs: str) -> Make:
    named = [{"name": name} for name in outputs or ("z",)]
    return of(INFER, {"inputs": [tensor], "outputs": named})


def _numbers(name: str, datatype: str, array: NDArray[Any]) -> Make:
    return lambda: _binary(name, datatype, list(array.shape), array.tobytes(), outputs=("z",))


def _texts(count: int) -> Make:
    texts = (struct.pack("<I", 3) + b"a b") * count
    return lambda: _binary("text", "BYTES", [count], texts, outputs=("z", "tokens"))


def _binary(name: str, datatype: str, shape: list[int], payload: bytes, *, outputs: tuple[str, ...]) -> bytes:
    """Return a request of one tensor as bytes, whose outputs come back as bytes."""
    size = {"binary_data_size": len(payload)}
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": size}
    back = [{"name": output, "parameters": {"binary_data": True}} for output in outputs]
    text = json.dumps({"inputs": [tensor], "outputs": back}).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    return post(INFER, text + payload, "application/octet-stream", length)
