"""Bodies and heads that no client would send, over a real socket: refused on purpose, and the server goes on.

Each case gives the statuses that are right for it; None is a connection closed without a reply. After each,
the server must answer an ordinary request.
"""

import io
import json
import struct

import numpy as np
import pytest

from tests.e2e.conftest import ATTEND, FakeServer, Start, request

INFER = "/v2/models/fake/infer"
NPY = "Content-Type: application/x-npy"
SAFETENSORS = "Content-Type: application/x-safetensors"
JSON = "Content-Type: application/json"
X = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def server(start_once: Start) -> FakeServer:
    return start_once(settings={"max_body_bytes": 1 << 20})


def post(path: str, body: bytes, *lines: str, length: object = None) -> bytes:
    return request(
        "POST", path, f"Content-Length: {len(body) if length is None else length}", *lines, body=body
    )


def attend(body: bytes | str) -> bytes:
    return post(ATTEND, body.encode() if isinstance(body, str) else body, JSON)


def numbers(text: str) -> bytes:
    return attend('{"inputs": [{"embeddings": [[' + text + "]]}]}")


def npy(array: np.ndarray = X) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(text: str, payload: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + payload


def tensors(header: object, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def described(dtype: object = "F32", shape: object = (2, 4), offsets: object = (0, 32)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def infer(entry: dict[str, object], payload: bytes = b"", *lines: str, **more: object) -> bytes:
    text = json.dumps({"inputs": [{"name": "embeddings", **entry}], **more}).encode()
    header = lines or ((f"Inference-Header-Content-Length: {len(text)}",) if payload else ())
    return post(INFER, text + payload, JSON, *header)


def sized(size: object, shape: object = (2, 4), datatype: object = "FP32") -> dict[str, object]:
    return {"shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


GOOD = '{"inputs": [{"embeddings": [[1, 2, 3, 4]]}]}'
BYTES = X.tobytes()

JSON_CASES = {
    "empty body": (attend(""), {400}),
    "null": (attend("null"), {400}),
    "a number": (attend("1"), {400}),
    "an array": (attend("[]"), {400}),
    "not JSON": (attend("inputs"), {400}),
    "cut off": (attend(GOOD[:-1]), {400}),
    "something after the end": (attend(GOOD + "x"), {400}),
    "two documents": (attend(GOOD + GOOD), {400}),
    "trailing comma": (attend('{"inputs": [],}'), {400}),
    "comment": (attend("/**/" + GOOD), {400}),
    "single quotes": (attend("{'inputs': []}"), {400}),
    "NUL": (attend(b"\0" + GOOD.encode()), {400}),
    "UTF-16": (attend(GOOD.encode("utf-16")), {400}),
    "UTF-32": (attend(GOOD.encode("utf-32")), {400}),
    "invalid UTF-8": (attend(b'{"inputs": [{"text": "\xff\xfe"}]}'), {400}),
    "overlong UTF-8": (attend(b'{"inputs": [{"text": "\xc0\xaf"}]}'), {400}),
    "lone surrogate": (attend(r'{"inputs": [{"text": "\ud800"}]}'), {400}),
    "surrogates in UTF-8": (attend(b'{"inputs": [{"text": "\xed\xa0\x80"}]}'), {400}),
    "duplicate key": (attend('{"inputs": [], "inputs": []}'), {400}),
    "duplicate key, escaped": (attend(r'{"top_k": 1, "top\u005fk": 2, "inputs": []}'), {400}),
    "duplicate key in an input": (attend('{"inputs": [{"text": "a", "text": "b"}]}'), {400}),
    "depth 17 in an option": (attend('{"layers": ' + "[" * 17 + "]" * 17 + ', "inputs": []}'), {400}),
    "depth 500 in a tensor": (numbers("[" * 500 + "1" + "]" * 500), {400}),
    "depth 100,000": (attend("[" * 100_000), {400}),
    "depth 100,000 of objects": (attend('{"a":' * 100_000), {400}),
    "NaN": (numbers("1, 2, 3, NaN"), {400}),
    "Infinity": (numbers("1, 2, 3, -Infinity"), {400}),
    "1e400": (numbers("1, 2, 3, 1e400"), {400}),
    "beyond float32": (numbers("1, 2, 3, 1e39"), {400}),
    "an integer of 5,000 digits": (numbers("1, 2, 3, " + "9" * 5000), {400}),
    "hexadecimal": (numbers("1, 2, 3, 0x10"), {400}),
    "leading zero": (numbers("1, 2, 3, 01"), {400}),
    "a string for a number": (numbers('1, 2, 3, "4"'), {400}),
    "a boolean for a number": (numbers("1, 2, 3, true"), {400}),
    "null for a number": (numbers("1, 2, 3, null"), {400}),
    "an object for a number": (numbers("1, 2, 3, {}"), {400}),
    "ragged rows": (attend('{"inputs": [{"embeddings": [[1, 2, 3, 4], [1, 2]]}]}'), {400}),
    "a row hidden in a row": (attend('{"inputs": [{"embeddings": [[[1], 2, 3, 4], [1, 2, 3, 4]]}]}'), {400}),
    "one row too deep": (attend('{"inputs": [{"embeddings": [[[1, 2]], [[1]]]}]}'), {400}),
    "no inputs": (attend("{}"), {422}),
    "zero inputs": (attend('{"inputs": []}'), {422}),
    "inputs of another type": (attend('{"inputs": {"0": {}}}'), {422}),
    "an input of another type": (attend('{"inputs": [1]}'), {422}),
    "an empty sequence": (attend('{"inputs": [{"embeddings": []}]}'), {422}),
    "rows of nothing": (attend('{"inputs": [{"embeddings": [[], []]}]}'), {422}),
    "wrong width": (numbers("1, 2, 3"), {422}),
    "a flat tensor": (attend('{"inputs": [{"embeddings": [1, 2, 3, 4]}]}'), {422}),
    "token ids beyond 64 bits": (attend('{"inputs": [{"token_ids": [18446744073709551616]}]}'), {400}),
    "negative token ids": (attend('{"inputs": [{"token_ids": [-1]}]}'), {422}),
    "token ids with a fraction": (attend('{"inputs": [{"token_ids": [1.5]}]}'), {400}),
    "a huge layer": (attend('{"inputs": [{"text": "a"}], "layers": 99999999999999999999}'), {400, 422}),
    "200,000 wrong inputs": (attend(json.dumps({"inputs": [1] * 200_000})), {400, 422}),
    "a field of 100 KB": (attend(json.dumps({"x" * 100_000: 1, "inputs": []})), {422}),
    "1,000 unknown fields": (attend(json.dumps({f"f{i}": 1 for i in range(1000)})), {400, 422}),
    "options in the query of JSON": (post(f"{ATTEND}?layers=0", GOOD.encode(), JSON), {422}),
}

BINARY_CASES = {
    "npy: empty": (post(ATTEND, b"", NPY), {400}),
    "npy: magic only": (post(ATTEND, b"\x93NUMPY", NPY), {400}),
    "npy: cut off": (post(ATTEND, npy()[:-1], NPY), {400}),
    "npy: too long": (post(ATTEND, npy() + b"\0", NPY), {400}),
    "npy: pickle": (post(ATTEND, npy(np.array([{}], object)), NPY), {400}),
    "npy: float64 beyond float32": (post(ATTEND, npy(np.full((2, 4), 1e300)), NPY), {400}),
    "npy: complex": (post(ATTEND, npy(X.astype(np.complex64)), NPY), {400}),
    "npy: NaN": (post(ATTEND, npy(X * np.float32("nan")), NPY), {400}),
    "npy: header of 4 GB": (post(ATTEND, b"\x93NUMPY\x02\x00\xff\xff\xff\xff", NPY), {400}),
    "npy: negative size": (
        post(ATTEND, npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }"), NPY),
        {400},
    ),
    "npy: product overflows": (
        post(
            ATTEND,
            npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**32}, {2**32}), }}"),
            NPY,
        ),
        {400},
    ),
    "npy: code in the header": (post(ATTEND, npy_header("__import__('os').getpid()"), NPY), {400}),
    "npy: one row": (post(ATTEND, npy(X[0]), NPY), {422}),
    "safetensors: empty": (post(ATTEND, b"", SAFETENSORS), {400}),
    "safetensors: header of 2^64": (post(ATTEND, b"\xff" * 8 + b"{}", SAFETENSORS), {400}),
    "safetensors: not JSON": (post(ATTEND, tensors(b"{"), SAFETENSORS), {400}),
    "safetensors: deep JSON": (post(ATTEND, tensors(b"[" * 50_000), SAFETENSORS), {400}),
    "safetensors: no tensors": (post(ATTEND, tensors({}), SAFETENSORS), {400}),
    "safetensors: unknown dtype": (
        post(ATTEND, tensors({"0.embeddings": described("F4")}, BYTES), SAFETENSORS),
        {400},
    ),
    "safetensors: negative offsets": (
        post(ATTEND, tensors({"0.embeddings": described(offsets=(-32, 0))}, BYTES), SAFETENSORS),
        {400},
    ),
    "safetensors: beyond the body": (
        post(ATTEND, tensors({"0.embeddings": described(offsets=(0, 2**63))}, BYTES), SAFETENSORS),
        {400},
    ),
    "safetensors: overlap": (
        post(
            ATTEND,
            tensors({"0.embeddings": described(), "0.memory": described()}, BYTES),
            SAFETENSORS,
        ),
        {400},
    ),
    "safetensors: product overflows": (
        post(ATTEND, tensors({"0.embeddings": described(shape=(2**62, 4, 4))}, BYTES), SAFETENSORS),
        {400},
    ),
    "safetensors: an input is missing": (
        post(ATTEND, tensors({"1.embeddings": described()}, BYTES), SAFETENSORS),
        {400},
    ),
    "safetensors: unknown field": (
        post(ATTEND, tensors({"0.embedding": described()}, BYTES), SAFETENSORS),
        {422},
    ),
    "oip: lengths disagree": (infer(sized(28), BYTES), {400}),
    "oip: more bytes than declared": (infer(sized(32), BYTES + b"\0"), {400}),
    "oip: negative size": (infer(sized(-32), BYTES), {400}),
    "oip: size of 2^70": (infer(sized(2**70), BYTES), {400}),
    "oip: shape overflows": (infer(sized(32, (2**62, 2**62)), BYTES), {400}),
    "oip: shape of booleans": (infer(sized(32, (True, 8)), BYTES), {400}),
    "oip: unknown datatype": (infer(sized(32, datatype="FP8"), BYTES), {400}),
    "oip: header beyond the body": (infer(sized(32), BYTES, "Inference-Header-Content-Length: 9999"), {400}),
    "oip: negative header": (infer(sized(32), BYTES, "Inference-Header-Content-Length: -1"), {400}),
    "oip: header of 400 digits": (
        infer(sized(32), BYTES, "Inference-Header-Content-Length: " + "9" * 400),
        {400},
    ),
    "oip: header twice": (
        infer(sized(32), BYTES, "Inference-Header-Content-Length: 9", "Inference-Header-Content-Length: 8"),
        {400},
    ),
    "oip: raw rows that do not fit": (post(INFER, BYTES[:-1], "Inference-Header-Content-Length: 0"), {400}),
    "oip: raw and empty": (post(INFER, b"", "Inference-Header-Content-Length: 0"), {400}),
    "oip: a text longer than its bytes": (
        infer({"name": "text", **sized(8, (1,), "BYTES")}, b"\xff\xff\xff\x7fabcd"),
        {400},
    ),
    "oip: a text that is not UTF-8": (
        infer({"name": "text", **sized(6, (1,), "BYTES")}, b"\x02\0\0\0\xff\xfe"),
        {400},
    ),
    "oip: NaN in binary": (infer(sized(32), (X * np.float32("nan")).tobytes()), {400}),
    "oip: shared memory": (
        infer({"shape": (2, 4), "datatype": "FP32", "parameters": {"shared_memory_region": "x"}, "data": []}),
        {422},
    ),
}

