import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from models.outputs import OUTPUTS
from models.protocol import Answer, Item, ModelCard, Text
from tests.fakes import FakeRuntime, fake_card
from tests.serving import Served, refused, served


class PooledRuntime(FakeRuntime):
    """Pooled is [number of tokens, sum of ids, layer, 1/3]."""

    def _answer(self, item: Item) -> Answer:
        ids = item.input.ids
        pooled = np.array([len(ids), ids.sum(), item.selection.layers[0], 1 / 3], dtype=np.float32)
        return Answer(tensors={"pooled": pooled})


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    unpooled = fake_card("unpooled", outputs=tuple(name for name in OUTPUTS if name != "pooled"))
    vectors = fake_card("vectors", inputs=("embeddings",))
    second = fake_card("second")
    with served(PooledRuntime(fake_card(), unpooled, vectors, second)) as one:
        yield one


def ask(service: Served, **body: object):
    return service.post("/v1/embeddings", {"model": "fake", **body})


def vectors(response) -> list[list[float]]:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    assert {one["object"] for one in data} == {"embedding"}
    return [one["embedding"] for one in data]


def test_a_text_gets_one_embedding_of_the_last_layer(service: Served) -> None:
    response = ask(service, input="a b c")
    third = float(np.float32(1) / np.float32(3))
    ids = sum(ord(word) % 100 for word in "abc")  # as the fake runtime numbers words
    (vector,) = vectors(response)
    assert vector == pytest.approx([3, ids, 1, third])
    assert response.json()["object"] == "list"
    assert response.json()["model"] == "fake"
    assert response.json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert "compute;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "fake", "input": ["a b c", "a"], "encoding_format": "base64"},
        {"model": "none", "input": "a"},
        {"model": "fake", "input": ""},
        {"model": "fake", "inputs": "a"},
    ],
)
def test_the_path_without_v1_answers_and_refuses_as_the_other(
    service: Served, body: dict[str, object]
) -> None:
    one, other = (service.post(path, body) for path in ("/v1/embeddings", "/embeddings"))
    assert one.status_code == other.status_code
    replies = [reply.json() for reply in (one, other)]
    for reply in replies:
        reply.get("error", {}).pop("request_id", None)
    assert replies[0] == replies[1]


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ("one two", [2]),
        (["one two", "three"], [2, 1]),
        ([5, 6, 7], [3]),
        ([[5, 6], [7]], [2, 1]),
    ],
)
def test_all_four_kinds_of_input_are_answered_in_order(
    service: Served, given: object, lengths: list[int]
) -> None:
    response = ask(service, input=given)
    assert [vector[0] for vector in vectors(response)] == lengths
    assert response.json()["usage"]["total_tokens"] == sum(lengths)


def test_token_ids_are_read_as_they_are(service: Served) -> None:
    assert [vector[:3] for vector in vectors(ask(service, input=[[5, 6], [99]]))] == [[2, 11, 1], [1, 99, 1]]


def test_base64_is_of_little_endian_float32(service: Served) -> None:
    (plain,) = vectors(ask(service, input=[1, 2]))
    (coded,) = vectors(ask(service, input=[1, 2], encoding_format="base64"))
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == np.float32(plain).tolist()
    assert np.float32(plain[3]) == np.float32(1) / np.float32(3)


def test_what_clients_send_besides_is_taken(service: Served) -> None:
    assert vectors(ask(service, input="a", user="me", dimensions=4, deadline_ms=5000, priority=1))


