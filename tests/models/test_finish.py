"""Residuals, norms and the feed-forward network as one call, against float64 and operator by operator."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from models.compiled import native as module
from models.compiled import structures
from models.compiled.native import Native, native
from models.compiled.panels import Feed
from models.device.steps import finish
from models.encoder.block import Block
from models.encoder.finish import STEP_ROWS, Finish
from models.encoder.mlp import ACTIVATIONS
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.compiled import random
from tests.slow_stack import random_parameters

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

ROWS = (1, 15, 16, 17, 40, 127, 300)


def finished(block: Block, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return finish(block.finish(x, z))


@pytest.fixture
def ours(ours: Native, monkeypatch: pytest.MonkeyPatch) -> Native:
    """The same, for all that a block is made of."""
    monkeypatch.setattr(module, "load_native", lambda: ours)
    monkeypatch.setattr("models.encoder.linear._fastest", {})
    monkeypatch.setattr("models.encoder.linear._measured", lambda *_, preferred: preferred)
    return ours


def block_of(spec: ModelSpec, *, in_one_call: bool = True) -> Block:
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    return Block(spec, parameters, 0, in_one_call=in_one_call)


def spec_of(**other: object) -> ModelSpec:
    given = {
        "d_model": 40,
        "residual": True,
        "norm": NormSpec(kind="layer"),
        "feed_forward": FeedForwardSpec(d_ff=75),
    }
    return ModelSpec(**{**given, **other})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", structures.ACTIVATIONS)
@pytest.mark.parametrize("width", [1, 5, 8, 16, 17, 40])
def test_activations_are_right_from_tail_to_tail(ours: Native, name: str, width: int) -> None:
    points = torch.cat((torch.linspace(-40, 40, 4001), torch.linspace(-1e-3, 1e-3, 101), torch.zeros(1)))
    x = points[: len(points) // width * width].view(-1, width)
    same = ours.lay_out(torch.eye(width), None)
    y = torch.empty_like(x)
    ours.feed(Feed(up=same, gate=None, down=same, activation=name), None, x, y)
    expected = ACTIVATIONS[name](x.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("name", structures.ACTIVATIONS)
@pytest.mark.parametrize("large", [1e10, 1e30, -1e10, -1e30])
def test_large_numbers_end_where_they_do_in_float64(ours: Native, name: str, large: float) -> None:
    same = ours.lay_out(torch.eye(1), None)
    y = torch.empty(1, 1)
    ours.feed(
        Feed(up=same, gate=None, down=same, activation=name),
        *(None, torch.tensor([[large]]), y),
    )
    expected = ACTIVATIONS[name](torch.tensor([[large]], dtype=torch.float64)).float()
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["none", "layer", "rms"])
@pytest.mark.parametrize(
    ("placement", "residual"),
    [*itertools.product(["post", "pre", "sandwich"], [True, False]), ("parallel", True)],
)
@pytest.mark.parametrize("network", ["mlp", "gated"])
def test_it_is_what_the_operators_make(
    ours: Native, kind: str, placement: str, network: str, residual: bool
) -> None:
    parallel = placement == "parallel"
    norm = NormSpec(kind=kind, placement="pre" if parallel else placement, bias=kind == "layer")  # type: ignore[arg-type]
    feed = FeedForwardSpec(d_ff=75, kind=network, activation="silu")  # type: ignore[arg-type]
    spec = spec_of(norm=norm, feed_forward=feed, residual=residual, parallel=parallel)
    block, apart = block_of(spec), block_of(spec, in_one_call=False)
    assert block.in_one is not None
    assert apart.in_one is None
    for rows in ROWS:
        x, z = random(rows, 40, seed=rows), random(rows, 40, seed=rows + 1)
        torch.testing.assert_close(finished(block, x, z), finished(apart, x, z), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 7, 8, 33, 64, 129, 768, 1024])
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norms_of_every_width_are_right(ours: Native, width: int, kind: str, offset: float) -> None:
    spec = spec_of(d_model=width, norm=NormSpec(kind=kind), feed_forward=FeedForwardSpec(d_ff=2048))  # type: ignore[arg-type]
    block, apart = block_of(spec), block_of(spec, in_one_call=False)
    assert block.in_one is not None
    x, z = random(9, width) + offset, random(9, width, seed=1)
    torch.testing.assert_close(finished(block, x, z), finished(apart, x, z), rtol=1e-4, atol=1e-4)


def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(
    ours: Native, threads: Callable[[int], None]
) -> None:
    norm = NormSpec(kind="rms", placement="sandwich")
    block = block_of(spec_of(norm=norm, feed_forward=FeedForwardSpec(d_ff=400, kind="gated")))
    x, z = random(2 * STEP_ROWS + 50, 40), random(2 * STEP_ROWS + 50, 40, seed=1)
    threads(1)
    expected = finished(block, x, z)
    for count in (1, 2, 3):
        threads(count)
        for rows in (*ROWS, len(x)):
            assert torch.equal(finished(block, x[:rows], z[:rows]), expected[:rows])
            assert torch.equal(finished(block, x[-rows:], z[-rows:]), expected[-rows:])


def test_no_rows_are_no_rows(ours: Native) -> None:
    block = block_of(spec_of())
    assert finished(block, random(0, 40), random(0, 40)).shape == (0, 40)


@pytest.mark.parametrize("name", structures.ACTIVATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_stays_so_and_alone(ours: Native, name: str, bad: float) -> None:
    block = block_of(spec_of(feed_forward=FeedForwardSpec(d_ff=30, activation=name)))  # type: ignore[arg-type]
    x, z = random(30, 40), random(30, 40, seed=1)
    expected = finished(block, x, z)
    z[12, 3] = bad
    found = finished(block, x, z)
    assert not found[12].isfinite().any()
    others = torch.arange(30) != 12
    assert torch.equal(found[others], expected[others])


def test_rows_may_stand_in_memory_as_they_like(ours: Native) -> None:
    block = block_of(spec_of())
    x, z = random(40, 30).mT, random(40, 30, seed=1).mT
    assert torch.equal(finished(block, x, z), finished(block, x.clone(), z.contiguous()))
    wide = random(30, 90)
    x, z = wide[:, 3:43], wide[:, 50:]
    assert torch.equal(finished(block, x, z), finished(block, x.contiguous(), z.contiguous()))


def test_long_work_is_left_between_its_parts(ours: Native) -> None:
    block = block_of(spec_of())
    for rows, count in ((2 * STEP_ROWS, 0), (2 * STEP_ROWS + 1, 2), (4 * STEP_ROWS, 3)):
        x = random(rows, 40)
        assert len(list(block.finish(x, x))) == count


@pytest.mark.parametrize(
    "other",
    [
        {"feed_forward": FeedForwardSpec(d_ff=8, activation="tanh")},
        {"feed_forward": None},
    ],
    ids=["tanh", "no network"],
)
def test_what_it_does_not_know_goes_operator_by_operator(ours: Native, other: dict[str, object]) -> None:
    assert block_of(spec_of(**other)).in_one is None


def test_so_does_what_other_kernels_run(ours: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.encoder.linear._fastest", {(75, 40): "torch"})
    assert block_of(spec_of()).in_one is None
    monkeypatch.setattr("models.encoder.linear._fastest", {})
    spec = spec_of()
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    halves = Block(spec, {name: one.double() for name, one in parameters.items()}, 0)
    assert halves.in_one is None
    x = random(3, 40).double()
    assert finished(halves, x, x).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrower_weights_go_in_one_call_too(ours: Native, dtype: torch.dtype) -> None:
    spec = spec_of(feed_forward=FeedForwardSpec(d_ff=75, kind="gated"))
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    narrow = {name: one.to(dtype) if one.ndim == 2 else one for name, one in parameters.items()}
    same = {name: one.float() for name, one in narrow.items()}
    block, expected = Block(spec, narrow, 0), Block(spec, same, 0, in_one_call=False)
    apart = Block(spec, narrow, 0, in_one_call=False)
    assert block.in_one is not None
    for rows in ROWS:
        x, z = random(rows, 40, seed=rows), random(rows, 40, seed=rows + 1)
        found = finished(block, x, z)
        torch.testing.assert_close(found, finished(apart, x, z), rtol=1e-4, atol=3e-2)
        torch.testing.assert_close(found, finished(expected, x, z), rtol=0, atol=6e-2)


@pytest.mark.parametrize(
    "name", ["feed_forward.up.weight", "feed_forward.gate.weight", "feed_forward_norm.weight"]
)
def test_parameters_that_do_not_fit_never_reach_c(ours: Native, name: str) -> None:
    spec = spec_of(feed_forward=FeedForwardSpec(d_ff=75, kind="gated"))
    parameters = {one: torch.from_numpy(array) for one, array in random_parameters(spec).items()}
    parameters[f"layers.0.{name}"] = parameters[f"layers.0.{name}"][:-1]
    with pytest.raises(ValueError, match=r"do not fit|has a bias of|has as many weights"):
        Block(spec, parameters, 0)


@pytest.mark.parametrize("wrong", [random(3, 39), random(3, 40).double(), random(40)])
def test_rows_that_do_not_fit_never_reach_c(ours: Native, wrong: torch.Tensor) -> None:
    whole, right = block_of(spec_of()).in_one, random(3, 40)
    assert isinstance(whole, Finish)
    for x, z, y in ((wrong, right, right), (right, wrong, right), (right, right, wrong)):
        with pytest.raises(ValueError, match=r"rows are float32 \[N, 40\]"):
            ours.feed(whole.network, x, z, y)
    for x, y in ((random(4, 40), right), (right, random(4, 40))):
        with pytest.raises(ValueError, match="as many rows"):
            ours.feed(whole.network, x, right, y)
    with pytest.raises(ValueError, match="rows must follow each other"):
        ours.feed(whole.network, right, right, random(40, 3).mT)