HTTP_CASES = {
    "unknown route": (request("GET", "/nothing"), {404}),
    "unknown route with dots": (request("GET", "/v1/../../etc/passwd"), {400, 404}),
    "unknown model": (post("/v1/models/%00%ff/attend", GOOD.encode(), JSON), {400, 404}),
    "wrong method": (request("DELETE", ATTEND), {405}),
    "unknown content type": (post(ATTEND, b"x", "Content-Type: text/csv"), {415}),
    "content type of noise": (post(ATTEND, b"x", "Content-Type: \xff;;=\x01"), {400, 415}),
    "nothing acceptable": (post(ATTEND, GOOD.encode(), JSON, "Accept: image/png"), {406}),
    "compressed body, cut off": (post(ATTEND, b"\x1f\x8b", JSON, "Content-Encoding: gzip"), {400}),
    "body in a coding of its own": (post(ATTEND, b"\x1f\x8b", JSON, "Content-Encoding: br"), {415}),
    "body over the limit": (post(ATTEND, b"x" * 100, JSON, length=1 << 21), {413}),
    "negative length": (post(ATTEND, b"", JSON, length=-1), {400, None}),
    "length of letters": (post(ATTEND, b"", JSON, length="ten"), {400, None}),
    "length of 400 digits": (post(ATTEND, b"", JSON, length="9" * 400), {400, 413, None}),
    "two lengths": (
        request("POST", ATTEND, "Content-Length: 2", "Content-Length: 3", JSON, body=b"{}x"),
        {400, None},
    ),
    "length and chunks": (
        request(
            "POST",
            ATTEND,
            "Content-Length: 2",
            "Transfer-Encoding: chunked",
            JSON,
            body=b"2\r\n{}\r\n0\r\n\r\n",
        ),
        {400, None},
    ),
    "chunk of no size": (
        request("POST", ATTEND, "Transfer-Encoding: chunked", JSON, body=b"zz\r\n{}\r\n0\r\n\r\n"),
        {400, None},
    ),
    "no request at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400, None}),
    "header without a name": (b"GET / HTTP/1.1\r\n: x\r\nHost: x\r\n\r\n", {400, None}),
    "query of noise": (post(f"{ATTEND}?layers=%ff&heads=[&rows=%00", npy(), NPY), {400, 422}),
    "query of many": (post(f"{ATTEND}?" + "&".join(f"a{i}=1" for i in range(900)), npy(), NPY), {400, 422}),
}

