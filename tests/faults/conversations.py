"""What a faulty caller sends: good questions with wrong framing, in wrong company, or one inside another."""

import json
from collections.abc import Callable
from random import Random

from tests.faults.wire import ATTEND, INFER, JSON, OIP, request, token_ids

QUESTIONS = 48  # different ones, half of them JSON and half the protocol's binary extension
EVIL = b"GET /v1/models/EVIL HTTP/1.1\r\nHost: x\r\nX-Request-Id: evil\r\n\r\n"
BODY = json.dumps({"inputs": [{"token_ids": [1, 2]}]}).encode()

Sent = Callable[[Random, int, str], bytes]


def question(number: int, request_id: str, *, tokens: int | None = None) -> bytes:
    """A good question; `number` says which, and so what is answered."""
    ids = token_ids(tokens or 3 + number % 9, seed=number)
    if number % 2:
        body, lines = _oip(ids)
        path = INFER
    else:
        body = json.dumps({"inputs": [{"token_ids": ids}], "deterministic": True}).encode()
        path, lines = ATTEND, (JSON,)
    return request(
        "POST", path, *lines, f"Content-Length: {len(body)}", f"X-Request-Id: {request_id}", body=body
    )


def _oip(ids: list[int]) -> tuple[bytes, tuple[str, ...]]:
    payload = b"".join(one.to_bytes(8, "little") for one in ids)
    described = {
        "name": "token_ids",
        "shape": [len(ids)],
        "datatype": "INT64",
        "parameters": {"binary_data_size": len(payload)},
    }
    parameters = {"binary_data_output": True, "deterministic": True}
    text = json.dumps({"inputs": [described], "parameters": parameters}).encode()
    return text + payload, (OIP, f"Inference-Header-Content-Length: {len(text)}")


def good(_: Random, number: int, request_id: str) -> bytes:
    return question(number, request_id)


def long_reply(_: Random, number: int, request_id: str) -> bytes:
    """A question whose answer takes many segments."""
    return question(number - number % 2, request_id, tokens=160)


def pipelined(count: int) -> Sent:
    def sent(chance: Random, number: int, request_id: str) -> bytes:
        return b"".join(question((number + at) % QUESTIONS, f"{request_id}-{at}") for at in range(count))

    return sent


def twice(_: Random, number: int, request_id: str) -> bytes:
    return question(number, request_id) * 2


def heads_between(_: Random, number: int, request_id: str) -> bytes:
    head = request("HEAD", "/health", f"X-Request-Id: {request_id}")
    return (
        head + request("GET", "/v2/health/live", f"X-Request-Id: {request_id}") + question(number, request_id)
    )


def after(behind: Callable[[Random], bytes]) -> Sent:
    return lambda chance, number, request_id: question(number, request_id) + behind(chance)


def before(ahead: Callable[[Random], bytes]) -> Sent:
    return lambda chance, number, request_id: ahead(chance) + question(number, request_id)


def raw(make: Callable[[Random], bytes]) -> Sent:
    return lambda chance, number, request_id: make(chance)


def posted(body: bytes, *lines: str) -> bytes:
    return request("POST", ATTEND, JSON, *lines, body=body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


def chunked_well(chance: Random, number: int, request_id: str) -> bytes:
    """Chunks of odd sizes with an extension and a trailer: all of which is allowed."""
    body = json.dumps({"inputs": [{"token_ids": token_ids(3 + number % 9, seed=number)}]}).encode()
    pieces, at = [], 0
    while at < len(body):
        size = chance.randrange(1, 9)
        pieces.append(chunk(body[at : at + size]))
        at += size
    pieces[0] = pieces[0].replace(b"\r\n", b";a=b\r\n", 1)
    end = b"0\r\nX-Trailer: a\r\n\r\n"
    return posted(b"".join(pieces) + end, "Transfer-Encoding: chunked", f"X-Request-Id: {request_id}")


def chunked(body: bytes) -> bytes:
    return posted(body, "Transfer-Encoding: chunked")


CHUNK_ENDS = (b"\n", b"\r", b"XX", b"", b"\r\r\n")
CHUNK_SIZES = (b"zz", b"-1", b"0x10", b"FFFFFFFFFFFFFFFFF", b"1 0", b"", b"+5", b"1_0")
LENGTHS = ("-1", "+5", "0x20", "1e3", " ", "99999999999999999999", "5, 6", "5;6")
ENCODINGS = ("xchunked", "chunked, identity", "gzip, chunked", "Chunked\x0b", '"chunked"', "identity")
GREETINGS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x05\x01\x00",
    b"EHLO x\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"GET /health\r\n\r\n",
    b"GET /health HTTP/0.9\r\n\r\n",
)

