"""The requests of `benchmarks.loop`: many small things, in every route and format, and errors about them."""

import base64
import json
import struct

from benchmarks.loop.json_requests import json_requests
from benchmarks.loop.protocol_requests import protocol_requests
from benchmarks.loop.requests import ATTEND, NPY, SAFETENSORS, Requests, get, of, post
from benchmarks.loop.tensor_requests import tensor_requests


def corpus() -> Requests:
    """Give every request with its name."""
    yield from json_requests()
    yield from tensor_requests()
    yield from protocol_requests()
    yield from _others()
    yield from _errors()


def _others() -> Requests:
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


def _errors() -> Requests:
    bad = {"token_ids": [1], "colour": 1, "size": 2, "taste": 3}
    yield "attend JSON 4096 inputs with wrong fields", of(ATTEND, {"inputs": [bad] * 4096})
    wide = {"token_ids": [1], **{f"x{at}": 1 for at in range(60)}}
    yield "attend JSON 1,000 inputs with 60 wrong fields", of(ATTEND, {"inputs": [wide] * 1000})
    yield (
        "attend JSON last of 4096 inputs is wrong",
        of(ATTEND, {"inputs": [*[{"token_ids": [1]}] * 4095, {"token_ids": [10**6]}]}),
    )
    yield (
        "attend JSON unknown field of 500,000 characters",
        of(ATTEND, {"inputs": [{"token_ids": [1]}], "x" * 500_000: 1}),
    )
    yield (
        "attend JSON an output of 500,000 characters",
        of(ATTEND, {"inputs": [{"token_ids": [1]}], "outputs": ["x" * 500_000]}),
    )
    yield (
        "attend JSON 64 unknown outputs",
        of(ATTEND, {"inputs": [{"token_ids": [1]}], "outputs": ["x" * 60 + f"{at:03}" for at in range(64)]}),
    )
    yield (
        "attend JSON ragged rows",
        of(ATTEND, {"inputs": [{"embeddings": [[1.0]] * 20_000 + [[1.0, 2.0]]}]}),
    )
    yield (
        "attend JSON a string among 300,000 ids",
        of(ATTEND, {"inputs": [{"token_ids": [1] * 300_000 + ["a"]}]}),
    )
    yield (
        "attend JSON the field of a row list",
        of(ATTEND, {"inputs": [{"token_ids": [1]}], "rows": [*[0] * 100_000, "a"]}),
    )
    query = "&".join(f"x{at}=1" for at in range(4000))
    yield "attend npy query of 4,000 names", lambda: post(f"{ATTEND}?{query}", b"", NPY)
    listed = ",".join("1" for _ in range(20_000))
    yield "attend npy query of 20,000 rows", lambda: post(f"{ATTEND}?rows={listed}", b"", NPY)
    accept = ", ".join(f"a/{at}" for at in range(8000))
    yield "attend JSON Accept of 8,000 kinds", of(ATTEND, {"inputs": []}, f"Accept: {accept}")
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
