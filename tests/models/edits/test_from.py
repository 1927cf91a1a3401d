"""z of heads taken from another sequence of the same batch, against the same patching in transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.edit import Edit, linked
from models.errors import SpecError
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.edited_models import run_edited
from tests.native_families import CASES, FIRST_WORD, WORDS
from tests.transformers_models import FOREIGN, save_random

LAYERS, HEADS = 3, 4


class Patched:
    def __init__(self, name: str, folder: Path) -> None:
        family, more = ("llama", FOREIGN) if name == "by transformers" else (name, {})
        model_type, changes = CASES[family]
        kind = {"gpt2": "GPT2Model", "llama": "LlamaModel"}[family]
        self.eager = save_random(model_type, changes | more, kind, folder / "model")
        self.runtime = TorchRuntime(folder, models=("model",), device="cpu", dtype="float32")
        self.card = self.runtime.card("model")

    def item(self, ids: np.ndarray, *edits: Edit, layers: tuple[int, ...] = (0, 1, 2)) -> Item:
        chosen = Selection(outputs=("hidden", "z_heads"), layers=layers, layer_axis=True)
        return Item(card=self.card, input=Tokens(ids=ids), selection=chosen, edits=edits)

    def run(self, *items: Item) -> list[dict[str, np.ndarray]]:
        found = self.runtime.run(items).answers
        assert all(isinstance(one, Answer) for one in found)
        return [one.tensors for one in found]

    def z_of(self, ids: np.ndarray, *edits: Edit, others=()) -> list[torch.Tensor]:
        return list(torch.from_numpy(run_edited(self.eager, ids, edits, others)["z_heads"]))


@pytest.fixture(scope="module", params=("gpt2", "llama", "by transformers"))
def patched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Patched:
    return Patched(request.param, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return np.random.default_rng(3).integers(FIRST_WORD, WORDS, 13)


@pytest.fixture(scope="module")
def other(clean: np.ndarray) -> np.ndarray:
    changed = clean.copy()
    changed[[0, 2, 8]] = clean[[2, 0, 0]]
    return changed


def taken(layer: int, head: int, source: int, **more: object) -> Edit:
    return Edit(verb="from", at=((layer, head),), source=source, **more)


def assert_same(made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in made.items():
        largest = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5 * largest, err_msg=name)


def test_a_grid_of_patches_is_one_batch(patched: Patched, clean: np.ndarray, other: np.ndarray) -> None:
    z = patched.z_of(other)
    cells = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    batch = [patched.item(other, layers=(0,))]  # which leaves after the first layer, but for the others
    batch += [patched.item(clean, taken(*cell, 0)) for cell in cells]
    answers = patched.run(*batch)
    for cell, made in zip(cells, answers[1:], strict=True):
        assert_same(made, run_edited(patched.eager, clean, [taken(*cell, 0)], [z]))
    assert answers[0]["hidden"].shape[0] == 1
    spread = np.stack([made["hidden"][-1, -1] for made in answers[1:]]).std(0)
    assert spread.max() > 1e-3


def test_what_is_taken_is_what_is_there_after_the_source_s_own_edits(
    patched: Patched, clean: np.ndarray, other: np.ndarray
) -> None:
    first = [Edit(verb="scale", at=((1, 2),), value=3.0), Edit(verb="block", at=((1, 2),), keys=((0, 2),))]
    second = [taken(1, 2, 1, queries=((2, 9),)), Edit(verb="scale", at=((1, 2),), value=-0.5)]
    third = [taken(1, 2, 2), taken(2, 0, 1, queries=((0, 5),))]
    z_first = patched.z_of(other, *first)
    z_second = patched.z_of(clean, *second, others=[None, z_first])
    third_made, _, second_made = patched.run(
        patched.item(other, *third), patched.item(other, *first), patched.item(clean, *second)
    )
    assert_same(second_made, run_edited(patched.eager, clean, second, [None, z_first]))
    assert_same(third_made, run_edited(patched.eager, other, third, [None, z_first, z_second]))


def test_lengths_may_differ_where_rows_are_in_both(patched: Patched, clean: np.ndarray) -> None:
    short, edit = clean[:6], taken(0, 1, 1, queries=((1, 3), (4, 6)))
    made, _, untouched = patched.run(patched.item(clean, edit), patched.item(short), patched.item(clean[3:]))
    assert_same(made, run_edited(patched.eager, clean, [edit], [None, patched.z_of(short)]))
    *_, before = patched.run(patched.item(clean), patched.item(short), patched.item(clean[3:]))
    assert all(np.array_equal(untouched[name], before[name]) for name in before)


def test_which_sequences_are_linked_is_told_before_anything_is_computed() -> None:
    edits = [[], [taken(0, 0, 3)], [], [taken(0, 0, 4)], [], [taken(0, 1, 2)]]
    assert linked(edits, [5] * 6) == [(0,), (1, 3, 4), (2, 5)]


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([[taken(0, 0, 0)], []], "another of the 2 inputs"),
        ([[taken(0, 0, 2)], []], "another of the 2 inputs"),
        ([[taken(0, 0, 1)], []], "has 4 rows"),
        ([[taken(0, 0, 1, queries=((0, 2), (4, 5)))], []], "rows up to 4"),
        ([[taken(0, 0, 1, queries=((0, 4),))], [taken(1, 0, 0, queries=((0, 1),))]], "from each other"),
    ],
)
def test_what_cannot_be_taken_is_refused(edits: list[list[Edit]], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        linked(edits, [5, 4])
