"""Replies piece by piece: the same bytes as whole, no piece before it is asked for, none for who has left."""

import asyncio
import gzip
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from starlette.types import Message

from service.app import create_app, service_of
from service.http.around.compression import Compression
from service.http.around.host import DEPARTURE, Departure
from service.http.replies import JSON, PIECES_HELD, PiecesResponse, reply_bytes
from service.settings import Settings
from service.wire.json_text import PIECE_BYTES
from tests.fakes import FakeRuntime, fake_card

ATTEND, INFER = "/v1/models/fake/attend", "/v2/models/fake/infer"
EMBEDDED = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
ONE = {"embeddings": EMBEDDED.tolist()}
TENSOR = {"name": "embeddings", "datatype": "FP32", "shape": [3, 3, 4], "data": EMBEDDED.reshape(-1).tolist()}


class Pieces:
    """Three pieces; `made` counts those that were."""

    def __init__(self) -> None:
        self.made = 0
        self.seconds: list[float] = []

    def __call__(self) -> Iterator[bytes]:
        for piece in (b"one ", b"two ", b"three"):
            self.made += 1
            yield piece

    def response(self) -> PiecesResponse:
        return PiecesResponse(self, headers=JSON, timing=lambda _: "encode;dur=1", done=self.seconds.append)


def sent(response: PiecesResponse, version: str = "1.1", **scope: Any) -> list[Message]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(response({"type": "http", "http_version": version, **scope}, None, send))  # type: ignore[arg-type]
    return messages


def test_pieces_go_out_one_by_one_without_a_length() -> None:
    pieces = Pieces()
    start, *bodies = sent(pieces.response())
    assert dict(start["headers"]) == {b"content-type": b"application/json", b"server-timing": b"encode;dur=1"}
    assert [(one["body"], one["more_body"]) for one in bodies] == [
        (b"one ", True),
        (b"two ", True),
        (b"three", True),
        (b"", False),
    ]
    assert len(pieces.seconds) == 1


def test_who_speaks_http_1_0_is_told_the_length() -> None:
    start, *bodies = sent(Pieces().response(), "1.0")
    assert dict(start["headers"])[b"content-length"] == b"13"
    assert b"".join(one["body"] for one in bodies) == b"one two three"


def test_nothing_more_is_made_for_who_has_left() -> None:
    pieces = Pieces()
    departure = Departure()
    departure.happened()
    with pytest.raises(ClientDisconnect):
        sent(pieces.response(), **{DEPARTURE: departure})
    assert pieces.made == 1


def test_what_fails_before_the_first_piece_has_not_begun_a_reply() -> None:
    def pieces() -> Iterator[bytes]:
        raise MemoryError
        yield b""

    response = PiecesResponse(pieces, headers=JSON, timing=str, done=print)
    with pytest.raises(MemoryError):
        sent(response)


def test_pieces_are_compressed_as_they_come_but_not_where_a_length_is_due() -> None:
    def replied(version: str) -> tuple[dict[bytes, bytes], bytes]:
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        scope = {"type": "http", "http_version": version, "headers": [(b"accept-encoding", b"gzip")]}
        asyncio.run(Compression(Pieces().response())(scope, None, send))  # type: ignore[arg-type]
        return dict(messages[0]["headers"]), b"".join(one["body"] for one in messages[1:])

    headers, body = replied("1.1")
    assert headers[b"content-encoding"] == b"gzip"
    assert gzip.decompress(body) == b"one two three"
    headers, body = replied("1.0")
    assert b"content-encoding" not in headers
    assert (headers[b"content-length"], body) == (b"13", b"one two three")


def test_json_of_a_small_result_is_counted_whole_and_of_a_large_one_by_pieces() -> None:
    assert reply_bytes(400, number_bytes=4, largest_whole=400) == 400 + 100 * 17
    assert reply_bytes(400, number_bytes=2, largest_whole=400) == 400 + 200 * 17
    assert reply_bytes(404, number_bytes=4, largest_whole=400) == 404 + PIECES_HELD * PIECE_BYTES


@pytest.fixture(params=["whole", "pieces"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    if request.param == "pieces":
        monkeypatch.setattr("service.memory_budget.LARGEST_WHOLE_BYTES", 0)
    app = create_app(Settings(), FakeRuntime(fake_card()))
    with TestClient(app) as client:
        yield client
        assert service_of(app).budget.held == 0


def read(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    assert "encode;dur=" in response.headers["server-timing"]
    return response.json()


def test_every_route_says_the_same_in_pieces(client: TestClient) -> None:
    (one,) = read(client.post(ATTEND, json={"inputs": [ONE], "outputs": ["z", "weights"]}))["outputs"]
    assert np.array_equal(np.array(one["z"], np.float32), 2 * EMBEDDED)
    assert np.shape(one["weights"]) == (2, 9, 9)
    asked = {"inputs": [TENSOR], "id": "7", "outputs": [{"name": "z"}]}
    reply = read(client.post(INFER, json=asked))
    assert (reply["id"], reply["outputs"][0]["shape"]) == ("7", [3, 3, 4])
    assert np.array_equal(np.array(reply["outputs"][0]["data"], np.float32), 2 * EMBEDDED.reshape(-1))
    for form in ("float", "base64"):
        reply = read(client.post("/v1/embeddings", json={"input": ["a", "b c"], "encoding_format": form}))
        assert [item["index"] for item in reply["data"]] == [0, 1]
        assert reply["usage"]["total_tokens"] == 3
    text = read(client.post(ATTEND, json={"inputs": [{"text": "a b"}], "outputs": ["z"]}))["outputs"][0]
    assert text["tokens"] == ["a", "b"]
