"""Tokens without computing: `/v1/tokenize`, and text-embeddings-inference's `/tokenize` and `/decode`."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from models.errors import TextError
from models.pooling_spec import PooledCard
from models.protocol import ModelCard, Text
from service.app import create_app, service_of
from service.http.tei.tokens import _byte_offsets
from service.http.turns import LONGEST_TURN_MS
from service.settings import Settings
from tests.asgi import call
from tests.fakes import FakeRuntime, fake_card
from tests.serving import Served, refused, served

PROMPTS = PooledCard(width=4, pooling="mean", normalized=False, prompts={"query": "q "})


class Reader(FakeRuntime):
    """A runtime that notes how it reads, and cannot read one text."""

    def tokens_of(self, card: ModelCard, text: str, **how: Any) -> Text:
        if "unreadable" in text:
            raise TextError("the tokenizer cannot read this text")
        return super().tokens_of(card, text, **how)

    def text_of(self, card: ModelCard, ids: Any, **how: Any) -> str:
        if 77 in ids:
            raise TextError("the tokenizer cannot write these ids")
        return super().text_of(card, ids, **how)


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    bare = fake_card("bare", inputs=("embeddings",), outputs=("z",), not_offered={"text": "no tokenizer"})
    slow = fake_card("slow", outputs=("z",), text_ms=1000.0)
    with served(Reader(fake_card(pooled=PROMPTS), bare, slow), default_model="fake") as one:
        yield one


def answered(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def tokenize(service: Served, **body: object) -> Any:
    return answered(service.post("/v1/tokenize", body))


def said(response: httpx.Response, status: int, kind: str) -> str:
    body = response.json()
    assert (response.status_code, body.get("error_type")) == (status, kind), body
    return str(body["error"])


def test_every_text_has_ids_tokens_offsets_and_a_count(service: Served) -> None:
    special = [True, False, False, True]
    assert tokenize(service, input="a Satz", model="fake") == {
        "model": "fake",
        "max_model_len": 16,
        "data": [
            {
                "index": 0,
                "count": 4,
                "ids": [1, 97, sum(map(ord, "Satz")) % 100, 2],
                "tokens": ["[begin]", "a", "Satz", "[end]"],
                "offsets": [[0, 0], [0, 1], [2, 6], [0, 0]],
                "special": special,
            }
        ],
        "usage": {"tokens": 4},
    }
    several = tokenize(service, input=["a", "", "b c"], add_special_tokens=False)
    assert [one["tokens"] for one in several["data"]] == [["a"], [], ["b", "c"]]
    assert [one["count"] for one in several["data"]] == [1, 0, 2]


def test_nothing_is_computed_and_nothing_queued(service: Served) -> None:
    before = service.engine.admitted_requests
    tokenize(service, input="a b")
    assert service.engine.admitted_requests == before


def test_a_text_longer_than_the_model_is_counted_whole_or_cut_where_asked(service: Served) -> None:
    (whole,) = tokenize(service, input="w " * 40)["data"]
    assert (whole["count"], "truncated" in whole) == (42, False)
    (cut,) = tokenize(service, input="w " * 40, truncate=True)["data"]
    assert (cut["count"], cut["truncated"]) == (16, 24)
    (plain,) = tokenize(service, input="w " * 40, truncate=True, add_special_tokens=False)["data"]
    assert (plain["count"], plain["truncated"]) == (16, 24)


def test_long_texts_are_read_on_threads_as_short_ones_are_at_once(service: Served) -> None:
    texts = [f"a b c {letter}" for letter in "defgh"]
    assert len("".join(texts)) > LONGEST_TURN_MS
    slow = tokenize(service, input=texts, model="slow")["data"]
    assert slow == tokenize(service, input=texts, model="fake")["data"]


def test_reply_says_where_the_time_went(service: Served) -> None:
    timing = service.post("/v1/tokenize", {"input": "a"}).headers["server-timing"]
    assert [part.partition(";")[0] for part in timing.split(", ")] == ["decode", "encode"]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"input": []}, 422, "invalid", "input has 0 items; give at least 1"),
        ({"input": [1, 2]}, 422, "invalid", "input[0] must be a text"),
        ({"input": 5}, 422, "invalid", "input must be a text"),
        ({}, 422, "invalid", "input is missing"),
        ({"input": ["a"] * 2049}, 422, "invalid", "at most 2048"),
        ({"input": ["a", "unreadable"]}, 422, "invalid", "input[1]: the tokenizer cannot read"),
        ({"input": "a", "model": "bare"}, 422, "invalid", "model bare takes no text: no tokenizer"),
        ({"input": "a", "model": "none"}, 404, "unknown_model", "no model is called"),
        ({"input": "a", "add_special_tokens": 1}, 422, "invalid", "add_special_tokens must be true or false"),
    ],
)
def test_what_is_wrong_is_named(service: Served, body: Any, status: int, code: str, words: str) -> None:
    assert words in refused(service.post("/v1/tokenize", body), status, code)


def test_a_request_has_no_more_tokens_than_one_to_the_device_may() -> None:
    with served(Reader(), max_queued_tokens=64) as service:
        response = service.post("/v1/tokenize", {"input": ["w " * 30] * 3})
        assert "over 96 tokens together, the limit is 64" in refused(response, 413, "sequence_too_long")
        response = service.post("/v1/tokenize", {"input": "w " * 70})
        assert "input[0]" in refused(response, 413, "sequence_too_long")
        ids = {"ids": [[5] * 40, [5] * 30]}
        assert "70 tokens together" in said(service.post("/decode", ids), 422, "Validation")


def test_tokens_of_text_embeddings_inference_have_pieces_of_the_text_and_bytes(service: Served) -> None:
    (tokens,) = answered(service.post("/tokenize", {"inputs": "é 漢a b"}))
    assert [(one["text"], one["special"], one["start"], one["stop"]) for one in tokens] == [
        ("[begin]", True, None, None),
        ("é", False, 0, 2),
        ("漢a", False, 3, 7),
        ("b", False, 8, 9),
        ("[end]", True, None, None),
    ]
    assert set(tokens[0]) == {"id", "text", "special", "start", "stop"}
    plain = answered(service.post("/tokenize", {"inputs": ["a", "b"], "add_special_tokens": False}))
    assert [[one["text"] for one in text] for text in plain] == [["a"], ["b"]]
    prompted = answered(service.post("/tokenize", {"inputs": "a", "prompt_name": "query"}))
    assert [one["text"] for one in prompted[0]] == ["[begin]", "q", "a", "[end]"]
    assert prompted[0][2]["start"] == 2


@pytest.mark.parametrize("text", ["", "plain", "é", "漢字かな", "a\U0001f600b", "e\u0301\x00"])
def test_bytes_before_each_character_are_counted_as_encoding_does(text: str) -> None:
    assert list(_byte_offsets(text)) == [len(text[:at].encode()) for at in range(len(text) + 1)]


def test_ids_are_decoded_with_or_without_special_tokens(service: Served) -> None:
    ids = tokenize(service, input="a b")["data"][0]["ids"]
    assert answered(service.post("/decode", {"ids": ids})) == ["a b"]
    both = answered(service.post("/decode", {"ids": [ids, [97]], "skip_special_tokens": False}))
    assert both == ["[begin] a b [end]", "a"]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/tokenize", {"inputs": ""}, 400, "Empty", "`inputs` cannot be empty"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
        ("/tokenize", {"inputs": ["a", 1]}, 422, "Validation", "inputs[1] must be a text"),
        ("/tokenize", {"inputs": ["a"] * 2049}, 422, "Validation", "batch size 2049"),
        ("/tokenize", {"inputs": "unreadable"}, 422, "Tokenizer", "inputs[0]"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", 'Available prompts: ["query"]'),
        ("/decode", {"ids": []}, 400, "Empty", "`ids` cannot be empty"),
        ("/decode", {"ids": [[1], []]}, 400, "Empty", "ids[1] is"),
        ("/decode", {"ids": [1, "a"]}, 422, "Validation", "ids[0] must be a list"),
        ("/decode", {"ids": [-1]}, 422, "Validation", "ids[0] is -1; the vocabulary has ids from 0 to 99"),
        (
            "/decode",
            {"ids": [5, 100]},
            422,
            "Validation",
            "ids[1] is 100; the vocabulary has ids from 0 to 99",
        ),
        (
            "/decode",
            {"ids": [[1], [2, 2**32]]},
            422,
            "Validation",
            "ids[1][1] is 4294967296; the vocabulary has",
        ),
        ("/decode", {"ids": [2**63]}, 422, "Validation", "ids has a token id beyond"),
        ("/decode", {"ids": "a"}, 422, "Validation", "ids must be a list"),
        ("/decode", {"ids": [77]}, 422, "Tokenizer", "ids[0]"),
        ("/decode", b"{", 400, "Validation", "JSON"),
    ],
)
def test_what_is_wrong_is_said_in_its_shape(
    service: Served, path: str, body: Any, status: int, kind: str, words: str
) -> None:
    assert words in said(service.post(path, body), status, kind)


def test_memory_of_tokens_is_counted_and_refused_where_there_is_none() -> None:
    class Big(Reader):
        def tokens_of(self, card: ModelCard, text: str, **how: Any) -> Text:
            ids = np.zeros(60_000, np.int64)
            return Text(ids=ids, type_ids=ids, tokens=("x",) * 60_000)

    settings = Settings(max_memory_bytes=2**24, default_model="fake")
    with TestClient(create_app(settings, Big())) as client:
        response = client.post("/v1/tokenize", json={"input": "a"})
        assert "MAX_MEMORY_BYTES" in refused(response, 413, "result_too_large")
        assert service_of(client.app).budget.held == 0


def test_a_server_that_is_not_ready_says_so() -> None:
    app = create_app(Settings(), Reader())
    reply = call(app, "/v1/tokenize", method="POST", body=b'{"input": "a"}')
    assert (reply.status, reply.json()["error"]["code"]) == (503, "not_ready")


def test_texts_are_of_the_default_or_the_only_model_that_takes_any() -> None:
    bare = fake_card("bare", inputs=("embeddings",))
    with served(Reader(fake_card(), bare)) as service:
        assert tokenize(service, input="a")["model"] == "fake"
    with served(Reader(bare), default_model="bare") as service:
        response = service.post("/tokenize", {"inputs": "a"})
        assert "takes no text" in said(response, 424, "Backend")
        assert "takes no text" in said(service.post("/decode", {"ids": [1]}), 424, "Backend")
