"""Compiled attention under every rule there is against float64, on random ragged problems."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.compiled.extents import Extent
from models.compiled.instructions import sets_of
from models.compiled.native import Native, native
from models.compiled.rules import PLAIN, DistanceTable, ScoreRule
from models.device.steps import finish
from tests.compiled import library, random

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

INSTRUCTIONS = sets_of(library()) if native() is not None else ()


@pytest.fixture(autouse=True)
def alone(threads) -> None:
    """One thread, but where a test asks for more: torch's wait for each other far longer than these take."""
    threads(1)


@dataclass
class Case:
    """One call: packed q, k and v, where each sequence stands, and the rule of all."""

    q: Tensor
    k: Tensor
    v: Tensor
    extents: list[Extent]
    rule: ScoreRule
    scale: float
    sinks: Tensor | None


def visible(rule: ScoreRule, queries: int, keys: int) -> Tensor:
    """Bool [T, S]: whether a row may attend a key by where they stand."""
    ahead = torch.arange(keys) - torch.arange(queries)[:, None]
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if rule.low is not None:
        seen &= ahead >= rule.low
    if rule.high is not None:
        seen &= ahead <= rule.high
    if rule.hole is not None:
        seen &= ahead != rule.hole
    return seen


def biases(bias: Tensor | DistanceTable, queries: int, keys: int) -> Tensor:
    if isinstance(bias, Tensor):
        return bias.double()
    ahead = torch.arange(keys) - torch.arange(queries)[:, None]
    return bias.table_HP[:, bias.zero + ahead].double()


def slowly(case: Case, extent: Extent) -> tuple[Tensor, Tensor, Tensor]:
    """z [T, H, V], weights [H, T, S] and logsumexp [H, T] of one sequence, in float64."""
    group = case.q.shape[1] // case.k.shape[1]
    own = extent.keys or extent.rows
    q = case.q[extent.rows].double().transpose(0, 1)
    k, v = (x[own].double().transpose(0, 1).repeat_interleave(group, 0) for x in (case.k, case.v))
    queries, keys = q.shape[1], k.shape[1]
    scores = case.scale * q @ k.mT
    if case.rule.softcap is not None:
        scores = case.rule.softcap * torch.tanh(scores / case.rule.softcap)
    seen = visible(case.rule, queries, keys)[None]
    if extent.bias is not None:
        scores = scores + biases(extent.bias, queries, keys)
    if extent.mask is not None and extent.mask.dtype != torch.bool:
        scores = scores + extent.mask.double()
    elif extent.mask is not None:
        seen = seen & extent.mask
    scores = scores.masked_fill(~seen, -math.inf)
    lse = scores.logsumexp(-1)
    if case.sinks is not None:
        both = torch.logaddexp(lse, case.sinks.double()[:, None])
        lse = both.masked_fill(lse == -math.inf, -math.inf)
    weights = (scores - lse[..., None]).exp().nan_to_num(0.0)
    z = weights @ v
    if case.rule.own is not None:
        for row in range(queries):
            if 0 <= row + case.rule.own < keys:
                z[:, row] += v[:, row + case.rule.own]
    return z.transpose(0, 1), weights, lse


def agrees(ours: Native, case: Case) -> None:
    found = ours.attend(
        case.q, case.k, case.v, case.extents, scale=case.scale, rule=case.rule, sinks_H=case.sinks
    )
    assert found.finite
    at = 0
    for extent, lse, weights in zip(case.extents, found.lse, found.weights, strict=True):
        z, expected, expected_lse = slowly(case, extent)
        torch.testing.assert_close(found.z[at : at + extent.length].double(), z, rtol=1e-5, atol=4e-6)
        torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-6, atol=4e-6)
        torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-6)
        at += extent.length


