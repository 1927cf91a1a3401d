"""The short way through attention gives what the general one gives, bit for bit, and knows its limits."""

import pytest
import torch

from models.attention import contextualize, prepare
from models.packed import contextualize_packed
from models.spec import AttentionSpec

LENGTHS = (1, 7, 30, 2, 65)


def packed_rows(
    heads: int, key_heads: int, width: int = 8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(heads)
    rows = sum(LENGTHS)
    fused = torch.randn(rows, heads + 2 * key_heads, width, generator=chance)
    q, k, v = fused.split([heads, key_heads, key_heads], dim=1)
    return q, k, v


def places() -> list[slice]:
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return [slice(end - length, end) for length, end in zip(LENGTHS, ends, strict=True)]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_bits_are_those_of_the_general_path(key_heads: int, causal: bool) -> None:
    q, k, v = packed_rows(4, key_heads)
    spec = AttentionSpec(causal=causal)
    found = contextualize_packed(q, k, v, spec, places())
    assert found is not None
    z_NHV, logsumexps = found
    for rows, lse in zip(places(), logsumexps, strict=True):
        parts = (x[rows].transpose(0, 1) for x in (q, k, v))
        z_HTV, expected = contextualize(prepare(*parts, spec=spec), want_lse=True)
        assert torch.equal(z_NHV[rows], z_HTV.transpose(0, 1))
        assert expected is not None
        assert torch.equal(lse, expected)


def test_rows_of_some_sequences_only() -> None:
    q, k, v = packed_rows(4, 4)
    chosen = places()[1::2]
    found = contextualize_packed(q, k, v, AttentionSpec(), chosen)
    everything = contextualize_packed(q, k, v, AttentionSpec(), places())
    assert found is not None
    assert everything is not None
    assert torch.equal(found[0], torch.cat([everything[0][rows] for rows in chosen]))


@pytest.mark.parametrize(
    "spec",
    [
        AttentionSpec(softcap=5.0),
        AttentionSpec(similarity="cosine"),
        AttentionSpec(left_window=3),
        AttentionSpec(add_self=True),
    ],
)
def test_what_is_not_plain_is_left_to_the_general_path(spec: AttentionSpec) -> None:
    assert contextualize_packed(*packed_rows(4, 4), spec, places()) is None


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_rows_the_kernel_gets_wrong_are_left_too(which: int, bad: float, causal: bool) -> None:
    q, k, v = (x.clone() for x in packed_rows(4, 4))
    (q, k, v)[which][20] = bad
    found = contextualize_packed(q, k, v, AttentionSpec(causal=causal), places())
    if found is None:
        return
    for rows in places():  # where it is not, what it says is what the general path says
        parts = (x[rows].transpose(0, 1) for x in (q, k, v))
        z_HTV, _ = contextualize(prepare(*parts, spec=AttentionSpec(causal=causal)), want_lse=False)
        assert torch.equal(found[0][rows].isfinite(), z_HTV.transpose(0, 1).isfinite())
