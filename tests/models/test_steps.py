"""Long work is done in steps, and whatever runs between two of them changes nothing."""

import numpy as np
import pytest
import torch

from models.attention import reductions, reference
from models.attention.problem import Problem, prepare
from models.device.steps import finish
from models.encoder.block import Block
from models.encoder.finish import STEP_ROWS, in_row_steps
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import fake_card
from tests.in_one import contextualize
from tests.slow_stack import random_parameters


def problem_of(tokens: int, *, causal: bool = False) -> Problem:
    chance = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, tokens, 8, generator=chance) for _ in range(3))
    return prepare(q, k, v, spec=AttentionSpec(causal=causal))


@pytest.mark.parametrize("causal", [False, True])
def test_long_attention_is_left_between_heads_and_blocks(causal: bool) -> None:
    problem = problem_of(2600, causal=causal)
    assert len(list(reference.contextualize(problem, want_lse=True))) >= 2
    assert len(list(reductions.derive(problem, None, Selection(outputs=("entropy",))))) >= 4


@pytest.mark.parametrize("causal", [False, True])
def test_parts_give_the_same_bits_as_one_call(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    in_row_steps, lse_in_parts = contextualize(problem_of(2600, causal=causal), want_lse=True)
    monkeypatch.setattr("models.attention.sdpa.CALL_PAIRS", 1 << 40)
    whole, lse = contextualize(problem_of(2600, causal=causal), want_lse=True)
    assert torch.equal(in_row_steps, whole)
    assert lse is not None
    assert lse_in_parts is not None
    assert torch.equal(lse_in_parts, lse)


def test_a_batch_may_run_between_the_steps_of_another() -> None:
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
        between: list[object] = []
        (outer,) = finish(stack.steps([item(30)]), lambda: between.extend(stack.run([item(7)])))
    assert len(between) >= spec.layers
    for name in ("z", "weights"):
        assert np.array_equal(tensors_of(outer)[name], alone[1][name])
        assert all(np.array_equal(tensors_of(one)[name], alone[0][name]) for one in between)


@pytest.mark.parametrize(
    ("rows", "yields"), [(1, 0), (2 * STEP_ROWS, 0), (2 * STEP_ROWS + 1, 2), (4 * STEP_ROWS, 3)]
)
def test_products_of_many_rows_are_left_between_some_of_them(rows: int, yields: int) -> None:
    counted: list[int] = []
    x = torch.arange(2.0 * rows).view(rows, 2)
    given: list[int] = []

    def twice(part: torch.Tensor) -> torch.Tensor:
        given.append(len(part))
        return torch.cat((part, part), dim=1)

    found = finish(in_row_steps(twice, x), lambda: counted.append(1))
    assert torch.equal(found, twice(x))
    assert len(counted) == yields
    assert sum(given[:-1]) == rows
    assert yields == 0 or max(given[:-1]) <= STEP_ROWS


def test_long_sequence_of_a_whole_model_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(
        d_model=16,
        heads=2,
        layers=2,
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=24),
    )
    parameters = {name: torch.as_tensor(array) for name, array in random_parameters(spec).items()}
    block = Block(spec, parameters, 0)
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(100, 16, generator=chance)

    def run() -> tuple[torch.Tensor, ...]:
        q, k, v = finish(block.project(x))
        z = finish(block.output(v))
        return q, k, v, z, finish(block.finish(x, z))

    whole = run()
    monkeypatch.setattr("models.encoder.block.STEP_ROWS", 7)
    for one, other in zip(run(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
