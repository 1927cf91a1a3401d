import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from service.app import create_app
from service.http.around.unpacking import STEP_BYTES, Unpacking
from service.http.errors import send_error
from service.settings import Settings
from tests.asgi import Reply, call, echo
from tests.fakes import FakeRuntime

LIMIT = 1 << 20


def raw(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw),
]


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """A route: what it raises on purpose is answered."""
    try:
        await echo(scope, receive, send)
    except Exception as error:  # noqa: BLE001
        await send_error(scope, send, error)


def send_packed(body: bytes | list[bytes], coding: str | None, *, limit: int = LIMIT) -> Reply:
    headers = [] if coding is None else [("content-encoding", coding)]
    app = Unpacking(answering, max_body_bytes=limit)
    return call(app, "/v1/attention", method="POST", headers=headers, body=body)


def refused(reply: Reply, status: int, code: str) -> str:
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (status, code), error
    return str(error["message"])


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@given(body=st.one_of(st.binary(min_size=1), st.integers(1, STEP_BYTES).map(lambda pairs: b"ab" * pairs)))
def test_body_is_what_was_packed(coding: str, pack: Callable[[bytes], bytes], body: bytes) -> None:
    packed = pack(body)
    assert send_packed(packed, coding).body == body
    assert send_packed([packed[:1], packed[1:], b""], coding).body == body


@pytest.mark.parametrize("coding", [None, "identity", "", "identity, identity"])
def test_body_without_a_coding_is_left_alone(coding: str | None) -> None:
    assert send_packed([b"a", b"b"], coding).body == b"ab"


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_no_body_at_all_stays_none(coding: str, pack: Callable[[bytes], bytes]) -> None:
    assert send_packed(b"", coding).body == b""
    assert send_packed(pack(b""), coding).body == b""


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "gzip;q=1"])
def test_other_codings_are_refused_with_those_that_are_read(coding: str) -> None:
    message = refused(send_packed(b"x", coding), 415, "unsupported_media_type")
    assert "gzip, deflate, identity" in message


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_limit_is_of_what_comes_out(coding: str, pack: Callable[[bytes], bytes]) -> None:
    assert len(send_packed(pack(bytes(LIMIT)), coding).body) == LIMIT
    message = refused(send_packed(pack(bytes(LIMIT + 1)), coding), 413, "body_too_large")
    assert str(LIMIT) in message


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_bomb_takes_no_more_memory_than_the_largest_body(coding: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(200 * LIMIT))
    assert len(bomb) < LIMIT
    tracemalloc.start()
    reply = send_packed(bomb, coding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    refused(reply, 413, "body_too_large")
    assert peak < 6 * LIMIT


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_stream_that_is_cut_off_is_malformed(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(range(256)) * 4)
    for length in range(1, len(packed)):
        refused(send_packed(packed[:length], coding), 400, "malformed")


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@pytest.mark.parametrize("size", [1, 3 * STEP_BYTES])
def test_bytes_behind_the_end_are_malformed(coding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    body = np.random.default_rng(0).bytes(size)
    for more in (b"x", b"\0" * STEP_BYTES, pack(b"more")):
        assert "send one stream" in refused(send_packed(pack(body) + more, coding), 400, "malformed")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(body=st.binary(min_size=1, max_size=300))
def test_any_bytes_are_unpacked_or_refused(coding: str, body: bytes) -> None:
    assert send_packed(body, coding).status in (200, 400)


def test_damaged_stream_is_malformed_by_its_checksum() -> None:
    packed = bytearray(gzip.compress(b"hello" * 100))
    packed[-8] ^= 1
    refused(send_packed(bytes(packed), "gzip"), 400, "malformed")


def test_what_takes_long_is_not_unpacked_on_the_event_loop() -> None:
    body = gzip.compress(bytes(8 * LIMIT))
    seen: list[Message] = []

    async def tell() -> None:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(await receive())

        ticking = asyncio.create_task(tick())
        scope: dict[str, Any] = {"type": "http", "headers": [(b"content-encoding", b"gzip")]}
        await Unpacking(app, max_body_bytes=8 * LIMIT)(scope, receive, receive)  # type: ignore[arg-type]
        ticking.cancel()
        assert turns > 1

    asyncio.run(tell())
    assert len(seen[0]["body"]) == 8 * LIMIT


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = Settings(max_body_bytes=4096, admin=True, api_keys=("key",), default_model="fake")
    with TestClient(create_app(settings, FakeRuntime())) as one:
        yield one


BODIES: dict[str, Any] = {
    "/v1/models/fake/attend": {"inputs": [{"text": "a b"}]},
    "/v1/attention": {"inputs": [{"query": [[1.0]], "key": [[1.0]], "value": [[1.0]]}]},
    "/v1/embeddings": {"model": "fake", "input": "a b"},
    "/embeddings": {"model": "fake", "input": "a b"},
    "/": {"inputs": "a b"},
    "/invocations": {"model": "fake", "input": "a b"},
    "/v1/tokenize": {"input": "a b"},
    "/tokenize": {"inputs": "a b"},
    "/decode": {"ids": [1, 97]},
    "/embed": {"inputs": ["a b"]},
    "/embed_all": {"inputs": "a b"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/v2/models/fake/infer": {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a b"]}]
    },
    "/v2/models/fake/versions/1/infer": {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a b"]}]
    },
    "/v2/repository/index": {"ready": True},
    "/v2/repository/models/fake/load": {"parameters": {}},
    "/v2/repository/models/other/load": {},
    "/v2/repository/models/other/unload": {"parameters": {"unload_dependents": False}},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_every_route_with_a_body_reads_it(
    client: TestClient, path: str, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    client.post("/v2/repository/models/other/load", headers={"x-api-key": "key"})
    body = json.dumps(BODIES[path]).encode()
    headers = {"content-type": "application/json", "x-api-key": "key"}
    plain = client.post(path, content=body, headers=headers)
    packed = client.post(path, content=pack(body), headers={**headers, "content-encoding": coding})
    assert packed.status_code == plain.status_code == 200 or "unload" in path, packed.text
    if "unload" not in path:
        assert packed.content == plain.content
    bomb = client.post(path, content=pack(bytes(5000)), headers={**headers, "content-encoding": coding})
    assert bomb.status_code == 413, bomb.text


def test_every_route_that_takes_a_body_is_among_them(client: TestClient) -> None:
    posts = {path for path, methods in client.app.openapi()["paths"].items() if "post" in methods}  # type: ignore[attr-defined]
    named = {path.format(model="fake", version="1") for path in posts}
    unread = {"/rerank", "/predict", "/embed_sparse"}  # refused without a look at the body
    assert named <= set(BODIES) | unread | {"/v2/repository/models/fake/unload"}


def test_body_of_a_caller_without_a_key_is_not_unpacked(client: TestClient) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    reply = client.post("/v1/attention", content=b"no gzip at all", headers=headers)
    assert reply.status_code == 401