@st.composite
def cases(draw) -> Case:
    """Sequences of any lengths under a rule of any kind, their keys among their rows or elsewhere."""
    key_heads = draw(st.sampled_from([1, 2]))
    heads = key_heads * draw(st.sampled_from([1, 3]))
    width, value_width = draw(st.sampled_from([1, 5, 8, 16, 33])), draw(st.sampled_from([1, 7, 16, 24, 40]))
    lengths = draw(st.lists(st.sampled_from([1, 2, 7, 15, 16, 17, 31, 33, 65, 90]), min_size=1, max_size=3))
    apart = draw(st.booleans())
    counts = [draw(st.sampled_from([1, 3, 16, 40, 70])) for _ in lengths] if apart else lengths
    seed = draw(st.integers(0, 99))
    chance = torch.Generator().manual_seed(seed)
    far = st.none() | st.integers(-100, 100)
    rule = ScoreRule(
        low=draw(st.none() | st.integers(-40, 20)),
        high=draw(st.none() | st.integers(-20, 40)),
        hole=draw(far),
        own=draw(far),
        softcap=draw(st.sampled_from([None, 0.5, 30.0])),
    )
    extents, row, key = [], 0, 0
    for queries, keys in zip(lengths, counts, strict=True):
        mask, bias = (
            draw_mask(draw, heads, queries, keys, chance),
            draw_bias(draw, heads, queries, keys, chance),
        )
        own = slice(key, key + keys) if apart else None
        extents.append(Extent(slice(row, row + queries), True, True, keys=own, mask=mask, bias=bias))
        row, key = row + queries, key + keys
    q = torch.randn(row, heads, width, generator=chance)
    k = torch.randn(key, key_heads, width, generator=chance)
    v = torch.randn(key, key_heads, value_width, generator=chance)
    sinks = torch.randn(heads, generator=chance) if draw(st.booleans()) else None
    return Case(q, k, v, extents, rule, width**-0.5, sinks)


def draw_mask(draw, heads: int, queries: int, keys: int, chance: torch.Generator) -> Tensor | None:
    kind = draw(st.sampled_from(["none", "keys", "seen", "added", "hiding"]))
    if kind == "none":
        return None
    shape = (
        draw(st.sampled_from([1, heads])),
        1 if kind == "keys" else draw(st.sampled_from([1, queries])),
        keys,
    )
    if kind in ("keys", "seen"):
        return torch.rand(shape, generator=chance) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    mask = torch.randn(shape, generator=chance)
    return mask if kind == "added" else mask.masked_fill(torch.rand(shape, generator=chance) < 0.4, -math.inf)


def draw_bias(
    draw, heads: int, queries: int, keys: int, chance: torch.Generator
) -> Tensor | DistanceTable | None:
    kind = draw(st.sampled_from(["none", "bias", "distances"]))
    if kind == "none":
        return None
    if kind == "bias":
        return torch.randn(heads, queries, keys, generator=chance)
    more = draw(st.sampled_from([0, 9]))
    table = torch.randn(heads, queries + keys - 1 + 2 * more, generator=chance)
    return DistanceTable(table, queries - 1 + more)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_every_rule_is_as_float64_has_it(case: Case) -> None:
    for instructions in INSTRUCTIONS:
        agrees(Native(library(), instructions), case)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), data=st.data())
def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(case: Case, data) -> None:
    for instructions in INSTRUCTIONS:
        ours = Native(library(), instructions)
        found = ours.attend(
            case.q, case.k, case.v, case.extents, scale=case.scale, rule=case.rule, sinks_H=case.sinks
        )
        place = data.draw(st.integers(0, len(case.extents) - 1))
        extent = case.extents[place]
        at = sum(one.length for one in case.extents[:place])
        row = data.draw(st.integers(0, extent.length - 1))
        alone, moved = one_row(case, extent, row)
        (z,) = ours.attend(
            case.q, case.k, case.v, [alone], scale=case.scale, rule=moved, sinks_H=case.sinks
        ).z
        assert torch.equal(z, found.z[at + row])


def one_row(case: Case, extent: Extent, row: int) -> tuple[Extent, ScoreRule]:
    """The extent of one row of a sequence, and the rule of all as seen from there."""
    rule = case.rule
    bounds = {
        name: None if (bound := getattr(rule, name)) is None else bound + row
        for name in ("low", "high", "hole", "own")
    }
    at = extent.rows.start + row
    mask, bias = extent.mask, extent.bias
    if mask is not None and mask.shape[1] > 1:
        mask = mask[:, row : row + 1]
    if isinstance(bias, DistanceTable):
        bias = DistanceTable(bias.table_HP, bias.zero - row)
    elif bias is not None:
        bias = bias[:, row : row + 1]
    alone = Extent(slice(at, at + 1), keys=extent.keys or extent.rows, mask=mask, bias=bias)
    return alone, replace(rule, **bounds)