def test_a_long_text_is_refused_or_cut_when_asked(service: Served) -> None:
    long = "word " * 20
    assert "set truncate" in refused(ask(service, input=long), 413, "sequence_too_long")
    assert vectors(ask(service, input=long, truncate=True))[0][0] == 16


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "input is missing"),
        ({"input": []}, "input must be"),
        ({"input": 7}, "input must be"),
        ({"input": None}, "input must be"),
        ({"input": ["a", 1]}, "input must be"),
        ({"input": [1, 2.5]}, "input must be"),
        ({"input": [True]}, "input must be"),
        ({"input": [[1], []]}, "input must be"),
        ({"input": [[1], "a"]}, "input must be"),
        ({"input": {"text": "a"}}, "input must be"),
        ({"input": ["a"] * 2049}, "at most 2048"),
        ({"input": [100]}, "vocabulary"),
        ({"input": [-1]}, "vocabulary"),
        ({"input": [2**63 - 1]}, "vocabulary"),
        ({"input": "a", "dimensions": 3}, "dimensions is 3; model fake gives 4"),
        ({"input": "a", "dimensions": 0}, "dimensions must be at least 1"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format must be one of"),
        ({"inputs": "b"}, "input is missing"),
        ({"input": ["a", ["b"]]}, "input[1] is not a text"),
        ({"input": [[1], [2], []]}, "input[2] is not a list of token ids"),
        ({"input": [[1], [2**64 - 1]]}, "input[1] has a token id beyond"),
        ({"input": [[1], [100]]}, "input[1].token_ids[0] is 100"),
        ({"input": ["a", ""]}, "input[1] is an empty sequence"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "must be −1 or at least 1"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "must be at least -1"),
        ({"input": "a", "truncate_prompt_tokens": 2, "truncate": False}, "leave out one"),
        (
            {"input": "a", "model": None},
            "no model is named, and 2 are served that have embeddings: fake, second; name one",
        ),
        ({"input": "a", "model": "unpooled"}, "no pooling configuration"),
        ({"input": "a", "model": "vectors"}, "takes embeddings"),
        ({"input": "a", "model": 5}, "model must be a string"),
    ],
)
def test_what_is_wrong_is_named(service: Served, body: dict[str, object], words: str) -> None:
    message = refused(ask(service, **body), 422, "invalid")
    assert words in message
    assert len(message) < 600


def test_other_refusals_are_the_contracts(service: Served) -> None:
    refused(ask(service, input="a", model="none"), 404, "unknown_model")
    refused(service.post("/v1/embeddings", b"{"), 400, "malformed")
    refused(service.post("/v1/embeddings", b"[1]"), 400, "malformed")
    refused(service.post("/v1/embeddings", b""), 400, "malformed")
    headers = {"content-type": "application/x-npy"}
    refused(service.post("/v1/embeddings", b"x", headers=headers), 415, "unsupported_media_type")


def test_a_large_request_is_answered_whole(service: Served) -> None:
    texts = [" ".join(["w"] * (1 + turn % 9)) for turn in range(2048)]
    response = ask(service, input=texts, encoding_format="base64")
    got = [np.frombuffer(base64.b64decode(one), "<f4")[0] for one in vectors(response)]
    assert got == [1 + turn % 9 for turn in range(2048)]


def test_fields_of_other_services_are_ignored_and_named_once_in_the_log(
    service: Served, caplog: pytest.LogCaptureFixture
) -> None:
    strange = {"input_type": "query", "extra_body": {"a": [1]}, "line\nbreak": None}
    for _ in range(3):
        assert vectors(ask(service, input="a", **strange))
    assert sorted(record.fields["name"] for record in caplog.records) == [
        "'extra_body'",
        "'input_type'",
        "'line\\nbreak'",
    ]


def test_where_one_model_has_embeddings_it_need_not_be_named() -> None:
    unpooled = fake_card("unpooled", outputs=("z",))
    with served(PooledRuntime(fake_card(), unpooled)) as service:
        response = service.post("/v1/embeddings", {"input": "a"})
    assert response.json()["model"] == "fake"


def test_default_model_answers_where_none_is_named_and_no_other_in_its_place() -> None:
    unpooled = fake_card("unpooled", outputs=("z",))
    runtime = PooledRuntime(fake_card(), fake_card("second"), unpooled)
    with served(runtime, default_model="second") as service:
        assert service.post("/v1/embeddings", {"input": "a"}).json()["model"] == "second"
        assert service.post("/v1/embeddings", {"input": "a", "model": "fake"}).json()["model"] == "fake"
        runtime.unload("second")
        said = refused(service.post("/v1/embeddings", {"input": "a"}), 404, "unknown_model")
        assert "DEFAULT_MODEL, second, is not served now" in said
        runtime.load("second")
        assert service.post("/v1/embeddings", {"input": "a"}).json()["model"] == "second"
    with served(runtime, default_model="unpooled") as service:
        said = refused(service.post("/v1/embeddings", {"input": "a"}), 422, "invalid")
        assert "model unpooled has no embeddings" in said


def test_where_none_or_many_could_answer_the_refusal_says_which() -> None:
    with served(PooledRuntime(fake_card("unpooled", outputs=("z",)))) as service:
        said = refused(service.post("/v1/embeddings", {"input": "a"}), 422, "invalid")
        assert "no models are served that have embeddings" in said
    with served(PooledRuntime(*(fake_card(f"m{n:02}") for n in range(20)))) as service:
        said = refused(service.post("/v1/embeddings", {"input": "a"}), 422, "invalid")
        assert "20 are served that have embeddings: m00, m01" in said
        assert "m07 and 12 more; name one" in said
        assert "DEFAULT_MODEL" in said


