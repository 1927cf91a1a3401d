import gzip

import pytest
import zstandard
from starlette.types import Receive, Scope, Send

from service.http.around.compression import LEAST_BYTES, OFF_LOOP_BYTES, Compression, chosen_encoding
from tests.asgi import Reply, call

LARGE = b'{"z": [' + b"0.125, " * (OFF_LOOP_BYTES // 2) + b"0]}"


def answer(
    *pieces: bytes,
    accept: str = "zstd",
    kind: str = "application/json",
    extra: tuple[bytes, bytes] | None = None,
) -> Reply:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind.encode())]
        if len(pieces) == 1:
            headers.append((b"content-length", str(len(pieces[0])).encode()))
        if extra:
            headers.append(extra)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces):
            more = number < len(pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    return call(Compression(app), headers=[("accept-encoding", accept)] if accept else [])


def unpacked(reply: Reply) -> bytes:
    encoding = reply.header("content-encoding")
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(reply.body)
    return gzip.decompress(reply.body) if encoding == "gzip" else reply.body


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZIP;Q=0.9 , zstd;q=0.5", "gzip"),
        ("zstd;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("br, identity", None),
        ("*", None),
        ("", None),
        ("gzip;q=", None),
        ("gzip;q=abc", None),
        ("gzip;q=nan", None),
        (";;;,,,=", None),
    ],
)
def test_encoding_is_the_one_the_caller_weighs_most(accept: str, expected: str | None) -> None:
    assert chosen_encoding(accept) == expected


@pytest.mark.parametrize("accept", ["gzip", "zstd"])
@pytest.mark.parametrize("body", [b"x" * LEAST_BYTES, LARGE], ids=["small", "large"])
def test_json_is_compressed_and_reads_back_equal(accept: str, body: bytes) -> None:
    reply = answer(body, accept=accept)
    assert reply.header("content-encoding") == accept
    assert reply.header("content-length") == str(len(reply.body))
    assert reply.header("vary") == "accept-encoding"
    assert len(reply.body) < len(body)
    assert unpacked(reply) == body


@pytest.mark.parametrize("accept", ["gzip", "zstd"])
def test_reply_in_pieces_is_compressed_as_one_stream_of_unknown_length(accept: str) -> None:
    reply = answer(b'{"a":"', LARGE, b"", b"tail", b'"}', accept=accept)
    assert reply.header("content-encoding") == accept
    assert reply.header("content-length") is None
    assert unpacked(reply) == b'{"a":"' + LARGE + b"tail" + b'"}'
    assert reply.complete


def test_small_reply_is_left_as_it_is() -> None:
    reply = answer(b"x" * (LEAST_BYTES - 1))
    assert reply.header("content-encoding") is None
    assert reply.body == b"x" * (LEAST_BYTES - 1)


@pytest.mark.parametrize("kind", ["application/x-npy", "application/octet-stream", "text/html"])
def test_other_formats_are_left_as_they_are(kind: str) -> None:
    assert answer(LARGE, kind=kind).body == LARGE


def test_reply_that_is_encoded_already_is_left_as_it_is() -> None:
    assert answer(LARGE, extra=(b"content-encoding", b"br")).body == LARGE


def test_caller_who_does_not_ask_gets_plain_json() -> None:
    reply = answer(LARGE, accept="")
    assert (reply.header("content-encoding"), reply.body) == (None, LARGE)


def test_json_with_parameters_in_its_type_is_json() -> None:
    assert answer(LARGE, kind="application/json; charset=utf-8").header("content-encoding") == "zstd"
