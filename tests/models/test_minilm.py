"""The real all-MiniLM-L6-v2, run by our own encoder, against transformers and against float64."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from models.compiled.native import native
from models.outputs import Selection
from models.protocol import Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime
from tests.slow_encoder import SlowBert

TOLERANCE = 1e-5
EVERYTHING = Selection(outputs=("z", "weights", "hidden", "pooled"), layers=tuple(range(6)), layer_axis=True)


@pytest.fixture(scope="module")
def runtime(repository: Path) -> TorchRuntime:
    return TorchRuntime(repository, models=("minilm",), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def card(runtime: TorchRuntime) -> ModelCard:
    return runtime.card("minilm")


@pytest.fixture(scope="module")
def eager(minilm_folder: Path) -> BertModel:
    return BertModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def ids(runtime: TorchRuntime, card: ModelCard, sentences: list[str]) -> list[np.ndarray]:
    return [runtime.tokenize(card, sentence).ids for sentence in sentences]


@pytest.fixture(scope="module")
def expected(eager: BertModel, ids: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [eager_outputs(eager, torch.from_numpy(one)) for one in ids]


def eager_outputs(eager: BertModel, ids: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        out = eager(ids[None], output_attentions=True, output_hidden_states=True)
    hidden = torch.cat(out.hidden_states[1:])
    pooled = torch.nn.functional.normalize(hidden.mean(dim=1), dim=-1)
    return {
        "hidden": hidden.numpy(),
        "weights": torch.cat(out.attentions).numpy(),
        "pooled": pooled.numpy(),
    }


def ask(runtime: TorchRuntime, items: list[Item]) -> list[dict[str, np.ndarray]]:
    answers = runtime.run(items).answers
    assert all(isinstance(answer, Answer) for answer in answers)
    return [answer.tensors for answer in answers]


def item(card: ModelCard, ids: np.ndarray, selection: Selection = EVERYTHING) -> Item:
    return Item(card=card, input=Tokens(ids=ids), selection=selection)


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert actual[name].shape == array.shape
        np.testing.assert_allclose(actual[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def test_sentences_span_three_to_three_hundred_tokens(ids: list[np.ndarray]) -> None:
    lengths = sorted(len(one) for one in ids)
    assert len(lengths) == 50
    assert lengths[0] <= 3
    assert 250 <= lengths[-1] <= 400


def test_every_layer_agrees_with_transformers_alone(
    runtime: TorchRuntime, card: ModelCard, ids: list[np.ndarray], expected: list[dict[str, np.ndarray]]
) -> None:
    for one, reference in zip(ids, expected, strict=True):
        (actual,) = ask(runtime, [item(card, one)])
        assert_close(actual, reference)


def test_every_layer_agrees_with_transformers_in_mixed_batches(
    runtime: TorchRuntime, card: ModelCard, ids: list[np.ndarray], expected: list[dict[str, np.ndarray]]
) -> None:
    order = list(range(len(ids)))
    random.Random(1).shuffle(order)
    for start in range(0, len(order), 13):
        chosen = order[start : start + 13]
        batch = ask(runtime, [item(card, ids[i]) for i in chosen])
        for i, actual in zip(chosen, batch, strict=True):
            assert_close(actual, expected[i])


def test_sequences_of_one_batch_may_ask_for_different_layers_and_outputs(
    runtime: TorchRuntime, card: ModelCard, ids: list[np.ndarray], expected: list[dict[str, np.ndarray]]
) -> None:
    selections = [
        Selection(outputs=("weights",), layers=(0,)),
        Selection(outputs=("hidden",), layers=(5,)),
        Selection(outputs=("pooled", "z"), layers=(5,)),
        Selection(outputs=("hidden", "weights"), layers=(4, 1), layer_axis=True),
        Selection(outputs=("z",), layers=(2,)),
        Selection(outputs=("weights",), layers=(3,), heads=(7, 2), rows=(1, 0)),
    ]
    batch = ask(runtime, [item(card, one, wanted) for one, wanted in zip(ids, selections, strict=False)])
    assert_close(batch[0], {"weights": expected[0]["weights"][0]})
    assert_close(batch[1], {"hidden": expected[1]["hidden"][5]})
    assert_close(batch[2], {"pooled": expected[2]["pooled"][5]})
    assert_close(batch[3], {name: expected[3][name][[4, 1]] for name in ("hidden", "weights")})
    (alone,) = ask(runtime, [item(card, ids[4])])
    assert_close(batch[4], {"z": alone["z"][2]})
    assert_close(batch[5], {"weights": expected[5]["weights"][3][[7, 2]][:, [1, 0]]})


def test_every_output_agrees_with_float64_written_the_slow_way(
    runtime: TorchRuntime, card: ModelCard, ids: list[np.ndarray], minilm_folder: Path
) -> None:
    slow = SlowBert(minilm_folder)
    shortest_first = sorted(ids, key=len)
    for one in (*shortest_first[:12], shortest_first[30]):
        (actual,) = ask(runtime, [item(card, one)])
        hidden, weights, z = slow.run(one)
        reference = {"hidden": np.stack(hidden), "weights": np.stack(weights), "z": np.stack(z)}
        for name, array in reference.items():
            assert np.abs(actual[name] - array).max() <= TOLERANCE, name


def test_embeddings_take_the_place_of_word_embeddings(
    runtime: TorchRuntime, card: ModelCard, eager: BertModel, ids: list[np.ndarray]
) -> None:
    words = eager.embeddings.word_embeddings(torch.from_numpy(ids[7])).detach()
    by_ids, by_vectors = ask(
        runtime,
        [
            item(card, ids[7]),
            Item(card=card, input=Tokens(embeddings=words.numpy()), selection=EVERYTHING),
        ],
    )
    for name, array in by_ids.items():
        np.testing.assert_allclose(by_vectors[name], array, atol=TOLERANCE)


def test_asking_for_weights_does_not_change_z(
    runtime: TorchRuntime, card: ModelCard, ids: list[np.ndarray]
) -> None:
    (everything,) = ask(runtime, [item(card, ids[9])])
    (only_z,) = ask(runtime, [item(card, ids[9], Selection(outputs=("z",), layers=(5,)))])
    assert np.array_equal(everything["z"][5], only_z["z"])


def test_masked_tokens_are_not_attended(
    runtime: TorchRuntime, card: ModelCard, eager: BertModel, ids: list[np.ndarray]
) -> None:
    one = ids[12]
    mask = np.ones(len(one), dtype=np.bool_)
    mask[2:5] = False
    masked = Item(card=card, input=Tokens(ids=one, mask=mask), selection=EVERYTHING)
    (actual,) = ask(runtime, [masked])
    with torch.inference_mode():
        out = eager(
            torch.from_numpy(one)[None],
            attention_mask=torch.from_numpy(mask).long()[None],
            output_attentions=True,
        )
    assert_close(actual, {"weights": torch.cat(out.attentions).numpy()})
    assert not actual["weights"][..., 2:5].any()


@pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")
def test_fifteen_and_a_masked_one_are_computed_by_one_call_of_compiled_code(
    runtime: TorchRuntime, card: ModelCard, ids: list[np.ndarray], computed
) -> None:
    sixteen = [np.resize(ids[place + 10], 64) for place in range(16)]
    chosen = Selection(outputs=("hidden",), layers=(5,))
    batch = [item(card, one, chosen) for one in sixteen]
    alone = ask(runtime, [batch[3]])[0]
    mask = np.arange(64) < 50
    batch[7] = Item(card=card, input=Tokens(ids=sixteen[7], mask=mask), selection=chosen)
    computed()
    found = ask(runtime, batch)
    together = [*(place for place in range(16) if place != 7), 7]
    assert computed() == [(layer, "compiled", together) for layer in (0, 5)]
    assert np.array_equal(found[3]["hidden"], alone["hidden"])


@pytest.mark.parametrize("row", [17])
def test_seed_17_the_word_bank_moves_towards_its_neighbours(
    runtime: TorchRuntime, card: ModelCard, row: int
) -> None:
    """SEEDS row 17: the same word in two contexts gets two Z, each nearer to its own neighbours."""
    texts = ("the bank of the river", "the bank gave me a loan")
    final = Selection(outputs=("z", "hidden"), layers=(5,))
    encoded = [runtime.tokenize(card, text) for text in texts]
    answers = ask(runtime, [item(card, one.ids, final) for one in encoded])
    river = answers[0]["hidden"][encoded[0].tokens.index("river")]
    loan = answers[1]["hidden"][encoded[1].tokens.index("loan")]
    banks = [
        {name: answer[name][one.tokens.index("bank")] for name in ("z", "hidden")}
        for answer, one in zip(answers, encoded, strict=True)
    ]
    assert cosine(banks[0]["z"], banks[1]["z"]) < 0.95
    assert cosine(banks[0]["hidden"], river) > cosine(banks[1]["hidden"], river)
    assert cosine(banks[1]["hidden"], loan) > cosine(banks[0]["hidden"], loan)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
