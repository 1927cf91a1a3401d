"""Edits under every rule, in any batch: compiled code as the reference, and none beside them moves a bit."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.attention.ragged import choice as ragged
from models.compiled import native
from models.compiled.extents import AttentionResult
from models.compiled.native import Native
from models.device.steps import finish
from models.edit import Edit, linked
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import Mix, Selection, Share, expand
from models.protocol import Answer, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

HEADS, LAYERS, LENGTHS = 4, 3, (7, 1, 18, 40)
RULES = {
    "open": AttentionSpec(),
    "causal": AttentionSpec(causal=True),
    "window": AttentionSpec(causal=True, left_window=3),
    "softcap": AttentionSpec(causal=True, softcap=1.5),
    "both ways, but itself": AttentionSpec(left_window=6, right_window=4, exclude_self=True, add_self=True),
    "cosine": AttentionSpec(similarity="cosine", scale=6.0),
}
POSITIONS = {
    "alibi": PositionSpec(kind="alibi"),
    "relative keys": PositionSpec(kind="relative_key", max_positions=64),
    "none": PositionSpec(),
}
EVERY = (
    "z", "z_heads", "weights", *expand(["top_k"]), "entropy", "received", "lse", "scores", "weights_mean",
    "value_norms", "hidden",
)  # fmt: skip
STACKS: dict[tuple[str, str], Stack] = {}


@pytest.fixture(autouse=True)
def alone(threads: Any) -> None:
    threads(1)


def stack_of(rule: str, positions: str, ours: Native | None) -> Stack:
    key = rule, positions, ours
    if key not in STACKS:
        spec = ModelSpec(
            d_model=16,
            heads=HEADS,
            kv_heads=2,
            layers=LAYERS,
            attention=RULES[rule],
            positions=POSITIONS[positions],
            residual=True,
        )
        parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "load_native", lambda: ours)
            STACKS[key] = Stack(spec, parameters, torch.device("cpu"))
    return STACKS[key]


def run(stack: Stack, items: Sequence[Item], ours: Native | None) -> list[dict[str, np.ndarray]]:
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(native, "load_native", lambda: ours)
        found = stack.run(items)
    assert all(isinstance(one, Answer) for one in found), found
    return [one.tensors for one in found]


def item(
    length: int, edits: Sequence[Edit] = (), *, seed: int = 0, outputs: tuple[str, ...] = EVERY, **more: Any
) -> Item:
    card = fake_card(d_model=16, heads=HEADS, key_heads=2, d_k=4, d_v=4, layers=LAYERS, max_tokens=None)
    rows = np.random.default_rng((length, seed)).standard_normal((length, 16), dtype=np.float32)
    chosen = Selection(**{"layers": (0, 2), "layer_axis": True, "top_k": 3, "outputs": outputs, **more})
    return Item(card=card, input=Tokens(embeddings=rows), selection=chosen, edits=tuple(edits))


@st.composite
def ranges(draw: st.DrawFn, total: int) -> tuple[tuple[int, int], ...] | None:
    if draw(st.booleans()):
        return None
    cuts = sorted(draw(st.sets(st.integers(0, total), min_size=2, max_size=6)) if total else {0})
    return tuple(zip(cuts[::2], cuts[1::2], strict=False))


@st.composite
def some_edits(draw: st.DrawFn, place: int, lengths: Sequence[int]) -> list[Edit]:
    total, made = lengths[place], []
    chance = np.random.default_rng(draw(st.integers(0, 1000)))
    pairs = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    for _ in range(draw(st.integers(1, 4))):
        verb = draw(st.sampled_from(("add", "block", "pattern", "set", "from", "scale")))
        at = tuple(draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=5, unique=True)))
        queries, keys = draw(ranges(total)), draw(ranges(total)) if verb in ("add", "block") else None
        rows = total if queries is None else sum(stop - start for start, stop in queries)
        value: Any = None
        source = None
        if verb in ("add", "scale"):
            value = draw(st.sampled_from((0.0, -1.5, 2.0, 0.25)))
        elif verb == "pattern":
            value = draw(st.sampled_from(("previous", "self", "first", "uniform", "all", "each")))
            if value in ("all", "each"):
                shape = (rows, total) if value == "all" else (len(at), rows, total)
                value = np.abs(chance.standard_normal(shape, dtype=np.float32)) / total
        elif verb == "set":
            value = chance.standard_normal((len(at), rows, 4), dtype=np.float32)
        elif verb == "from":
            source = draw(
                st.integers(0, len(lengths) - 1).filter(lambda one: one > place or len(lengths) == 1)
            )
            queries = ((0, min(total, lengths[source])),)
        made.append(Edit(verb=verb, at=at, queries=queries, keys=keys, value=value, source=source))
    return made


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], dict[int, list[Edit]]]:
    """Lengths of a batch, and edits of some of its sequences, by place; none of the last, which lends z."""
    lengths = draw(st.lists(st.sampled_from(LENGTHS), min_size=2, max_size=5))
    edited = draw(st.sets(st.integers(0, len(lengths) - 2), min_size=1, max_size=3))
    edits = {place: draw(some_edits(place, lengths)) for place in sorted(edited)}
    linked([edits.get(place, []) for place in range(len(lengths))], lengths)
    return lengths, edits


def assert_close(made: dict[str, np.ndarray], right: dict[str, np.ndarray], *, atol: float) -> None:
    for name, expected in right.items():
        if name == "top_k_keys":  # of equal weights any may come first
            continue
        largest = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
        np.testing.assert_allclose(made[name], expected, rtol=0, atol=atol * largest, err_msg=name)


@given(
    batches(),
    st.sampled_from(sorted(RULES)),
    st.sampled_from(sorted(POSITIONS)),
    st.sampled_from((EVERY, ("hidden",))),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_whoever_is_beside_them_is_untouched_to_the_bit_and_they_are_what_the_reference_makes(
    ours: Native,
    batch: tuple[list[int], dict[int, list[Edit]]],
    rule: str,
    positions: str,
    outputs: tuple[str, ...],
) -> None:
    lengths, edits = batch
    edited = [item(length, edits.get(at, ()), seed=at, outputs=outputs) for at, length in enumerate(lengths)]
    plain = [item(length, seed=at, outputs=outputs) for at, length in enumerate(lengths)]
    stack = stack_of(rule, positions, ours)
    before, after = run(stack, plain, ours), run(stack, edited, ours)
    for place, (was, now) in enumerate(zip(before, after, strict=True)):
        if place not in edits:
            assert all(np.array_equal(was[name], now[name], equal_nan=False) for name in was), place
    again = run(stack, edited, ours)
    assert all(
        np.array_equal(one[name], other[name])
        for one, other in zip(after, again, strict=True)
        for name in one
    )
    expected = run(stack_of(rule, positions, None), edited, None)
    for made, right in zip(after, expected, strict=True):
        assert_close(made, right, atol=5e-5)


def nothing(weights: np.ndarray) -> Iterator[Edit]:
    """Edits that change nothing of a causal sequence, by its own weights of the last layer [H, T, T]."""
    everywhere = tuple((layer, head) for layer in range(LAYERS) for head in range(HEADS))
    total = weights.shape[1]
    yield Edit(verb="scale", at=everywhere, value=1.0)
    yield Edit(verb="add", at=everywhere, value=0.0, keys=((0, 3),))
    for row in range(total - 1):
        yield Edit(verb="block", at=everywhere, queries=((row, row + 1),), keys=((row + 1, total),))
    yield Edit(verb="pattern", at=everywhere[-HEADS:], value=weights)


@pytest.mark.parametrize("rule", ["causal", "window", "softcap"])
def test_edits_that_must_change_nothing_change_nothing(ours: Native, rule: str) -> None:
    for native_code in (ours, None):
        stack = stack_of(rule, "none", native_code)
        (plain,) = run(stack, [item(18)], native_code)
        weights = plain["weights"][1]
        for edit in nothing(weights):
            (made,) = run(stack, [item(18, [edit])], native_code)
            assert_close(made, plain, atol=1e-6)


def test_where_every_key_is_blocked_a_row_attends_nothing(ours: Native) -> None:
    everything = tuple((2, head) for head in range(HEADS))
    edit = Edit(verb="block", at=everything, queries=((3, 5),))
    for native_code in (ours, None):
        (made,) = run(stack_of("causal", "none", native_code), [item(7, [edit])], native_code)
        assert (made["weights"][1][:, 3:5] == 0).all()
        assert (made["lse"][1][:, 3:5] == -math.inf).all()
        assert (made["z_heads"][1][:, 3:5] == 0).all()
        assert np.isfinite(made["hidden"]).all()
        assert (made["weights"][1][:, 5:].sum(-1) > 0.99).all()


def test_what_overflows_fails_alone_and_says_so(ours: Native) -> None:
    stack = stack_of("causal", "none", ours)
    bad = item(7, [Edit(verb="scale", at=((1, 0),), value=3e38)], seed=1)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(native, "load_native", lambda: ours)
        fine, failed = stack.run([item(18), bad])
    assert isinstance(fine, Answer)
    (alone,) = run(stack, [item(18)], ours)
    assert all(np.array_equal(fine.tensors[name], alone[name]) for name in alone)
    assert not isinstance(failed, Answer)
    assert failed.code == "not_finite"


EDITS = [
    Edit(verb="block", at=((0, 1), (1, 2), (2, 0)), queries=((20, 70),), keys=((5, 40),)),
    Edit(verb="add", at=((0, 0), (2, 3)), keys=((3, 60),), value=1.5),
    Edit(verb="pattern", at=((1, 0), (2, 1)), queries=((10, 50),), value="previous"),
    Edit(verb="pattern", at=((1, 3),), queries=((40, 90),), value="uniform"),
    Edit(verb="scale", at=((0, 2), (1, 1)), queries=((30, 90),), value=-2.0),
]


@pytest.mark.parametrize("positions", sorted(POSITIONS))
@pytest.mark.parametrize("rule", ["causal", "window"])
def test_a_long_sequence_comes_out_of_several_calls_as_out_of_one(
    ours: Native, rule: str, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 60 if positions == "relative keys" else 90
    edits = [one if length == 90 else cut(one, length) for one in EDITS]
    stack = stack_of(rule, positions, ours)
    (whole,) = run(stack, [item(length, edits)], ours)
    monkeypatch.setattr("models.attention.compiled.CALL_PRODUCTS", 8 * 4 * 20 * length)
    monkeypatch.setattr("models.compiled.calls.LEAST_ROWS", 16)
    (made,) = run(stack, [item(length, edits)], ours)
    assert_close(made, whole, atol=1e-6)


def cut(edit: Edit, length: int) -> Edit:
    at = [(start, min(stop, length)) for start, stop in edit.queries or ()]
    return Edit(verb=edit.verb, at=edit.at, queries=tuple(at) or None, keys=edit.keys, value=edit.value)


def test_steps_make_what_a_run_makes(ours: Native) -> None:
    stack = stack_of("causal", "none", ours)
    taken = Edit(verb="from", at=((1, 1), (2, 2)), source=1)
    batch = [
        item(90, [*EDITS, taken]),
        item(90, [Edit(verb="scale", at=((1, 1),), value=3.0)], seed=1),
        item(7),
    ]
    whole = run(stack, batch, ours)
    yields = 0

    def count() -> None:
        nonlocal yields
        yields += 1

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(native, "load_native", lambda: ours)
        found = finish(stack.steps(batch), count)
    assert yields >= LAYERS
    for made, right in zip(found, whole, strict=True):
        assert isinstance(made, Answer)
        assert all(np.array_equal(made.tensors[name], right[name]) for name in right)


def test_what_a_kernel_of_a_gpu_has_made_the_reference_makes_again_edited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a kernel that is given the whole group, as it would be without edits."""
    groups: list[tuple[int, ...]] = []

    def kernel(q: Any, k: Any, v: Any, batch: ragged.Batch, *, scale: float, causal: bool) -> AttentionResult:
        groups.append(batch.lengths)
        z, lse = ragged.as_written(q, k, v, batch.lengths, scale=scale, causal=causal)
        return AttentionResult(z, lse, [None] * len(lse))

    monkeypatch.setattr(ragged, "ragged_kernel", lambda *_: kernel)
    stack = stack_of("causal", "none", None)
    taken = Edit(verb="from", at=((1, 1), (2, 2)), queries=((0, 7),), source=2)
    edited = [
        item(90, [*EDITS, taken]),
        item(18, seed=1),
        item(7, [Edit(verb="scale", at=((1, 1),), value=2.0)]),
    ]
    plain = [item(90), item(18, seed=1), item(7)]
    before, whole = run(stack, plain, None), list(groups)
    groups.clear()
    made = run(stack, edited, None)
    assert groups == whole
    assert set(groups) == {(90, 18, 7)}
    assert all(np.array_equal(made[1][name], before[1][name]) for name in made[1])
    monkeypatch.setattr(ragged, "ragged_kernel", lambda *_: None)
    for one, right in zip(made, run(stack, edited, None), strict=True):
        assert_close(one, right, atol=1e-5)


