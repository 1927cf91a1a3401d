"""Kernels in tiles in the interpreter, as a whole batch goes through them: tables, layers, answers."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.attention import backends
from models.attention import sequence as sequences
from models.attention.groups import Backend
from models.attention.qkv import attend_qkv
from models.attention.ragged import choice
from models.attention.ragged.batch import Batch
from models.attention.tiles import backend as tiles
from models.attention.tiles.launch import Launches
from models.attention.tiles.table import table_of
from models.compiled import native
from models.compiled.extents import AttentionResult, Extent
from models.compiled.rules import ScoreRule
from models.device import packed
from models.device.collect import Collector
from models.device.packed import PackedCollector
from models.device.steps import finish
from models.edit import Edit
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import DtypeName, Selection
from models.protocol import QKV, Answer, Failure, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import fake_card
from tests.models.device.test_packed import SPECS, assert_alike, item, stack_of
from tests.slow_stack import random_parameters
from tests.triton.test_interpreted import LENGTHS, NAMES, OURS, TOP, numbers, same, written


def test_the_table_of_a_batch_is_never_that_of_a_layer_with_other_masks_and_edits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four layers of a stack, in one of which a sequence is edited, and another of a mask of its own."""
    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(tiles, "takes", lambda heads, queries, keys: True)
    spec = ModelSpec(
        d_model=32,
        heads=2,
        layers=4,
        residual=True,
        attention=AttentionSpec(softcap=20.0),
        positions=PositionSpec(kind="alibi"),
    )
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    block = Edit(verb="block", at=((1, 0), (1, 1)), keys=((2, 3),))
    add = Edit(verb="add", at=((2, 0),), value=2.0)
    batch = []
    for length, mask, edits in ((5, None, ()), (7, np.arange(7) != 3, ()), (4, None, (block, add))):
        x = numbers(length, 32, seed=length).numpy()
        batch.append(
            Item(
                card=fake_card(layers=4, heads=2, key_heads=2, d_model=32, d_k=16, d_v=16),
                input=Tokens(embeddings=x, mask=mask),
                selection=Selection(outputs=("z",), layers=(3,)),
                edits=edits,
            )
        )

    def z(table: tuple[Backend, ...]) -> list[Any]:
        monkeypatch.setattr(backends, "BACKENDS", table)
        made = Stack(spec, dict(parameters), torch.device("cpu")).run(batch)
        return [one.tensors["z"] for one in made if isinstance(one, Answer)]

    for made, expected in zip(z(OURS), z(OURS[1:]), strict=True):
        same(torch.from_numpy(made), torch.from_numpy(expected).double(), 2e-5, "z")


def test_z_alone_of_rows_in_a_given_table() -> None:
    q, k, v = (numbers(sum(LENGTHS) + 9, heads, 16, seed=heads) for heads in (4, 2, 2))
    ends = [sum(LENGTHS[:place]) for place in range(len(LENGTHS) + 1)]
    extents = [Extent(slice(first, last)) for first, last in pairwise(ends)]
    table = table_of(extents, heads=4, total=len(q), device=q.device)
    table.rows[2, 1] = table.rows[2, 3] = 0  # a place in which there is no sequence this time
    rule = ScoreRule(high=0)
    z = tiles.attend_table(q, k, v, table, scale=0.25, rule=rule)
    for place, extent in enumerate(extents):
        if place != 2:
            own = (x[extent.rows] for x in (q, k, v))
            same(z[extent.rows], written(*own, extent, rule, None, 0.25)["z"], 2e-6, "z")


MADE = (*NAMES, "lse")  # of weights and scores, in one pass
LENGTHS_OF_A_BATCH = (5, 1, 9)


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The processor passes for a GPU and runs kernels in tiles; names of what is put a sequence at a time."""
    names: list[str] = []
    put = PackedCollector.put

    def noting(self: PackedCollector, name: str, layer: int, tensor: Tensor, *, sound: bool = False) -> None:
        names.append(name)
        put(self, name, layer, tensor, sound=sound)

    def kernel(q: Any, k: Any, v: Any, batch: Batch, *, scale: float, causal: bool) -> AttentionResult:
        z, lse = choice.as_written(q, k, v, batch.lengths, scale=scale, causal=causal)
        return AttentionResult(z.to(q.dtype), lse, [None] * len(lse), packed_lse=torch.cat(lse, dim=1))

    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(choice, "ragged_kernel", lambda *_: kernel)
    monkeypatch.setattr(sequences, "collector_of", PackedCollector)
    monkeypatch.setattr(tiles, "takes", lambda heads, queries, keys: True)
    monkeypatch.setattr(PackedCollector, "put", noting)
    return names


def by_the_reference(spec: ModelSpec, batch: list[Item]) -> list[Answer | Failure]:
    """Return answers of a processor that has nothing but torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "collector_of", lambda chosen, dims, device: Collector(chosen, dims))
        patch.setattr(backends, "BACKENDS", (backends.REFERENCE,))
        return list(stack_of(spec).run(batch))


