"""What is sent to each kind of server and how z is read from its reply: the same numbers in every format."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.workload import D_MODEL, Body

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Format:
    """`write` makes a request of a sequence [T, 768]; `read` finds z [T, 768] in a reply's bytes.

    `rival` is what Heed is sent in the same round: JSON against JSON, binary against binary.
    """

    write: Callable[[Matrix], Body]
    read: Callable[[bytes], Matrix]
    rival: str


def _json(content: object) -> Body:
    # Shortest float32 digits, as every careful client writes them.
    return Body("application/json", orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def _rows(buffer: bytes) -> Matrix:
    return np.frombuffer(buffer, dtype="<f4").reshape(-1, D_MODEL)


def _heed_json(x: Matrix) -> Body:
    return _json({"inputs": [{"embeddings": x}], "outputs": ["z"]})


def _plain(x: Matrix) -> Body:
    return _json({"embeddings": x})


def _plain_base64(x: Matrix) -> Body:
    return _json({"embeddings": base64.b64encode(x.tobytes()).decode(), "shape": x.shape})


def _raw(x: Matrix) -> Body:
    return Body("application/octet-stream", x.tobytes())


def _oip_json(x: Matrix) -> Body:
    tensor = {"name": "embeddings", "shape": x.shape, "datatype": "FP32", "data": x.ravel()}
    return _json({"inputs": [tensor], "outputs": [{"name": "z"}]})


def _oip_base64(x: Matrix) -> Body:
    text = base64.b64encode(x.tobytes()).decode()
    tensor = {"name": "embeddings", "shape": [1], "datatype": "BYTES", "data": [text]}
    return _json({"inputs": [{**tensor, "parameters": {"content_type": "base64"}}]})


def _oip(x: Matrix, *, batch_axis: bool = False) -> Body:
    size = {"binary_data_size": x.nbytes}
    shape = [1, *x.shape] if batch_axis else list(x.shape)
    tensor = {"name": "embeddings", "shape": shape, "datatype": "FP32", "parameters": size}
    start = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "z", "parameters": {"binary_data": True}}]}
    ).encode()
    length = (("Inference-Header-Content-Length", str(len(start))),)
    return Body("application/octet-stream", start + x.tobytes(), length)


def _batched_oip_json(x: Matrix) -> Body:
    return _oip_json(x[None])


def _batched_oip(x: Matrix) -> Body:
    return _oip(x, batch_axis=True)


def _read_heed(reply: bytes) -> Matrix:
    return np.array(json.loads(reply)["outputs"][0]["z"], dtype=np.float32)


def _read_plain(reply: bytes) -> Matrix:
    return np.array(json.loads(reply)["z"], dtype=np.float32)


def _read_oip_json(reply: bytes) -> Matrix:
    return np.array(json.loads(reply)["outputs"][0]["data"], dtype=np.float32).reshape(-1, D_MODEL)


def _read_oip_base64(reply: bytes) -> Matrix:
    return _rows(base64.b64decode(json.loads(reply)["outputs"][0]["data"][0]))


def _read_oip(reply: bytes) -> Matrix:
    """Find the end of the JSON by its own syntax: the tensors follow it at once."""
    head, end = json.JSONDecoder().raw_decode(reply.decode("latin-1"))
    assert [tensor["name"] for tensor in head["outputs"]] == ["z"]
    return _rows(reply[end:])


FORMATS = {
    "heed JSON": Format(_heed_json, _read_heed, "heed JSON"),
    "OIP binary": Format(_oip, _read_oip, "OIP binary"),
    "OIP JSON": Format(_oip_json, _read_oip_json, "heed JSON"),
    "OIP binary, batch axis": Format(_batched_oip, _read_oip, "OIP binary"),
    "OIP JSON, batch axis": Format(_batched_oip_json, _read_oip_json, "heed JSON"),
    "OIP base64": Format(_oip_base64, _read_oip_base64, "OIP binary"),
    "JSON": Format(_plain, _read_plain, "heed JSON"),
    "base64 in, raw out": Format(_plain_base64, _rows, "OIP binary"),
    "raw": Format(_raw, _rows, "OIP binary"),
}