def test_what_is_made_of_chosen_pairs_is_of_their_edited_weights(ours: Native) -> None:
    pairs = ((1, 0), (0, 1), (1, 3), (2, 1))
    mix = Mix(pairs=pairs[:3], weights=(0.5, -1.0, 2.0), columns=((0, 3), (7, 20)))
    share = Share(of=((5, 9),), over=((0, 30),))
    names = ("weights", "mixed", "share", "entropy", "head_profile")
    for native_code in (ours, None):
        stack = stack_of("causal", "none", native_code)
        asked = {
            "outputs": names,
            "layers": (2,),
            "layer_axis": False,
            "pairs": pairs,
            "mix": mix,
            "share": share,
        }
        (made,) = run(stack, [item(90, EDITS, **asked)], native_code)
        (whole,) = run(stack, [item(90, EDITS, outputs=("weights",), layers=(0, 1, 2))], native_code)
        weights = whole["weights"][tuple(zip(*pairs, strict=True))]
        np.testing.assert_allclose(made["weights"], weights, atol=1e-6)
        mixed = np.tensordot(mix.weights, weights[:3], 1)
        expected = np.stack([mixed[:, slice(*one)].sum(-1) for one in mix.columns or ()], -1)
        np.testing.assert_allclose(made["mixed"], expected, atol=1e-5)
        over = weights[..., :30].sum(-1)
        expected = np.divide(weights[..., 5:9].sum(-1), over, out=np.zeros_like(over), where=over > 0)
        np.testing.assert_allclose(made["share"], expected, atol=1e-5)
        own = np.diagonal(weights, axis1=1, axis2=2).mean(-1)
        np.testing.assert_allclose(made["head_profile"][:, 0], own, atol=1e-5)


@pytest.mark.parametrize("count", [5, 80])
def test_as_many_edits_as_there_may_be_are_each_done_where_they_are(ours: Native, count: int) -> None:
    """And more: rows next to each other have now the same edits, now others."""
    chance = np.random.default_rng(count)
    edits = []
    for _ in range(count):
        row, key = (int(at) for at in chance.integers(0, 30, 2))
        where = {"queries": ((row, row + int(chance.integers(1, 9))),), "keys": ((key, key + 5),)}
        at = ((2, int(chance.integers(HEADS))),)
        edits.append(Edit(verb="add", at=at, value=float(chance.standard_normal()), **where))
    (made,), (right,) = (
        run(stack_of("window", "none", code), [item(40, edits)], code) for code in (ours, None)
    )
    assert_close(made, right, atol=2e-5)