CASES: dict[str, dict[str, Any]] = {
    "one layer": {"layers": (1,)},
    "all layers, in their own order": {"layers": (1, 0), "layer_axis": True},
    "some heads and rows": {"layers": (0,), "heads": (2, 0), "rows": (0,)},
    "rows of several layers": {"layers": (0, 1), "layer_axis": True, "rows": (1, 0)},
}


@pytest.mark.parametrize("reads_z", [True, False], ids=["with z", "without"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("spec", "dtype"), [("encoder", "float16"), ("decoder", "float32")])
def test_outputs_of_a_batch_are_written_where_they_are_returned(
    put: list[str], spec: str, dtype: DtypeName, case: str, reads_z: bool
) -> None:
    chosen = CASES[case]
    lengths = [length for length in LENGTHS_OF_A_BATCH if length > max(chosen.get("rows", (0,)))]
    outputs = ("z", *MADE) if reads_z else MADE
    batch = [item(SPECS[spec], length, outputs=outputs, dtype=dtype, **chosen) for length in lengths]
    expected = by_the_reference(SPECS[spec], batch)
    put.clear()
    made = stack_of(SPECS[spec]).run(batch)
    assert_alike(made, expected, 2e-5 if dtype == "float32" else 2e-3)
    chooses = "heads" in chosen or "rows" in chosen
    assert {*put} <= ({"lse"} if chooses and not reads_z else set())


def test_those_who_ask_differently_are_written_beside_each_other(put: list[str]) -> None:
    spec = SPECS["decoder"]
    batch = [
        item(spec, 5, outputs=("z", *TOP), layers=(1,), top_k=3),
        item(spec, 3, outputs=("entropy", "weights", "lse"), layers=(0, 1), layer_axis=True, dtype="float16"),
        item(spec, 9, outputs=TOP, layers=(1,), top_k=7),
        item(spec, 7, outputs=("received", "weights_max"), layers=(0,), dtype="bfloat16"),
        item(spec, 4, outputs=(*TOP, "entropy"), layers=(1, 0), layer_axis=True, top_k=3),
        item(spec, 8, outputs=("z",), layers=(1,)),
    ]
    expected = by_the_reference(spec, batch)
    put.clear()
    made = stack_of(spec).run(batch)
    for one, other in zip(made, expected, strict=True):
        halves = isinstance(other, Answer) and any(a.dtype == np.uint16 for a in other.tensors.values())
        if halves:  # bit patterns of bfloat16
            assert isinstance(one, Answer)
            for name, array in one.tensors.items():
                wide = [(a.astype(np.uint32) << 16).view(np.float32) for a in (array, other.tensors[name])]
                np.testing.assert_allclose(*wide, rtol=2e-2, atol=1e-6)
        else:
            assert_alike([one], [other], 2e-3)
    assert not put


@pytest.mark.parametrize(
    "chosen",
    [
        {"pairs": ((1, 1), (0, 2), (1, 0))},
        {"layers": (1, 0, 1), "layer_axis": True},
        {"top_k": 200},
        {"edits": (Edit(verb="pattern", at=((0, 2),), value="uniform"),)},
        {"edits": (Edit(verb="block", at=((0, 0),), keys=((0, 1),)),)},
    ],
    ids=["pairs", "a layer twice", "long lists", "patterns", "blocked keys"],
)
def test_what_is_not_written_there_is_put(put: list[str], chosen: dict[str, Any]) -> None:
    spec = SPECS["encoder"]
    edits = chosen.pop("edits", ())
    fields = {"layers": (0,), **chosen}
    batch = [item(spec, length, outputs=("z", *MADE), **fields) for length in LENGTHS_OF_A_BATCH]
    batch[2] = replace(batch[2], edits=edits)
    expected = by_the_reference(spec, batch)
    put.clear()
    assert_alike(stack_of(spec).run(batch), expected, 2e-5)
    assert put


def test_a_large_map_has_memory_of_its_own_beside_those_that_are_gathered(
    put: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, large = SPECS["layer"], 20
    monkeypatch.setattr(packed, "SMALL_BYTES", 3 * large * large * 4 - 1)
    batch = [item(spec, length, outputs=("weights", "entropy")) for length in (4, large, 3)]
    expected = by_the_reference(spec, batch)
    put.clear()
    assert_alike(stack_of(spec).run(batch), expected, 2e-5)
    assert put == ["weights"]


@pytest.mark.parametrize("chosen", [{}, {"heads": (1,)}, {"rows": (0,)}])
@pytest.mark.parametrize("outputs", [("entropy",), ("z", "received", "top_k_keys"), ("lse",), ("weights",)])
@pytest.mark.parametrize("spec", ["encoder", "decoder"])
def test_a_sequence_that_overflows_fails_alone(
    put: list[str], spec: str, outputs: tuple[str, ...], chosen: dict[str, Any]
) -> None:
    batch = [
        item(SPECS[spec], length, outputs=outputs, layers=(0,), **chosen) for length in LENGTHS_OF_A_BATCH
    ]
    x = batch[2].input.embeddings
    assert x is not None
    x[:] = np.nan
    found = stack_of(SPECS[spec]).run(batch)
    assert [isinstance(one, Failure) for one in found] == [False, False, True]


def test_a_logsumexp_that_float16_does_not_hold_is_noticed_of_whom_it_is(put: list[str]) -> None:
    spec = SPECS["layer"]
    for dtype, fails in (("float16", True), ("float32", False)):
        batch = [item(spec, length, outputs=("z", "lse"), dtype=dtype) for length in LENGTHS_OF_A_BATCH]
        x = batch[1].input.embeddings
        assert x is not None
        x *= 300.0
        found = stack_of(spec).run(batch)
        assert [isinstance(one, Failure) for one in found] == [False, fails, False]
    assert not put


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("hidden_by", ["mask", "bias", "band"])
def test_keys_that_nobody_may_attend_may_hold_anything(bad: float, hidden_by: str) -> None:
    q, k, v = (numbers(70, heads, 16, seed=heads) for heads in (4, 2, 2))
    blocked = torch.arange(70) % 7 == 2
    rule, extent = ScoreRule(), Extent(slice(0, 70))
    if hidden_by == "mask":
        extent = replace(extent, mask=~blocked[None, None])
    elif hidden_by == "bias":
        extent = replace(extent, bias=torch.zeros(1, 1, 70).masked_fill(blocked, -torch.inf))
    else:  # the last keys are beyond every row, in a tile that some are not
        rule, blocked = ScoreRule(high=-12), torch.arange(70) > 57
    spoiled = [torch.where(blocked[:, None, None], bad, x) for x in (k, v)]
    expected = written(
        q, *(torch.where(blocked[:, None, None], 0.0, x) for x in (k, v)), extent, rule, None, 0.25
    )
    result = Launches(q, *spoiled, 0.25, rule).attend([replace(extent, outputs=("entropy", "received"))])
    same(result.z, expected["z"], 2e-6, "z")
    for name, made in (result.outputs[0] or {}).items():
        assert made is not None
        same(made, expected[name], 2e-5, name)


@pytest.mark.parametrize("head_axis", [True, False])
@pytest.mark.parametrize("rows", [None, (8, 2)])
def test_callers_own_queries_are_written_where_they_are_returned(
    put: list[str], monkeypatch: pytest.MonkeyPatch, head_axis: bool, rows: tuple[int, ...] | None
) -> None:
    mask = numbers(9, 9).numpy() > -0.5
    own = [numbers(heads, 9, 16, seed=heads).numpy() for heads in ((4, 2, 3) if head_axis else (1, 1, 1))]
    own[2] = own[1] + 1
    q, k, v = own
    rule = AttentionSpec(causal=True, softcap=5.0)
    given = QKV(query=q, key=k, value=v, mask=mask, rule=rule, head_axis=head_axis)
    chosen = Selection(outputs=("z", *MADE), rows=rows, top_k=3)
    batch = [Item(card=None, input=given, selection=chosen)] * 2
    made = finish(attend_qkv(batch, torch.device("cpu")))
    assert {*put} == {"z"}
    monkeypatch.setattr(backends, "BACKENDS", (backends.REFERENCE,))
    assert_alike(list(made), list(finish(attend_qkv(batch, torch.device("cpu")))), 4e-6)
