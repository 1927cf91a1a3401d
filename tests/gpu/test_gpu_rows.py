"""Kernels over rows on a GPU: they pass their trial, blocks are what the CPU makes, graphs take them."""

from typing import Any

import numpy as np
import pytest
import torch

from models.encoder.mlp import ACTIVATIONS, MLP
from models.encoder.norm import Norm
from models.encoder.rowwise.launch import RowNorm, add_norm, gated, turn
from models.encoder.rowwise.trial import gates_on, norms_on, turns_on
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec, ProjectionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of
from tests.gpu.test_gpu import DEVICE, TOLERANCES
from tests.slow_stack import random_parameters

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

CARD = torch.device(DEVICE)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
ROTARY = PositionSpec(kind="rotary")
RMS = NormSpec(kind="rms", placement="pre")


@pytest.mark.parametrize(
    ("width", "rms", "dtype"),
    [(768, False, torch.bfloat16), (4096, True, torch.float32), (16384, True, torch.bfloat16)],
)
def test_norms_pass_their_trial(width: int, rms: bool, dtype: torch.dtype) -> None:
    assert norms_on(CARD, dtype, width, rms=rms)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_passes_its_trial(activation: str) -> None:
    assert gates_on(CARD, torch.float16, activation, ACTIVATIONS[activation])


@pytest.mark.parametrize(
    ("width", "half", "interleaved", "norm", "dtype"),
    [
        (64, 32, False, "none", torch.bfloat16),
        (80, 16, True, "none", torch.bfloat16),
        (128, 64, False, "rms", torch.float32),
        (20, 6, True, "layer", torch.float16),
    ],
)
def test_turning_passes_its_trial(
    width: int, half: int, interleaved: bool, norm: str, dtype: torch.dtype
) -> None:
    assert turns_on(CARD, dtype, width, half, interleaved=interleaved, norm=norm)


def blocks(**more: Any) -> ModelSpec:
    return ModelSpec(**{"d_model": 64, "heads": 4, "layers": 3, "residual": True} | more)


def network(activation: Any, **more: Any) -> FeedForwardSpec:
    return FeedForwardSpec(**{"d_ff": 96, "kind": "gated", "activation": activation, "bias": False} | more)


STACKS = {
    "bert": blocks(norm=NormSpec(kind="layer", eps=1e-12), feed_forward=FeedForwardSpec(d_ff=96)),
    "llama": blocks(kv_heads=2, positions=ROTARY, norm=RMS, feed_forward=network("silu")),
    "gemma 2": blocks(
        kv_heads=2,
        d_k=32,
        positions=ROTARY,
        attention=AttentionSpec(causal=True),
        norm=NormSpec(kind="rms", placement="sandwich", unit_offset=True, final=True),
        feed_forward=network("gelu_tanh"),
    ),
    "qwen 3": blocks(
        kv_heads=2,
        d_k=32,
        positions=ROTARY,
        norm=RMS,
        feed_forward=network("silu"),
        projection=ProjectionSpec(bias=False, output_bias=False, qk_norm="rms"),
    ),
    "gpt-neox": blocks(
        parallel=True,
        positions=PositionSpec(kind="rotary", rotary_fraction=0.5, interleaved=True),
        norm=NormSpec(kind="layer", placement="pre"),
        feed_forward=FeedForwardSpec(d_ff=96, activation="relu2"),
    ),
    "value is key": blocks(
        positions=ROTARY,
        projection=ProjectionSpec(value="key", qk_norm="layer"),
        feed_forward=network("quick_gelu", bias=True),
    ),
}


