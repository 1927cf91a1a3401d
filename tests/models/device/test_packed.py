"""What a batch gives back on a GPU: every output as on a processor, each failure its own, and few copies.

Shown on a processor that passes for a GPU: a kernel for ragged batches as it is written, outputs gathered.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.attention import sequence as sequences
from models.attention.ragged import choice
from models.attention.ragged.batch import Batch
from models.compiled import native
from models.compiled.extents import AttentionResult
from models.device import gathering, packed
from models.device.answers import answers, put_rows, together
from models.device.collect import Collector
from models.device.packed import PackedCollector
from models.device.staging import SMALL_BYTES
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import OUTPUTS, DtypeName, Mix, Selection, Share
from models.pooling_spec import PoolingSpec, PoolingStep
from models.protocol import Answer, Failure, Item, Tokens
from models.shapes import Dims
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of
from tests.slow_stack import random_parameters

CPU = torch.device("cpu")
LENGTHS = (5, 1, 9, 2)
SPECS = {
    "layer": ModelSpec(d_model=48, heads=3),
    "encoder": ModelSpec(
        d_model=32,
        heads=4,
        layers=3,
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=40),
        pooling=PoolingSpec(steps=(PoolingStep(kind="normalize"),)),
    ),
    "decoder": ModelSpec(
        d_model=32,
        heads=4,
        kv_heads=2,
        layers=2,
        residual=True,
        attention=AttentionSpec(causal=True, left_window=6),
        norm=NormSpec(kind="rms", placement="pre", final=True),
        positions=PositionSpec(kind="rotary"),
    ),
}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, the processor passes for a GPU."""

    def kernel(q: Any, k: Any, v: Any, batch: Batch, *, scale: float, causal: bool) -> AttentionResult:
        z, lse = choice.as_written(q, k, v, batch.lengths, scale=scale, causal=causal)
        return AttentionResult(z.to(q.dtype), lse, [None] * len(lse), packed_lse=torch.cat(lse, dim=1))

    def begin() -> None:
        monkeypatch.setattr(native, "load_native", lambda: None)
        monkeypatch.setattr(choice, "ragged_kernel", lambda *_: kernel)
        monkeypatch.setattr(sequences, "collector_of", PackedCollector)

    return begin


def outputs_of(spec: ModelSpec) -> tuple[str, ...]:
    lacks = {"words", "projection", "entry", "square"}
    if not spec.blocks:
        lacks |= {"block", "inside"}
    if spec.feed_forward is None:
        lacks.add("network")
    if spec.pooling is None:
        lacks.add("pooling")
    return tuple(name for name, one in OUTPUTS.items() if one.needs not in lacks)


def item(spec: ModelSpec, length: int, **chosen: Any) -> Item:
    chance = np.random.default_rng(length)
    x = chance.standard_normal((length, spec.d_model), dtype=np.float32)
    card = card_of(spec)
    mix = Mix(pairs=((0, 0), (spec.layers - 1, 1)), weights=(1.0, 0.5))
    share = Share(of=((0, 1),), over=((0, min(2, length)),))
    fields: dict[str, Any] = {"outputs": outputs_of(spec), "top_k": 3, "mix": mix, "share": share} | chosen
    if "mixed" not in fields["outputs"]:
        fields["mix"] = None
    return Item(card=card, input=Tokens(embeddings=x), selection=Selection(**fields))


def stack_of(spec: ModelSpec) -> Stack:
    given = random_parameters(spec)
    return Stack(spec, {name: torch.from_numpy(array) for name, array in given.items()}, CPU)


