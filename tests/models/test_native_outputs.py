"""Outputs made on the way to z against float64, at every edge of blocks and vectors."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.compiled.rules import PLAIN, ScoreRule
from models.compiled.structures import MOST_TOP_K
from models.outputs import OUTPUTS, Selection
from tests.compiled import random

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
LENGTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 28, 29, 33, 64, 65, 68, 130, 255, 300, 647)
NAMES = tuple(
    name
    for name, output in OUTPUTS.items()
    if output.on_the_way and output.of != "sums" and name != "lse"  # test_native_sums has those
)
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def rows_of(lengths: tuple[int, ...], *, sharp: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of all sequences."""
    q, k, v = random(sum(lengths), HEADS + 2 * KEY_HEADS, WIDTH, seed=7).split(
        [HEADS, KEY_HEADS, KEY_HEADS], 1
    )
    return q * sharp, k, v


def extents_of(lengths: tuple[int, ...], selection: Selection, names: tuple[str, ...] = NAMES):
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    return [
        Extent(slice(at, at + length), outputs=names, selection=selection)
        for at, length in zip(starts, lengths, strict=True)
    ]


def made_by(ours: Native, three, extents, *, causal: bool = False) -> list[dict[str, Tensor]]:
    found = ours.attend(*three, extents, scale=0.4, causal=causal)
    assert found.finite
    assert not any(weights is not None for weights in found.weights)
    return [dict(one) for one in found.outputs if one is not None]


