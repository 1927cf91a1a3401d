"""The routes of text-embeddings-inference: its requests, its shapes, its errors."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from models.errors import TextError
from models.outputs import OUTPUTS
from models.pooling_spec import PooledCard
from models.protocol import Answer, Failure, Item, ModelCard, Text
from service.app import create_app
from service.http.errors import TEI_ROUTES
from service.settings import Settings
from tests.asgi import call
from tests.fakes import FakeRuntime, fake_card
from tests.serving import Served, served


class PooledRuntime(FakeRuntime):
    """Pooled is [number of tokens, sum of ids, 1, 1/3], hidden the ids in every column."""

    def _answer(self, item: Item) -> Answer | Failure:
        ids = item.input.ids
        if 50 in ids:
            return Failure(code="not_finite", message="the result overflowed")
        pooled = np.array([len(ids), ids.sum(), 1, 1 / 3], dtype=np.float32)
        made = {"pooled": pooled, "hidden": np.repeat(ids[:, None], 4, axis=1).astype(np.float32)}
        return Answer(tensors={name: made[name] for name in item.selection.outputs})

    def tokenize(self, card: ModelCard, text: str, *arguments: Any, **options: Any) -> Text:
        if text == "unreadable":
            raise TextError("the tokenizer cannot read this text")
        return super().tokenize(card, text, *arguments, **options)


PROMPTS = PooledCard(width=4, pooling="mean, normalised", normalized=False, prompts={"query": "q "}, cut=True)


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    with served(PooledRuntime(fake_card(pooled=PROMPTS), fake_card("other", outputs=("z",)))) as one:
        yield one


def said(response: httpx.Response, status: int, kind: str) -> str:
    body = response.json()
    assert (response.status_code, body.get("error_type")) == (status, kind), body
    assert set(body) == {"error", "error_type"}
    return str(body["error"])


def ids_of(*words: str) -> list[int]:
    return [sum(map(ord, word)) % 100 for word in words]


def pooled(*ids: int) -> np.ndarray:
    return np.array([len(ids), sum(ids), 1, 1 / 3], np.float32)


def answered(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


A, B = ids_of("a", "b")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("a b", [(A, B)]),
        (["a", "a b"], [(A,), (A, B)]),
        ([3, 4, 5], [(3, 4, 5)]),
        ([[3, 4], "a"], [(3, 4), (A,)]),
        (["a", [7]], [(A,), (7,)]),
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/"])
def test_every_kind_of_inputs_is_one_vector_each(
    service: Served, path: str, inputs: object, expected: list[tuple[int, ...]]
) -> None:
    found = answered(service.post(path, {"inputs": inputs, "normalize": False}))
    np.testing.assert_array_equal(np.array(found, np.float32), [pooled(*ids) for ids in expected])


def test_vectors_have_length_1_unless_the_request_says_otherwise(service: Served) -> None:
    (one,) = answered(service.post("/embed", {"inputs": "a b"}))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(one, pooled(A, B) / np.linalg.norm(pooled(A, B)), rtol=1e-6)
    (cut,) = answered(service.post("/embed", {"inputs": "a b", "dimensions": 2}))
    np.testing.assert_allclose(cut, pooled(A, B)[:2] / np.linalg.norm(pooled(A, B)[:2]), rtol=1e-6)


def test_vectors_of_a_folder_that_normalises_are_those_of_v1_embeddings_bit_for_bit() -> None:
    about = PooledCard(width=4, pooling="mean, normalised", normalized=True)
    with served(PooledRuntime(fake_card(pooled=about))) as service:
        theirs = answered(service.post("/v1/embeddings", {"input": ["a", "b c"]}))["data"]
        for more in ({}, {"normalize": True}, {"normalize": False}):
            assert answered(service.post("/embed", {"inputs": ["a", "b c"], **more})) == [
                one["embedding"] for one in theirs
            ]


def test_prompts_are_put_before_texts_as_the_folder_has_them(service: Served) -> None:
    body = {"inputs": "a", "prompt_name": "query", "normalize": False}
    (one,) = answered(service.post("/embed", body))
    np.testing.assert_array_equal(np.array(one, np.float32), pooled(*ids_of("q"), A))
    assert 'Available prompts: ["query"]' in said(
        service.post("/embed", {**body, "prompt_name": "none"}), 422, "Validation"
    )


@pytest.mark.parametrize(("direction", "kept"), [("right", 0), ("Left", 4), (None, 0)])
def test_what_is_too_long_is_cut_on_the_side_that_is_named(
    service: Served, direction: str | None, kept: int
) -> None:
    words = [f"{letter}" for letter in "abcdefghijklmnopqrst"]
    ids = ids_of(*words)
    for inputs in (" ".join(words), ids):
        body = {"inputs": inputs, "truncate": True, "truncation_direction": direction, "normalize": False}
        (one,) = answered(service.post("/embed", body))
        np.testing.assert_array_equal(np.array(one, np.float32), pooled(*ids[kept : kept + 16]))
    refused = service.post("/embed", {"inputs": " ".join(words)})
    assert "20 tokens" in said(refused, 422, "Validation")


def test_embed_all_is_hidden_of_every_token(service: Served) -> None:
    body = {"inputs": ["a b", [5]]}
    found = answered(service.post("/embed_all", body))
    assert found == [[[A] * 4, [B] * 4], [[5.0] * 4]]
    attended = answered(service.attend({"inputs": [{"text": "a b"}], "outputs": ["hidden"]}))
    assert attended["outputs"][0]["hidden"] == found[0]


def test_similarity_is_the_cosine_with_the_source(service: Served) -> None:
    inputs = {"source_sentence": "a", "sentences": ["a", "b b b"]}
    one, other = pooled(A).astype(np.float64), pooled(B, B, B).astype(np.float64)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    for path in ("/similarity", "/"):
        found = answered(service.post(path, {"inputs": inputs, "parameters": None}))
        np.testing.assert_allclose(found, [1, cosine], rtol=1e-7)
    cut = {"inputs": {**inputs, "sentences": ["w " * 20]}, "parameters": {"truncate": True}}
    assert len(answered(service.post("/similarity", cut))) == 1


def test_what_was_computed_and_how_long_it_took_is_in_the_headers(service: Served) -> None:
    headers = service.post("/embed", {"inputs": ["a b", [1, 2, 3]]}).headers
    assert headers["x-compute-type"] == "cpu"
    assert (headers["x-compute-characters"], headers["x-compute-tokens"]) == ("6", "5")
    for name in ("compute", "total", "tokenization", "queue", "inference"):
        assert headers[f"x-{name}-time"].isdigit()
    assert "compute;dur=" in headers["server-timing"]


def test_null_is_absent_and_unknown_fields_are_ignored(service: Served) -> None:
    nulls = ("truncate", "truncation_direction", "normalize", "prompt_name", "dimensions")
    body = {"inputs": "a", "model": "x", **dict.fromkeys(nulls)}
    assert answered(service.post("/embed", body)) == answered(service.post("/embed", {"inputs": "a"}))


def test_every_field_that_is_ignored_is_named_in_the_log(
    service: Served, caplog: pytest.LogCaptureFixture
) -> None:
    sentences = {"source_sentence": "a", "sentences": ["b"], "unheard": 1}
    with caplog.at_level("WARNING"):
        answered(service.post("/embed", {"inputs": "a", "parameters": {"truncate": True}}))
        answered(service.post("/similarity", {"inputs": sentences, "parameters": {"cut": True}, "of": 1}))
    named = [(one.fields["at"], one.fields["name"]) for one in caplog.records]
    similarity = [("/similarity", f"'{name}'") for name in ("of", "unheard", "cut")]
    assert named == [("/embed", "'parameters'"), *similarity]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/embed", {"inputs": ""}, 400, "Empty", "`inputs` cannot be empty"),
        ("/embed", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
        ("/embed", {"inputs": ["a", ""]}, 400, "Empty", "inputs[1] is"),
        ("/embed", {"inputs": [[1], []]}, 400, "Empty", "inputs[1] is"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "sentences"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["a"]}}, 400, "Empty", "source"),
        ("/embed", {"inputs": ["a", 1]}, 422, "Validation", "inputs[1] must be a text or a list of token"),
        ("/embed", {"inputs": {"text": "a"}}, 422, "Validation", "inputs must be a text"),
        ("/embed", {}, 422, "Validation", "inputs is missing"),
        ("/embed", {"inputs": [-1]}, 422, "Validation", "vocabulary"),
        ("/embed", {"inputs": [2**64 - 1]}, 422, "Validation", "token id beyond"),
        ("/embed", {"inputs": "a", "normalize": "yes"}, 422, "Validation", "normalize must be true or false"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "truncation_direction"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation", "dimensions"),
        ("/embed", {"inputs": "a", "dimensions": 5}, 422, "Validation", "dimensions is 5"),
        ("/embed", {"inputs": ["a"] * 2049}, 422, "Validation", "batch size 2049 > maximum allowed"),
        ("/embed", {"inputs": "unreadable"}, 422, "Tokenizer", "inputs[0]"),
        ("/embed", {"inputs": [50]}, 424, "Backend", "overflowed"),
        ("/embed", b"{", 400, "Validation", "JSON"),
        ("/embed", b"[1]", 400, "Validation", "must be a JSON object"),
        ("/", {"inputs": {"sentences": ["a"]}}, 422, "Validation", "source_sentence is missing"),
        ("/rerank", {"query": "a", "texts": ["b"]}, 424, "Backend", "model fake is no re-ranker"),
        ("/predict", {"inputs": "a"}, 424, "Backend", "model fake is no classifier"),
        ("/embed_sparse", {"inputs": "a"}, 424, "Backend", "no sparse embeddings"),
    ],
)
def test_what_is_wrong_is_said_in_its_shape(
    service: Served, path: str, body: object, status: int, kind: str, words: str
) -> None:
    assert words in said(service.post(path, body), status, kind)


def test_other_media_are_refused_in_its_shape_too(service: Served) -> None:
    response = service.post("/embed", b"x", headers={"content-type": "application/x-npy"})
    assert "send application/json" in said(response, 415, "Validation")
    response = service.post("/embed", b"x", headers={"content-type": "text/plain"})
    assert said(response, 415, "Validation").endswith("is not read here; send application/json")


def test_all_routes_are_of_one_model_which_the_server_is_told() -> None:
    unpooled = fake_card("unpooled", outputs=tuple(name for name in OUTPUTS if name != "pooled"))
    runtime = PooledRuntime(fake_card("one"), fake_card("two"), unpooled)
    with served(runtime) as service:
        for path in ("/embed", "/embed_all", "/rerank"):
            words = said(service.post(path, {"inputs": "a"}), 422, "Validation")
            assert (
                "one, two; these routes are of one model: have the server started with DEFAULT_MODEL" in words
            )
    with served(runtime, default_model="unpooled") as service:
        assert "no embeddings" in said(service.post("/embed", {"inputs": "a"}), 424, "Backend")
        assert answered(service.post("/embed_all", {"inputs": [5]})) == [[[5.0] * 4]]
        runtime.unload("unpooled")
        words = said(service.post("/embed", {"inputs": "a"}), 404, "Validation")
        assert words.endswith("is not served now; have it loaded again")  # there is no field to name another
    attention = fake_card("attention", outputs=("z", "pooled"))
    with served(PooledRuntime(attention)) as service:
        assert "no hidden states" in said(service.post("/embed_all", {"inputs": "a"}), 424, "Backend")


def test_info_says_what_its_clients_read() -> None:
    about = PooledCard(width=4, pooling="last, normalised", normalized=True)
    app = create_app(Settings(max_batch_tokens=64), FakeRuntime(fake_card(pooled=about)))
    reply = call(app, "/info")
    assert reply.status == 200
    assert reply.json() == {
        "model_id": "fake",
        "model_sha": None,
        "model_dtype": "float32",
        "served_model_name": "fake",
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": 512,
        "max_input_length": 16,
        "max_batch_tokens": 64,
        "max_batch_requests": None,
        "max_client_batch_size": 4,
        "auto_truncate": False,
        "tokenization_workers": reply.json()["tokenization_workers"],
        "version": "0.1.0",
        "sha": None,
        "docker_label": None,
    }


def refusals(app: Any, path: str, *, method: str = "POST", headers: Any = ()) -> tuple[int, Any]:
    reply = call(app, path, method=method, headers=headers, body=b'{"inputs": "a"}')
    return reply.status, reply.json()


@pytest.mark.parametrize("path", sorted(TEI_ROUTES | {"/"}))
def test_what_stations_refuse_is_said_in_its_shape(path: str) -> None:
    method = "GET" if path == "/info" else "POST"
    app = create_app(Settings(api_keys="secret", max_body_bytes=1024), FakeRuntime())
    status, body = refusals(app, path, method=method)
    assert (status, set(body), body["error_type"]) == (401, {"error", "error_type"}, "Validation")
    key = ("authorization", "Bearer secret")
    status, body = refusals(app, path, method=method, headers=[key, ("content-length", "5000")])
    assert (status, body["error_type"]) == (413, "Validation")
    app = create_app(Settings(key_requests_per_second=1), FakeRuntime())
    refusals(app, path, method=method)
    status, body = refusals(app, path, method=method)
    assert (status, body["error_type"]) == (429, "Overloaded")


def test_the_page_at_the_root_is_open_and_posting_there_is_not() -> None:
    app = create_app(Settings(api_keys="secret"), FakeRuntime())
    assert call(app, "/").status == 200
    reply = call(app, "/", method="PUT")
    assert (reply.status, set(reply.json()["error"])) == (405, {"code", "message", "request_id"})
    assert reply.header("allow") == "GET, POST"
    assert call(app, "/", method="POST", body=b"{}").status == 401