LONG = 1100


@pytest.mark.parametrize(
    "rule",
    [
        PLAIN,
        ScoreRule(high=0),
        ScoreRule(low=-70, high=0, softcap=20.0),
        ScoreRule(low=-400, high=500),
    ],
    ids=["everything", "causal", "short window", "wide window"],
)
def test_long_sequences_are_right_and_in_calls_of_any_length_the_same_to_the_bit(
    ours: Native, rule: ScoreRule, threads
) -> None:
    heads, key_heads, width = 4, 2, 16
    q, k, v = random(LONG, heads + 2 * key_heads, width).split([heads, key_heads, key_heads], dim=1)
    mask = (torch.arange(LONG) % 7 > 0).expand(1, 1, -1)
    extent = Extent(slice(0, LONG), lse=True, weights=True, mask=mask.contiguous())
    case = Case(q, k, v, [extent], rule, width**-0.5, None)
    agrees(ours, case)
    threads(1)
    once = ours.attend(q, k, v, [extent], scale=case.scale, rule=rule)
    for count, most in ((1, 1 << 18), (2, 1 << 20), (3, 3 << 20), (3, 1 << 40)):
        threads(count)
        steps = ours.attend_in_calls(q, k, v, extent, most_pairs=most, scale=case.scale, rule=rule)
        left = 0
        try:
            while True:
                next(steps)
                left += 1
        except StopIteration as end:
            found = end.value
        assert left == {1 << 18: 9, 1 << 20: 5, 3 << 20: 1, 1 << 40: 0}[most]
        assert found.finite
        assert torch.equal(found.z, once.z)
        assert torch.equal(found.lse[0], once.lse[0])
        assert torch.equal(found.weights[0], once.weights[0])


