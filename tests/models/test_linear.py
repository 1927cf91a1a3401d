import pytest
import torch

from models import linear
from models.linear import SMALLEST_PACKED, Linear, product, whole_rows
from models.scripted import scripted

WIDE = torch.randn(160, 128, generator=torch.Generator().manual_seed(1)) / 11
packable = pytest.mark.skipif(not linear._packable(WIDE), reason="this torch has no packed linear")


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_faster", {})


def measured(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Let the timings of the next kernels be these, two a kernel."""
    left = list(seconds)
    monkeypatch.setattr(linear, "_best_seconds", lambda *_: left.pop(0))


@packable
@pytest.mark.usefixtures("forgotten")
def test_the_faster_kernel_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 1, 1, 2, 2)
    assert Linear(WIDE).kernel == "onednn"
    measured(monkeypatch, 2, 2, 1, 1)
    assert Linear(WIDE.T).kernel == "torch"


@packable
@pytest.mark.usefixtures("forgotten")
def test_a_shape_keeps_its_kernel_so_that_a_model_loaded_again_is_the_same_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, 1, 1, 2, 2)
    first = Linear(WIDE)
    measured(monkeypatch, 2, 2, 1, 1)
    again = Linear(WIDE.clone())
    x = torch.randn(5, 128)
    assert again.kernel == first.kernel == "onednn"
    assert torch.equal(again(x), first(x))


@packable
@pytest.mark.usefixtures("forgotten")
def test_both_kernels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    bias, x = torch.randn(160), torch.randn(7, 128)
    expected = (x.double() @ WIDE.double().T + bias.double()).float()
    for seconds in ((1, 1, 2, 2), (2, 2, 1, 1)):
        monkeypatch.setattr(linear, "_faster", {})
        measured(monkeypatch, *seconds)
        torch.testing.assert_close(Linear(WIDE, bias)(x), expected, rtol=1e-5, atol=1e-5)


def test_small_and_narrow_weights_run_on_the_stock_kernel() -> None:
    assert SMALLEST_PACKED > 64 * 64
    assert Linear(torch.randn(64, 64)).kernel == "torch"
    assert Linear(torch.randn(256, 256).bfloat16()).kernel == "torch"


def test_ragged_batches_ask_for_few_numbers_of_rows() -> None:
    asked = {rows: whole_rows(rows) for rows in range(1, 4097)}
    assert all(rows <= whole < rows * 65 / 64 + 1 for rows, whole in asked.items())
    assert all(asked[rows] == rows for rows in range(1, 129))
    assert all(asked[rows] == rows for rows in range(512, 4097))
    assert len({asked[rows] for rows in range(1, 513)}) == 128 + 2 * 64
    assert whole_rows(0) == 0


@packable
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("rows", [0, 1, 128, 129, 131, 257, 299])
def test_rows_that_are_added_show_in_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    measured(monkeypatch, 1, 1, 2, 2)
    layer = Linear(WIDE, torch.randn(160))
    assert layer.kernel == "onednn"
    x = torch.randn(300, 128)
    x[rows:] = torch.nan  # what stands behind the rows in memory is not read
    expected = layer(x)[:rows]
    for found in (layer(x[:rows]), scripted(product)(x[:rows], *layer.stored)):
        assert found.shape == (rows, 160)
        assert found.is_contiguous()
        assert torch.equal(found, expected)
