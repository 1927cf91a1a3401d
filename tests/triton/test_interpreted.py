"""Every rule and output of kernels in tiles, in the interpreter, against float64."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from models.attention import backends
from models.attention.groups import Backend
from models.attention.problem import Heads, Problem, Rule, prepare
from models.attention.qkv import attend_qkv
from models.attention.reductions import derive
from models.attention.reference import contextualize
from models.attention.sequence import InputSequence
from models.attention.tiles import backend as tiles
from models.attention.tiles.launch import Launches
from models.attention.tiles.trial import TOLERANCES, disagreement
from models.compiled.extents import Extent
from models.compiled.rules import DistanceTable, ScoreRule
from models.device.collect import Collector
from models.device.steps import finish
from models.edit import Edit
from models.edits.layer import edits_by_layer
from models.mechanism import AttentionSpec
from models.outputs import ALIASES, Selection
from models.protocol import QKV, Answer, Item
from models.shapes import Dims

TOP = ALIASES["top_k"]
NAMES = ("entropy", *TOP, "received", "weights", "weights_mean", "weights_max")
LENGTHS = (3, 70, 1, 33)
EVERYTHING = Selection(outputs=NAMES, top_k=8)
ERRORS = {torch.float32: 2e-6, torch.float16: 1e-3}


def numbers(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hidden(rule: ScoreRule, queries: int, keys: int) -> Tensor:
    ahead = torch.arange(keys)[None] - torch.arange(queries)[:, None]
    blocked = torch.zeros(queries, keys, dtype=torch.bool)
    if rule.low is not None:
        blocked |= ahead < rule.low
    if rule.high is not None:
        blocked |= ahead > rule.high
    if rule.hole is not None:
        blocked |= ahead == rule.hole
    return blocked


def written(
    q: Tensor, k: Tensor, v: Tensor, extent: Extent, rule: ScoreRule, sinks: Tensor | None, scale: float
) -> dict[str, Tensor]:
    """Return what is to come out of one sequence's q [T, H, D], k [S, G, D], v [S, G, V], float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 0) for x in (k, v))
    scores = scale * q @ k.mT
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    blocked = hidden(rule, *scores.shape[1:]).expand(scores.shape)
    if isinstance(extent.bias, DistanceTable):
        ahead = torch.arange(k.shape[1])[None] - torch.arange(q.shape[1])[:, None]
        scores = scores + extent.bias.table_HP[:, ahead + extent.bias.zero].double()
    elif extent.bias is not None:
        scores = scores + extent.bias.double()
        blocked = blocked | (extent.bias == -torch.inf)
    if extent.mask is not None:
        blocked = blocked | ~extent.mask
    scores = scores.masked_fill(blocked, -torch.inf)
    blind = blocked.all(-1)
    more = [] if sinks is None else [sinks.double()[:, None, None].expand(*scores.shape[:2], 1)]
    lse = torch.cat([scores, *more], -1).logsumexp(-1).masked_fill(blind, -torch.inf)
    weights = (scores - lse.masked_fill(blind, 0.0)[..., None]).exp().masked_fill(blind[..., None], 0.0)
    z = weights @ v
    for row in range(z.shape[1]) if rule.own is not None else ():
        if 0 <= row + rule.own < v.shape[1]:
            z[:, row] += v[:, row + rule.own]
    heads = extent.selection.heads or range(z.shape[0])
    rows = range(z.shape[1]) if extent.selection.rows is None else extent.selection.rows
    chosen = weights[list(heads)][:, list(rows)]
    most = chosen.topk(min(extent.selection.top_k, chosen.shape[-1]), -1).values
    return {
        "z": z.transpose(0, 1),
        "lse": lse,
        "entropy": torch.special.entr(chosen).sum(-1),
        "top_k_weights": most,
        "top_k_rest": (chosen.sum(-1) - most.sum(-1)).clamp(min=0),
        "received": chosen.sum(-2),
        "weights": chosen,
        "weights_mean": chosen.mean(0),
        "weights_max": chosen.amax(0),
    }


def same(made: Tensor, expected: Tensor, most: float, name: str) -> None:
    assert made.shape == expected.shape, name
    apart = torch.where(made == expected, 0.0, (made.double() - expected).abs())
    assert not apart.numel() or float(apart.nan_to_num(torch.inf).max()) <= most, name


