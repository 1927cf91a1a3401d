"""Predictions, and the logit lens, against TransformerLens' logits and its own unembedding of every layer."""

import numpy as np
import pytest

from tests.peers.conftest import TOLERANCE, Asked, Reference, distance
from tests.peers.models import DECODERS, WORD_LIST
from tests.peers.questions import IDS

PREDICTING = ("gpt2", "llama", "gemma2", "mistral", "qwen2", "qwen3", "bert")
WORDS = list(range(len(WORD_LIST)))
FINAL_SOFTCAP = {"gemma2": DECODERS["gemma2"][0]["final_logit_softcapping"]}


@pytest.fixture(scope="module")
def lens(reference: Reference) -> dict[str, np.ndarray]:
    return reference("lens")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@pytest.mark.parametrize("model", PREDICTING)
def test_log_probabilities_of_all_words_are_those_of_the_logits(
    model: str, lens: dict[str, np.ndarray], asked: Asked
) -> None:
    ours = asked.one(model, IDS, "logprobs", targets=WORDS)["logprobs"]
    assert distance(ours, log_softmax(lens[f"{model}/logits"])) <= TOLERANCE


@pytest.mark.parametrize("model", PREDICTING)
def test_next_are_the_likeliest_words_by_name(model: str, lens: dict[str, np.ndarray], asked: Asked) -> None:
    (found,) = asked.many(model, [{"token_ids": IDS}], outputs=["next"], top_k=5)
    right = log_softmax(lens[f"{model}/logits"])
    order = np.argsort(-right, axis=-1)[:, :5]
    assert np.array_equal(found["next_ids"], order)
    assert distance(found["next_logprobs"], np.take_along_axis(right, order, -1)) <= TOLERANCE
    assert found["next_tokens"] == [[WORD_LIST[one] for one in row] for row in order]


@pytest.mark.parametrize("model", [name for name in PREDICTING if name in DECODERS])
def test_logprobs_are_of_the_word_that_follows_and_the_last_row_has_none(
    model: str, lens: dict[str, np.ndarray], asked: Asked
) -> None:
    ours = asked.one(model, IDS, "logprobs")["logprobs"]
    right = log_softmax(lens[f"{model}/logits"])[np.arange(len(IDS) - 1), IDS[1:]]
    assert np.isnan(ours[-1])
    assert distance(ours[:-1], right) <= TOLERANCE


@pytest.mark.parametrize("model", [name for name in PREDICTING if name in DECODERS])
def test_several_layers_are_the_logit_lens(model: str, lens: dict[str, np.ndarray], asked: Asked) -> None:
    """Of a final softcap, which Gemma 2 has, TransformerLens' `unembed` knows nothing."""
    ours = asked.one(model, IDS, "logprobs", layers="all", targets=WORDS)["logprobs"]
    logits = lens[f"{model}/lens"]
    if cap := FINAL_SOFTCAP.get(model):
        logits = cap * np.tanh(logits / cap)
    right = log_softmax(logits)
    assert distance(right[-1], log_softmax(lens[f"{model}/logits"])) <= TOLERANCE
    assert distance(ours, right) <= TOLERANCE
