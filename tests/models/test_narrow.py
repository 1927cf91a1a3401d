"""Products of weights in bfloat16, float16 and int8 against float64, with every set of instructions."""

import math

import pytest
import torch

from models.compiled.extents import Extent
from models.compiled.instructions import widens
from models.compiled.native import Native, native
from models.compiled.panels import Feed, Projections
from models.compiled.structures import ACTIVATIONS
from models.compiled.weights import Panels
from models.encoder.linear import Linear
from models.encoder.mlp import ACTIVATIONS as OPERATORS
from tests.compiled import random

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

NARROW = ("bfloat16", "float16", "int8")
ROWS = (1, 2, 7, 13, 14, 15, 29, 126, 127, 300)
SIZES = ((1, 1), (7, 3), (16, 384), (31, 385), (33, 100), (65, 770), (20, 2048), (40, 4096))  # out, in


def bfloat16(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().double()


def quantized(x: torch.Tensor) -> torch.Tensor:
    """Rows as whole numbers from 0 to 255 stand for them."""
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    scale = high / 255 - low / 255
    back = torch.where(scale > 0, 1 / scale, 0)
    zero = (-low * back).round()
    whole = (
        (x.double() * back.double() + zero.double()).float().round().clamp(0, 255)
    )  # one rounding, as in C
    return (whole - zero).double() * scale.double()


def expected(ours: Native, panels: Panels, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x·Wᵀ + b in float64, of rows and weights as they are kept."""
    rows = x.double()
    if panels.kept_as == "int8":
        by = panels.quantized.multipliers if panels.quantized is not None else None
        rows = quantized(x if by is None else x * by) / (1 if by is None else by.double())
    elif not widens(ours.using, panels.kept_as):
        rows = bfloat16(x)
    y = rows @ panels.matrix().double().T
    return y if bias is None else y + bias


@pytest.mark.parametrize("kept_as", NARROW)
@pytest.mark.parametrize(("out", "inner"), SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_products_are_right_at_every_edge(
    each: Native, kept_as: str, out: int, inner: int, biased: bool
) -> None:
    weight, bias = random(out, inner, seed=1), random(out, seed=2) if biased else None
    by = random(inner, seed=3).abs() + 0.1 if kept_as == "int8" and biased else None
    panels = each.lay_out(weight, bias, kept_as=kept_as, multipliers=by)
    assert (panels.matrix() - weight).abs().max() < {"bfloat16": 0.02, "float16": 0.003}.get(kept_as, 1.0)
    x = random(max(ROWS), inner, seed=4)
    slow = expected(each, panels, x, bias)
    bound = 3e-7 * math.sqrt(inner) * (x.abs().double() @ panels.matrix().abs().double().T + 1)
    for rows in ROWS:
        found = each.linear(x[:rows], panels)
        assert found.shape == (rows, out)
        assert ((found.double() - slow[:rows]).abs() <= bound[:rows]).all()


@pytest.mark.parametrize("kept_as", NARROW)
def test_all_instructions_multiply_whole_numbers_alike(each: Native, kept_as: str) -> None:
    """Whole numbers up to 127 are kept exactly, and so are their sums."""
    chance = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (45, 200), generator=chance).float()
    x = torch.randint(-100, 156, (17, 200), generator=chance).float()
    weight[:, 0], x[:, 0], x[:, 1] = 127, -100, 155
    found = each.linear(x, each.lay_out(weight, None, kept_as=kept_as))
    torch.testing.assert_close(found, x @ weight.T, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kept_as", NARROW)
def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(each: Native, kept_as: str, threads) -> None:
    panels, x = each.lay_out(random(96, 801), random(96), kept_as=kept_as), random(300, 801)
    threads(1)
    alone = each.linear(x, panels)
    for count in (1, 2, 3):
        threads(count)
        for rows in ROWS:
            assert torch.equal(each.linear(x[:rows], panels), alone[:rows])
            assert torch.equal(each.linear(x[300 - rows :], panels), alone[300 - rows :])


@pytest.mark.parametrize("kept_as", NARROW)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 16, 36])
def test_a_row_that_is_not_finite_stays_so_and_alone(
    each: Native, kept_as: str, bad: float, place: int
) -> None:
    panels, x = each.lay_out(random(40, 37), random(40), kept_as=kept_as), random(30, 37)
    sound = each.linear(x, panels)
    x[12, place] = bad
    found = each.linear(x, panels)
    assert not found[12].isfinite().any()
    others = torch.arange(30) != 12
    assert torch.equal(found[others], sound[others])


@pytest.mark.parametrize("kept_as", NARROW)
def test_rows_of_nothing_and_of_one_number_give_what_they_should(each: Native, kept_as: str) -> None:
    weight, bias = random(5, 9), random(5)
    panels = each.lay_out(weight, bias, kept_as=kept_as)
    assert torch.equal(each.linear(torch.zeros(2, 9), panels), bias.expand(2, 5))
    for size in (1e-42, 1e-30, 1e30, -1e30):
        x = torch.full((2, 9), size)
        y = (panels.matrix().sum(1).double() * size + bias).expand(2, 5)
        torch.testing.assert_close(each.linear(x, panels).double(), y, rtol=1e-2, atol=1e-2 * (1 + abs(size)))


@pytest.mark.parametrize("kept_as", NARROW)
def test_layers_of_different_numbers_are_one_block(each: Native, kept_as: str, threads) -> None:
    heads, width = 4, 8
    x, extents = random(140, 33), [Extent(slice(0, 9)), Extent(slice(9, 140))]
    projection = each.lay_out(random(3 * heads * width, 33, seed=1) / 7, random(96, seed=2), kept_as=kept_as)
    for last_kept_as in ("float32", *NARROW):
        last = each.lay_out(random(50, heads * width, seed=3), None, kept_as=last_kept_as)
        projected = each.linear(x, projection)
        q, k, v = projected.view(-1, 3 * heads, width).split(heads, dim=1)
        z = each.attend(q, k, v, extents, scale=0.3, causal=False).z.flatten(1)
        for count in (1, 2, 3):
            threads(count)
            by = Projections(qkv=projection, output=last, heads=heads, key_heads=heads)
            found = each.block(x, extents, by, scale=0.3)
            assert torch.equal(found.z, each.linear(z, last))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_layers_read_and_give_float32(backend: str, dtype: torch.dtype) -> None:
    weight, bias, x = random(70, 50).to(dtype), random(70), random(9, 50)
    layer = Linear(weight, bias)
    assert layer.kernel.startswith("torch" if backend == "reference" else "heed:")
    assert torch.equal(layer.matrix().float(), weight.float())
    y = layer(x)
    assert y.dtype == torch.float32
    slow = x.double() @ weight.double().T + bias
    torch.testing.assert_close(y.double(), slow, rtol=0, atol=0.06 if dtype == torch.bfloat16 else 1e-5)


def test_int8_has_no_sums_of_more_than_32_bits() -> None:
    ours = native()
    assert ours is not None
    with pytest.raises(ValueError, match="int8 has no sums of 65537 products; 65536 is the limit"):
        ours.lay_out(torch.zeros(1, 2**16 + 1), None, kept_as="int8")
    weight, x = torch.full((1, 2**16), 2.0), torch.full((1, 2**16), 3.0)
    found = ours.linear(x, ours.lay_out(weight, None, kept_as="int8"))
    torch.testing.assert_close(found, torch.tensor([[6.0 * 2**16]]))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("up_kept_as", ["bfloat16", "int8", "float16"])
@pytest.mark.parametrize("width", [1, 5, 32, 33])
def test_activations_are_as_good_as_what_they_are_rounded_to(
    each: Native, name: str, up_kept_as: str, width: int
) -> None:
    points = torch.cat((torch.linspace(-40, 40, 2001), torch.linspace(-1e-3, 1e-3, 101), torch.zeros(1)))
    x = points.bfloat16().float()[: len(points) // width * width].view(-1, width)
    up = each.lay_out(torch.eye(width), None, kept_as=up_kept_as)
    network = Feed(
        up=up, gate=None, down=each.lay_out(torch.eye(width), None, kept_as="bfloat16"), activation=name
    )
    y = torch.empty_like(x)
    each.feed(network, None, x, y)
    expected = OPERATORS[name](each.linear(x, up).double())
    # A GELU that is rounded next is off by 6e-5 at most; rounding to bfloat16 by a part in 256.
    torch.testing.assert_close(y.double(), expected, rtol=4e-3, atol=6e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kept_as", ["bfloat16", "int8"])
def test_a_hidden_row_that_is_not_finite_stays_so_and_alone(
    each: Native, kept_as: str, name: str, bad: float
) -> None:
    up = each.lay_out(random(45, 40, seed=1), random(45, seed=2), kept_as=kept_as)
    gate = each.lay_out(random(45, 40, seed=3), None, kept_as=kept_as)
    down = each.lay_out(random(40, 45, seed=4), None, kept_as="bfloat16")
    for network in (
        Feed(up=up, gate=None, down=down, activation=name),
        Feed(up=up, gate=gate, down=down, activation=name),
    ):
        z, y, again = random(30, 40), torch.empty(30, 40), torch.empty(30, 40)
        each.feed(network, z.clone(), z, y)
        z[12, 3] = bad
        each.feed(network, z.clone(), z, again)
        assert not again[12].isfinite().all()
        others = torch.arange(30) != 12
        assert torch.equal(again[others], y[others])