def compare(
    *,
    lengths: tuple[int, ...] = LENGTHS,
    heads: tuple[int, int] = (4, 2),
    widths: tuple[int, int] = (16, 16),
    dtype: torch.dtype = torch.float32,
    rule: ScoreRule | None = None,
    masks: list[Tensor | None] | None = None,
    biases: list[Tensor | DistanceTable | None] | None = None,
    sinks: Tensor | None = None,
    selections: list[Selection] | None = None,
    alike: bool = False,
) -> None:
    """Attend ragged sequences, whose q is a part of wider rows; hold all that comes out against float64."""
    rule, total = rule or ScoreRule(), sum(lengths)
    # Beside numbers of others, as a projection leaves them.
    q = numbers(total, heads[0] * widths[0] + 5, seed=1)[:, : heads[0] * widths[0]].unflatten(
        1, (heads[0], -1)
    )
    k, v = (numbers(total, heads[1], width, seed=seed) for width, seed in zip(widths, (2, 3), strict=True))
    if alike:
        q, k = torch.ones_like(q), torch.ones_like(k)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    extents, start = [], 0
    for place, length in enumerate(lengths):
        selection = EVERYTHING if selections is None else selections[place]
        extents.append(
            Extent(
                slice(start, start + length),
                lse=True,
                outputs=selection.outputs,
                selection=selection,
                mask=None if masks is None else masks[place],
                bias=None if biases is None else biases[place],
            )
        )
        start += length
    scale = widths[0] ** -0.5
    result = Launches(q, k, v, scale, rule, sinks).attend(extents)
    for place, extent in enumerate(extents):
        own = extent.rows
        expected = written(q[own], k[own], v[own], extent, rule, sinks, scale)
        made = dict(result.outputs[place] or {})
        assert set(made) == set(extent.outputs)
        keys = made.pop("top_k_keys", None)
        same(result.z[own], expected["z"], ERRORS[dtype], "z")
        lse = result.lse[place]
        assert lse is not None
        same(lse, expected["lse"], 2e-6, "lse")
        for name, tensor in made.items():
            wide = tensor.shape[-1] if name == "received" else 1
            same(tensor, expected[name], 2e-6 * max(1.0, wide**0.5), name)
        if keys is not None:
            assert all(len({*row}) == len(row) for row in keys.flatten(0, 1).tolist())
            chosen = expected["weights"].gather(-1, keys.long())
            same(chosen, expected["top_k_weights"], 2e-6, "top_k_keys")


@pytest.mark.parametrize(
    "rule",
    [
        ScoreRule(),
        ScoreRule(high=0),
        ScoreRule(low=-5, high=4, hole=0, own=0, softcap=20.0),
        ScoreRule(low=3),  # the last rows see nothing
        ScoreRule(high=-40),  # the first rows see nothing
    ],
    ids=["all", "causal", "window, softcap, not itself", "later keys", "earlier keys"],
)
def test_every_output_under_a_rule(rule: ScoreRule) -> None:
    compare(rule=rule)


def test_halves() -> None:
    compare(dtype=torch.float16, rule=ScoreRule(high=0))


def test_widths_that_are_no_powers_of_two() -> None:
    compare(lengths=(5, 20), heads=(6, 3), widths=(12, 20))


def test_wide_heads_and_a_long_sequence() -> None:
    compare(lengths=(300, 2), heads=(2, 1), widths=(128, 128), rule=ScoreRule(high=0))


def test_masks_of_keys_of_rows_and_of_heads() -> None:
    chance = torch.Generator().manual_seed(4)
    masks: list[Tensor | None] = [torch.rand(1, 1, n, generator=chance) > 0.4 for n in LENGTHS]
    masks[1] = torch.rand(4, 70, 70, generator=chance) > 0.97  # some rows see nothing
    masks[2] = torch.zeros(1, 1, 1, dtype=torch.bool)
    masks[3] = None
    compare(masks=masks)


def test_biases_of_which_minus_infinity_hides() -> None:
    biases: list[Tensor | DistanceTable | None] = [numbers(4, n, n) for n in LENGTHS]
    assert isinstance(biases[0], Tensor)
    biases[0][:, 1] = -torch.inf
    biases[3] = None
    compare(biases=biases)


def test_biases_of_distances() -> None:
    table = DistanceTable(numbers(4, 200), 99)
    compare(biases=[table] * 4, rule=ScoreRule(high=0))


def test_sinks() -> None:
    compare(sinks=torch.tensor([0.0, 5.0, -3.0, 50.0]))