@pytest.mark.parametrize(
    ("given", "tokens", "kept", "cut"),
    [
        ("w " * 10, 4, [4], 6),
        ("w " * 10, 10, [10], 0),
        ("w " * 10, 1000, [10], 0),
        ("w " * 20, -1, [16], 4),
        ("w " * 20, 1000, [16], 4),
        (["w " * 20, "w", "w " * 5], 4, [4, 1, 4], 17),
        ([1] * 20, 3, [3], 17),
        ([[1] * 20, [2]], -1, [16, 1], 4),
    ],
)
def test_inputs_are_cut_to_as_many_tokens_as_asked_and_the_reply_says_so(
    service: Served, given: object, tokens: int, kept: list[int], cut: int
) -> None:
    response = ask(service, input=given, truncate_prompt_tokens=tokens)
    assert [vector[0] for vector in vectors(response)] == kept
    usage = {"prompt_tokens": sum(kept), "total_tokens": sum(kept)}
    assert response.json()["usage"] == ({**usage, "truncated": cut} if cut else usage)


def test_cut_text_is_told(service: Served) -> None:
    response = ask(service, input=["w " * 20, "w"], truncate=True)
    assert response.json()["usage"] == {"prompt_tokens": 17, "total_tokens": 17, "truncated": 4}


def test_server_may_cut_where_a_request_does_not_say() -> None:
    long = "w " * 20
    with served(PooledRuntime(fake_card()), truncate=True) as service:
        assert vectors(ask(service, input=long))[0][0] == 16
        assert vectors(ask(service, input=long, truncate=None))[0][0] == 16
        refused(ask(service, input=long, truncate=False), 413, "sequence_too_long")
        assert vectors(ask(service, input=long, truncate_prompt_tokens=2))[0][0] == 2
        asked = {"inputs": [{"text": long}], "outputs": ["pooled"]}
        assert service.attend(asked).json()["outputs"][0]["truncated"] == 4
        refused(service.attend({**asked, "truncate": False}), 413, "sequence_too_long")


@pytest.mark.parametrize("priority", [-101, 101, 2**31 - 1])
def test_priority_has_the_bounds_of_every_route(priority: int) -> None:
    with served() as service:
        reply = service.post("/v1/embeddings", {"model": "fake", "input": "a", "priority": priority})
    assert reply.status_code == 422
    assert "priority must be at" in reply.json()["error"]["message"]


class Together(PooledRuntime):
    """Notes how texts were read."""

    def __init__(self) -> None:
        super().__init__(fake_card())
        self.together: list[list[str]] = []
        self.alone: list[str] = []

    def tokenize_all(self, card: ModelCard, texts: Sequence[str], **limits: Any) -> list[Text]:
        self.together.append(list(texts))
        return [super(Together, self).tokenize(card, text, **limits) for text in texts]

    def tokenize(self, card: ModelCard, text: str, *arguments: Any, **limits: Any) -> Text:
        self.alone.append(text)
        return super().tokenize(card, text, *arguments, **limits)


def test_the_texts_of_a_request_are_read_together_once() -> None:
    runtime = Together()
    with served(runtime) as service:
        assert [vector[0] for vector in vectors(ask(service, input=["a b", "c", "d e f"]))] == [2, 1, 3]
    assert (runtime.together, runtime.alone) == ([["a b", "c", "d e f"]], [])


def test_a_text_that_is_refused_is_found_by_reading_them_one_by_one() -> None:
    runtime = Together()
    with served(runtime) as service:
        message = refused(ask(service, input=["a", "b " * 17, "c"]), 413, "sequence_too_long")
    assert message.startswith("input[1]: ")
    with served(runtime) as service:
        assert [vector[0] for vector in vectors(ask(service, input=["a", "b"]))] == [1, 1]
    assert runtime.alone == ["a", "b " * 17]


def test_base64_and_numbers_are_of_the_same_bits(service: Served) -> None:
    asked = {"input": ["a b", "c", "d e f"]}
    whole = [np.array(one, np.float32) for one in vectors(ask(service, **asked))]
    coded = [base64.b64decode(one) for one in vectors(ask(service, **asked, encoding_format="base64"))]
    assert [one.tobytes() for one in whole] == coded
