"""The plan of a batch: who computes which sequence, that it is right, and that nobody slows another."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.attention import reference
from models.attention.backends import BACKENDS, attention_names, backend_of, plan
from models.attention.groups import Group
from models.attention.problem import Heads, Problem, Rule, prepare
from models.attention.sequence import InputSequence, pack
from models.compiled.extents import AttentionResult
from models.compiled.native import Native
from models.device.collect import Collector
from models.device.steps import finish
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import Selection
from models.protocol import Answer, Failure, Item, Tokens
from models.shapes import Dims
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.in_one import contextualize, derive
from tests.models.test_stack import build

LENGTHS = (1, 7, 30, 128, 129, 2, 200, 512, 513)
CPU = torch.device("cpu")
PLAIN = AttentionSpec()


def packed_rows(heads: int, key_heads: int, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(heads)
    fused = torch.randn(sum(LENGTHS), heads + 2 * key_heads, width, generator=chance)
    q, k, v = fused.split([heads, key_heads, key_heads], dim=1)
    return q, k, v


def heads_of(q: Tensor, k: Tensor, v: Tensor) -> Heads:
    return Heads(q.device, q.dtype, q.shape[1], k.shape[1], q.shape[2], v.shape[2])


def sequence(length: int, *outputs: str, **more: object) -> InputSequence:
    chosen = Selection(outputs=outputs)
    dims = Dims(T=length, S=length, heads=1, key_heads=1, d_z=1, d_k=1, d_v=1)
    given: dict[str, object] = {"queries": length, "keys": length, "outlives": True, **more}
    return InputSequence(selection=chosen, collector=Collector(chosen, dims), **given)  # type: ignore[arg-type]


def attend(
    q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, *outputs: str
) -> list[tuple[Group, AttentionResult]]:
    """Attend sequences of LENGTHS; return each group with what was found of it."""
    sequences = [sequence(length, *outputs) for length in LENGTHS]
    pack(sequences)

    def problem_of(one: InputSequence) -> Problem:
        return prepare(*(x[one.rows].transpose(0, 1) for x in (q, k, v)), spec=spec)

    groups = plan(sequences, [Rule(spec)] * len(sequences), heads_of(q, k, v), 0)
    return [(one, finish(one.attend(q[one.rows], k[one.rows], v[one.rows], problem_of))) for one in groups]


def by_reference(q, k, v, spec: AttentionSpec, one: InputSequence) -> tuple[Problem, Tensor, Tensor]:
    """The problem of one sequence, z [T, H, V] and logsumexp [H, T]."""
    problem = prepare(*(x[one.rows].transpose(0, 1) for x in (q, k, v)), spec=spec)
    z_HTV, lse = contextualize(problem, want_lse=True)
    assert lse is not None
    return problem, z_HTV.transpose(0, 1), lse


# Each backend against the reference


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_numbers_are_those_of_the_reference(backend: str, key_heads: int, causal: bool) -> None:
    q, k, v = packed_rows(4, key_heads)
    spec = AttentionSpec(causal=causal)
    found = attend(q, k, v, spec, "weights", "lse")
    assert {group.backend.name for group, _ in found} == {backend}
    for group, result in found:
        assert bool(result.outputs) == (group.backend.name == "compiled")
        for one, extent, lse in zip(group.sequences, group.extents, result.lse, strict=True):
            problem, z, expected = by_reference(q, k, v, spec, one)
            assert lse is not None
            torch.testing.assert_close(result.z[extent.rows], z, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(lse, expected, rtol=1e-6, atol=1e-6)
            made = result.outputs[group.sequences.index(one)] if result.outputs else None
            if made is not None:
                derived = derive(problem, lse, Selection(outputs=("weights",)))["weights"]
                torch.testing.assert_close(made["weights"], derived, rtol=1e-6, atol=1e-7)


def test_what_is_read_beside_it_changes_no_bit_of_z(backend: str) -> None:
    q, k, v = packed_rows(4, 2)
    spec = AttentionSpec(causal=True)
    first, *others = [
        torch.cat([result.z for _, result in attend(q, k, v, spec, *outputs)])
        for outputs in ((), ("lse",), ("weights",), ("weights", "lse", "top_k_keys"))
    ]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_is_as_the_reference_has_it(
    backend: str, which: int, bad: float, causal: bool
) -> None:
    q, k, v = (x.clone() for x in packed_rows(4, 4))
    (q, k, v)[which][20] = bad
    spec = AttentionSpec(causal=causal)
    for group, result in attend(q, k, v, spec, "weights", "lse"):
        outputs = result.outputs or [None] * len(group.sequences)
        for one, extent, made in zip(group.sequences, group.extents, outputs, strict=True):
            _, z, _ = by_reference(q, k, v, spec, one)
            torch.testing.assert_close(result.z[extent.rows], z, rtol=1e-6, atol=1e-6, equal_nan=True)
            assert made is None or bool(made["weights"].isfinite().all())


# Who takes what

RULES = [
    AttentionSpec(softcap=5.0),
    AttentionSpec(similarity="cosine"),
    AttentionSpec(left_window=3),
    AttentionSpec(right_window=2),
    AttentionSpec(causal=True, causal_offset=1),
    AttentionSpec(exclude_self=True),
    AttentionSpec(add_self=True),
]


@pytest.mark.parametrize("spec", RULES)
def test_every_rule_is_compiled_where_there_is_such_code(backend: str, spec: AttentionSpec) -> None:
    heads = heads_of(*packed_rows(4, 4))
    assert backend_of(Rule(spec), heads, 9).name == backend
    assert backend_of(Rule(PLAIN, own=True), heads, 9, 4).name == backend
    q, k, v = packed_rows(4, 2)
    for group, result in attend(q, k, v, spec, "weights", "lse"):
        assert group.backend.name == backend
        for one, extent in zip(group.sequences, group.extents, strict=True):
            _, z, _ = by_reference(q, k, v, spec, one)
            torch.testing.assert_close(result.z[extent.rows], z, rtol=1e-5, atol=2e-6)


def test_what_is_empty_other_dtypes_and_long_ones_without_z_are_the_references(backend: str) -> None:
    heads = heads_of(*packed_rows(4, 4))
    names = [backend_of(Rule(PLAIN), heads, length).name for length in (0, 1, 512, 100_000)]
    assert names == ["reference", backend, backend, backend]
    assert backend_of(Rule(PLAIN), heads, 5, 0).name == "reference"
    assert backend_of(Rule(PLAIN), replace(heads, dtype=torch.bfloat16), 9).name == "reference"
    assert backend_of(Rule(PLAIN), replace(heads, d_v=9), 9).name == backend
    for length, expected in ((512, backend), (100_000, "reference")):
        assert backend_of(Rule(PLAIN), heads, length, reads_z=False).name == expected


def test_every_sequence_is_taken_by_somebody_and_the_page_names_who() -> None:
    assert [one.name for one in BACKENDS] == ["compiled", "ragged", "tiles", "reference"]
    heads = replace(heads_of(*packed_rows(4, 4)), dtype=torch.float16)
    assert BACKENDS[-1].takes(Rule(AttentionSpec(softcap=1.0), own=True), heads, 0, 0, False)
    assert attention_names(heads, [Rule(PLAIN, own=True)]) == "reference:torch.flash_attention_for_cpu"


def test_the_page_names_compiled_code_first(backend: str) -> None:
    names = attention_names(heads_of(*packed_rows(4, 4)), [Rule(AttentionSpec(softcap=1.0)), Rule(PLAIN)])
    assert names == ("compiled+" if backend == "compiled" else "") + "reference:torch.flash_attention_for_cpu"


# Whole batches


LAYERS = ModelSpec(
    d_model=16,
    heads=2,
    layers=3,
    residual=True,
    norm=NormSpec(kind="layer"),
    feed_forward=FeedForwardSpec(d_ff=24),
)


def run(stack, items: Sequence[Item]) -> list[dict[str, np.ndarray]]:
    with torch.inference_mode():
        answers = stack.run(items)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return [answer.tensors for answer in answers]


def items_of(card, spec: ModelSpec, lengths: Sequence[int], **chosen: object) -> list[Item]:
    chance = np.random.default_rng(1)
    selection = Selection(layers=(spec.layers - 1,), **chosen)  # type: ignore[arg-type]
    return [
        Item(
            card=card,
            input=Tokens(embeddings=chance.standard_normal((length, spec.d_model), dtype=np.float32)),
            selection=selection,
        )
        for length in lengths
    ]


def test_one_masked_sequence_slows_nobody(backend: str, computed) -> None:
    card, _ = build(LAYERS)
    plain = items_of(card, LAYERS, (9,) * 16, outputs=("z", "weights"))
    mask = np.arange(9) < 6
    batch = [*plain]
    batch[5] = replace(plain[5], input=replace(plain[5].input, mask=mask))
    found = run(card.handle, batch)
    others = [place for place in range(16) if place != 5]
    if backend == "compiled":  # in one call: its mask is work for its own rows only
        assert computed() == [(layer, "compiled", [*others, 5]) for layer in (0, 2)]
    for place, expected in enumerate(run(card.handle, plain)):
        if place != 5:  # to the bit
            assert all(np.array_equal(found[place][name], array) for name, array in expected.items())
    (alone,) = run(card.handle, [batch[5]])
    assert not found[5]["weights"][..., 6:].any()
    np.testing.assert_allclose(found[5]["z"], alone["z"], rtol=1e-5, atol=1e-6)


def test_long_memories_and_short_stand_in_groups_of_their_own(
    backend: str, computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.attention.compiled.CALL_PRODUCTS", 24 * 50**2)
    spec = ModelSpec(d_model=12, heads=3)
    card, _ = build(spec)
    items = items_of(card, spec, (4, 51, 5, 3), outputs=("z", "entropy", "weights"))
    memory = np.random.default_rng(2).standard_normal((7, 12), dtype=np.float32)
    items[2] = replace(items[2], input=replace(items[2].input, memory=memory))
    found = run(card.handle, items)
    expected = [(0, "compiled", [0, 3]), (0, "compiled", [1]), (0, "compiled", [2])]
    others = [(0, "reference", [0, 1, 3]), (0, "reference", [2])]
    assert computed() == (expected if backend == "compiled" else others)
    for one, item in zip(found, items, strict=True):
        (alone,) = run(card.handle, [item])
        for name, array in alone.items():
            np.testing.assert_allclose(one[name], array, rtol=1e-5, atol=1e-5)


def test_many_rows_are_several_calls_that_are_left_in_between(
    backend: str, computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, _ = build(LAYERS)
    items = items_of(card, LAYERS, (9, 20, 3, 8), outputs=("z", "entropy"))
    expected = run(card.handle, items)
    steps = len(list(card.handle.steps(items)))
    computed()
    monkeypatch.setattr("models.attention.groups.GROUP_ROWS", 20)
    found = run(card.handle, items)
    groups = [[0, 1], [2, 3]] if backend == "compiled" else [[0, 1, 2, 3]]
    assert computed() == [(layer, backend, some) for layer in (0, 2) for some in groups]
    assert len(list(card.handle.steps(items))) == steps + LAYERS.layers * (len(groups) - 1)
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(one[name], array) for name, array in other.items())


def test_a_window_of_some_layers_is_the_rule_of_those_layers_only(backend: str, computed) -> None:
    spec = replace(LAYERS, windows=(None, 3, None))
    card, slow = build(spec)
    items = items_of(card, spec, (9, 3, 8, 2), outputs=("z",))
    found = run(card.handle, items)
    assert computed() == [(layer, backend, [0, 1, 2, 3]) for layer in (0, 1, 2)]
    for one, item in zip(found, items, strict=True):
        z, _, _ = slow.run(item.input.embeddings)
        np.testing.assert_allclose(one["z"], z[-1], atol=2e-5)


def test_who_reads_no_z_is_apart_from_who_does(backend: str, computed) -> None:
    card, slow = build(LAYERS)
    items = items_of(card, LAYERS, (9, 3, 8), outputs=("z",))
    items[1] = replace(items[1], selection=replace(items[1].selection, outputs=("weights", "received")))
    first, weights, last = run(card.handle, items)
    assert [one[1:] for one in computed() if one[0] == 2] == [(backend, [0]), (backend, [1]), (backend, [2])]
    _, expected, _ = slow.run(items[1].input.embeddings)
    np.testing.assert_allclose(weights["weights"], expected[-1], atol=2e-5)
    for one, item in ((first, items[0]), (last, items[2])):
        np.testing.assert_allclose(one["z"], slow.run(item.input.embeddings)[0][-1], atol=2e-5)


@pytest.mark.parametrize("kind", ["alibi", "relative", "relative_key"])
def test_a_bias_of_positions_is_compiled_too(
    backend: str, kind: str, computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"relative_key": {"max_positions": 9}}.get(kind, {})
    spec = ModelSpec(d_model=12, heads=2, positions=PositionSpec(kind=kind, **more))  # type: ignore[arg-type]
    card, slow = build(spec)
    items = items_of(card, spec, (4, 5, 70), outputs=("z", "lse"))
    found = run(card.handle, items)
    assert computed() == [(0, backend, [0, 1, 2])]
    monkeypatch.setattr("models.attention.compiled.CALL_PRODUCTS", 24 * 32**2)
    for one, part, item in zip(found, run(card.handle, items), items, strict=True):
        if kind != "relative_key":  # which test_relative_key.py holds against others' numbers
            np.testing.assert_allclose(one["z"], slow.run(item.input.embeddings)[0][-1], atol=2e-5)
        np.testing.assert_allclose(part["z"], one["z"], atol=2e-5)
        np.testing.assert_allclose(part["lse"], one["lse"], atol=2e-5)


def test_a_poisoned_sequence_fails_alone(backend: str, computed) -> None:
    spec = ModelSpec(d_model=12, heads=3)
    card, _ = build(spec)
    items = items_of(card, spec, (5, 1, 33), outputs=("z", "weights"))
    expected = run(card.handle, items)
    huge = np.full((4, 12), 3e38, dtype=np.float32)
    items[1] = replace(items[1], input=Tokens(embeddings=huge))
    with torch.inference_mode():
        first, poisoned, third = card.handle.run(items)
    assert isinstance(poisoned, Failure)
    assert poisoned.code == "not_finite"
    for ours, alone in ((first, expected[0]), (third, expected[2])):
        assert isinstance(ours, Answer)
        assert all(np.array_equal(ours.tensors[name], array) for name, array in alone.items())


def test_a_poisoned_sequence_is_made_again_and_nobody_else(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(d_model=12, heads=3, attention=AttentionSpec(causal=True))
    card, _ = build(spec)
    items = items_of(card, spec, (5, 7, 33), outputs=("z", "weights", "entropy"))
    expected = run(card.handle, items)
    bad = items[1].input.embeddings.copy()
    bad[4] = 3e38  # rows before it may not attend it
    items[1] = replace(items[1], input=Tokens(embeddings=bad))
    again: list[int] = []
    alone = reference.attend
    monkeypatch.setattr(reference, "attend", lambda made, *a: alone(_noted(made, again), *a))
    monkeypatch.setattr(Native, "attend", None)
    with torch.inference_mode():
        first, poisoned, third = card.handle.run(items)
    assert again == ([7] if backend == "compiled" else [5, 7, 33])
    assert isinstance(poisoned, Failure)
    for ours, plain in ((first, expected[0]), (third, expected[2])):
        assert isinstance(ours, Answer)
        assert all(np.array_equal(ours.tensors[name], array) for name, array in plain.items())


def _noted(problems, into: list[int]):
    for problem in problems:
        into.append(problem.q.shape[1])
        yield problem
