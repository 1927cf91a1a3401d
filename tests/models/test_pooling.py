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
