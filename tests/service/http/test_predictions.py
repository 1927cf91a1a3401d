"""Predictions over HTTP: strings of one token, words spelt, nulls and NaN, and what is refused."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from models.runtime import TorchRuntime
from models.training import grammar
from models.training.plan import Plan
from models.training.train import train
from tests.fakes import FakeRuntime, fake_card
from tests.serving import Served, served

PLAN = Plan(steps=40, d_model=32, heads=2, layers=2, batch=16, learning_rate=1e-2, evaluate_every=40)
TEXT = "the river bank"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("repository")
    train(grammar.write(200), folder / "words", plan=PLAN)
    with served(TorchRuntime(folder, models=None, device="cpu", dtype="float32")) as one:
        yield one


def ask(service: Served, *inputs: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    reply = service.post("/v1/models/words/attend", {"inputs": list(inputs), **options})
    assert reply.status_code == 200, reply.text
    return list(reply.json()["outputs"])


def refused(service: Served, *inputs: dict[str, Any], model: str = "words", **options: Any) -> str:
    reply = service.post(f"/v1/models/{model}/attend", {"inputs": list(inputs), **options})
    assert reply.status_code == 422, reply.text
    return str(reply.json()["error"]["message"])


def test_the_likeliest_words_are_named_and_descend(service: Served) -> None:
    (found,) = ask(service, {"text": TEXT}, outputs=["next"], top_k=3, layers="all")
    ids, logprobs = np.array(found["next_ids"]), np.array(found["next_logprobs"])
    assert ids.shape == logprobs.shape == np.array(found["next_tokens"]).shape == (2, 3, 3)
    assert (np.diff(logprobs) <= 0).all()
    assert (logprobs < 0).all()
    (again,) = ask(
        service,
        {"text": TEXT},
        outputs=["logprobs"],
        layers="all",
        rows=[1],
        targets=found["next_tokens"][1][1],
    )
    np.testing.assert_array_equal(again["logprobs"][1][0], logprobs[1][1])


def test_the_last_row_is_null_in_json_and_nan_in_binary(service: Served) -> None:
    (found,) = ask(service, {"text": TEXT}, outputs=["logprobs"])
    tokens = found["tokens"]
    assert len(found["logprobs"]) == len(tokens)
    assert found["logprobs"][-1] is None
    assert all(one < 0 for one in found["logprobs"][:-1])
    body = {"inputs": [{"text": TEXT}], "outputs": ["logprobs"]}
    for accept, read in (
        ("application/x-npy", lambda content: np.load(io.BytesIO(content))),
        ("application/x-safetensors", lambda content: load(content)["0.logprobs"]),
    ):
        reply = service.post("/v1/models/words/attend", body, headers={"accept": accept})
        assert reply.status_code == 200, reply.text
        numbers = read(reply.content)
        assert np.isnan(numbers[-1])
        np.testing.assert_array_equal(numbers[:-1], np.array(found["logprobs"][:-1], np.float32))


def test_logprobs_are_those_of_the_tokens_that_follow(service: Served) -> None:
    (found,) = ask(service, {"text": TEXT}, outputs=["logprobs"])
    first, second = found["tokens"][1:3]
    (named,) = ask(service, {"text": TEXT}, outputs=["logprobs"], targets=[first, second])
    assert [named["logprobs"][0][0], named["logprobs"][1][1]] == found["logprobs"][:2]


def test_targets_are_ids_or_strings_of_the_request_or_of_one_input(service: Served) -> None:
    by_name, by_id, own = ask(
        service,
        {"text": TEXT},
        {"text": TEXT, "targets": [5, 2]},
        {"text": TEXT, "targets": ["river"]},
        outputs=["logprobs"],
        targets=["the", "river", "bank"],
    )
    assert np.array(by_name["logprobs"]).shape == (3, 3)
    assert np.array(by_id["logprobs"]).shape == (3, 2)
    assert [row[0] for row in own["logprobs"]] == [row[1] for row in by_name["logprobs"]]


def test_embeddings_have_targets_or_none_can_be_told(service: Served) -> None:
    vectors = np.zeros((3, 32)).tolist()
    said = refused(service, {"embeddings": vectors}, outputs=["logprobs"])
    assert said == (
        "logprobs is of tokens, and which ones inputs[0] has is not known of embeddings; give targets"
    )
    (found,) = ask(service, {"embeddings": vectors}, outputs=["logprobs", "next"], targets=[1, 2])
    assert np.array(found["logprobs"]).shape == (3, 2)
    assert all(isinstance(word, str) for row in found["next_tokens"] for word in row)


def test_a_string_of_several_tokens_is_refused_with_their_names(service: Served) -> None:
    said = refused(service, {"text": TEXT}, outputs=["logprobs"], targets=["the", "river bank"])
    assert said == (
        "targets[1] 'river bank' is 2 tokens of model words, not one: 'river', 'bank'; a row predicts one "
        "token: add up logprobs of the tokens that follow each other in a text"
    )
    assert "inputs[0].targets[0] is 99999; model words predicts words from 0 to" in refused(
        service, {"text": TEXT, "targets": [99999]}, outputs=["logprobs"]
    )


def test_targets_without_logprobs_are_refused(service: Served) -> None:
    assert refused(service, {"text": TEXT}, outputs=["next"], targets=[1]).startswith(
        "targets are of the output logprobs, which is not among outputs"
    )
    assert refused(service, {"text": TEXT, "targets": [1]}, outputs=["next"]).startswith(
        "inputs[0] has targets, and logprobs is not among outputs"
    )


@pytest.mark.parametrize("targets", [[], [-1], [1.5], [""], [True], [None], "the", [["the"]]])
def test_what_is_no_list_of_words_is_refused(service: Served, targets: Any) -> None:
    assert "targets" in refused(service, {"text": TEXT}, outputs=["logprobs"], targets=targets)


def test_options_in_a_query_are_words_too(service: Served) -> None:
    vectors = io.BytesIO()
    np.save(vectors, np.zeros((2, 32), np.float32))
    for targets in ("the,river", json.dumps(["the", "river"]), "the"):
        reply = service.post(
            "/v1/models/words/attend",
            vectors.getvalue(),
            headers={"content-type": "application/x-npy", "accept": "application/x-npy"},
            params={"outputs": "logprobs", "targets": targets},
        )
        assert reply.status_code == 200, reply.text
        assert np.load(io.BytesIO(reply.content)).shape == (2, 1 if targets == "the" else 2)


def test_a_model_that_predicts_nothing_says_why() -> None:
    reasons = {"next_ids": "its file holds no output table"}
    card = fake_card(outputs=("z",), not_offered=reasons)
    with served(FakeRuntime(card)) as service:
        said = refused(service, {"text": "a b"}, model="fake", outputs=["next"])
    assert said.startswith("model fake does not offer the output next_ids: its file holds no output table; ")
