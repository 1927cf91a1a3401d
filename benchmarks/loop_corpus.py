"""The requests of `benchmarks.loop`: many small things, in every route and format, and errors about them."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.fakes import fake_card

__all__ = ["CARD", "MODELS", "corpus"]

MODELS = 1000
CARD = fake_card("fake", heads=8, key_heads=8, d_model=64, d_k=8, d_v=8, max_tokens=8192, layers=12)
ATTEND, ATTENTION, EMBEDDINGS = "/v1/models/fake/attend", "/v1/attention", "/v1/embeddings"
INFER = "/v2/models/fake/infer"
JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
Make = Callable[[], bytes]


def corpus() -> Iterator[tuple[str, Make]]:
    """Give every request with its name."""
    yield from _json()
    yield from _embeddings()
    yield from _safetensors()
    yield from _protocol()
    yield from _others()
    yield from _errors()


def post(path: str, body: bytes, kind: str = JSON, *lines: str) -> bytes:
    head = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *lines]).encode() + b"\r\n\r\n"


def _of(path: str, fields: dict[str, Any], *lines: str) -> Make:
    return lambda: post(path, json.dumps(fields).encode(), JSON, *lines)


def _json() -> Iterator[tuple[str, Make]]:
    def attend(fields: dict[str, Any], *lines: str) -> Make:
        return _of(ATTEND, {"outputs": ["z"], **fields}, *lines)

    for count in (16, 64, 256, 1024, 4096):
        yield f"attend JSON {count} inputs of 1 id", attend({"inputs": [{"token_ids": [1]}] * count})
    yield (
        "attend JSON 4096 inputs, entropy",
        attend({"inputs": [{"token_ids": [1]}] * 4096, "outputs": ["entropy"]}),
    )
    every = ["z", "weights", "weights_mean", "weights_max", "top_k", "received", "entropy", "lse", "scores"]
    more = ["queries", "keys", "values", "value_norms", "rollout", "hidden", "pooled"]
    yield (
        "attend JSON 200 inputs of every output",
        attend({"inputs": [{"token_ids": [1, 2]}] * 200, "outputs": every + more, "layers": "all"}),
    )
    yield "attend JSON 500 texts", attend({"inputs": [{"text": "a b c"}] * 500})
    yield "attend JSON 4096 texts", attend({"inputs": [{"text": "a"}] * 4096})
    yield "attend JSON one text of 4,000 words", attend({"inputs": [{"text": "a " * 4000}]})
    yield (
        "attend JSON text with spans of words",
        attend({"inputs": [{"text": "a " * 1000}], "outputs": ["weights"], "spans": "words", "heads": [0]}),
    )
    yield (
        "attend JSON spans of characters",
        attend(
            {
                "inputs": [{"text": "a " * 500}],
                "outputs": ["weights"],
                "span_unit": "characters",
                "spans": [[at, at + 1] for at in range(0, 1000, 2)],
                "heads": [0],
            }
        ),
    )
    spans = [[at % 8, at % 8 + 1] for at in range(4000)]
    yield (
        "attend JSON 4,000 spans",
        attend(
            {
                "inputs": [{"token_ids": list(range(10))}],
                "outputs": ["weights"],
                "heads": [0],
                "spans": spans[:1000],
            }
        ),
    )
    yield (
        "attend JSON 256 spans on each of 64 inputs",
        attend(
            {
                "inputs": [{"token_ids": list(range(10)), "spans": spans[:256]}] * 64,
                "outputs": ["z"],
            }
        ),
    )
    yield (
        "attend JSON 100,000 rows",
        attend({"inputs": [{"token_ids": [1] * 8000}], "rows": [at % 8000 for at in range(100_000)]}),
    )
    yield (
        "attend JSON rows of 4096 inputs",
        attend({"inputs": [{"token_ids": [1] * 8}] * 1000, "rows": list(range(8)), "outputs": ["entropy"]}),
    )
    yield "attend JSON 30,000 heads", attend({"inputs": [{"token_ids": [1]}], "heads": [0] * 30_000})
    yield (
        "attend JSON top_k of 200 tokens",
        attend({"inputs": [{"token_ids": [1] * 200}], "outputs": ["top_k"], "top_k": 64}),
    )
    yield (
        "attend JSON mask [1000, 1000]",
        attend(
            {"inputs": [{"token_ids": [1] * 1000, "mask": [[True] * 1000] * 1000}], "outputs": ["entropy"]}
        ),
    )
    yield "attend JSON embeddings [500, 64]", attend({"inputs": [{"embeddings": [[0.123456] * 64] * 500}]})
    yield (
        "attend JSON 1,000 inputs of embeddings [2, 64]",
        attend({"inputs": [{"embeddings": [[0.5] * 64] * 2}] * 1000}),
    )
    weights = {"inputs": [{"token_ids": [1] * 128}], "outputs": ["weights"]}
    yield "attend JSON weights of 128 tokens", attend(weights)
    yield "attend JSON weights of 128 tokens, gzip", attend(weights, "Accept-Encoding: gzip")
    yield (
        "attend JSON weights of 40 tokens, gzip",
        attend({"inputs": [{"token_ids": [1] * 40}], "outputs": ["weights"]}, "Accept-Encoding: gzip"),
    )
    yield (
        "attend JSON 4096 inputs, safetensors reply",
        attend({"inputs": [{"token_ids": [1]}] * 4096}, f"Accept: {SAFETENSORS}"),
    )
    ones = [[1.0] * 4] * 2
    yield (
        "attention JSON 2,000 problems",
        _of(ATTENTION, {"inputs": [{"query": ones, "key": ones, "value": ones}] * 2000, "outputs": ["z"]}),
    )
    nulls = {"query": [[1.0]], "key": [[1.0]] * 1000, "value": [[1.0]] * 1000, "mask": [0.5, *[None] * 999]}
    yield "attention JSON masks of null", _of(ATTENTION, {"inputs": [nulls] * 20, "outputs": ["z"]})
    wide = json.dumps({"inputs": [{"token_ids": [1]}], **{f"x{at}": at for at in range(60)}}).encode()
    yield "attend JSON 60 unknown fields", lambda: post(ATTEND, wide)
    deep = {"inputs": [{"token_ids": [1], "x": [[{"a": at}] for at in range(50_000)]}]}
    yield "attend JSON 150,000 values of an unknown field", _of(ATTEND, deep)
    for mib in (1, 4):
        spaces = b'{"inputs":[' + b" " * (mib << 20) + b'{"token_ids":[1]}],"outputs":["z"]}'
        yield f"attend JSON {mib} MiB of spaces", lambda spaces=spaces: post(ATTEND, spaces)  # type: ignore[misc]


def _embeddings() -> Iterator[tuple[str, Make]]:
    for count in (16, 128, 1024, 2048):
        yield (
            f"embeddings {count} lists of ids",
            _of(EMBEDDINGS, {"model": "fake", "input": [[1, 2, 3]] * count}),
        )
    yield "embeddings 2048 texts", _of(EMBEDDINGS, {"model": "fake", "input": ["a b"] * 2048})
    yield "embeddings 100 lists of 1,000 ids", _of(EMBEDDINGS, {"model": "fake", "input": [[1] * 1000] * 100})
    for count in (256, 2048):
        yield (
            f"embeddings {count} as base64",
            _of(EMBEDDINGS, {"model": "fake", "input": [[1]] * count, "encoding_format": "base64"}),
        )
    yield "embeddings one list of 8,000 ids", _of(EMBEDDINGS, {"model": "fake", "input": [1] * 8000})
    yield "embeddings 200,000 ids", _of(EMBEDDINGS, {"model": "fake", "input": [1] * 200_000})
    yield "embeddings without a model", _of(EMBEDDINGS, {"input": "a"})
    text = {"model": "fake", "input": "a b c", "user": "x" * 900_000}
    yield "embeddings a user of 900,000 characters", _of(EMBEDDINGS, text)


def _safetensors() -> Iterator[tuple[str, Make]]:
    def body(tensors: dict[str, np.ndarray]) -> bytes:
        header: dict[str, Any] = {}
        at = 0
        names = {"float32": "F32", "int64": "I64", "bool": "BOOL", "float16": "F16"}
        for name, array in tensors.items():
            offsets = [at, at + array.nbytes]
            header[name] = {
                "dtype": names[str(array.dtype)],
                "shape": list(array.shape),
                "data_offsets": offsets,
            }
            at += array.nbytes
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())

    for count in (64, 512, 4096):
        ids = {f"{at}.token_ids": np.array([1], np.int64) for at in range(count)}
        yield (
            f"attend safetensors {count} inputs",
            lambda ids=ids: post(  # type: ignore[misc]
                f"{ATTEND}?outputs=z", body(ids), SAFETENSORS, f"Accept: {SAFETENSORS}"
            ),
        )
    spans = {"0.token_ids": np.ones(10, np.int64), "0.spans": np.array([[0, 1]] * 1000, np.int64)}
    yield (
        "attend safetensors 1,000 spans",
        lambda: post(f"{ATTEND}?outputs=weights&heads=0", body(spans), SAFETENSORS, f"Accept: {SAFETENSORS}"),
    )
    rows = np.ones((8000, 64), np.float32)
    yield (
        "attend safetensors embeddings [8000, 64]",
        lambda: post(
            f"{ATTEND}?outputs=z", body({"0.embeddings": rows}), SAFETENSORS, f"Accept: {SAFETENSORS}"
        ),
    )
    yield (
        "attend safetensors embeddings [8000, 64] of float16",
        lambda: post(
            f"{ATTEND}?outputs=z",
            body({"0.embeddings": rows.astype(np.float16)}),
            SAFETENSORS,
            "Accept: " + SAFETENSORS,
        ),
    )
    mask = {"0.token_ids": np.ones(5000, np.int64), "0.mask": np.ones((5000, 5000), np.bool_)}
    yield (
        "attend safetensors mask [5000, 5000]",
        lambda: post(f"{ATTEND}?outputs=entropy", body(mask), SAFETENSORS, f"Accept: {SAFETENSORS}"),
    )
    file = b"\x93NUMPY\x01\x00"
    head = b"{'descr': '<f4', 'fortran_order': True, 'shape': (8000, 64), }"
    yield (
        "attend npy [8000, 64] in Fortran's order",
        lambda: post(
            f"{ATTEND}?outputs=z",
            file + struct.pack("<H", len(head)) + head + rows.tobytes(),
            NPY,
            f"Accept: {NPY}",
        ),
    )
    metadata = {f"k{at}": "v" for at in range(40_000)}
    text = json.dumps({"__metadata__": metadata}).encode()
    yield (
        "attend safetensors 40,000 words beside",
        lambda: post(ATTEND, struct.pack("<Q", len(text)) + text, SAFETENSORS),
    )


def _protocol() -> Iterator[tuple[str, Make]]:
    def binary(entries: list[dict[str, Any]], payload: bytes, **more: Any) -> bytes:
        text = json.dumps({"inputs": entries, **more}).encode()
        length = f"Inference-Header-Content-Length: {len(text)}"
        return post(INFER, text + payload, "application/octet-stream", length)

    def entry(name: str, shape: list[int], datatype: str, size: int) -> dict[str, Any]:
        return {
            "name": name,
            "shape": shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": size},
        }

    for count in (64, 512, 4096):
        ids = np.ones((count, 2), np.int64)
        yield (
            f"infer binary [{count}, 2] ids",
            lambda ids=ids: binary(  # type: ignore[misc]
                [entry("token_ids", list(ids.shape), "INT64", ids.nbytes)],
                ids.tobytes(),
                outputs=[{"name": "z", "parameters": {"binary_data": True}}],
            ),
        )
        texts = (struct.pack("<I", 3) + b"a b") * count
        yield (
            f"infer binary {count} texts, tokens back",
            lambda texts=texts, count=count: binary(  # type: ignore[misc]
                [entry("text", [count], "BYTES", len(texts))],
                texts,
                outputs=[{"name": name, "parameters": {"binary_data": True}} for name in ("z", "tokens")],
            ),
        )
        listed = {
            "inputs": [
                {"name": "token_ids", "shape": [count, 2], "datatype": "INT64", "data": [1] * (2 * count)}
            ],
            "outputs": [{"name": "z"}],
        }
        yield f"infer JSON [{count}, 2] ids", _of(INFER, listed)
        words = {
            "inputs": [{"name": "text", "shape": [count], "datatype": "BYTES", "data": ["a b"] * count}],
            "outputs": [{"name": "entropy"}, {"name": "tokens"}],
        }
        yield f"infer JSON {count} texts, tokens back", _of(INFER, words)
    ones = np.ones((400, 16, 64), np.float32)
    yield (
        "infer binary embeddings [400, 16, 64]",
        lambda: binary(
            [entry("embeddings", list(ones.shape), "FP32", ones.nbytes)],
            ones.tobytes(),
            outputs=[{"name": "z", "parameters": {"binary_data": True}}],
        ),
    )
    wide = np.ones((2000, 64), np.float64)
    yield (
        "infer binary embeddings [2000, 64] of FP64",
        lambda: binary(
            [entry("embeddings", list(wide.shape), "FP64", wide.nbytes)],
            wide.tobytes(),
            outputs=[{"name": "z", "parameters": {"binary_data": True}}],
        ),
    )
    shapes = {
        "inputs": [{"name": f"x{at}", "shape": [1], "datatype": "FP32", "data": [1]} for at in range(2000)]
    }
    yield "infer JSON 2,000 unknown tensors", _of(INFER, shapes)
    outputs = {
        "inputs": [{"name": "token_ids", "shape": [2], "datatype": "INT64", "data": [1, 2]}],
        "outputs": [{"name": f"z{at}"} for at in range(30_000)],
    }
    yield "infer JSON 30,000 outputs", _of(INFER, outputs)
    strange = {
        "inputs": [
            {
                "name": "token_ids",
                "shape": [2],
                "datatype": "INT64",
                "data": [1, 2],
                "parameters": {f"a{at}": 1 for at in range(60)},
            }
        ]
    }
    yield "infer JSON 60 strange parameters", _of(INFER, strange)
    many = {**listed, "outputs": [{"name": "z", "parameters": {f"p{at}": 1 for at in range(60)}}] * 2000}
    yield "infer JSON 120,000 strange parameters", _of(INFER, many)


def _others() -> Iterator[tuple[str, Make]]:
    for path in ("/v1/models", "/metrics", "/health", "/openapi.json", "/docs", "/", "/v1/models/fake"):
        yield f"GET {path}", lambda path=path: get(path)  # type: ignore[misc]
    yield "GET /v1/models, gzip", lambda: get("/v1/models", "Accept-Encoding: gzip")
    yield "GET /v1/models, zstd", lambda: get("/v1/models", "Accept-Encoding: zstd")
    yield "GET /metrics, gzip", lambda: get("/metrics", "Accept-Encoding: gzip")
    yield "GET /v2/models/fake", lambda: get("/v2/models/fake")
    yield "POST index", lambda: post("/v2/repository/index", b"{}")
    yield (
        "POST index of 60,000 bytes",
        lambda: post("/v2/repository/index", json.dumps({"x": ["a"] * 12_000}).encode()),
    )
    yield "POST load", lambda: post("/v2/repository/models/another/load", b"{}")


def _errors() -> Iterator[tuple[str, Make]]:
    bad = {"token_ids": [1], "colour": 1, "size": 2, "taste": 3}
    yield "attend JSON 4096 inputs with wrong fields", _of(ATTEND, {"inputs": [bad] * 4096})
    wide = {"token_ids": [1], **{f"x{at}": 1 for at in range(60)}}
    yield "attend JSON 1,000 inputs with 60 wrong fields", _of(ATTEND, {"inputs": [wide] * 1000})
    yield (
        "attend JSON last of 4096 inputs is wrong",
        _of(ATTEND, {"inputs": [*[{"token_ids": [1]}] * 4095, {"token_ids": [10**6]}]}),
    )
    yield (
        "attend JSON unknown field of 500,000 characters",
        _of(ATTEND, {"inputs": [{"token_ids": [1]}], "x" * 500_000: 1}),
    )
    yield (
        "attend JSON an output of 500,000 characters",
        _of(ATTEND, {"inputs": [{"token_ids": [1]}], "outputs": ["x" * 500_000]}),
    )
    yield (
        "attend JSON 64 unknown outputs",
        _of(ATTEND, {"inputs": [{"token_ids": [1]}], "outputs": ["x" * 60 + f"{at:03}" for at in range(64)]}),
    )
    yield (
        "attend JSON ragged rows",
        _of(ATTEND, {"inputs": [{"embeddings": [[1.0]] * 20_000 + [[1.0, 2.0]]}]}),
    )
    yield (
        "attend JSON a string among 300,000 ids",
        _of(ATTEND, {"inputs": [{"token_ids": [1] * 300_000 + ["a"]}]}),
    )
    yield (
        "attend JSON the field of a row list",
        _of(ATTEND, {"inputs": [{"token_ids": [1]}], "rows": [*[0] * 100_000, "a"]}),
    )
    query = "&".join(f"x{at}=1" for at in range(4000))
    yield "attend npy query of 4,000 names", lambda: post(f"{ATTEND}?{query}", b"", NPY)
    listed = ",".join("1" for _ in range(20_000))
    yield "attend npy query of 20,000 rows", lambda: post(f"{ATTEND}?rows={listed}", b"", NPY)
    accept = ", ".join(f"a/{at}" for at in range(8000))
    yield "attend JSON Accept of 8,000 kinds", _of(ATTEND, {"inputs": []}, f"Accept: {accept}")
    yield "no such route", lambda: get("/" + "x" * 30_000)
    yield "no such model", lambda: get("/v1/models/" + "x" * 30_000)
    junk = base64.b64encode(bytes(range(256)) * 4096)
    yield "attend JSON a MiB of junk", lambda: post(ATTEND, junk)
    yield (
        "attend JSON 200,000 long integers",
        lambda: post(ATTEND, b'{"inputs":[{"token_ids":[' + b"99999999999999999999," * 200_000 + b"1]}]}"),
    )
    yield "attend JSON a MiB of brackets", lambda: post(ATTEND, b"[" * (1 << 20))
    yield (
        "attend JSON a name twice, 60,000 values",
        lambda: post(ATTEND, b'{"inputs":[],"a":[' + b"1," * 60_000 + b'1],"a":1}'),
    )
    yield (
        "attend safetensors a broken head of 900,000 bytes",
        lambda: post(ATTEND, struct.pack("<Q", 900_000) + b'{"a":' + b"[" * 900_000, SAFETENSORS),
    )
