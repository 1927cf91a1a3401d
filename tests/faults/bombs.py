"""Small requests that ask for large work: numbers that are written, not sent; and large ones of nothing.

Each is refused, costs what its bytes cost and no more, and keeps nobody else waiting.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.faults.wire import (
    ATTEND,
    JSON,
    MODEL,
    NPY,
    SAFETENSORS,
    attend,
    entry,
    infer,
    post,
    tensors,
)

MI = 1 << 20
REFUSED = frozenset({400, 413, 422})
LONG_TEXT = "a b " * (MI // 4)
ATTENTION = "/v1/attention"


@dataclass(frozen=True, slots=True)
class Bomb:
    """One request, made when it is needed, and the statuses that are right for it."""

    name: str
    make: Callable[[], bytes]
    right: frozenset[int] = REFUSED


def _shape(name: str, shape: list[int], datatype: str = "INT32") -> Bomb:
    """A shape of the protocol that names no bytes at all, in JSON and in binary."""
    return Bomb(f"{name} {_short(shape)} binary", lambda: infer([entry(name, shape, datatype, 0)]))


def _listed(name: str, shape: list[int], datatype: str = "INT32") -> Bomb:
    body = {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": []}]}
    return Bomb(f"{name} {_short(shape)} JSON", lambda: attend(body, path=f"/v2/models/{MODEL}/infer"))


def _short(shape: list[int]) -> str:
    if len(shape) > 8:
        return f"{len(shape)} axes of {shape[0]}"
    powers = {2**63 - 1: "2^63-1"}
    return "x".join(
        powers.get(n, f"2^{n.bit_length() - 1}" if n >= 4096 and n.bit_count() == 1 else str(n))
        for n in shape
    )


def _npy(shape: str, name: str | None = None) -> Bomb:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    return Bomb(f"npy {name or shape}", lambda: post(ATTEND, head, NPY))


def _safetensors(
    name: str, dtype: str, shape: list[int], size: int = 0, *, path: str = ATTEND, note: str = ""
) -> Bomb:
    """Two good ids, and beside them a tensor whose shape is out of proportion."""
    header = {
        "0.token_ids": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
        name: {"dtype": dtype, "shape": shape, "data_offsets": [16, 16 + size]},
    }
    return Bomb(
        f"safetensors {name} {dtype} {_short(shape)}{note}",
        lambda: post(path, tensors(header, bytes(16 + size)), SAFETENSORS),
    )


def _qkv(shape: list[int]) -> Bomb:
    header = {
        f"0.{name}": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        for name in ("query", "key", "value")
    }
    return Bomb(
        f"safetensors query, key, value {_short(shape)}",
        lambda: post(ATTENTION, tensors(header), SAFETENSORS),
    )


def _json(name: str, body: Callable[[], bytes], path: str = ATTEND, right: frozenset[int] = REFUSED) -> Bomb:
    return Bomb(f"JSON {name}", lambda: post(path, body(), JSON), right)


def _with(**fields: object) -> Callable[[], bytes]:
    return lambda: json.dumps({"inputs": [{"token_ids": [1, 2]}], **fields}).encode()


def _one_input(**fields: object) -> Callable[[], bytes]:
    return lambda: json.dumps({"inputs": [{"token_ids": [1, 2], **fields}]}).encode()


def _edits(edits: list[list[object]]) -> bytes:
    return json.dumps({"inputs": [{"token_ids": [1, 2], "edits": of_one} for of_one in edits]}).encode()


BIG = 2**62
SCALE = {"edit": "scale", "layers": "all", "value": 0}
BOMBS: tuple[Bomb, ...] = (
    # an axis of 0 beside large ones: no bytes, and as many sequences as one likes
    *(_listed("token_ids", [count, 0]) for count in (2**22, 2**24, 2**40, BIG)),
    *(_listed("token_ids", [0, count]) for count in (2**24, BIG, 2**63 - 1)),
    *(_shape("token_ids", [count, 0]) for count in (2**22, 2**24, 2**40)),
    *(_shape("token_ids", [0, count]) for count in (2**24, BIG)),
    *(_shape("embeddings", shape, "FP32") for shape in ([2**24, 0, 64], [2**24, 64, 0], [0, BIG, 64])),
    *(_listed("embeddings", shape, "FP32") for shape in ([2**24, 0, 64], [2**40, 2**40, 0])),
    _shape("text", [2**24, 0], "BYTES"),
    _listed("text", [2**24, 0], "BYTES"),
    _listed("text", [0, BIG], "BYTES"),
    # shapes that have no product, or one beyond every number
    *(_listed("token_ids", shape) for shape in ([2**32, 2**32], [BIG, BIG, BIG], [2**63], [-1, -1])),
    *(_shape("token_ids", shape) for shape in ([2**32, 2**32], [2**63], [-1, 0])),
    _listed("token_ids", [1] * 100_000),
    _listed("token_ids", [0] * 1000),
    *(_npy(shape) for shape in (f"(0, {2**63 - 1})", f"({BIG}, 0)", f"({2**40}, 0)", f"(0, {2**40}, 4)")),
    *(_npy(shape) for shape in (f"({2**32}, {2**32})", f"(-1, {BIG})", "(0,)")),
    _npy(f"({'1, ' * 4000})", "4000 axes of 1"),
    *(_safetensors("0.memory", "F32", shape) for shape in ([0, BIG], [BIG, 0], [2**40, 0], [2**32, 2**32])),
    *(_safetensors("0.spans", "I64", shape) for shape in ([2**24, 0], [2**40, 0], [0, BIG])),
    _safetensors("0.mask", "BOOL", [2**40, 0]),
    _safetensors("0.mask", "BOOL", [0, 2**63 - 1]),
    _safetensors("99999999999999999999.token_ids", "I64", [2], 16),
    _qkv([0, BIG]),
    _qkv([2**40, 0]),
    _qkv([2**20, 2**20, 0]),
    # counts in options
    _json("top_k 2^62", _with(outputs=["top_k"], top_k=BIG)),
    _json("layers of 100,000", _with(layers=[0] * 100_000)),
    _json("heads of 100,000", _with(heads=[0] * 100_000)),
    _json("rows from 0 to 2^62", _with(rows={"start": 0, "stop": BIG})),
    _json("rows of 100,000", _with(rows=[0] * 100_000)),
    _json("outputs of 100,000", _with(outputs=["z"] * 100_000)),
    _json("spans to 2^62", _one_input(spans=[[0, BIG]])),
    _json("spans of 100,000", _one_input(spans=[[0, 1]] * 100_000)),
    _json("edits of 100,000", _one_input(edits=[{}] * 100_000)),
    _json("edits of 4,096 inputs", lambda: _edits([[SCALE] * 3] * 4096)),
    _json("8,192 edits, of which the last is none", lambda: _edits([*[[SCALE] * 64] * 127, [SCALE, {}]])),
    _json("queries of 100,000 in an edit", lambda: _edits([[{**SCALE, "queries": [9] * 100_000}]])),
    _json("a pattern of 1,024 rows for 2", lambda: _edits([[{**SCALE, "value": [[0] * 1024] * 1024}]])),
    *(_safetensors("0.edits.0", "F32", shape) for shape in ([0, BIG], [2**40, 0], [2**32, 2**32])),
    _json("deadline 2^62", _with(deadline_ms=BIG)),
    _json("priority 2^62", _with(priority=BIG)),
    _json("a number of 1 Mi digits", lambda: b'{"inputs":[{"token_ids":[' + b"9" * MI + b"]}]}"),
    _json("an exponent of 2^62", lambda: b'{"inputs":[{"embeddings":[[1e4611686018427387904]]}]}'),
    _json("depth of 1 Mi", lambda: b"[" * MI),
    _json("depth of 1 Mi objects", lambda: b'{"a":' * (MI // 5)),
    _json("100,000 empty inputs", lambda: b'{"inputs":[' + b"{}," * 99_999 + b"{}]}"),
    _json("100,000 rows of nothing", lambda: b'{"inputs":[{"embeddings":[' + b"[]," * 99_999 + b"[]]}]}"),
    _json("100,000 names", lambda: json.dumps({f"f{at}": 0 for at in range(100_000)}).encode()),
    _json("one name 100,000 times", lambda: b'{"inputs":[]' + b',"inputs":[]' * 100_000 + b"}"),
)


def _many_ids(shape: list[int], size: int) -> Bomb:
    return Bomb(
        f"token_ids {_short(shape)} of {size // MI} MiB",
        lambda: infer([entry("token_ids", shape, "INT32", size)], bytes(size)),
    )


def _many_texts(count: int) -> Bomb:
    return Bomb(
        f"{count // MI} Mi empty texts of {4 * count // MI} MiB",
        lambda: infer([entry("text", [count], "BYTES", 4 * count)], bytes(4 * count)),
    )


def _repeated(entry: bytes, field: str, count: int = 2 * MI) -> bytes:
    listed = b"[" + (entry + b",") * (count - 1) + entry + b"]"
    return b'{"inputs":[{"token_ids":[1],"%s":%s}]}' % (field.encode(), listed)


# Megabytes that would become millions of objects.
LARGE: tuple[Bomb, ...] = (
    _many_ids([MI, 1], 4 * MI),
    _many_ids([4 * MI, 1], 16 * MI),
    _many_texts(4 * MI),
    _many_texts(15 * MI),
    _safetensors("0.spans", "I64", [2 * MI, 2], 32 * MI),
    _safetensors("0.spans", "BOOL", [60 * MI, 1], 60 * MI),
    _safetensors("0.spans", "I64", [4 * MI, 1], 32 * MI),
    _json("8 Mi spaces", lambda: b'{"inputs":[' + b" " * (8 * MI) + b"]}"),
    _json("4 Mi quotes", lambda: b'{"inputs":["' + b'\\"' * (4 * MI) + b'"]}'),
    _json(
        "400,000 integers beyond 64 bits",
        lambda: b'{"inputs":[{"token_ids":[' + b"99999999999999999999," * 400_000 + b"1]}]}",
    ),
    _json(
        "2 Mi mask entries of null",
        lambda: b'{"inputs":[{"token_ids":[1],"mask":[0.5,' + b"null," * (2 * MI) + b"null]}]}",
    ),
    _json(
        "2 Mi mask entries of true",
        lambda: b'{"inputs":[{"token_ids":[1],"mask":[' + b"true," * (2 * MI) + b"true]}]}",
    ),
    *(
        _json(f"2 Mi {what} as {field}", partial(_repeated, entry, field))
        for what, entry, field in (
            ("nulls", b"null", "mask"),
            ("objects", b"{}", "mask"),
            ("strings", b'"a"', "token_ids"),
            ("lists of a list", b"[[1]]", "embeddings"),
            ("lists of a text", b'["["]', "spans"),
        )
    ),
    *(
        _json(f"1 Mi rows of {what} as {field}", partial(_repeated, entry, field, MI - 8))
        for what, entry, field in (
            ("one number", b"[1]", "embeddings"),
            ("one null", b"[null]", "mask"),
            ("one boolean", b"[true]", "mask"),
        )
    ),
    _json("2 Mi empty inputs", lambda: b'{"inputs":[' + b"{}," * (2 * MI) + b"{}]}"),
    _json(
        "2 Mi nulls as a mask of the caller's own",
        lambda: (
            b'{"inputs":[{"query":[[1]],"key":[[1]],"value":[[1]],"mask":['
            + (b"null," * (2 * MI))
            + b"null]}]}"
        ),
        ATTENTION,
    ),
    _json(
        "200,000 texts to embed",
        lambda: json.dumps({"model": MODEL, "input": ["a b"] * 200_000}).encode(),
        "/v1/embeddings",
    ),
    _json(
        "4 Mi ids to embed",
        lambda: b'{"model":"' + MODEL.encode() + b'","input":[' + b"1," * (4 * MI) + b"1]}",
        "/v1/embeddings",
    ),
)

# What a parser has to take much memory for; it is seen on a server that has not parsed as much before.
NUMBERS = b"1," * (4 * MI) + b"1"


def _fresh(entry: bytes, field: bytes, count: int) -> bytes:
    listed = (entry + b",") * (count - 1) + entry
    return post(ATTEND, b'{"inputs":[{"%s":[%s]}]}' % (field, listed), JSON)


FRESH: tuple[Bomb, ...] = (
    Bomb("4 Mi ids to attend", lambda: post(ATTEND, b'{"inputs":[{"token_ids":[' + NUMBERS + b"]}]}", JSON)),
    Bomb(
        "4 Mi numbers as a mask",
        lambda: post(ATTEND, b'{"inputs":[{"token_ids":[1,2],"mask":[' + NUMBERS + b"]}]}", JSON),
    ),
    *(
        Bomb(f"{name} as {field}", partial(_fresh, entry, field, count))
        for name, entry, field, count in (
            ("6 Mi nulls", b"null", b"mask", 6 * MI),
            ("6 Mi booleans", b"false", b"mask", 6 * MI),
            ("6 Mi booleans", b"true", b"token_ids", 6 * MI),
            ("2 Mi very small numbers", b"1.234567890123456789e-300", b"embeddings", 2 * MI),
            ("2 Mi very large numbers", b"1e300", b"embeddings", 2 * MI),
        )
    ),
    Bomb(
        "4 Mi ids to infer",
        lambda: post(
            f"/v2/models/{MODEL}/infer",
            b'{"inputs":[{"name":"token_ids","datatype":"INT64","shape":[4194305],"data":['
            + NUMBERS
            + b"]}]}",
            JSON,
        ),
    ),
    Bomb(
        "4 Mi ids to embed",
        lambda: post(
            "/v1/embeddings", b'{"model":"' + MODEL.encode() + b'","input":[' + NUMBERS + b"]}", JSON
        ),
    ),
)

# Texts that are far longer than any model takes.
TEXTS: tuple[Bomb, ...] = (
    _json("a text of 1 Mi characters", lambda: _texts([LONG_TEXT])),
    _json("8 texts of 1 Mi characters", lambda: _texts([LONG_TEXT] * 8)),
    _json("60 texts of 1 Mi characters", lambda: _texts([LONG_TEXT] * 60)),
    _json("4,096 texts of 15,600 characters", lambda: _texts(["a b " * 3900] * 4096)),
    # one unknown word, which a tokenizer of words may take
    _json("a word of 1 Mi characters", lambda: _texts(["a" * MI]), right=REFUSED | {200}),
    _json("1 Mi characters of four bytes", lambda: _texts(["\U0001f600" * MI]), right=REFUSED | {200}),
    _json(
        "8 texts of 1 Mi characters to embed",
        lambda: json.dumps({"model": MODEL, "input": [LONG_TEXT] * 8}).encode(),
        "/v1/embeddings",
    ),
    Bomb("60 MiB of text, binary", lambda: _bytes_text(b"a b " * (15 * MI))),
)


def _texts(texts: list[str]) -> bytes:
    return json.dumps({"inputs": [{"text": text} for text in texts]}).encode()


def _bytes_text(text: bytes) -> bytes:
    data = struct.pack("<I", len(text)) + text
    return infer([entry("text", [1], "BYTES", len(data))], data)


ALL = (*BOMBS, *LARGE, *TEXTS)


def weights_of(side: int, *lines: str, form: str = "application/x-safetensors") -> bytes:
    """A request of `12 side` bytes whose answer, weights and scores, takes `8 side²` in binary."""
    size = 4 * side
    header = {
        f"0.{name}": {"dtype": "F32", "shape": [side, 1], "data_offsets": [at * size, (at + 1) * size]}
        for at, name in enumerate(("query", "key", "value"))
    }
    path = f"{ATTENTION}?outputs=weights,scores"
    return post(path, tensors(header, bytes(3 * size)), SAFETENSORS, f"Accept: {form}", *lines)
