"""Requests of `benchmarks.loop` whose arrays are bytes: safetensors and `.npy`."""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.loop.requests import ATTEND, NPY, SAFETENSORS, Make, Requests, post

DTYPES = {"float32": "F32", "int64": "I64", "bool": "BOOL", "float16": "F16"}


def tensor_requests() -> Requests:
    """Give every request with its name."""
    for count in (64, 512, 4096):
        ids = {f"{at}.token_ids": np.array([1], np.int64) for at in range(count)}
        yield f"attend safetensors {count} inputs", _attend(ids)
    spans = {"0.token_ids": np.ones(10, np.int64), "0.spans": np.array([[0, 1]] * 1000, np.int64)}
    yield "attend safetensors 1,000 spans", _attend(spans, "outputs=weights&heads=0")
    rows = np.ones((8000, 64), np.float32)
    half = rows.astype(np.float16)
    yield "attend safetensors embeddings [8000, 64]", _attend({"0.embeddings": rows})
    yield "attend safetensors embeddings [8000, 64] of float16", _attend({"0.embeddings": half})
    mask = {"0.token_ids": np.ones(5000, np.int64), "0.mask": np.ones((5000, 5000), np.bool_)}
    yield "attend safetensors mask [5000, 5000]", _attend(mask, "outputs=entropy")
    head = b"{'descr': '<f4', 'fortran_order': True, 'shape': (8000, 64), }"
    file = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    yield (
        "attend npy [8000, 64] in Fortran's order",
        lambda: post(f"{ATTEND}?outputs=z", file + rows.tobytes(), NPY, f"Accept: {NPY}"),
    )
    words = _headed({"__metadata__": {f"k{at}": "v" for at in range(40_000)}})
    yield "attend safetensors 40,000 words beside", lambda: post(ATTEND, words, SAFETENSORS)


def _attend(tensors: dict[str, NDArray[Any]], options: str = "outputs=z") -> Make:
    return lambda: post(f"{ATTEND}?{options}", _body(tensors), SAFETENSORS, f"Accept: {SAFETENSORS}")


def _body(tensors: dict[str, NDArray[Any]]) -> bytes:
    header: dict[str, Any] = {}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        shape = list(array.shape)
        header[name] = {"dtype": DTYPES[str(array.dtype)], "shape": shape, "data_offsets": [start, end]}
    return _headed(header) + b"".join(array.tobytes() for array in tensors.values())


def _headed(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text
