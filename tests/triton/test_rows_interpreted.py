"""Kernels over rows in the interpreter, against float64: alone, and as blocks of whole models use them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.encoder.linear import Linear
from models.encoder.mlp import ACTIVATIONS
from models.encoder.rowwise import launch, trial
from models.encoder.rowwise.launch import RowNorm, add_norm, gated, turn
from models.encoder.rowwise.trial import TOLERANCES, TRIED, as_normalized, as_turned
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec, ProjectionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of
from tests.slow_stack import SlowStack, random_parameters

ERROR = 2e-6  # of a number of size 1, or of a larger one
ROUNDING = {torch.float32: 0.0, torch.float16: 2**-11}  # the interpreter cuts bfloat16 off
DTYPES = pytest.mark.parametrize("dtype", list(ROUNDING), ids=lambda one: str(one)[6:])
CPU = torch.device("cpu")


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same(made: Tensor, expected: Tensor) -> None:
    """Right in float32, and rounded once."""
    assert made.shape == expected.shape
    allowed = ERROR * expected.abs().clamp(min=1.0) + ROUNDING[made.dtype] * expected.abs()
    apart = (made.double() - expected).abs()
    assert bool((apart <= allowed).all()), float((apart / allowed).max())


def norm_of(width: int, dtype: torch.dtype, *, rms: bool, biased: bool, seed: int) -> RowNorm:
    weight, bias = numbers(2, width, dtype=dtype, seed=seed).unbind()
    return RowNorm(weight, bias if biased and not rms else None, 1e-5, rms)


@DTYPES
@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (300, 48), (70, 100), (33, 384), (2, 2050)])
def test_what_is_added_and_normalized_is_right_however_rows_lie(
    rows: int, width: int, rms: bool, dtype: torch.dtype
) -> None:
    x = numbers(rows, 2 * width + 3, dtype=dtype)[:, 3 : 3 + width]
    z = numbers(rows, width + 5, dtype=dtype, seed=6)[:, :width]
    inner = norm_of(width, dtype, rms=rms, biased=False, seed=7)
    outer = norm_of(width, dtype, rms=rms, biased=True, seed=8)
    for residual in (x, None):
        for before in (inner, None):
            total = z.double() if before is None else as_normalized(z.double(), before)
            total = total if residual is None else residual.double() + total
            normed = as_normalized(total, outer)
            made = add_norm(residual, z, inner=before, outer=outer)
            same(made[0], total)
            same(made[1], normed)
            same(add_norm(residual, z, inner=before, outer=outer, reads_sum=False)[1], normed)
            more = add_norm(residual, z, inner=before, outer=outer, more_D=outer.weight)
            same(more[0], total + outer.weight.double())
            same(more[1], normed)
            first, second = add_norm(residual, z, inner=before)
            same(first, total)
            assert first is second


def test_a_norm_of_large_numbers_that_are_nearly_alike_loses_nothing() -> None:
    x = 1000 + numbers(5, 300)
    norm = norm_of(300, torch.float32, rms=False, biased=True, seed=1)
    made = add_norm(None, x, outer=norm)[1]
    expected = as_normalized(x.double(), norm)
    # A mean of 1000 is good to 6e-5; a variance from squares, which are 1e6, would be off by 0.1.
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=1e-3)


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (300, 5), (7, 1100)])
def test_every_activation_gates_halves_of_one_product(
    rows: int, width: int, activation: str, dtype: torch.dtype
) -> None:
    gate, up = (4 * numbers(rows, 2 * width, dtype=dtype)).chunk(2, -1)
    alone = ACTIVATIONS[activation](gate.double())
    same(gated(gate, up, activation), alone * up.double())
    same(gated(gate, None, activation), alone)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_numbers_and_those_that_are_none_come_out_as_torch_has_them(activation: str) -> None:
    x = torch.tensor(
        [[-200.0, -30.0, -1e-3, -0.0, 1e-3, 0.19999, 0.20001, 30.0, 200.0, torch.nan, torch.inf]]
    )
    expected = ACTIVATIONS[activation](x.double())
    made = gated(x, None, activation).double()
    torch.testing.assert_close(made, expected, rtol=2e-6, atol=1e-7, equal_nan=True)


@DTYPES
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize("kind", ["none", "rms", "layer"])
@pytest.mark.parametrize(
    ("rows", "width", "half"), [(1, 2, 1), (300, 8, 4), (70, 20, 6), (33, 80, 40), (5, 7, 2)]
)
def test_q_and_k_are_turned_beside_what_a_projection_left(
    rows: int, width: int, half: int, kind: str, interleaved: bool, dtype: torch.dtype
) -> None:
    heads, key_heads = 3, 2
    qkv = numbers(rows, (heads + 2 * key_heads) * width, dtype=dtype)
    q, k, v = (
        x.view(rows, -1, width) for x in qkv.split([heads * width, key_heads * width, key_heads * width], -1)
    )
    angles = 100 * numbers(rows, 1, half, seed=9)
    cosines, sines = angles.cos(), angles.sin()
    norms = None
    if kind != "none":
        norms = (
            norm_of(width, dtype, rms=kind == "rms", biased=True, seed=10),
            norm_of(width, dtype, rms=kind == "rms", biased=True, seed=11),
        )
    expected = []
    for place, one in enumerate((q, k)):
        own = one.double() if norms is None else as_normalized(one.double(), norms[place])
        expected.append(as_turned(own, cosines, sines, interleaved=interleaved))
    before = qkv.clone()
    made = turn(q, k, cosines, sines, norms, interleaved=interleaved, in_place=False)
    assert torch.equal(qkv, before)
    for one, written in zip(made, expected, strict=True):
        same(one, written)
    again = turn(q, k, cosines, sines, norms, interleaved=interleaved, in_place=True)
    assert again[0] is q
    assert again[1] is k
    assert all(map(torch.equal, again, made))
    assert torch.equal(qkv[:, -key_heads * width :], before[:, -key_heads * width :])
    if norms is None:
        assert torch.equal(q[..., 2 * half :], before[:, : heads * width].view(q.shape)[..., 2 * half :])
    assert v.data_ptr() > k.data_ptr()


def test_q_and_k_that_are_the_same_rows_are_turned_elsewhere() -> None:
    x = numbers(6, 1, 8)
    angles = numbers(6, 1, 4)
    q, k = turn(x, x, angles.cos(), angles.sin(), interleaved=False, in_place=False)
    same(q, as_turned(x.double(), angles.cos(), angles.sin(), interleaved=False))
    assert torch.equal(q, k)


def test_no_rows_are_no_launch() -> None:
    norm = norm_of(8, torch.float32, rms=True, biased=False, seed=1)
    assert add_norm(None, numbers(0, 8), outer=norm)[1].shape == (0, 8)
    assert gated(numbers(0, 8), None, "silu").shape == (0, 8)
    none = numbers(0, 1, 4)
    assert turn(numbers(0, 2, 8), numbers(0, 1, 8), none, none, interleaved=False, in_place=False)[
        0
    ].shape == (
        0,
        2,
        8,
    )


@DTYPES
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("add_norm", (100, False)),
        ("add_norm", (48, True)),
        ("turn", (20, 6, True, "layer")),
        ("turn", (16, 8, False, "rms")),
        *(("gated", one) for one in ACTIVATIONS.items()),
    ],
)
def test_kernels_pass_the_trial_that_is_made_at_load(
    name: str, shape: tuple[Any, ...], dtype: torch.dtype
) -> None:
    assert trial.agrees.__wrapped__(name, CPU, dtype, shape)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("add_norm", (48, True)), ("turn", (20, 6, True, "layer")), ("gated", ("tanh", torch.tanh))],
)
def test_all_that_a_kernel_is_given_is_in_its_own_order(
    name: str, shape: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(
        kernel: str,
        _grid: Any,
        _tiles: Any,
        tensors: tuple[Tensor, ...],
        numbers: tuple[float, ...],
        **constants: Any,
    ) -> None:
        own = launch.kernel(kernel).arg_names
        given = len(tensors) + len(numbers)
        assert [one.isupper() for one in own[:given]] == [True] * len(tensors) + [False] * len(numbers)
        assert own[given:] == list(constants)
        seen.append(kernel)

    seen: list[str] = []
    monkeypatch.setattr(launch, "_launch", launched)
    list(TRIED[name](CPU, torch.float32, *shape))
    assert set(seen) == {name}


def test_a_kernel_that_is_off_does_not_pass_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def off(*arguments: Any) -> Any:
        return [(made + 3 * TOLERANCES[torch.float32], written) for made, written in tried(*arguments)]

    tried: Callable[..., Any] = TRIED["gated"]
    monkeypatch.setitem(TRIED, "gated", off)
    assert not trial.agrees.__wrapped__("gated", CPU, torch.float32, ("relu", ACTIVATIONS["relu"]))
    assert "is off by" in caplog.text


ROTARY = PositionSpec(kind="rotary")
GATED = FeedForwardSpec(d_ff=40, kind="gated", activation="silu", bias=False)
RMS = NormSpec(kind="rms", placement="pre")


def blocks(**more: Any) -> ModelSpec:
    return ModelSpec(**{"d_model": 24, "heads": 4, "layers": 2, "residual": True} | more)


STACKS = {
    "bert": blocks(norm=NormSpec(kind="layer", eps=1e-12), feed_forward=FeedForwardSpec(d_ff=40)),
    "llama": blocks(kv_heads=2, positions=ROTARY, norm=RMS, feed_forward=GATED),
    "modernbert": blocks(
        positions=ROTARY,
        norm=NormSpec(kind="layer", placement="pre", bias=False, skip_first=True, final=True),
        feed_forward=FeedForwardSpec(d_ff=40, kind="gated", activation="gelu", bias=False),
    ),
    "gemma 2": blocks(
        kv_heads=2,
        positions=ROTARY,
        attention=AttentionSpec(causal=True, softcap=20.0),
        norm=NormSpec(kind="rms", placement="sandwich", unit_offset=True, final=True),
        feed_forward=FeedForwardSpec(d_ff=40, kind="gated", activation="gelu_tanh", bias=False),
    ),
    "qwen 3": blocks(
        kv_heads=2,
        d_k=16,
        positions=ROTARY,
        norm=RMS,
        feed_forward=GATED,
        projection=ProjectionSpec(bias=False, output_bias=False, qk_norm="rms"),
    ),
    "gpt-neox": blocks(
        parallel=True,
        positions=PositionSpec(kind="rotary", rotary_fraction=0.67),
        norm=NormSpec(kind="layer", placement="pre"),
        feed_forward=FeedForwardSpec(d_ff=40),
    ),
    "clip": blocks(norm=NormSpec(kind="layer", placement="pre"), feed_forward=FeedForwardSpec(d_ff=40)),
    "value is key": blocks(
        positions=PositionSpec(kind="rotary", interleaved=True),
        projection=ProjectionSpec(value="key", qk_norm="layer"),
        feed_forward=GATED,
    ),
    "q and k are x": blocks(
        heads=1,
        positions=ROTARY,
        projection=ProjectionSpec(query="identity", key="identity"),
        norm=RMS,
        feed_forward=GATED,
    ),
}


def launches_counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Have a processor pass for a GPU; return the kernels that will be launched."""
    found: Counter[str] = Counter()
    kernel = launch.kernel

    def counted(name: str) -> Any:
        found[name] += 1
        return kernel(name)

    def adds(one: Linear) -> bool:
        return one.weight is not None

    monkeypatch.setattr(launch, "kernel", counted)
    monkeypatch.setattr(trial, "launched_on", lambda _: True)
    monkeypatch.setattr(trial, "agrees", lambda *_: True)
    monkeypatch.setattr(Linear, "adds", property(adds))
    return found


