"""Vectors of several sequences at once are those of each alone, to the bit."""

import pytest
import torch

from models.encoder.pooling import Pooling
from models.pooling_spec import PoolingSpec, PoolingStep

LENGTHS = (1, 2, 17, 40, 3)
NORMALIZE = PoolingStep(kind="normalize")


def rows_of(lengths: tuple[int, ...]) -> list[slice]:
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    return [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("width", [1, 7, 33, 384, 768])
@pytest.mark.parametrize("modes", [("mean",), ("cls",), ("mean", "max"), ("weighted_mean",)])
@pytest.mark.parametrize("steps", [(), (NORMALIZE,)], ids=["as it is", "normalised"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_is_the_same_whatever_is_pooled_beside_it(
    width: int, modes: tuple[str, ...], steps: tuple[PoolingStep, ...], dtype: torch.dtype
) -> None:
    pooling = Pooling(PoolingSpec(modes=modes, steps=steps))
    generator = torch.Generator().manual_seed(width)
    hidden = torch.randn(sum(LENGTHS), width, generator=generator).to(dtype)
    masked = torch.arange(LENGTHS[3]) % 3 > 0
    asked = [(rows, None, 0) for rows in rows_of(LENGTHS)]
    asked[3] = asked[3][0], masked, 2
    together = pooling.each(hidden, asked)
    for one, (rows, mask, prompt) in zip(together, asked, strict=True):
        alone = pooling(hidden[rows].clone(), mask, prompt=prompt)
        assert torch.equal(one, alone)
        assert torch.equal(pooling.each(hidden, [(rows, mask, prompt)])[0], alone)


def test_no_vector_holds_on_to_those_beside_it() -> None:
    pooling = Pooling(PoolingSpec(steps=(NORMALIZE,)))
    together = pooling.each(torch.ones(6, 8), [(rows, None, 0) for rows in rows_of((1, 2, 3))])
    assert {one.untyped_storage().nbytes() for one in together} == {8 * 4}


@pytest.mark.parametrize(
    "modes", [("mean",), ("cls",), ("last",), ("mean", "max"), ("weighted_mean", "mean_sqrt_len")]
)
@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("some", [slice(0, 5), slice(1, 3)])
def test_all_vectors_of_a_batch_at_once_are_those_of_each(
    modes: tuple[str, ...], some: slice, *, include_prompt: bool
) -> None:
    """As on a GPU; another order of the same sums."""
    pooling = Pooling(PoolingSpec(modes=modes, steps=(NORMALIZE,), include_prompt=include_prompt))
    hidden = torch.randn(sum(LENGTHS), 24, generator=torch.Generator().manual_seed(5))
    asked = [(rows, None, 0) for rows in rows_of(LENGTHS)]
    asked[2] = asked[2][0], None, 4
    asked[3] = asked[3][0], torch.arange(LENGTHS[3]) % 3 > 0, 2
    made = pooling._at_once(hidden, asked[some])
    assert made is not None
    for one, (rows, mask, prompt) in zip(made, asked[some], strict=True):
        torch.testing.assert_close(one, pooling(hidden[rows], mask, prompt=prompt))


def test_what_is_not_finite_in_one_sequence_reaches_no_other_vector_of_a_batch() -> None:
    pooling = Pooling(PoolingSpec(modes=("mean", "max")))
    hidden = torch.ones(6, 8)
    hidden[1] = torch.nan
    made = pooling._at_once(hidden, [(rows, None, 0) for rows in rows_of((1, 2, 3))])
    assert made is not None
    assert [bool(one.isfinite().all()) for one in made] == [True, False, True]


def test_a_batch_with_a_sequence_of_which_no_row_is_left_is_pooled_one_by_one() -> None:
    pooling = Pooling(PoolingSpec())
    asked = [(slice(0, 2), torch.tensor([False, False]), 0), (slice(2, 6), None, 0)]
    assert pooling._at_once(torch.ones(6, 8), asked) is None
    assert [one.tolist() for one in pooling.each(torch.ones(6, 8), asked)] == [[0.0] * 8, [1.0] * 8]
