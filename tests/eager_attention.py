"""Small models of several families, served from folders, and their weights by eager attention in float64."""

import copy
from pathlib import Path

import numpy as np
import pytest

from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.tiny_architectures import eager, tiny
from tests.transformers_models import FOREIGN

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "max_position_embeddings": 96}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
BART = {"encoder_layers": 2, "decoder_layers": 3, "d_model": 32, "max_position_embeddings": 96}
FAMILIES = {
    "gpt2": ("gpt2", {"n_layer": 3, "n_positions": 96}),
    "llama, grouped": ("llama", GROUPED),
    "gemma2, softcap": ("gemma2", GROUPED | {"attn_logit_softcapping": 2.0, "sliding_window": 6}),
    "mistral, window": ("mistral", GROUPED | {"sliding_window": 5}),
    "bert": ("bert", SIZES),
    "olmo by transformers": ("olmo", GROUPED | FOREIGN),
    "bart, cross": ("bart", BART),
}


class Family:
    """One family: the same weights served, and in transformers, eager, in float64."""

    def __init__(self, name: str, repository: Path) -> None:
        model_type, changes = FAMILIES[name]
        model = tiny(model_type, changes=changes)
        model.save_pretrained(repository / "model")
        self.eager = copy.deepcopy(model).double()
        self.runtime = TorchRuntime(repository, models=("model",), device="cpu", dtype="float32")
        part = "cross" if name.endswith("cross") else ""
        self.card = next(card for card in self.runtime.cards() if card.part == part)

    def given(self, tokens: int, *, seed: int = 3) -> Tokens:
        """Return ids, some of them several times; of cross-attention with a memory of another length."""
        chance = np.random.default_rng((seed, tokens))
        memory = None
        if self.card.part == "cross":
            memory = chance.standard_normal((tokens + 5, self.card.d_model), dtype=np.float32)
        return Tokens(ids=chance.integers(3, 11, tokens), memory=memory)

    def weights(self, given: Tokens) -> np.ndarray:
        """Return the weights of all layers and heads, float64 [L, H, T, S]."""
        return eager(self.eager, given, self.card.part)["weights"]

    def run(self, given: Tokens, *selections: Selection) -> list[dict[str, np.ndarray]]:
        """Return what is answered of one input, asked for several things in one batch."""
        items = [Item(card=self.card, input=given, selection=one) for one in selections]
        return self.answers(items)

    def answers(self, items: list[Item]) -> list[dict[str, np.ndarray]]:
        """Return what is answered of a batch, none of which may fail."""
        found = self.runtime.run(items).answers
        assert all(isinstance(one, Answer) for one in found), found
        return [one.tensors for one in found if isinstance(one, Answer)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Each of the families, for who imports this."""
    return Family(request.param, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module", params=[name for name in FAMILIES if not name.endswith("cross")])
def itself(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Each of those whose queries and keys are of one sequence."""
    return Family(request.param, tmp_path_factory.mktemp("repository"))