def selections(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    every = tuple(range(spec.layers))
    some = (
        "weights",
        "weights_mean",
        "entropy",
        "top_k_keys",
        "top_k_weights",
        "top_k_rest",
        "received",
        "lse",
    )
    pairs = tuple((layer, head) for layer in reversed(every) for head in (1, 0))
    return {
        "one layer": {"layers": (spec.layers - 1,)},
        "all layers": {"layers": every, "layer_axis": True},
        "layers in their own order, and twice": {"layers": (*every[::-1], 0), "layer_axis": True},
        "some rows and heads": {"layers": (0,), "rows": (0,), "heads": (2, 0)},
        "rows out of order": {"layers": every, "layer_axis": True, "rows": (1, 0)},
        "pairs": {"outputs": some, "layers": every, "pairs": pairs},
        "pairs of which those of a layer are apart": {
            "outputs": some,
            "layers": every,
            "pairs": tuple((layer, head) for head in (1, 0) for layer in every),
        },
        "z alone": {"outputs": ("z",), "layers": (0,)},
    }


CASES = [(name, case) for name, spec in SPECS.items() for case in selections(spec)]


def assert_alike(found: list[Answer | Failure], expected: list[Answer | Failure], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(other, Answer)
        assert isinstance(one, Answer)
        assert one.tensors.keys() == other.tensors.keys()
        for name, array in other.tensors.items():
            made = one.tensors[name]
            assert (made.dtype, made.shape, made.flags.c_contiguous) == (array.dtype, array.shape, True)
            if name == "top_k_keys":
                seen = other.tensors["top_k_weights"] > 0
                assert np.array_equal(made[seen], array[seen])
            else:
                np.testing.assert_allclose(made, array, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_output_is_what_it_is_on_a_processor(
    as_on_a_gpu: Callable[[], None], name: str, case: str, dtype: DtypeName
) -> None:
    spec = SPECS[name]
    chosen = selections(spec)[case]
    lengths = [length for length in LENGTHS if length > max(chosen.get("rows", (0,)))]
    batch = [item(spec, length, dtype=dtype, **chosen) for length in lengths]
    expected = stack_of(spec).run(batch)
    as_on_a_gpu()
    assert_alike(stack_of(spec).run(batch), expected, 2e-5 if dtype == "float32" else 2e-3)


def test_those_who_ask_differently_share_a_batch(as_on_a_gpu: Callable[[], None]) -> None:
    spec = SPECS["encoder"]
    batch = [
        item(spec, 5, outputs=("z", "hidden"), layers=(1,)),
        item(spec, 3, outputs=("z",), layers=(0, 2), layer_axis=True, dtype="float16"),
        item(spec, 7, outputs=("pooled", "weights"), layers=(2,)),
        item(spec, 4, outputs=("z", "entropy"), layers=(1,), rows=(3, 1)),
        item(spec, 2, outputs=("embedded",), layers=(0,)),
    ]
    expected = [stack_of(spec).run([one])[0] for one in batch]
    as_on_a_gpu()
    assert_alike(stack_of(spec).run(batch), expected, 2e-3)


@pytest.mark.parametrize("outputs", [("z",), ("hidden",), ("pooled",), ("weights",), ("z", "top_k_weights")])
@pytest.mark.parametrize("bad", range(len(LENGTHS)))
def test_a_sequence_that_overflows_fails_alone(
    as_on_a_gpu: Callable[[], None], outputs: tuple[str, ...], bad: int
) -> None:
    spec = replace(SPECS["encoder"], norm=NormSpec(kind="none"), residual=True)
    batch = [item(spec, length, outputs=outputs, layers=(0,)) for length in LENGTHS]
    as_on_a_gpu()
    good = stack_of(spec).run(batch)
    x = batch[bad].input.embeddings
    assert x is not None
    x[-1, 3] = 3e38
    x[-1, 4] = 3e38
    found = stack_of(spec).run(batch)
    assert [isinstance(one, Failure) for one in found] == [place == bad for place in range(len(batch))]
    assert_alike([*found[:bad], *found[bad + 1 :]], [*good[:bad], *good[bad + 1 :]], 1e-6)


DIMS = Dims(T=5, S=5, heads=2, key_heads=2, d_z=40, d_k=20, d_v=20)


def gathered(name: str, tensor: torch.Tensor, dtype: DtypeName = "float32") -> Answer | Failure:
    one = PackedCollector(Selection(outputs=(name,), dtype=dtype), DIMS, CPU)
    one.put(name, 0, tensor)
    (answer,) = answers([one])
    return answer


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_the_reply_is_noticed(dtype: DtypeName, bad: float) -> None:
    z = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    assert isinstance(gathered("z", z, dtype), Answer)
    z[2, 17] = bad
    assert isinstance(gathered("z", z, dtype), Failure)


def test_what_only_float16_does_not_hold_is_noticed_there() -> None:
    z = torch.full((5, 40), 65504.0)
    assert isinstance(gathered("z", z, "float16"), Answer)
    z[4, 39] = 70000.0
    assert isinstance(gathered("z", z, "float16"), Failure)
    assert isinstance(gathered("z", z, "bfloat16"), Answer)


@pytest.mark.parametrize("name", ["scores", "lse"])
def test_minus_infinity_is_a_masked_score_and_no_number_becomes_one(name: str) -> None:
    rows = torch.zeros((2, 5, 5) if name == "scores" else (2, 5))
    rows[0, 1] = -np.inf
    assert isinstance(gathered(name, rows, "float16"), Answer)
    rows[1, 4] = -70000.0
    assert isinstance(gathered(name, rows, "float32"), Answer)
    assert isinstance(gathered(name, rows, "float16"), Failure)
    for bad in (np.nan, np.inf):
        rows[1, 4] = bad
        assert isinstance(gathered(name, rows), Failure)


def collectors(count: int, tokens: int, width: int = 40) -> list[PackedCollector]:
    dims = replace(DIMS, T=tokens, S=tokens, d_z=width)
    made = [PackedCollector(Selection(outputs=("z",)), dims, CPU) for _ in range(count)]
    together(list[Collector](made))
    return made


def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each copy to the processor."""
    sizes: list[int] = []
    begin = gathering.begin_copy

    def noting(device_bytes: torch.Tensor) -> Any:
        sizes.append(device_bytes.numel())
        return begin(device_bytes)

    monkeypatch.setattr(gathering, "begin_copy", noting)
    monkeypatch.setattr(packed, "begin_copy", noting)
    return sizes


def test_the_outputs_of_a_batch_and_whether_they_are_finite_are_one_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, sizes = collectors(128, 7), copies(monkeypatch)
    x = torch.randn(128 * 7, 40)
    assert put_rows("z", 0, x, [(one, place * 7, None) for place, one in enumerate(made)])
    found = answers(list[Collector](made))
    assert len(sizes) == 1
    homes = set()
    for place, one in enumerate(found):
        assert isinstance(one, Answer)
        assert np.array_equal(one.tensors["z"], x[place * 7 : place * 7 + 7].numpy())
        homes.add(id(_home(one.tensors["z"])))
    assert len(homes) == 1  # answers are views


def test_a_large_output_holds_on_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is slow to read his keeps nobody else's in memory."""
    sizes = copies(monkeypatch)
    rows = SMALL_BYTES // 160 + 1
    made = [PackedCollector(Selection(outputs=("z",)), replace(DIMS, T=size), CPU) for size in (3, rows, 4)]
    together(list[Collector](made))
    x = torch.randn(3 + rows + 4, 40)
    put_rows("z", 0, x, [(made[0], 0, None), (made[1], 3, None), (made[2], 3 + rows, None)])
    found = [one for one in answers(list[Collector](made)) if isinstance(one, Answer)]
    assert np.array_equal(np.concatenate([one.tensors["z"] for one in found]), x.numpy())
    assert sorted(sizes)[-1] == rows * 160
    assert len(sizes) == 3


def test_a_large_map_is_taken_as_it_was_made() -> None:
    """Its memory is not had twice."""
    tokens = 800
    one = PackedCollector(Selection(outputs=("weights",)), replace(DIMS, T=tokens, S=tokens), CPU)
    weights = torch.rand(2, tokens, tokens)
    one.put("weights", 0, weights)
    (answer,) = answers([one])
    assert isinstance(answer, Answer)
    assert np.shares_memory(answer.tensors["weights"], weights.numpy())


def test_what_makes_an_output_of_a_whole_batch_may_write_it_where_it_goes() -> None:
    made = []
    for tokens, dtype in ((3, "float32"), (4, "float32"), (2, "float16")):
        dims = replace(DIMS, T=tokens, S=tokens)
        chosen = Selection(outputs=("entropy",), layers=(1, 0), layer_axis=True, dtype=dtype)
        made.append(PackedCollector(chosen, dims, CPU))
    together(list[Collector](made))
    assert made[0].gathering.place("entropy", [0, 1, 2], [0, 0, 0]) is None  # two dtypes
    for layer in (0, 1):
        place = made[0].gathering.place("entropy", [0, 1], [one.layers_of(layer)[0] for one in made[:2]])
        assert place is not None
        for number, (start, size) in enumerate(zip(place.starts, (2 * 3, 2 * 4), strict=True)):
            place.numbers[start : start + size] = torch.arange(size) + 100 * number + 10 * layer
        made[2].put("entropy", layer, torch.full((2, 2), float(layer)))
    first, second, third = (one.tensors["entropy"] for one in answers(list[Collector](made)))  # type: ignore[union-attr]
    assert first.tolist() == [[[10, 11, 12], [13, 14, 15]], [[0, 1, 2], [3, 4, 5]]]
    assert second[1].ravel().tolist() == [100 + n for n in range(8)]
    assert third.dtype == np.float16
    assert third[0].tolist() == [[1, 1], [1, 1]]


def _home(array: Any) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