def slowly(three, extent: Extent, *, causal: bool) -> Tensor:
    """Weights [H', T', S] of the chosen heads and rows, in float64."""
    q, k, _ = (one[extent.rows].double().transpose(0, 1) for one in three)
    scores = 0.4 * q @ k.repeat_interleave(HEADS // KEY_HEADS, 0).mT
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    weights = scores.softmax(-1)
    chosen = extent.selection
    weights = weights if chosen.heads is None else weights[list(chosen.heads)]
    return weights if chosen.rows is None else weights[:, list(chosen.rows)]


def hold(made: dict[str, Tensor], exact: Tensor, *, k: int, dtype: str = "float32") -> None:
    """Compare outputs of one sequence with what its weights say."""
    k = min(k, exact.shape[-1])
    assert made.keys() == {*NAMES}
    assert made["weights"].dtype == TYPES[dtype]
    rounding = {"float32": 5e-6, "float16": 5e-4, "bfloat16": 4e-3}[dtype]
    torch.testing.assert_close(made["weights"].double(), exact, rtol=rounding * 2, atol=1e-7)
    entropy = -torch.special.xlogy(exact, exact).sum(-1)
    torch.testing.assert_close(made["entropy"].double(), entropy, rtol=5e-6, atol=2e-6)
    assert not torch.signbit(made["entropy"]).any()
    torch.testing.assert_close(made["received"].double(), exact.sum(-2), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(made["weights_mean"].double(), exact.mean(0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(made["weights_max"].double(), exact.amax(0), rtol=1e-5, atol=1e-7)
    best = exact.sort(-1, descending=True).values
    keys, weights, rest = (made[f"top_k_{which}"] for which in ("keys", "weights", "rest"))
    assert keys.dtype == torch.int32
    assert keys.shape == weights.shape == (*exact.shape[:-1], k)
    torch.testing.assert_close(weights.double(), best[..., :k], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(rest.double(), best[..., k:].sum(-1), rtol=1e-5, atol=1e-9)
    assert (rest >= 0).all()
    assert (weights.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(exact.gather(-1, keys.long()), weights.double(), rtol=1e-5, atol=1e-7)
    assert all(len({*row}) == k for row in keys.flatten(0, 1).tolist())


@pytest.mark.parametrize("k", [1, 3, 4, 5, 8, 9, MOST_TOP_K])
@pytest.mark.parametrize("causal", [False, True])
def test_each_is_what_the_weights_say_at_every_edge(ours: Native, causal: bool, k: int) -> None:
    three = rows_of(LENGTHS, sharp=1.0 if k % 2 else 5.0)
    extents = extents_of(LENGTHS, Selection(outputs=NAMES, top_k=k))
    for extent, made in zip(extents, made_by(ours, three, extents, causal=causal), strict=True):
        hold(made, slowly(three, extent, causal=causal), k=k)


@pytest.mark.parametrize("heads", [None, (2, 0), (3,)])
@pytest.mark.parametrize("which", ["first", "last", "scattered"])
def test_only_chosen_heads_and_rows_are_made_in_the_order_asked(
    ours: Native, heads: tuple[int, ...] | None, which: str
) -> None:
    lengths = (5, 40, 130)
    three = rows_of(lengths)
    extents = []
    for extent in extents_of(lengths, Selection(outputs=NAMES, heads=heads, top_k=4)):
        rows = {
            "first": (0,),
            "last": (extent.length - 1,),
            "scattered": tuple(range(extent.length - 1, -1, -3)),
        }
        extents.append(replace(extent, selection=replace(extent.selection, rows=rows[which])))
    for extent, made in zip(extents, made_by(ours, three, extents), strict=True):
        hold(made, slowly(three, extent, causal=False), k=4)


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_are_written_in_the_dtype_of_the_reply(ours: Native, dtype: str) -> None:
    three = rows_of(LENGTHS, sharp=5.0)
    extents = extents_of(LENGTHS, Selection(outputs=NAMES, top_k=8, dtype=dtype))
    single = extents_of(LENGTHS, Selection(outputs=NAMES, top_k=8))
    both = zip(extents, made_by(ours, three, extents), made_by(ours, three, single), strict=True)
    for extent, made, in_single in both:
        hold(made, slowly(three, extent, causal=False), k=8, dtype=dtype)
        assert torch.equal(made["weights"], in_single["weights"].to(TYPES[dtype]))


@pytest.mark.parametrize("causal", [False, True])
def test_between_spans_weights_are_summed(ours: Native, causal: bool, threads) -> None:
    """Spans that overlap, that are empty, out of order, across blocks of rows and of keys."""
    spans = ((0, 3), (2, 3), (5, 5), (600, 601), (40, 590), (4, 45), (500, 530))
    lengths, heads = (601, 640), (3, 1)
    three = rows_of(lengths)
    selection = Selection(outputs=NAMES, spans=spans, heads=heads)
    extents = extents_of(lengths, selection, ("weights", "entropy"))
    for count in (1, 2):
        threads(count)
        for extent, made in zip(extents, made_by(ours, three, extents, causal=causal), strict=True):
            exact = slowly(three, extent, causal=causal)
            sums = [[exact[:, a:b, c:d].sum((-2, -1)) for c, d in spans] for a, b in spans]
            expected = torch.stack([torch.stack(row, -1) for row in sums], -2)
            assert made["weights"].dtype == torch.float32
            torch.testing.assert_close(made["weights"].double(), expected, rtol=1e-5, atol=1e-6)


def test_of_equal_weights_the_first_keys_are_the_largest(ours: Native) -> None:
    lengths = (1, 6, 20, 67, 300)
    q, k, v = rows_of(lengths)
    extents = extents_of(lengths, Selection(outputs=NAMES, top_k=8))
    for causal in (False, True):
        for extent, made in zip(extents, made_by(ours, (q * 0, k, v), extents, causal=causal), strict=True):
            first = torch.arange(min(8, extent.length), dtype=torch.int32)
            assert torch.equal(made["top_k_keys"], first.expand_as(made["top_k_keys"]))


@pytest.mark.parametrize("k", [3, 8, MOST_TOP_K])
def test_the_largest_of_long_rows_are_found_wherever_they_stand(ours: Native, k: int) -> None:
    """Numbers of keys that are the same modulo 32 hide each other from a first look at long rows."""
    length = 3400
    scores = random(4, length, seed=3)
    scores[0, 5::32] += 2 + torch.arange(len(scores[0, 5::32])) / 50  # ever larger
    scores[1, 5::32] += 5 - torch.arange(len(scores[1, 5::32])) / 50
    scores[2] = 0
    scores[3, 7:] = -90  # weights of 0, but for a few
    q = torch.eye(4).repeat(length // 4, 1)[:, None]
    extent = Extent(
        slice(0, length), outputs=NAMES, selection=Selection(outputs=(), rows=(0, 1, 2, 3), top_k=k)
    )
    three = (q, scores.T[:, None].contiguous(), scores.T[:, None].contiguous())
    (made,) = ours.attend(*three, [extent], scale=1.0, causal=False).outputs
    assert made is not None
    exact = scores.double().softmax(-1)[None]
    hold(dict(made), exact, k=k)
    assert made["top_k_keys"][0, 2].tolist() == list(range(k))


RULES = {
    "a window": {"rule": ScoreRule(low=-5, high=3)},
    "a window far away": {"rule": ScoreRule(low=30, high=45)},  # some rows see nothing
    "one key": {"rule": ScoreRule(low=1, high=1)},
    "not itself": {"rule": ScoreRule(hole=0)},
    "a causal offset": {"rule": ScoreRule(high=-7)},
    "a softcap": {"rule": ScoreRule(softcap=2.0)},
    "sinks": {"sinks_H": torch.tensor([-1.0, 3.0, 0.5, 20.0])},
}


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("name", RULES)
def test_each_is_what_the_weights_say_under_every_rule(ours: Native, name: str, mask: str | None) -> None:
    queries, keys = (1, 40, 33, 70), (20, 40, 64, 5)
    q, (k, v) = random(sum(queries), HEADS, WIDTH, seed=1), random(2, sum(keys), KEY_HEADS, WIDTH, seed=2)
    extents = []
    for at, (rows, own) in enumerate(zip(queries, keys, strict=True)):
        start, first = sum(queries[:at]), sum(keys[:at])
        seen = random(HEADS, rows, own, seed=at) > 0.5
        seen[0, : rows // 2] = False
        masks = {None: None, "bool": seen, "float": torch.where(seen, random(HEADS, rows, own), -math.inf)}
        extents.append(
            Extent(
                slice(start, start + rows),
                keys=slice(first, first + own),
                mask=masks[mask],
                outputs=NAMES,
                selection=Selection(outputs=NAMES, top_k=6),
            )
        )
    rule = {"rule": PLAIN} | RULES[name]
    found = ours.attend(q, k, v, extents, scale=0.4, **rule)
    assert found.finite
    for made in found.outputs:
        assert made is not None
        hold(dict(made), made["weights"].double(), k=6)
        nothing = made["weights"].sum(-1) == 0
        assert (made["top_k_rest"][nothing] == 0).all()
        assert (made["entropy"][nothing] == 0).all()


def test_bits_depend_on_no_neighbour_and_no_thread(ours: Native, threads) -> None:
    lengths = (*LENGTHS, 520)  # the last in several tasks
    three = rows_of(lengths)
    extents = extents_of(lengths, Selection(outputs=NAMES, top_k=8))
    threads(1)
    expected = made_by(ours, three, extents, causal=True)
    for count in (1, 2, 3):
        threads(count)
        for at, extent in enumerate(extents):
            (alone,) = made_by(ours, three, [extent], causal=True)
            assert all(torch.equal(alone[name], expected[at][name]) for name in NAMES)
        for made, one in zip(made_by(ours, three, extents, causal=True), expected, strict=True):
            assert all(torch.equal(made[name], one[name]) for name in NAMES)


def test_bits_depend_on_nothing_else_that_is_asked(ours: Native) -> None:
    lengths = (3, 31, 68)
    three = rows_of(lengths)
    selection = Selection(outputs=NAMES, top_k=8)
    together = made_by(ours, three, extents_of(lengths, selection))
    for name in NAMES:
        alone = made_by(ours, three, extents_of(lengths, selection, (name,)))
        for made, one in zip(alone, together, strict=True):
            assert torch.equal(made[name], one[name])
            assert "weights" not in made or name == "weights"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": (4,)}, "each head is below 4"),
        ({"heads": (-1,)}, "each head"),
        ({"heads": (1, 1)}, "chosen once"),
        ({"rows": (0, 20)}, "each row is below 20"),
        ({"rows": (3, 3)}, "chosen once"),
        ({"top_k": 17}, "up to 16"),
        ({"top_k": 0}, "up to 16"),
        ({"spans": ((0, 3), (18, 21))}, "spans are of 20 positions"),
        ({"spans": ((3, 2),)}, "spans are of 20 positions"),
    ],
)
def test_choices_that_do_not_fit_never_reach_c(ours: Native, wrong: dict[str, object], says: str) -> None:
    selection = replace(Selection(outputs=NAMES), **wrong)
    with pytest.raises(ValueError, match=says):
        ours.attend(*rows_of((20,)), extents_of((20,), selection), scale=1.0, causal=False)