CASES = JSON_CASES | BINARY_CASES | HTTP_CASES


FRAMING = {
    b"GET / HTTP/2.0\r\nHost: x\r\n\r\n": "HTTP/2.0 is not spoken here",
    b"GET / HTTP/0.9\r\nHost: x\r\n\r\n": "HTTP/0.9 is not spoken here",
    b"GET / HTTP/1.1\r\n\r\n": "it has 0 Host headers",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n": "it has 2 Host headers",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 40_000 + b"\r\n\r\n": "its head is over 32768 bytes",
    request("POST", ATTEND, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"): "not chunked alone",
    request("POST", ATTEND, *2 * ["Transfer-Encoding: chunked"], body=b"0\r\n\r\n"): "Transfer-Encoding",
    request("POST", ATTEND, "Transfer-Encoding: chunked", body=b"zz\r\n"): "chunk size",
    request("POST", ATTEND, "Transfer-Encoding: chunked", "Content-Length: 1"): "Content-Length",
    request("POST", ATTEND, "Transfer-Encoding: chunked", body=b"0\r\na b: c\r\n\r\n"): "header token",
}


@pytest.mark.parametrize(("raw", "reason"), FRAMING.items(), ids=FRAMING.values())
def test_fault_of_framing_is_told_for_what_it_is(raw: bytes, reason: str, server: FakeServer) -> None:
    answer = server.send(raw)
    assert answer is not None
    assert (answer.status, answer.closes) == (400, True)
    assert reason in answer.json()["error"]["message"]


def test_corpus_is_as_large_as_promised() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_server_refuses_on_purpose_and_goes_on(name: str, server: FakeServer) -> None:
    raw, right = CASES[name]
    answer = server.send(raw)
    status = None if answer is None else answer.status
    assert status in right, answer
    if answer is not None:
        assert len(answer.body) <= 8192
        error = answer.json()["error"]
        assert (
            isinstance(error, str)
            if b" /v2/" in raw[:40]
            else set(error) == {"code", "message", "request_id"}
        )
    assert server.attend().status == 200


@pytest.mark.parametrize("cut", [1, 20, 60, -1])
def test_connection_cut_anywhere_costs_nothing(cut: int, server: FakeServer) -> None:
    raw = attend(GOOD)
    with server.connect() as connection:
        connection.sendall(raw[:cut])
    assert server.attend().status == 200
