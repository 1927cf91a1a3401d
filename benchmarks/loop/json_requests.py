"""Requests of `benchmarks.loop` in JSON: attention of a model, of the caller's own, and embeddings."""

from typing import Any

from benchmarks.loop.requests import ATTEND, CARD, SAFETENSORS, Make, Requests, of, post

ATTENTION, EMBEDDINGS = "/v1/attention", "/v1/embeddings"


def json_requests() -> Requests:
    """Give every request with its name."""
    for name, make in (*_inputs(), *_choices(), *_arrays()):
        yield f"attend JSON {name}", make
    yield from _attention()
    for name, make in _embeddings():
        yield f"embeddings {name}", make


def _attend(inputs: list[dict[str, Any]], *lines: str, **fields: Any) -> Make:
    return of(ATTEND, {"outputs": ["z"], "inputs": inputs, **fields}, *lines)


def _inputs() -> Requests:
    one = [{"token_ids": [1]}]
    for count in (16, 64, 256, 1024, 4096):
        yield f"{count} inputs of 1 id", _attend(one * count)
    yield "4096 inputs, entropy", _attend(one * 4096, outputs=["entropy"])
    yield "4096 inputs, safetensors reply", _attend(one * 4096, f"Accept: {SAFETENSORS}")
    every = _attend([{"token_ids": [1, 2]}] * 200, outputs=list(CARD.outputs), layers="all")
    yield "200 inputs of every output", every
    yield "500 texts", _attend([{"text": "a b c"}] * 500)
    yield "4096 texts", _attend([{"text": "a"}] * 4096)
    yield "one text of 4,000 words", _attend([{"text": "a " * 4000}])
    yield "60 unknown fields", _attend(one, **{f"x{at}": at for at in range(60)})
    deep = {"token_ids": [1], "x": [[{"a": at}] for at in range(50_000)]}
    yield "150,000 values of an unknown field", _attend([deep])


def _choices() -> Requests:
    """Give requests that choose much: spans, rows, heads, keys."""
    weights: dict[str, Any] = {"outputs": ["weights"], "heads": [0]}
    yield "text with spans of words", _attend([{"text": "a " * 1000}], spans="words", **weights)
    characters = [[at, at + 1] for at in range(0, 1000, 2)]
    yield (
        "spans of characters",
        _attend([{"text": "a " * 500}], span_unit="characters", spans=characters, **weights),
    )
    ten = list(range(10))
    spans = [[at % 8, at % 8 + 1] for at in range(1000)]
    yield "1,000 spans", _attend([{"token_ids": ten}], spans=spans, **weights)
    yield "256 spans on each of 64 inputs", _attend([{"token_ids": ten, "spans": spans[:256]}] * 64)
    rows = [at % 8000 for at in range(100_000)]
    yield "100,000 rows", _attend([{"token_ids": [1] * 8000}], rows=rows)
    eight = [{"token_ids": [1] * 8}] * 1000
    yield "rows of 1,000 inputs", _attend(eight, rows=list(range(8)), outputs=["entropy"])
    yield "30,000 heads", _attend([{"token_ids": [1]}], heads=[0] * 30_000)
    yield "top_k of 200 tokens", _attend([{"token_ids": [1] * 200}], outputs=["top_k"], top_k=64)


def _arrays() -> Requests:
    """Give requests with many numbers, or whose replies have them."""
    masked = {"token_ids": [1] * 1000, "mask": [[True] * 1000] * 1000}
    yield "mask [1000, 1000]", _attend([masked], outputs=["entropy"])
    yield "embeddings [500, 64]", _attend([{"embeddings": [[0.123456] * 64] * 500}])
    yield "1,000 inputs of embeddings [2, 64]", _attend([{"embeddings": [[0.5] * 64] * 2}] * 1000)
    for count in (40, 128):
        ids = [{"token_ids": [1] * count}]
        yield f"weights of {count} tokens", _attend(ids, outputs=["weights"])
        zipped = _attend(ids, "Accept-Encoding: gzip", outputs=["weights"])
        yield f"weights of {count} tokens, gzip", zipped
    for mib in (1, 4):
        spaces = b'{"inputs":[' + b" " * (mib << 20) + b'{"token_ids":[1]}],"outputs":["z"]}'
        yield f"{mib} MiB of spaces", lambda spaces=spaces: post(ATTEND, spaces)  # type: ignore[misc]


def _attention() -> Requests:
    ones = [[1.0] * 4] * 2
    problem = {"query": ones, "key": ones, "value": ones}
    yield "attention JSON 2,000 problems", of(ATTENTION, {"inputs": [problem] * 2000, "outputs": ["z"]})
    nulls = {"query": [[1.0]], "key": [[1.0]] * 1000, "value": [[1.0]] * 1000, "mask": [0.5, *[None] * 999]}
    yield "attention JSON masks of null", of(ATTENTION, {"inputs": [nulls] * 20, "outputs": ["z"]})


def _embeddings() -> Requests:
    def embed(given: object, **fields: Any) -> Make:
        return of(EMBEDDINGS, {"model": "fake", "input": given, **fields})

    for count in (16, 128, 1024, 2048):
        yield f"{count} lists of ids", embed([[1, 2, 3]] * count)
    for count in (256, 2048):
        yield f"{count} as base64", embed([[1]] * count, encoding_format="base64")
    yield "2048 texts", embed(["a b"] * 2048)
    yield "100 lists of 1,000 ids", embed([[1] * 1000] * 100)
    yield "one list of 8,000 ids", embed([1] * 8000)
    yield "200,000 ids", embed([1] * 200_000)
    yield "without a model", of(EMBEDDINGS, {"input": "a"})
    yield "a user of 900,000 characters", embed("a b c", user="x" * 900_000)
