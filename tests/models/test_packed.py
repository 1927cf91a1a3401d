"""The short way through attention gives what the general one gives, and knows its limits."""

import pytest
import torch

from models.attention import contextualize, prepare
from models.outputs import Selection
from models.packed import SHORT, SHORT_NATIVE, contextualize_packed, short_tokens
from models.parts import Part
from models.reductions import derive
from models.spec import AttentionSpec

LENGTHS = (1, 7, 30, SHORT, SHORT + 1, 2, 200, SHORT_NATIVE, SHORT_NATIVE + 1)

pytestmark = pytest.mark.usefixtures("short_attention_by")


def packed_rows(
    heads: int, key_heads: int, width: int = 8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(heads)
    rows = sum(LENGTHS)
    fused = torch.randn(rows, heads + 2 * key_heads, width, generator=chance)
    q, k, v = fused.split([heads, key_heads, key_heads], dim=1)
    return q, k, v


def places(**read: bool) -> list[Part]:
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return [Part(slice(end - length, end), **read) for length, end in zip(LENGTHS, ends, strict=True)]


def general(q, k, v, spec: AttentionSpec, part: Part) -> tuple[torch.Tensor, torch.Tensor | None]:
    """z [T, H, V] and logsumexp [H, T] of one part, by the general path."""
    own = (x[part.rows].transpose(0, 1) for x in (q, k, v))
    z_HTV, lse = contextualize(prepare(*own, spec=spec), want_lse=True)
    return z_HTV.transpose(0, 1), lse


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_numbers_are_those_of_the_general_path(key_heads: int, causal: bool) -> None:
    q, k, v = packed_rows(4, key_heads)
    spec = AttentionSpec(causal=causal)
    found = contextualize_packed(q, k, v, spec, places(lse=True, weights=True))
    assert found is not None
    z_NHV, seen = found
    for part, made in zip(places(), seen, strict=True):
        z, lse = general(q, k, v, spec, part)
        assert lse is not None
        assert made.lse is not None
        if part.length > short_tokens():  # the same kernel
            assert torch.equal(z_NHV[part.rows], z)
            assert torch.equal(made.lse, lse)
            assert made.weights is None
            continue
        torch.testing.assert_close(z_NHV[part.rows], z, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(made.lse, lse, rtol=1e-6, atol=1e-6)
        own = [x[part.rows].transpose(0, 1) for x in (q, k, v)]
        expected = derive(prepare(*own, spec=spec), lse, Selection(outputs=("weights",)))["weights"]
        assert made.weights is not None
        torch.testing.assert_close(made.weights, expected, rtol=1e-6, atol=1e-7)


def test_what_is_read_beside_it_changes_no_bit_of_z() -> None:
    q, k, v = packed_rows(4, 2)
    found = [
        contextualize_packed(q, k, v, AttentionSpec(causal=True), places(lse=lse, weights=weights))
        for lse in (False, True)
        for weights in (False, True)
    ]
    first, *others = [one[0] for one in found if one is not None]
    assert len(others) == 3
    assert all(torch.equal(first, other) for other in others)


def test_rows_of_some_sequences_only() -> None:
    q, k, v = packed_rows(4, 4)
    chosen = places()[1::2]
    found = contextualize_packed(q, k, v, AttentionSpec(), chosen)
    everything = contextualize_packed(q, k, v, AttentionSpec(), places())
    assert found is not None
    assert everything is not None
    assert torch.equal(found[0], torch.cat([everything[0][part.rows] for part in chosen]))


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
    for part in places():  # where it is not, what it says is what the general path says
        z, _ = general(q, k, v, AttentionSpec(causal=causal), part)
        torch.testing.assert_close(found[0][part.rows], z, rtol=1e-6, atol=1e-6)
