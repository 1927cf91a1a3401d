"""Bodies of every format for fuzzing, of random sizes, shapes, numbers and layout; and ways to break them."""

import io
import json
import struct
from collections.abc import Callable
from math import prod
from random import Random

import numpy as np
from numpy.typing import NDArray

JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
OIP = "open inference protocol"
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "BOOL": 1, "F64": 8, "U8": 1}
OIP_SIZES = {"FP32": 4, "FP16": 2, "BF16": 2, "INT32": 4, "INT64": 8, "BOOL": 1, "FP64": 8}
FIELDS = ("embeddings", "memory", "query", "key", "value", "mask", "token_ids", "text", "spans")
ODD_NUMBERS = (
    *("-0", "-0.0", "0e5", "1e38", "3.4028235e38", "3.4028236e38", "1e-46", "1.4e-45", "16777217", "0.1"),
    *("9007199254740993", "1E+5", "-1e400", "9" * 30, "0." + "0" * 60 + "1", "1" + "0" * 40 + "e-40"),
    *("null", "true", "[]", '"a"', "18446744073709551616", "-9223372036854775809"),
)
PIECES = (
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"\\",
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"NaN",
        b"1.",
        b".5",
    ),
    *(b'"heed:', b'"embeddings":[', b'"data":[', b"\n" * 70, b" " * 64, b"-", b"e", b"E+", b"[[[[[[[["),
    *(one.encode() for one in ODD_NUMBERS),
)
SPACES = ("", "", "", " ", "\n", "\t\r\n", " " * 40)
LENGTHS = (
    0,
    1,
    2,
    3,
    7,
    63,
    64,
    65,
    127,
    128,
    300,
)  # lists of 64 numbers and more are lifted by compiled code


def numbers(chance: Random) -> NDArray[np.float32]:
    """Return an array as replies have them: any bits, ordinary ones, large and small, or the odd ones."""
    dice = np.random.default_rng(chance.getrandbits(32))
    size = chance.choice([64, 65, 100, 257, 1000, 4099])
    bits = dice.integers(0, 1 << 32, size, dtype=np.uint64).astype(np.uint32).view(np.float32)
    odd = np.array([1e-45, 3.4028235e38, np.inf, -np.inf, np.nan, 0, -0.0, 1, 0.1, 1e-5, 1e16], np.float32)
    scaled = dice.standard_normal(size).astype(np.float32) * np.float32(10.0 ** chance.randrange(-30, 30))
    array = chance.choice([bits, scaled, dice.choice(odd, size).astype(np.float32)])
    axes = [chance.choice([1, 1, 2, 3]) for _ in range(chance.randrange(4))]
    inner = size // prod(axes)
    return np.ascontiguousarray(array[: inner * prod(axes)].reshape(*axes, inner))


def json_body(chance: Random) -> tuple[bytes, int]:
    """Make lists of numbers in every notation, with space in between or none."""
    odd = chance.choice([0, 0, 0, 0.001, 0.02, 0.3])
    inputs = []
    for _ in range(chance.randrange(1, 4)):
        field = chance.choice(FIELDS)
        if field == "text":
            value = json.dumps(
                "".join(chance.choice('a"\\[é \u2028\U0001f600') for _ in range(chance.randrange(40)))
            )
        elif field in ("token_ids", "spans"):
            value = str([chance.randrange(1000) for _ in range(chance.choice(LENGTHS))])
        else:
            value = _lists(chance, chance.randrange(1, 5), chance.choice(LENGTHS), odd)
        inputs.append(f'{{"{field}":{chance.choice(SPACES)}{value}}}')
    # Compiled code is not asked about bodies under 4 KiB.
    padding = f'"dtype":"{"x" * chance.choice([0, 8, 4096, 8192])}",' if chance.random() < 0.7 else ""
    more = chance.choice(["", ',"layers":[1,2]', ',"outputs":["z"]', ',"top_k":3', ',"inputs":[]'])
    return f'{{{padding}"inputs":[{",".join(inputs)}]{more}}}'.encode(), 0


def _lists(chance: Random, rank: int, length: int, odd: float) -> str:
    if rank == 1:
        between = "," + chance.choice(SPACES)
        return "[" + between.join(_number(chance, odd) for _ in range(length)) + chance.choice(SPACES) + "]"
    rows = (_lists(chance, rank - 1, length, odd) for _ in range(chance.randrange(1, 4)))
    return "[" + ("," + chance.choice(SPACES)).join(rows) + "]"


