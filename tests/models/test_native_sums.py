"""Mixtures and shares made on the way to z against float64, at every edge of blocks, vectors and spans."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.compiled.rules import ScoreRule
from models.outputs import Mix, Selection, Share, Spans
from tests.models.test_native_outputs import extents_of, made_by, rows_of, slowly

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

LENGTHS = (1, 2, 7, 16, 17, 31, 33, 64, 68, 255, 647)
NAMES = ("mixed", "share")
HEADS = {3: -1.5, 0: 0.25, 2: 2.0}
MIX = Mix(pairs=tuple((0, head) for head in HEADS), weights=tuple(HEADS.values()))


def spans_of(length: int) -> Spans:
    """Spans at every edge of vectors, overlapping, empty, of one key and of all."""
    ends = sorted({min(at, length) for at in (0, 1, 7, 8, 9, 15, 16, 17, 33, 64, 100, length - 1, length)})
    return (*zip(ends, ends[1:], strict=False), (0, length), (length, length))  # noqa: RUF007 - a tuple of two


def share_of(length: int) -> Share:
    some = spans_of(length)
    return Share(of=some[1::3] or some[:1], over=some[::2])


def mixed(weights: Tensor, mix: Mix) -> Tensor:
    """What is mixed of weights [H, T', S] of all heads, in float64."""
    total = torch.stack([times * weights[head] for head, times in HEADS.items()]).sum(0)
    if mix.columns is not None:
        total = torch.stack([total[:, start:stop].sum(1) for start, stop in mix.columns], 1)
    if mix.reduce:
        total = total.sum(0) if mix.reduce == "sum" else total.mean(0)
    return total


def shared(weights: Tensor, share: Share) -> Tensor:
    """A share of weights [..., S], each key counted once."""
    of, over = (
        weights[..., sorted({key for start, stop in spans for key in range(start, stop)})].sum(-1)
        for spans in (share.of, share.over)
    )
    return torch.where(over > 0, of / over.clamp(min=1e-300), 0)


def hold(made: dict[str, Tensor], weights: Tensor, selection: Selection) -> None:
    assert selection.mix is not None
    assert selection.share is not None
    torch.testing.assert_close(made["mixed"].double(), mixed(weights, selection.mix), rtol=1e-5, atol=2e-6)
    some = weights if selection.heads is None else weights[list(selection.heads)]
    torch.testing.assert_close(made["share"].double(), shared(some, selection.share), rtol=1e-5, atol=1e-6)


def of_all_heads(extent: Extent) -> Extent:
    return replace(extent, selection=replace(extent.selection, heads=None))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reduce", [None, "mean", "sum"])
@pytest.mark.parametrize("columns", [False, True])
def test_sums_are_what_the_weights_say_at_every_edge(
    ours: Native, columns: bool, reduce: Any, causal: bool, threads: Any
) -> None:
    three, extents = rows_of(LENGTHS, sharp=3.0), []
    for at, extent in enumerate(extents_of(LENGTHS, Selection(outputs=NAMES), NAMES)):
        spans = spans_of(extent.length)
        mix = replace(MIX, reduce=reduce, columns=spans if columns else None)
        heads = (None, (1, 2), (0,))[at % 3]  # mixed or not, chosen or not
        chosen = Selection(outputs=NAMES, mix=mix, share=share_of(extent.length), heads=heads)
        if at % 2:
            chosen = replace(chosen, rows=tuple(range(extent.length - 1, -1, -2)))
        extents.append(replace(extent, selection=chosen))
    for count in (1, 3):
        threads(count)
        for extent, made in zip(extents, made_by(ours, three, extents, causal=causal), strict=True):
            hold(made, slowly(three, of_all_heads(extent), causal=causal), extent.selection)


def test_bits_of_a_row_depend_on_no_window_and_no_other_row(ours: Native) -> None:
    """What a row does not see is 0 whether or not it is looked at."""
    length, seen = 200, 40
    three = rows_of((length,), sharp=2.0)
    spans: Spans = ((3, 50), (100, 131), (0, 200))
    chosen = Selection(outputs=NAMES, mix=replace(MIX, columns=spans), share=Share(of=spans[:1], over=spans))
    (extent,) = extents_of((length,), chosen, NAMES)
    mask = (
        torch.ones(length, length, dtype=torch.bool).tril().triu(-seen)[None].expand(4, -1, -1).contiguous()
    )
    masked = ours.attend(*three, [replace(extent, mask=mask)], scale=0.4)
    banded = ours.attend(*three, [extent], scale=0.4, rule=ScoreRule(low=-seen, high=0))
    some = replace(extent, selection=replace(chosen, rows=(150, 7)))
    alone = ours.attend(*three, [some], scale=0.4, rule=ScoreRule(low=-seen, high=0))
    for name, rows in (("mixed", 0), ("share", 1)):
        assert masked.outputs[0] is not None
        assert banded.outputs[0] is not None
        assert alone.outputs[0] is not None
        whole = banded.outputs[0][name]
        torch.testing.assert_close(masked.outputs[0][name], whole, rtol=1e-6, atol=1e-7)
        picked = whole.index_select(rows, torch.tensor([150, 7]))
        assert torch.equal(alone.outputs[0][name], picked)


def test_bits_depend_on_no_neighbour_and_no_thread(ours: Native, threads: Any) -> None:
    lengths = (*LENGTHS, 520)
    three, extents = rows_of(lengths), []
    for extent in extents_of(lengths, Selection(outputs=NAMES), NAMES):
        mix = replace(MIX, reduce="mean" if extent.length % 2 else None)
        chosen = Selection(outputs=NAMES, mix=mix, share=share_of(extent.length))
        extents.append(replace(extent, selection=chosen))
    threads(1)
    expected = made_by(ours, three, extents, causal=True)
    for count in (1, 2, 3):
        threads(count)
        for extent, one in zip(extents, expected, strict=True):
            (alone,) = made_by(ours, three, [extent], causal=True)
            assert all(torch.equal(alone[name], one[name]) for name in NAMES)
        for made, one in zip(made_by(ours, three, extents, causal=True), expected, strict=True):
            assert all(torch.equal(made[name], one[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mix": None}, "mixed on the way"),
        ({"mix": replace(MIX, symmetric=True)}, "mixed on the way"),
        ({"mix": Mix(pairs=((0, 4),), weights=(1.0,))}, "each head is below 4"),
        ({"mix": Mix(pairs=((0, -1),), weights=(1.0,))}, "each head"),
        ({"mix": replace(MIX, weights=(1.0,))}, "as many"),
        ({"mix": replace(MIX, columns=((0, 21),))}, "spans are of 20 positions"),
        ({"share": Share(of=((0, 3),), over=((-1, 3),))}, "spans are of 20 positions"),
        ({"share": None}, "a share is of some keys"),
    ],
)
def test_choices_that_do_not_fit_never_reach_c(ours: Native, wrong: dict[str, Any], says: str) -> None:
    chosen = replace(Selection(outputs=NAMES, mix=MIX, share=share_of(20)), **wrong)
    with pytest.raises(ValueError, match=says):
        ours.attend(*rows_of((20,)), extents_of((20,), chosen, NAMES), scale=1.0)
