import pytest
import torch

from models.compiled.native import native
from models.encoder import linear
from models.encoder.linear import SMALLEST_PROBED, Linear, whole_rows

WIDE = torch.randn(160, 128, generator=torch.Generator().manual_seed(1)) / 11
packable = pytest.mark.skipif(not linear._packable(WIDE), reason="this torch has no packed linear")
compiled = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")
SECONDS = {
    "heed": {"torch": 2.0, "heed": 1.05, "onednn": 1.0},
    "onednn": {"torch": 2.0, "heed": 1.2, "onednn": 1.0},
    "torch": {"torch": 1.0, "heed": 1.2, "onednn": 2.0},
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_fastest", {})


def measured(monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    """Let the timings of kernels be such that one of them is taken."""
    monkeypatch.setattr(
        linear, "_best_seconds", lambda kernels, _: {name: SECONDS[best][name] for name in kernels}
    )


@packable
@pytest.mark.parametrize("best", [pytest.param("heed", marks=compiled), "onednn", "torch"])
def test_the_faster_kernel_is_taken_and_all_agree(monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    bias, x = torch.randn(160), torch.randn(7, 128)
    expected = (x.double() @ WIDE.double().T + bias.double()).float()
    measured(monkeypatch, best)
    layer = Linear(WIDE, bias)
    assert layer.kernel == best
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@packable
@pytest.mark.parametrize("best", [pytest.param("heed", marks=compiled), "onednn", "torch"])
def test_the_weight_can_be_had_again_however_it_is_kept(monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    measured(monkeypatch, best)
    layer = Linear(WIDE, torch.randn(160))
    assert layer.kernel == best
    assert torch.equal(layer.matrix(), WIDE)


@packable
@pytest.mark.parametrize("best", [pytest.param("heed", marks=compiled), "onednn", "torch"])
def test_a_shape_keeps_its_kernel_so_that_a_model_loaded_again_is_the_same_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    measured(monkeypatch, best)
    first = Linear(WIDE)
    measured(monkeypatch, "torch" if best != "torch" else "onednn")
    again = Linear(WIDE.clone())
    x = torch.randn(5, 128)
    assert again.kernel == first.kernel == best
    assert torch.equal(again(x), first(x))


@compiled
@packable
def test_a_busy_moment_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([{"torch": 1.5, "heed": 3.0, "onednn": 1.3}, {"torch": 2.0, "heed": 1.4, "onednn": 1.5}])
    monkeypatch.setattr(linear, "_best_seconds", lambda *_: next(moments))
    assert Linear(WIDE).kernel == "heed"


@compiled
def test_a_kernel_that_is_wrong_is_left_alone_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = native()
    assert ours is not None
    right = type(ours).linear
    with monkeypatch.context() as patched:
        patched.setattr(type(ours), "linear", lambda *a, **n: right(*a, **n) + 0.01)
        assert Linear(WIDE).kernel in ("torch", "onednn")
        assert Linear(torch.eye(8)).kernel == "torch"
    assert Linear(torch.eye(8)).kernel == "heed"


def test_weights_that_overflow_decide_for_nobody_else() -> None:
    assert Linear(torch.full((8, 8), 3e38)).kernel == "torch"
    assert linear._fastest == {}


@packable
def test_kernels_are_measured_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = torch.get_num_threads(), set()
    clock = linear.time.perf_counter
    monkeypatch.setattr(linear.time, "perf_counter", lambda: during.add(torch.get_num_threads()) or clock())
    Linear(WIDE)
    assert during == {1}
    assert torch.get_num_threads() == before


def test_small_weights_are_not_measured_and_narrow_ones_run_on_the_stock_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SMALLEST_PROBED > 64 * 64
    monkeypatch.setattr(linear, "_best_seconds", None)
    assert Linear(torch.randn(64, 64)).kernel == ("torch" if native() is None else "heed")
    assert Linear(torch.randn(256, 256).double()).kernel == "torch"


def test_without_compiled_code_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "native", lambda: None)
    assert Linear(torch.randn(64, 64)).kernel == "torch"
    assert Linear(WIDE).kernel in ("torch", "onednn")


def test_ragged_batches_ask_for_few_numbers_of_rows() -> None:
    asked = {rows: whole_rows(rows) for rows in range(1, 4097)}
    assert all(rows <= whole < rows * 65 / 64 + 1 for rows, whole in asked.items())
    assert all(asked[rows] == rows for rows in range(1, 129))
    assert all(asked[rows] == rows for rows in range(512, 4097))
    assert len({asked[rows] for rows in range(1, 513)}) == 128 + 2 * 64
    assert whole_rows(0) == 0


@packable
@pytest.mark.parametrize("rows", [0, 1, 128, 129, 131, 257, 299])
def test_rows_that_are_added_show_in_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    measured(monkeypatch, "onednn")
    layer = Linear(WIDE, torch.randn(160))
    assert layer.kernel == "onednn"
    x = torch.randn(300, 128)
    x[rows:] = torch.nan  # what stands behind the rows in memory is not read
    expected = layer(x)[:rows]
    found = layer(x[:rows])
    assert found.shape == (rows, 160)
    assert found.is_contiguous()
    assert torch.equal(found, expected)
