"""Every native family with random weights against transformers, eager: weights and hidden of all layers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from models.folders.huggingface.translate import FAMILIES
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.native_families import CASES, FIRST_WORD, WORDS

TOLERANCE = 1e-5  # of the largest number, at least 1
LENGTHS = (40, 1, 7, 23, 2, 40, 16, 31)  # ragged; beyond every window, and into the logarithmic buckets


class Case:
    """One family: the same weights in transformers, eager, and served from the folder it saved."""

    def __init__(self, model_type: str, changes: dict[str, object], repository: Path) -> None:
        torch.manual_seed(7)
        config = transformers.CONFIG_MAPPING[model_type](**changes)
        self.eager = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
        _scatter(self.eager)
        self.eager.save_pretrained(repository / "model")
        self.runtime = TorchRuntime(repository, models=("model",), device="cpu", dtype="float32")
        self.card = self.runtime.card("model")
        assert "transformers" not in self.card.kernel  # which serves what our own code does not read
        layers = tuple(range(self.card.layers))
        self.everything = Selection(outputs=("weights", "hidden"), layers=layers, layer_axis=True)

    def expect(self, **given: torch.Tensor) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            out = self.eager(
                **{name: tensor[None] for name, tensor in given.items()},
                output_attentions=True,
                output_hidden_states=True,
                use_cache=False,
            )
        hidden = [*out.hidden_states[1:-1], out.last_hidden_state]
        return {"weights": torch.cat(out.attentions).numpy(), "hidden": torch.cat(hidden).numpy()}

    def item(self, given: Tokens) -> Item:
        return Item(card=self.card, input=given, selection=self.everything)

    def run(self, inputs: list[Tokens]) -> list[dict[str, np.ndarray]]:
        answers = self.runtime.run([self.item(given) for given in inputs]).answers
        assert all(isinstance(answer, Answer) for answer in answers)
        return [answer.tensors for answer in answers]


def _scatter(model: torch.nn.Module) -> None:
    """Give every parameter, biases and norms too, numbers that matter: attention far from uniform."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor) * 0.2)
            else:
                words = ("embed" in name and "mapping" not in name) or "wte" in name
                tensor.normal_(std=1.0 if words else 1.4 / tensor.shape[-1] ** 0.5)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower by many threads, much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def ids() -> list[np.ndarray]:
    chance = np.random.default_rng(3)
    return [chance.integers(FIRST_WORD, WORDS, length) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(case: Case, ids: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [case.expect(input_ids=torch.from_numpy(one)) for one in ids]


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        largest = max(1.0, float(np.abs(array).max(initial=0)))
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=TOLERANCE * largest, err_msg=name)


def test_every_family_has_a_case() -> None:
    assert {model_type for model_type, _ in CASES.values()} == set(FAMILIES)


def test_weights_are_far_from_uniform_and_differ_from_layer_to_layer(
    case: Case, expected: list[dict[str, np.ndarray]]
) -> None:
    weights = expected[0]["weights"]
    assert weights.max(axis=-1)[..., 10:].mean() > 0.1
    assert np.abs(weights[0] - weights[1]).max() > 0.1


def test_every_layer_agrees_alone(
    case: Case, ids: list[np.ndarray], expected: list[dict[str, np.ndarray]]
) -> None:
    for one, reference in zip(ids, expected, strict=True):
        (actual,) = case.run([Tokens(ids=one)])
        assert_close(actual, reference)


def test_every_layer_agrees_in_a_ragged_batch_of_eight(
    case: Case, ids: list[np.ndarray], expected: list[dict[str, np.ndarray]]
) -> None:
    for actual, reference in zip(case.run([Tokens(ids=one) for one in ids]), expected, strict=True):
        assert_close(actual, reference)


def test_every_layer_agrees_for_embeddings_in_a_ragged_batch(case: Case) -> None:
    chance = np.random.default_rng(4)
    width = case.card.d_input or case.card.d_model
    vectors = [chance.standard_normal((length, width), dtype=np.float32) for length in LENGTHS]
    for one, actual in zip(vectors, case.run([Tokens(embeddings=one) for one in vectors]), strict=True):
        assert_close(actual, case.expect(inputs_embeds=torch.from_numpy(one)))


PAD = 1  # of every family here
PADDED = {  # real tokens, and padding where it may stand
    "on the left": [PAD, PAD, PAD, 5, 9, 31, 12, 7],
    "on the right": [5, 9, 31, 12, 7, PAD, PAD],
    "in a gap": [5, 9, PAD, PAD, 31, 12, PAD, 7],
    "nothing else": [PAD, PAD, PAD],
}


@pytest.mark.parametrize("where", PADDED)
def test_padding_among_the_ids_has_the_positions_that_eager_gives_it(case: Case, where: str) -> None:
    padded, others = np.array(PADDED[where]), np.array([4, PAD, 8])
    for actual, ids in zip(case.run([Tokens(ids=padded), Tokens(ids=others)]), (padded, others), strict=True):
        assert_close(actual, case.expect(input_ids=torch.from_numpy(ids)))


@pytest.mark.parametrize("where", [where for where in PADDED if where != "nothing else"])
def test_a_mask_beside_padding_gives_what_eagers_attention_mask_gives(case: Case, where: str) -> None:
    ids = np.array(PADDED[where])
    real = ids != PAD
    (actual,) = case.run([Tokens(ids=ids, mask=real)])
    expected = case.expect(
        input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(real.astype(np.int64))
    )
    for name in ("weights", "hidden"):  # what a padding row itself attends is nobody's business
        wanted = expected[name][..., real, :]
        of_largest = TOLERANCE * max(1.0, float(np.abs(wanted).max()))  # eager itself rounds to 2e-5 of it
        np.testing.assert_allclose(actual[name][..., real, :], wanted, rtol=TOLERANCE, atol=of_largest)


def test_left_padding_under_a_mask_changes_no_real_row_where_positions_follow_the_mask(case: Case) -> None:
    ids = np.array(PADDED["on the left"])
    real = ids != PAD
    (padded,), (alone,) = case.run([Tokens(ids=ids, mask=real)]), case.run([Tokens(ids=ids[real])])
    away = float(np.abs(padded["hidden"][:, real] - alone["hidden"]).max())
    follows = case.card.family in ("roberta", "xlm-roberta", "camembert", "mpnet", "opt")
    if follows or case.card.spec["positions"]["kind"] == "rotary":
        assert away < TOLERANCE * max(1.0, float(np.abs(alone["hidden"]).max()))
    else:
        assert away > 1e-3
