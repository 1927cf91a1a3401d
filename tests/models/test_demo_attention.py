"""The committed `demo-attention` knows the grammar it was made from, and is what the recipe makes."""

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.encoder.stack import Stack
from models.folders.families import read_spec
from models.folders.weights import load_weights
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.text.examples import read_examples
from models.text.tokenizer import Tokenizer
from models.training import grammar
from models.training.demo import DEMO_ATTENTION
from models.training.plan import Plan
from tests.fakes import fake_card

FOLDER = DEMO_ATTENTION
PARAGRAPHS = 20000  # as its README says


class Demo:
    """The committed layer, run as the server runs it."""

    def __init__(self) -> None:
        found = read_spec(FOLDER)
        assert found.tokenizer is not None
        self.spec = found.spec
        self.stack = Stack(
            self.spec, load_weights(found.weights, self.spec, found.naming), torch.device("cpu")
        )
        self.head = load_file(found.weights)["head.weight"].numpy()
        self.words: dict[str, int] = json.loads(found.tokenizer.file.read_text())["model"]["vocab"]

    def attend(self, *texts: str, output: str = "z") -> list[np.ndarray]:
        """Return one output of each text, run as one batch of the words' ids."""
        spec = self.spec
        card = fake_card(
            layers=1, heads=spec.heads, key_heads=spec.heads, d_model=spec.d_model, d_k=16, d_v=16
        )
        chosen, items = Selection(outputs=(output,)), []
        for text in texts:
            ids = np.array([self.words[word] for word in text.lower().replace(".", " .").split()])
            items.append(Item(card=card, input=Tokens(ids=ids), selection=chosen))
        answers = self.stack.run(items)
        return [answer.tensors[output] for answer in answers if isinstance(answer, Answer)]


@pytest.fixture(scope="module")
def demo() -> Demo:
    return Demo()


def test_its_examples_are_sentences_of_its_own_vocabulary(demo: Demo) -> None:
    examples = read_examples(FOLDER)
    files = read_spec(FOLDER).tokenizer
    assert files is not None
    tokenizer = Tokenizer(files, vocabulary=len(demo.words))
    assert len(examples) == 3
    for text in examples:
        tokens = tokenizer.encode(text, None, limit=None, truncate=False).tokens
        assert not {"<unk>", "[UNK]"} & {*tokens}, tokens
    minilms = tokenizer.encode("The animal was too tired.", None, limit=None, truncate=False).tokens
    assert {"<unk>", "[UNK]"} & {*minilms}


@pytest.mark.parametrize("text", ["{}", "[1]", "[", "nothing", '["a", null]', "[" * 50_000])
def test_a_file_of_another_meaning_is_no_examples_and_the_log_says_so(tmp_path, caplog, text: str) -> None:
    (tmp_path / "examples.json").write_text(text)
    assert read_examples(tmp_path) == ()
    assert "examples.json" in caplog.text


def test_examples_are_few_and_short(tmp_path: Path) -> None:
    (tmp_path / "examples.json").write_text(json.dumps(["a" * 501, "", *map(str, range(20))]))
    assert read_examples(tmp_path) == tuple(map(str, range(8)))


def test_it_is_one_bare_causal_layer(demo: Demo) -> None:
    spec = demo.spec
    assert (spec.layers, spec.heads, spec.d_model) == (1, 4, 64)
    assert spec.attention.causal
    assert not spec.blocks


def test_it_is_small_enough_to_carry() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 300_000


def test_it_was_made_from_what_the_recipe_writes() -> None:
    made = json.loads((FOLDER / "training.json").read_text())
    assert made["text_sha256"] == hashlib.sha256(grammar.write(PARAGRAPHS).encode()).hexdigest()
    assert made["plan"] == asdict(Plan())
    assert made["better_than_unigram"] > 0.15


def test_it_prefers_the_word_that_the_grammar_allows(demo: Demo) -> None:
    margins: defaultdict[str, list[float]] = defaultdict(list)
    asked = list(grammar.contrasts())[::4]
    for one, z in zip(asked, demo.attend(*(one.prompt for one in asked)), strict=True):
        logits = demo.head @ z[-1]
        margins[one.kind].append(float(logits[demo.words[one.right]] - logits[demo.words[one.wrong]]))
    assert margins.keys() == {"agreement", "reference", "order", "sense"}
    for kind, found in margins.items():
        assert sum(margin > 0 for margin in found) / len(found) > 0.99, kind


def test_seed_17_one_word_in_two_contexts_gets_two_vectors(demo: Demo) -> None:
    river, money = demo.attend(
        *(f"Mary left the {cue} for the bank. She saw the" for cue in ("river", "office"))
    )
    here, there = river[-1], money[-1]
    assert np.linalg.norm(here - there) > 0.1 * np.linalg.norm(here)
    fits = {
        cue: demo.head[[demo.words[word] for word in cue]] for cue in (("wet", "green"), ("safe", "cheap"))
    }
    pull = {cue: (rows @ here).mean() - (rows @ there).mean() for cue, rows in fits.items()}
    assert pull[("wet", "green")] > 0 > pull[("safe", "cheap")]


def test_its_weights_are_causal_rows_that_sum_to_one(demo: Demo) -> None:
    (weights,) = demo.attend("The old keys near the house are lost.", output="weights")
    assert weights.shape == (4, 9, 9)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not np.triu(weights, 1).any()
