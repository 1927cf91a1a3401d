"""What a sequence asked for is gathered whole, and whatever is not finite is noticed wherever it stands."""

import math

import numpy as np
import pytest
import torch

from models.device.answers import answers
from models.device.collect import Collector
from models.outputs import DtypeName, Selection
from models.protocol import Answer, Failure
from models.shapes import Dims

DIMS = Dims(T=5, S=5, heads=2, key_heads=2, d_z=40, d_k=20, d_v=20)
LARGEST = {"float32": 3.4028234663852886e38, "float16": 65519.996, "bfloat16": 3.3895313892515355e38}


def gathered(name: str, tensor: torch.Tensor, dtype: DtypeName) -> Answer | Failure:
    collector = Collector(Selection(outputs=(name,), dtype=dtype), DIMS)
    collector.put(name, 0, tensor)
    (answer,) = answers([collector])
    return answer


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("place", [(0, 0), (2, 17), (4, 39)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_noticed_wherever_it_stands(
    dtype: DtypeName, place: tuple[int, int], bad: float
) -> None:
    z = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    assert isinstance(gathered("z", z, dtype), Answer)
    z[place] = bad
    failure = gathered("z", z, dtype)
    assert isinstance(failure, Failure)
    assert failure.code == "not_finite"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", LARGEST)
def test_what_is_finite_in_the_reply_is_answered_up_to_the_largest(dtype: DtypeName, sign: int) -> None:
    z = torch.zeros(5, 40)
    z[3, 3], z[4, 4] = sign * LARGEST[dtype], -sign * LARGEST[dtype]
    assert isinstance(gathered("z", z, dtype), Answer)
    if dtype != "float32":
        z[3, 3] *= 1.01
        assert isinstance(gathered("z", z, dtype), Failure)


def test_a_masked_score_is_minus_infinity_and_nothing_else_may_be() -> None:
    scores = torch.zeros(2, 5, 5)
    scores[0, 1, 2] = -math.inf
    answer = gathered("scores", scores, "float16")
    assert isinstance(answer, Answer)
    assert answer.tensors["scores"].dtype == np.float16
    assert answer.tensors["scores"][0, 1, 2] == -math.inf
    for bad in (math.inf, math.nan):
        scores[1, 4, 4] = bad
        assert isinstance(gathered("scores", scores, "float16"), Failure)


@pytest.mark.parametrize("name", ["scores", "lse"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_number_that_only_the_reply_cannot_hold_is_not_taken_for_a_masked_one(
    dtype: DtypeName, sign: int, name: str
) -> None:
    rows = torch.zeros((2, 5, 5) if name == "scores" else (2, 5))
    rows[0, 1] = -math.inf
    rows[1, 4] = sign * LARGEST[dtype]
    assert isinstance(gathered(name, rows, dtype), Answer)
    rows[1, 4] = sign * LARGEST[dtype] * (1.01 if dtype == "float16" else 1.0039)
    assert torch.isfinite(rows[1, 4]).all()
    failure = gathered(name, rows, dtype)
    assert isinstance(failure, Failure)
    assert failure.code == "not_finite"


def test_scores_are_looked_at_though_the_rows_made_apart_are_sound() -> None:
    for rows in (None, torch.zeros(2, 5)):
        collector = Collector(Selection(outputs=("scores",)), DIMS)
        if rows is None:
            collector.trust_rows()
        else:
            collector.check_rows(rows)
        scores = torch.zeros(2, 5, 5)
        scores[1, 4, 4] = math.nan
        collector.put("scores", 0, scores)
        (answer,) = answers([collector])
        assert isinstance(answer, Failure)