def _number(chance: Random, odd: float) -> str:
    if chance.random() < odd:
        return chance.choice(ODD_NUMBERS)
    digits = str(chance.randrange(10 ** chance.randrange(1, 20)))
    forms = (f"{chance.gauss(0, 1):.9g}", f"0.{digits}", f"-{chance.randrange(10)}.{digits}")
    return chance.choice((*forms, f"{chance.randrange(10)}.{digits}e{chance.randrange(-40, 30)}"))


def npy_body(chance: Random) -> tuple[bytes, int]:
    """Arrays of every dtype, byte order, layout and version of the format."""
    shape = [chance.choice([0, 1, 2, 5, 64]) for _ in range(chance.randrange(4))]
    dtype = chance.choice(["<f4", ">f4", "<f2", "<i4", ">i8", "<f8", "?", "<c8", "<U3"])
    array = np.zeros(shape, dtype)
    if chance.random() < 0.3:
        array = np.asfortranarray(array)
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=chance.choice([(1, 0), (2, 0), (3, 0)]))
    return file.getvalue(), 0


def safetensors_body(chance: Random) -> tuple[bytes, int]:
    """Several tensors of every dtype, sometimes with metadata, overlaps or gaps."""
    header: dict[str, object] = {}
    at = 0
    for number in range(chance.randrange(4)):
        dtype = chance.choice(list(SIZES))
        shape = [chance.choice([0, 1, 2, 4, 9]) for _ in range(chance.randrange(4))]
        size = prod(shape) * SIZES[dtype]
        begin = at + chance.choice([0, 0, 0, 0, 1, -1])
        header[f"{number}.{chance.choice(FIELDS)}"] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [begin, begin + size],
        }
        at += size
    if chance.random() < 0.2:
        header["__metadata__"] = {"a": chance.choice(["b", 1])}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + chance.randbytes(max(0, at)), 0


def oip_body(chance: Random) -> tuple[bytes, int]:
    """Tensors in JSON and in binary side by side; returns the length of the JSON, too."""
    inputs, tail = [], b""
    for _ in range(chance.randrange(1, 4)):
        datatype = chance.choice([*OIP_SIZES, "BYTES"])
        shape = [chance.choice([0, 1, 2, 3, 70]) for _ in range(chance.randrange(3))]
        count = prod(shape)
        name = chance.choice(["embeddings", "token_ids", "text", "mask", "lengths", "memory"])
        entry: dict[str, object] = {"name": name, "datatype": datatype, "shape": shape}
        if chance.random() < 0.5:
            if datatype == "BYTES":
                data = b"".join(
                    struct.pack("<I", size) + b"a" * size for size in [chance.randrange(3)] * count
                )
            else:
                data = chance.randbytes(count * OIP_SIZES[datatype])
            entry["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            entry["data"] = [chance.choice([0, 1, 0.5, -3.25e-7, 7]) for _ in range(count)]
        inputs.append(entry)
    padding = {"id": "x" * chance.choice([0, 5000])}
    text = json.dumps({**padding, "inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return text + tail, len(text)


FORMATS: dict[str, Callable[[Random], tuple[bytes, int]]] = {
    JSON: json_body,
    NPY: npy_body,
    SAFETENSORS: safetensors_body,
    OIP: oip_body,
}


def harmed(chance: Random, body: bytes) -> bytes:
    """Return the body with one to nine things done to it."""
    for _ in range(chance.choice([1, 1, 1, 2, 4, 9])):
        at = chance.randrange(len(body) + 1)
        to = min(len(body), at + chance.randrange(1, 40))
        count = struct.pack("<I", chance.choice([0, 1, 1 << 31, (1 << 32) - 1, len(body)]))
        body = chance.choice(
            [
                body[:at] + chance.randbytes(1) + body[at + 1 :],
                body[:at] + body[to:],
                body[:to] + body[at:],
                body[:at],
                body[:at] + body[at:to][::-1] + body[to:],
                body[:at] + chance.choice(PIECES) + body[at:],
                body[:at] + count + body[at + 4 :],
            ]
        )
    return body