def test_outputs_of_long_sequences_are_right_and_threads_change_no_bit_of_them(ours: Native, threads) -> None:
    heads, key_heads, width, names = 4, 2, 16, ("received", "entropy", "top_k_keys")
    q, k, v = random(LONG, heads + 2 * key_heads, width).split([heads, key_heads, key_heads], dim=1)
    rule, scale = ScoreRule(low=-300, softcap=20.0), width**-0.5
    extent = Extent(slice(0, LONG), outputs=names)
    _, weights, _ = slowly(Case(q, k, v, [extent], rule, scale, None), extent)
    for most in (1 << 18, 1 << 40):
        made = []
        for count in (1, 2, 3):
            threads(count)
            steps = ours.attend_in_calls(q, k, v, extent, most_pairs=most, scale=scale, rule=rule)
            made.append(finish(steps).outputs[0])
        for name, array in made[0].items():
            assert all(torch.equal(array, other[name]) for other in made[1:]), name
        torch.testing.assert_close(made[0]["received"].double(), weights.sum(1), rtol=1e-5, atol=1e-5)
        entropy = torch.special.entr(weights).sum(-1)
        torch.testing.assert_close(made[0]["entropy"].double(), entropy, rtol=1e-5, atol=1e-5)
        found = weights.gather(2, made[0]["top_k_keys"].long())
        torch.testing.assert_close(found, weights.topk(8).values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("keys", [0, 5])
def test_rows_that_may_attend_nothing_are_zeros(ours: Native, keys: int) -> None:
    q, k, v = random(40, 2, 8), random(5, 2, 8), random(5, 2, 24)
    extent = Extent(slice(0, 40), True, True, keys=slice(0, keys))
    for rule in (ScoreRule(low=5), ScoreRule(high=-40), ScoreRule(low=3, high=2)):
        found = ours.attend(q, k, v, [extent], scale=1.0, rule=rule)
        assert found.finite
        assert not found.z.any()
        assert not found.weights[0].any()
        assert (found.lse[0] == -math.inf).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("hidden", [ScoreRule(high=0), ScoreRule(low=-3)])
def test_a_key_that_is_not_finite_spoils_rows_that_may_attend_it_alone(
    ours: Native, bad: float, hidden: ScoreRule
) -> None:
    q, k, v = (random(50, 2, 8, seed=seed).abs() for seed in range(3))
    expected = ours.attend(q, k, v, [Extent(slice(0, 50))], scale=1.0, rule=hidden).z
    k[20] = bad
    found = ours.attend(q, k, v, [Extent(slice(0, 50), lse=True)], scale=1.0, rule=hidden)
    spared = ~visible(hidden, 50, 50)[:, 20]
    assert torch.equal(found.z[spared], expected[spared])
    if bad != -math.inf:
        assert not found.finite
        assert not found.z[~spared].isfinite().any()


def test_scores_that_overflow_to_minus_infinity_are_no_empty_row(ours: Native) -> None:
    q, k = torch.full((3, 1, 4), 3e38), torch.full((3, 1, 4), -3e38)
    for rule in (PLAIN, ScoreRule(softcap=1e30), ScoreRule(low=-1)):
        found = ours.attend(q, k, k, [Extent(slice(0, 3), lse=True)], scale=1.0, rule=rule)
        assert found.finite == (rule.softcap is not None and bool(found.z.isfinite().all()))


@pytest.mark.parametrize("rule", [PLAIN, ScoreRule(softcap=5.0), ScoreRule(low=-4), ScoreRule(high=2)])
@pytest.mark.parametrize("keys", [3, 8, 40])
def test_a_product_that_overflows_on_its_way_spoils_rows_that_may_attend_it_alone(
    ours: Native, rule: ScoreRule, keys: int
) -> None:
    q = torch.tensor([1e30, 1e30]).repeat(keys, 1, 1)
    k = torch.zeros(keys, 1, 2)
    k[1, 0] = torch.tensor([-1e30, 1.001e30])  # 1e57, but for what overflows before it is whole
    found = ours.attend(q, k, random(keys, 1, 3), [Extent(slice(0, keys), lse=True)], scale=1.0, rule=rule)
    attends = visible(rule, keys, keys)[:, 1]
    assert not found.finite
    assert torch.equal(found.z.isfinite().all(-1)[:, 0], ~attends)


def test_softcap_keeps_small_scores_as_exact_as_large_ones(ours: Native) -> None:
    q = torch.logspace(-6, 2, 60)[:, None, None].repeat(1, 1, 1)
    k = torch.tensor([1.0, -1.0])[:, None, None]
    found = ours.attend(
        q,
        k,
        k,
        [Extent(slice(0, 60), weights=True, keys=slice(0, 2))],
        scale=1.0,
        rule=ScoreRule(softcap=8.0),
    )
    capped = 8 * torch.tanh(q[:, 0, 0].double() / 8)
    expected = torch.stack((capped, -capped), dim=-1).softmax(-1)
    torch.testing.assert_close(found.weights[0][0].double(), expected, rtol=3e-6, atol=1e-8)


WRONG = [
    ({"mask": torch.ones(1, 1, 4, dtype=torch.bool)}, r"a mask is \[2 or 1, 3 or 1, 3\]"),
    ({"mask": torch.ones(3, 3, 3)}, r"a mask is \[2 or 1, 3 or 1, 3\]"),
    ({"mask": torch.ones(3, 3)}, "a mask is bool or float32"),
    ({"mask": torch.ones(1, 3, 3).double()}, "a mask is bool or float32"),
    ({"bias": torch.ones(1, 3, 3, dtype=torch.bool)}, "a bias is float32"),
    ({"bias": DistanceTable(torch.ones(2, 5), 1)}, "biases of distances"),
    ({"bias": DistanceTable(torch.ones(2, 4), 2)}, "biases of distances"),
    ({"bias": DistanceTable(torch.ones(3, 5), 2)}, "biases of distances"),
    ({"bias": DistanceTable(torch.ones(2, 5).double(), 2)}, "biases of distances"),
    ({"keys": slice(1, 4)}, "is among 3 rows and 3 of keys"),
]


@pytest.mark.parametrize(("more", "message"), WRONG)
def test_masks_and_biases_that_do_not_fit_never_reach_c(ours: Native, more, message: str) -> None:
    q = random(3, 2, 8)
    with pytest.raises(ValueError, match=message):
        ours.attend(q, q, q, [Extent(slice(0, 3), **more)], scale=1.0)


def test_sinks_that_do_not_fit_never_reach_c(ours: Native) -> None:
    q = random(3, 2, 8)
    for sinks in (torch.ones(3), torch.ones(2).double(), torch.ones(4)[::2]):
        with pytest.raises(ValueError, match="sinks"):
            ours.attend(q, q, q, [Extent(slice(0, 3))], scale=1.0, sinks_H=sinks)
