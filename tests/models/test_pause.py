"""Long work pauses between its parts, and whatever runs in a pause changes nothing."""

import numpy as np
import pytest
import torch

from models.attention import contextualize, prepare
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.reductions import derive
from models.spec import AttentionSpec, ModelSpec
from models.stack import Stack
from tests.fakes import fake_card
from tests.slow_stack import random_parameters


def problem_of(tokens: int, *, causal: bool = False, pause=lambda: None):
    chance = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, tokens, 8, generator=chance) for _ in range(3))
    return prepare(q, k, v, spec=AttentionSpec(causal=causal), pause=pause)


@pytest.mark.parametrize("causal", [False, True])
def test_long_attention_pauses_between_heads_and_blocks(causal: bool) -> None:
    pauses = []
    problem = problem_of(2600, causal=causal, pause=lambda: pauses.append(1))
    contextualize(problem, want_lse=True)
    assert len(pauses) >= 2
    derive(problem, None, Selection(outputs=("entropy",)))
    assert len(pauses) >= 6


@pytest.mark.parametrize("causal", [False, True])
def test_parts_give_the_same_bits_as_one_call(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts, lse_in_parts = contextualize(problem_of(2600, causal=causal), want_lse=True)
    monkeypatch.setattr("models.fused.CALL_PAIRS", 1 << 40)
    whole, lse = contextualize(problem_of(2600, causal=causal), want_lse=True)
    assert torch.equal(in_parts, whole)
    assert lse is not None
    assert lse_in_parts is not None
    assert torch.equal(lse_in_parts, lse)


def test_a_batch_may_run_inside_the_pause_of_another() -> None:
    spec = ModelSpec(d_model=8, heads=2, layers=2)
    tensors = {name: torch.from_numpy(array) for name, array in random_parameters(spec).items()}
    stack = Stack(spec, tensors, torch.device("cpu"))
    card = fake_card(d_model=8, layers=2, d_k=4, d_v=4, max_tokens=None)
    chosen = Selection(outputs=("z", "weights"), layers=(0, 1), layer_axis=True)

    def item(length: int) -> Item:
        x = np.random.default_rng(length).standard_normal((length, 8), dtype=np.float32)
        return Item(card=card, input=Tokens(embeddings=x), selection=chosen)

    def tensors_of(answer: object) -> dict[str, np.ndarray]:
        assert isinstance(answer, Answer)
        return answer.tensors

    with torch.inference_mode():
        alone = [tensors_of(stack.run([item(length)])[0]) for length in (7, 30)]
        inside = []
        (outer,) = stack.run([item(30)], pause=lambda: inside.extend(stack.run([item(7)])))
    assert len(inside) >= spec.layers
    for name in ("z", "weights"):
        assert np.array_equal(tensors_of(outer)[name], alone[1][name])
        assert all(np.array_equal(tensors_of(one)[name], alone[0][name]) for one in inside)
