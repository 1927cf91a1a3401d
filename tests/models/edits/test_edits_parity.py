"""Every verb against the same intervention in transformers' models, written plainly.

In our own encoder, and in models that transformers runs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.edit import VERBS as VERB_NAMES
from models.edit import Edit
from models.outputs import Selection
from models.protocol import Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime
from tests.edited_models import run_edited
from tests.native_families import CASES, FIRST_WORD, WORDS
from tests.transformers_models import FOREIGN, save_random

BY_TRANSFORMERS = ", by transformers"
FAMILIES = (
    "gpt2",
    "llama",
    "gemma2",
    "mistral",
    "bert",
    f"llama{BY_TRANSFORMERS}",
    f"gemma2{BY_TRANSFORMERS}",
)
CLASSES = {"gpt2": "GPT2Model", "llama": "LlamaModel", "gemma2": "Gemma2Model", "mistral": "MistralModel"}
LENGTH, HEADS = 13, 4
TOLERANCE = 1e-5  # of the largest number, at least 1
CHANCE = np.random.default_rng(5)
PAIRS = ((0, 1), (1, 3), (1, 0))
ROWS = ((2, 4), (9, 13))


def softmaxed(*shape: int) -> np.ndarray:
    powers = np.exp(CHANCE.standard_normal(shape))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


VERBS: dict[str, list[Edit]] = {
    "scale": [Edit(verb="scale", at=PAIRS, queries=ROWS, value=-1.5)],
    "scale, all rows, to nothing": [Edit(verb="scale", at=PAIRS, value=0.0)],
    "add": [Edit(verb="add", at=PAIRS, queries=ROWS, keys=((0, 3), (8, 10)), value=2.5)],
    "add, twice": [
        Edit(verb="add", at=((1, 2),), keys=((0, 5),), value=-1.0),
        Edit(verb="add", at=((1, 2), (2, 0)), queries=((4, 13),), keys=((3, 7),), value=4.0),
    ],
    "block": [Edit(verb="block", at=PAIRS, queries=((12, 13),), keys=((2, 3), (8, 9)))],
    "block, every key": [Edit(verb="block", at=PAIRS, queries=ROWS)],
    "add and block": [
        Edit(verb="block", at=((0, 0), (2, 1)), keys=((0, 1),)),
        Edit(verb="add", at=((0, 0), (0, 2)), value=3.0, keys=((0, 2), (5, 6))),
    ],
    "pattern, of every head": [Edit(verb="pattern", at=PAIRS, queries=ROWS, value=softmaxed(6, LENGTH))],
    "pattern, of each head": [Edit(verb="pattern", at=PAIRS, value=softmaxed(3, LENGTH, LENGTH))],
    **{f"pattern, {name}": [Edit(verb="pattern", at=PAIRS, queries=ROWS, value=name)]
       for name in ("previous", "self", "first", "uniform")},
    "pattern, uniform over what is left": [
        Edit(verb="pattern", at=PAIRS, value="uniform"),
        Edit(verb="block", at=PAIRS, queries=ROWS, keys=((1, 9),)),
    ],
    "set": [
        Edit(verb="set", at=PAIRS, queries=ROWS, value=CHANCE.standard_normal((3, 6, 8)).astype(np.float32))
    ],
}  # fmt: skip
VERBS["all at once, in any order"] = [
    *VERBS["scale"], *VERBS["set"], *VERBS["pattern, previous"], *VERBS["block"], *VERBS["add"],
    Edit(verb="scale", at=((2, 2), (1, 3)), queries=((0, 3),), value=2.0),
]  # fmt: skip


class Case:
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        family = name.removesuffix(BY_TRANSFORMERS)
        model_type, changes = CASES[family]
        changes = changes | FOREIGN if family != name else changes
        self.eager = save_random(model_type, changes, CLASSES.get(family, "BertModel"), folder / "model")
        runtime = TorchRuntime(folder, models=("model",), device="cpu", dtype="float32")
        self.runtime, self.card = runtime, runtime.card("model")
        assert ("transformers" in self.card.kernel) is (family != name)
        assert self.card.edits == VERB_NAMES

    def item(self, ids: np.ndarray, edits: list[Edit] | None = None, **more: Any) -> Item:
        return edited_item(self.card, ids, edits or [], **more)

    def run(self, *items: Item) -> list[dict[str, np.ndarray]]:
        answers = self.runtime.run(items).answers
        assert all(isinstance(one, Answer) for one in answers), answers
        return [one.tensors for one in answers]


def edited_item(card: ModelCard, ids: np.ndarray, edits: list[Edit], **more: Any) -> Item:
    more = {"outputs": ("scores", "weights", "z_heads", "hidden"), **more}
    layers = tuple(range(card.layers))
    chosen = Selection(**{"layers": layers, "layer_axis": True, **more})
    return Item(card=card, input=Tokens(ids=ids), selection=chosen, edits=tuple(edits))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(3).integers(FIRST_WORD, WORDS, LENGTH)


def edits_for(case: Case, name: str) -> list[Edit]:
    """Return edits as wide as the heads of a model."""
    d_v = case.card.d_v
    return [
        Edit(verb="set", at=one.at, queries=one.queries, value=np.resize(one.value, (3, 6, d_v)))
        if one.verb == "set" and isinstance(one.value, np.ndarray)
        else one
        for one in VERBS[name]
    ]


def assert_close(made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in made.items():
        right = expected[name]
        assert array.shape == right.shape, name
        assert np.array_equal(np.isfinite(array), np.isfinite(right)), name
        seen = np.isfinite(right)
        largest = max(1.0, float(np.abs(right[seen]).max(initial=0)))
        np.testing.assert_allclose(array[seen], right[seen], rtol=0, atol=TOLERANCE * largest, err_msg=name)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_does_what_the_same_intervention_does(case: Case, ids: np.ndarray, name: str) -> None:
    edits = edits_for(case, name)
    (made,) = case.run(case.item(ids, edits))
    expected = run_edited(case.eager, ids, edits)
    assert_close(made, expected)
    (unedited,) = case.run(case.item(ids))
    assert np.abs(unedited["hidden"] - made["hidden"]).max() > 1e-3


def test_without_edits_the_two_agree(case: Case, ids: np.ndarray) -> None:
    (made,) = case.run(case.item(ids))
    assert_close(made, run_edited(case.eager, ids))


def test_what_is_read_alone_is_what_is_read_beside_others(case: Case, ids: np.ndarray) -> None:
    edits = edits_for(case, "all at once, in any order")
    (whole,) = case.run(case.item(ids, edits))
    for outputs in (("hidden",), ("weights",), ("scores",), ("z_heads",)):
        (made,) = case.run(case.item(ids, edits, outputs=outputs))
        np.testing.assert_allclose(made[outputs[0]], whole[outputs[0]], rtol=0, atol=2e-5)


def test_neighbours_are_untouched_to_the_bit(case: Case, ids: np.ndarray) -> None:
    others = [ids[:5], ids[2:], ids[:1]]
    names = ("z", "weights", "hidden", "entropy", "top_k_keys", "received", "lse", "z_heads", "value_norms")
    alone = case.run(*(case.item(one, outputs=names) for one in (*others, ids)))
    for name in VERBS:
        edited = case.item(ids, edits_for(case, name), outputs=names)
        beside = case.run(*(case.item(one, outputs=names) for one in others), edited)
        for was, now in zip(alone[:3], beside[:3], strict=True):
            for output in names:
                assert np.array_equal(was[output], now[output]), (name, output)
        assert not np.array_equal(alone[3]["hidden"], beside[3]["hidden"])