@pytest.mark.parametrize("points", [(), ("mid", "feed_forward")], ids=["", "points"])
@pytest.mark.parametrize("name", STACKS)
def test_blocks_of_kernels_over_rows_are_those_of_the_slow_way_and_of_torch(
    name: str, points: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = STACKS[name]
    parameters = random_parameters(spec, seed=3)
    card = card_of(spec)
    chance = np.random.default_rng(4)
    inputs = [chance.standard_normal((length, spec.d_model)).astype(np.float32) for length in (5, 1, 17)]
    chosen = Selection(outputs=("hidden", *points), layers=(0, 1), layer_axis=True)
    items = [Item(card=card, input=Tokens(embeddings=one), selection=chosen) for one in inputs]

    def tensors() -> list[dict[str, np.ndarray[Any, Any]]]:
        stack = Stack(spec, {key: torch.from_numpy(one) for key, one in parameters.items()}, CPU)
        return [answer.tensors for answer in stack.run(items) if isinstance(answer, Answer)]

    plain = tensors()
    launched = launches_counted(monkeypatch)
    slow = SlowStack(spec, parameters)
    for one, made, expected in zip(inputs, tensors(), plain, strict=True):
        np.testing.assert_allclose(made["hidden"], np.stack(slow.run(one)[2]), rtol=0, atol=1e-5)
        assert made.keys() == expected.keys() == {"hidden", *points}
        for key in made:
            np.testing.assert_allclose(made[key], expected[key], rtol=0, atol=1e-5, err_msg=key)
    assert launched["turn"] == (2 if spec.positions.kind == "rotary" else 0)
    assert launched["gated"] == (2 if spec.feed_forward and spec.feed_forward.kind == "gated" else 0)
    assert (launched["add_norm"] > 0) == (spec.norm.kind != "none")