bad_chunk_end = raw(lambda c: chunked(b"%x\r\n" % len(BODY) + BODY + c.choice(CHUNK_ENDS) + b"0\r\n\r\n"))
bad_chunk_size = raw(lambda c: chunked(c.choice(CHUNK_SIZES) + b"\r\n" + BODY + b"\r\n0\r\n\r\n"))
chunk_too_small = raw(lambda c: chunked(b"%x\r\n" % (len(BODY) - 3) + BODY + b"\r\n0\r\n\r\n"))
chunks_without_end = raw(lambda _: chunked(b"%x\r\n" % len(BODY) + BODY[:9]))
length_too_short = raw(lambda c: posted(BODY, f"Content-Length: {len(BODY) - c.randrange(1, 9)}"))
length_too_long = raw(lambda c: posted(BODY, f"Content-Length: {len(BODY) + c.randrange(1, 9)}"))
bad_length = raw(lambda c: posted(BODY, f"Content-Length: {c.choice(LENGTHS)}"))
length_and_chunks = raw(
    lambda _: posted(b"0\r\n\r\n" + EVIL, f"Content-Length: {5 + len(EVIL)}", "Transfer-Encoding: chunked")
)
chunks_and_length = raw(
    lambda _: posted(chunk(BODY) + b"0\r\n\r\n" + EVIL, "Transfer-Encoding: chunked", "Content-Length: 4")
)
two_lengths = raw(lambda _: posted(EVIL, "Content-Length: 0", f"Content-Length: {len(EVIL)}"))
odd_encoding = raw(
    lambda c: posted(
        b"0\r\n\r\n" + EVIL, f"Transfer-Encoding: {c.choice(ENCODINGS)}", f"Content-Length: {5 + len(EVIL)}"
    )
)
spaced_encoding = raw(
    lambda _: posted(b"0\r\n\r\n" + EVIL, "Transfer-Encoding : chunked", f"Content-Length: {5 + len(EVIL)}")
)
body_of_get = raw(lambda _: request("GET", "/health", f"Content-Length: {len(EVIL)}", body=EVIL))
body_of_upgrade = raw(
    lambda c: posted(
        EVIL,
        f"Content-Length: {len(EVIL)}",
        "Connection: Upgrade",
        f"Upgrade: {c.choice(['websocket', 'h2c'])}",
    )
)
body_of_connect = raw(lambda _: request("CONNECT", "x:80", f"Content-Length: {len(EVIL)}", body=EVIL))
huge_head = raw(lambda _: request("GET", "/health", "X-Long: " + "a" * 200_000))
many_lines = raw(lambda _: request("GET", "/health", *(f"X-{at}: a" for at in range(4000))))
endless_line = raw(lambda _: b"GET /" + b"a" * 200_000)
bare_newlines = raw(
    lambda _: request("GET", "/health", f"Content-Length: {len(EVIL)}").replace(b"\r", b"") + EVIL
)
folded_line = raw(lambda _: request("GET", "/health", "X-Folded: a\r\n Content-Length: 5"))
two_hosts = raw(lambda _: request("GET", "/health", "Host: y"))
no_host = raw(lambda _: request("GET", "/health", host=None))
null_in_head = raw(lambda _: request("GET", "/health", "X-Null: a\0b"))
other_protocol = raw(lambda c: c.choice(GREETINGS))
random_bytes = raw(lambda c: c.randbytes(300))
absolute_address = raw(lambda _: b"GET http://elsewhere/health HTTP/1.1\r\nHost: x\r\n\r\n")
expect_then_leave = raw(lambda _: posted(b"", f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