@pytest.mark.parametrize(
    ("dtype", "points"), [("bfloat16", ()), ("float32", ()), ("float32", ("mid", "feed_forward"))]
)
@pytest.mark.parametrize("name", STACKS)
def test_blocks_are_what_the_cpu_makes(name: str, dtype: str, points: tuple[str, ...]) -> None:
    spec = STACKS[name]
    parameters = random_parameters(spec, seed=3)
    card = card_of(spec)
    chance = np.random.default_rng(4)
    rows = [chance.standard_normal((length, spec.d_model)).astype(np.float32) for length in (5, 1, 130, 64)]
    chosen = Selection(outputs=("hidden", *points), layers=tuple(range(spec.layers)), layer_axis=True)
    items = [Item(card=card, input=Tokens(embeddings=one), selection=chosen) for one in rows]
    made = []
    for device, kept in ((torch.device("cpu"), torch.float32), (CARD, getattr(torch, dtype))):
        own = {key: torch.from_numpy(one).to(device, kept) for key, one in parameters.items()}
        with torch.inference_mode():
            answers = Stack(spec, own, device).run(items)
        made.append([one.tensors for one in answers if isinstance(one, Answer)])
    for expected, found in zip(*made, strict=True):
        assert found.keys() == expected.keys()
        for key, one in found.items():
            apart = float(np.abs(one.astype(np.float64) - expected[key]).max())
            assert apart <= TOLERANCES[dtype] * float(np.abs(expected[key]).max()), key


@DTYPES
def test_a_rows_bits_do_not_depend_on_what_is_beside_it(dtype: torch.dtype) -> None:
    chance = torch.Generator().manual_seed(1)
    x, z = (torch.randn(130, 384, generator=chance).to(CARD, dtype) for _ in range(2))
    norm = RowNorm(torch.ones(384, device=CARD, dtype=dtype), None, 1e-6, rms=False)
    whole, alone = add_norm(x, z, outer=norm), add_norm(x[77:78], z[77:78], outer=norm)
    assert all(torch.equal(one[77:78], other) for one, other in zip(whole, alone, strict=True))


def test_kernels_over_rows_are_replayed_by_a_graph_with_new_numbers() -> None:
    """Nothing in a launch waits, or copies from the processor: a capture would fail."""
    x, z, qkv = (torch.zeros(40, width, device=CARD) for width in (64, 64, 4 * 64))
    norm = RowNorm(torch.full((64,), 2.0, device=CARD), None, 1e-6, rms=True)
    angles = torch.rand(40, 1, 16, device=CARD)
    cosines, sines = angles.cos(), angles.sin()

    def made() -> tuple[torch.Tensor, ...]:
        q, k = qkv[:, :128].view(40, 4, 32), qkv[:, 128:192].view(40, 2, 32)
        turned = turn(q, k, cosines, sines, interleaved=False, in_place=False)
        return (*add_norm(x, z, outer=norm), gated(qkv[:, :64], qkv[:, 64:128], "silu"), *turned)

    made()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = made()
    for one in (x, z, qkv):
        one.copy_(torch.randn(one.shape, device=CARD))
    graph.replay()
    for one, other in zip(captured, made(), strict=True):
        assert torch.equal(one, other)


@DTYPES
def test_a_weight_that_is_stored_less_one_is_not_rounded_again(dtype: torch.dtype) -> None:
    """1 + w in halves loses most of a small w."""
    stored = torch.full((64,), 2.0**-9, dtype=dtype, device=CARD)
    norm = Norm({"norm.weight": stored}, "norm", NormSpec(kind="rms", placement="pre", unit_offset=True))
    x = torch.ones(3, 64, dtype=dtype, device=CARD)
    expected = torch.full((3, 64), (1 + 2.0**-9) / (1 + norm.eps) ** 0.5, dtype=torch.float64).to(dtype)
    assert torch.equal(norm(x).cpu(), expected)


def test_gate_and_what_it_gates_are_one_product() -> None:
    chance = torch.Generator().manual_seed(1)
    shapes = {"up": (96, 64), "gate": (96, 64), "down": (64, 96)}
    weights = {f"mlp.{name}.weight": torch.randn(shape, generator=chance) for name, shape in shapes.items()}
    made = MLP({name: one.to(CARD) for name, one in weights.items()}, "mlp", "silu")
    assert [tuple(one.matrix().shape) for one in made.linears] == [(192, 64), (64, 96)]
    x = torch.randn(33, 64, generator=chance)
    expected = MLP(weights, "mlp", "silu")(x)
    torch.testing.assert_close(made(x.to(CARD)).cpu(), expected, rtol=1e-4, atol=1e-3)