def test_chosen_heads_and_rows_in_any_order() -> None:
    chosen = [
        Selection(outputs=NAMES, heads=(3, 1), rows=(2, 0), top_k=3),
        Selection(outputs=("top_k_keys", "top_k_weights"), top_k=16),
        Selection(outputs=()),
        Selection(outputs=NAMES, rows=(30, 2, 17), top_k=5),
    ]
    compare(selections=chosen, rule=ScoreRule(high=0))


def test_scores_that_are_all_alike() -> None:
    compare(alike=True)


def test_a_sequence_has_the_same_bits_alone_as_among_others() -> None:
    q, k, v = (numbers(sum(LENGTHS), heads, 16, seed=heads) for heads in (4, 2, 2))
    v = v + 1
    ends = [sum(LENGTHS[:place]) for place in range(len(LENGTHS) + 1)]
    rows = [slice(first, last) for first, last in pairwise(ends)]

    def attend(own: list[slice], *qkv: Tensor) -> list[Tensor]:
        extents = [Extent(one, outputs=NAMES, selection=EVERYTHING) for one in own]
        result = Launches(*qkv, 0.25, ScoreRule(high=0)).attend(extents)
        found = dict(result.outputs[0] or {})
        return [result.z[own[0]], *(found[name] for name in NAMES)]

    among = attend([rows[1], *rows[2:]], q, k, v)
    alone = attend([slice(0, 70)], *(x[rows[1]] for x in (q, k, v)))
    assert all(torch.equal(one, other) for one, other in zip(among, alone, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_trial_at_load_finds_them_right(dtype: torch.dtype) -> None:
    for rule in (ScoreRule(), ScoreRule(high=0)):
        assert disagreement(torch.device("cpu"), dtype, 16, 16, rule) <= TOLERANCES[dtype]


# The backend, in the place that it has on a GPU


OURS = (backends.TILES, backends.REFERENCE)
EDITS = (
    Edit(verb="add", at=((0, 1),), queries=((2, 5),), value=3.0),
    Edit(verb="block", at=((0, 0), (0, 3)), keys=((1, 4),)),
)


def answer(monkeypatch: pytest.MonkeyPatch, table: tuple[Backend, ...], item: Item) -> dict[str, Any]:
    monkeypatch.setattr(backends, "BACKENDS", table)
    monkeypatch.setattr(tiles, "takes", lambda heads, queries, keys: True)
    (made,) = finish(attend_qkv([item], torch.device("cpu")))
    assert isinstance(made, Answer)
    return dict(made.tensors)


@pytest.mark.parametrize(
    ("rule", "edits", "outputs"),
    [
        (AttentionSpec(causal=True), (), ("z", "lse", *NAMES)),
        (AttentionSpec(similarity="cosine", scale=4.0), (), ("z", "entropy", "received")),
        (AttentionSpec(left_window=3, softcap=5.0, add_self=True), EDITS, ("z", *NAMES, "scores")),
        (
            AttentionSpec(causal=True),
            (Edit(verb="pattern", at=((0, 2),), value="uniform"),),
            ("z", "weights"),
        ),
        (AttentionSpec(), EDITS, ("weights", "top_k_keys")),  # and not z
    ],
    ids=["causal", "cosine", "window, softcap, own value, edited", "pattern", "without z"],
)
def test_the_backend_gives_what_the_reference_gives(
    monkeypatch: pytest.MonkeyPatch, rule: AttentionSpec, edits: tuple[Edit, ...], outputs: tuple[str, ...]
) -> None:
    shapes = ((4, 9, 16), (2, 9, 16), (2, 9, 16))
    q, k, v = (numbers(*shape, seed=seed).numpy() for seed, shape in enumerate(shapes))
    mask = torch.rand(9, generator=torch.Generator().manual_seed(7)).numpy() > 0.2
    selection = Selection(outputs=outputs, top_k=3, heads=(3, 0, 1), rows=(8, 2, 4, 0))
    item = Item(
        card=None, input=QKV(query=q, key=k, value=v, mask=mask, rule=rule), selection=selection, edits=edits
    )
    made, expected = answer(monkeypatch, OURS, item), answer(monkeypatch, OURS[1:], item)
    assert made.keys() == expected.keys()
    for name, array in made.items():
        if name == "top_k_keys":
            taken = expected["top_k_weights"] > 0 if "top_k_weights" in expected else array >= 0
            assert ((array == expected[name]) | ~taken).all()  # of a weight of 0, any key
        else:
            same(torch.from_numpy(array), torch.from_numpy(expected[name]).double(), 4e-6, name)


def test_neighbours_with_masks_and_without_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", OURS)
    monkeypatch.setattr(tiles, "takes", lambda heads, queries, keys: True)
    spec, lengths = AttentionSpec(causal=True), (5, 9, 3)
    selection = Selection(outputs=("entropy", "weights_mean"))
    sequences, start = [], 0
    for place, length in enumerate(lengths):
        mask = torch.arange(length) != 1 if place == 1 else None
        dims = Dims(T=length, S=length, heads=4, key_heads=2, d_z=16, d_k=16, d_v=16)
        collector = Collector(selection, dims)
        sequences.append(
            InputSequence(
                selection=selection,
                collector=collector,
                queries=length,
                keys=length,
                start=start,
                mask=mask,
                outlives=True,
            )
        )
        start += length
    q, k, v = (numbers(start, heads, 16, seed=heads) for heads in (4, 2, 2))
    heads = Heads(q.device, q.dtype, 4, 2, 16, 16)

    def problem_of(one: InputSequence) -> Problem:
        return prepare(*(x[one.rows].transpose(0, 1) for x in (q, k, v)), spec=spec, mask=one.mask)

    rules = [Rule(spec, own=one.own_rule) for one in sequences]
    (group,) = backends.plan(sequences, rules, heads, 0)
    assert group.backend is backends.TILES
    assert group.packed
    result = finish(group.attend(q, k, v, problem_of))
    finish(group.collect(0, result, problem_of))
    for one in sequences:
        (expected,) = [finish(contextualize(problem_of(one), want_lse=False))[0].transpose(0, 1)]
        same(result.z[one.rows], expected.double(), 2e-6, "z")
        derived = finish(derive(problem_of(one), None, selection))
        for name, tensor in zip(selection.outputs, one.collector.tensors, strict=True):
            same(tensor, derived[name].double(), 4e-6, name)


def test_sums_between_spans_are_left_to_the_reference_and_columns_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = (numbers(heads, 9, 16, seed=heads).numpy() for heads in (4, 2, 2))
    selection = Selection(outputs=("z", "weights", "received"), spans=((0, 4), (4, 9)))
    item = Item(card=None, input=QKV(query=q, key=k, value=v), selection=selection)
    made, expected = answer(monkeypatch, OURS, item), answer(monkeypatch, OURS[1:], item)
    assert made["weights"].shape == (4, 2, 2)
    for name in selection.outputs:
        same(torch.from_numpy(made[name]), torch.from_numpy(expected[name]).double(), 4e-6, name)


def test_an_edited_sequence_whose_z_nobody_reads_is_made_again_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "BACKENDS", OURS)
    monkeypatch.setattr(tiles, "takes", lambda heads, queries, keys: True)
    spec, length = AttentionSpec(causal=True), 6
    selection = Selection(outputs=("weights", "entropy"))
    pattern = Edit(verb="pattern", at=((0, 2),), value="uniform")
    sequences = [
        InputSequence(
            selection=selection,
            collector=Collector(
                selection, Dims(T=length, S=length, heads=4, key_heads=2, d_z=16, d_k=16, d_v=16)
            ),
            queries=length,
            keys=length,
            start=start,
            edits=edits_by_layer(edits),
        )
        for start, edits in ((0, (pattern,)), (length, ()))
    ]
    q, k, v = (numbers(2 * length, heads, 16, seed=heads) for heads in (4, 2, 2))

    def problem_of(one: InputSequence) -> Problem:
        own = (x[one.rows].transpose(0, 1) for x in (q, k, v))
        return prepare(*own, spec=spec, edits=one.edits_in(0))

    heads = Heads(q.device, q.dtype, 4, 2, 16, 16)
    (group,) = backends.plan(sequences, [Rule(spec)] * 2, heads, 0)
    assert (group.backend, group.packed, group.reads_z) == (backends.TILES, True, False)
    result = finish(group.attend(q, k, v, problem_of))
    finish(group.collect(0, result, problem_of))
    for one in sequences:
        derived = finish(derive(problem_of(one), None, selection))
        for name, tensor in zip(selection.outputs, one.collector.tensors, strict=True):
            same(tensor, derived[name].double(), 4e-6, name)
