"""What the weights of a model are kept in on a processor: memory, errors, bits, cards, and who is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.compiled import native
from models.compiled.instructions import widens
from models.encoder import linear
from models.encoder.calibration import MOST_TOKENS, TEXTS, calibration
from models.encoder.dtypes import require_dtype
from models.encoder.embedding import Table
from models.encoder.linear import Linear, keep_int8
from models.encoder.stack import Stack
from models.errors import SpecError
from models.loading import loaded
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.compiled import random
from tests.slow_stack import random_parameters

compiled = pytest.mark.skipif(native.native() is None, reason="Heed was installed without a C compiler")
CHOSEN = Selection(outputs=("pooled", "weights"), layers=(5,))
# Of numbers of a vector of length 1; what `python -m benchmarks.precision` gives is in docs/precision.md.
# The largest are those of texts of one word; of all texts it is the mean that says how good numbers are.
MOST_ERROR = {"bfloat16": 1.6e-3, "float16": 2e-4, "int8": 1.4e-2}
MOST_MEAN_ERROR = {"bfloat16": 2.7e-4, "float16": 3e-5, "int8": 1.5e-3}
MOST_MEMORY = {"bfloat16": 0.502, "float16": 0.502, "int8": 0.3}


@pytest.fixture(scope="module")
def wide(repository: Path) -> TorchRuntime:
    return TorchRuntime(repository, models=("minilm",), device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=[*MOST_ERROR])
def narrow(repository: Path, request: pytest.FixtureRequest) -> TorchRuntime:
    if request.param == "int8" and native.native() is None:
        pytest.skip("Heed was installed without a C compiler")
    return TorchRuntime(repository, models=(f"minilm:{request.param}",), device="cpu", dtype="float32")


def ask(runtime: TorchRuntime, texts: list[str]) -> list[dict[str, np.ndarray]]:
    card = runtime.card("minilm")
    ids = [runtime.tokenize(card, text, truncate=True).ids for text in texts]
    answers = runtime.run([Item(card=card, input=Tokens(ids=one), selection=CHOSEN) for one in ids]).answers
    assert all(isinstance(one, Answer) for one in answers)
    return [one.tensors for one in answers if isinstance(one, Answer)]


def test_memory_and_errors_of_a_real_model(
    wide: TorchRuntime, narrow: TorchRuntime, sentences: list[str]
) -> None:
    card = narrow.card("minilm")
    assert card.bytes_resident <= MOST_MEMORY[card.dtype] * wide.card("minilm").bytes_resident
    pairs = list(zip(ask(narrow, sentences), ask(wide, sentences), strict=True))
    away = np.array([np.abs(one["pooled"] - true["pooled"]) for one, true in pairs])
    assert away.max() <= MOST_ERROR[card.dtype]
    assert away.mean() <= MOST_MEAN_ERROR[card.dtype]
    for one, true in pairs:
        assert np.abs(one["weights"] - true["weights"]).mean() <= MOST_ERROR[card.dtype]
        assert one["pooled"].dtype == np.float32


@compiled
def test_the_card_says_what_is_kept_and_what_computed(narrow: TorchRuntime) -> None:
    card, ours = narrow.card("minilm"), native.native()
    assert ours is not None
    assert (card.computed_in, card.dtype in MOST_ERROR) == ("float32", True)
    kernels = set(card.kernel.partition(",")[0].split("+"))
    kept = {"int8", "bfloat16"} if card.dtype == "int8" else {card.dtype}
    assert kernels == {f"heed:{one}{':widened' if widens(ours.using, one) else ''}" for one in kept}
    stack = loaded(card).model
    assert isinstance(stack, Stack)
    assert stack.dtype == torch.float32
    assert stack.blocks[0].projected is not None  # one call a block, as in float32


@compiled
def test_bytes_are_what_is_kept(narrow: TorchRuntime) -> None:
    stack = loaded(narrow.card("minilm")).model
    assert isinstance(stack, Stack)
    kept = [*stack._embedding.kept, *(one for block in stack.blocks for one in block.linears)]
    told = narrow.card("minilm").bytes_resident
    assert told == pytest.approx(sum(one.nbytes for one in kept), rel=2e-3)  # and norms, types


@compiled
def test_bits_do_not_depend_on_neighbours_or_threads(
    narrow: TorchRuntime, sentences: list[str], threads
) -> None:
    some = sentences[3:9]
    stack, card = loaded(narrow.card("minilm")).model, narrow.card("minilm")
    items = [
        Item(card=card, input=Tokens(ids=narrow.tokenize(card, text, truncate=True).ids), selection=CHOSEN)
        for text in some
    ]
    threads(1)
    alone = [stack.run([item])[0] for item in items]
    for count in (1, 2, 3):
        threads(count)
        for one, other in zip(stack.run(items[::-1])[::-1], alone, strict=True):
            assert isinstance(one, Answer)
            assert isinstance(other, Answer)
            assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in CHOSEN.outputs)


def test_without_compiled_code_weights_are_widened_and_int8_is_refused(
    repository: Path, wide: TorchRuntime, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ask(wide, sentences[:6])
    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(linear, "_fastest", {})
    for dtype in ("bfloat16", "float16"):
        runtime = TorchRuntime(repository, models=("minilm",), device="cpu", dtype=dtype)
        assert runtime.card("minilm").kernel.startswith("torch, reference")
        for one, true in zip(ask(runtime, sentences[:6]), expected, strict=True):
            assert np.abs(one["pooled"] - true["pooled"]).max() <= MOST_ERROR[dtype]
    with pytest.raises(SpecError, match=r"int8 needs Heed's compiled code.*or choose bfloat16"):
        TorchRuntime(repository, models=("minilm",), device="cpu", dtype="int8")
    with pytest.raises(SpecError, match=r"int8 needs Heed's compiled code"):
        TorchRuntime(repository, models=("minilm:int8",), device="cpu", dtype="float32")
    monkeypatch.setenv("HEED_INSTRUCTIONS", "none")
    with pytest.raises(SpecError, match=r"which HEED_INSTRUCTIONS 'none' leaves out; give auto, or choose"):
        require_dtype("int8", torch.device("cpu"))


def test_what_cannot_be_is_refused_with_a_reason() -> None:
    with pytest.raises(SpecError, match=r"int8 is for processors, and this is cuda:0; choose bfloat16"):
        require_dtype("int8", torch.device("cuda:0"))
    with pytest.raises(
        SpecError, match=r"unknown dtype 'int4'; known: float32, tf32, bfloat16, float16, int8"
    ):
        require_dtype("int4", torch.device("cpu"))


@compiled
def test_inputs_that_are_large_are_smoothed_by_what_was_seen() -> None:
    weight, x = random(64, 96, seed=1), random(200, 96)
    x[:, 3] *= 300
    x[:, 40] *= 0.01
    expected = x.double() @ weight.double().T

    def error(*, smoothed: bool) -> float:
        layer = Linear(weight)
        layer.largest = torch.zeros(96)
        layer(x[:100])
        assert torch.equal(layer.largest, x[:100].abs().amax(0))
        keep_int8([layer], smoothed=smoothed)
        assert layer.kernel.startswith("heed:int8")
        return float((layer(x) - expected)[100:].std())

    assert error(smoothed=True) < 0.5 * error(smoothed=False)


@compiled
def test_layers_that_read_the_same_rows_are_smoothed_alike() -> None:
    layers = [Linear(random(64, 48, seed=seed)) for seed in (1, 2)]
    for one in layers:
        one.largest = random(48).abs()
    keep_int8(layers)
    first, second = (one.panels.quantized for one in layers if one.panels is not None)
    assert first is not None
    assert second is not None
    assert first.multipliers is second.multipliers  # C turns the rows once for both


@compiled
def test_a_layer_of_more_inputs_than_int8_sums_is_bfloat16() -> None:
    layer = Linear(random(2, 2**16 + 2) / 256)
    keep_int8([layer])
    assert layer.kernel.startswith("heed:bfloat16")


def test_a_table_keeps_whole_numbers_and_a_scale_a_row() -> None:
    weight = random(1000, 33)
    weight[7] = 0
    table, ids = Table(weight.clone()), torch.tensor([5, 7, 999, 5])
    table.quantize()
    assert table.nbytes == 1000 * (33 + 4)
    rows = table.rows(ids, torch.float32)
    assert ((rows - weight[ids]).abs() <= weight[ids].abs().amax(1, keepdim=True) / 253).all()
    assert not rows[1].any()


def test_what_a_model_runs_to_be_calibrated(wide: TorchRuntime) -> None:
    card = wide.card("minilm")
    items = calibration(card, loaded(card).tokenizer)
    assert len(items) == len(TEXTS)
    assert all(0 < item.input.queries <= MOST_TOKENS for item in items)
    random_ones = calibration(replace(card, vocabulary=7), None)
    assert all(item.input.ids is not None and item.input.ids.max() < 7 for item in random_ones)
    assert calibration(replace(card, vocabulary=None), None) == []


@compiled
@pytest.mark.parametrize("gated", [True, False])
def test_a_model_of_the_callers_own_rows_is_kept_in_int8_without_calibration(*, gated: bool) -> None:
    feed = FeedForwardSpec(d_ff=96, kind="gated" if gated else "mlp")
    spec = ModelSpec(d_model=64, heads=4, residual=True, norm=NormSpec(kind="layer"), feed_forward=feed)
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    stack = Stack(spec, dict(parameters), torch.device("cpu"))
    before = sum(one.nbytes for one in stack.blocks[0].linears)
    saved = stack.quantize([])
    assert before - saved < 0.45 * before
    assert {one.kernel.removesuffix(":widened") for one in stack.blocks[0].linears} == {
        "heed:int8",
        "heed:bfloat16",
    }
    assert stack.blocks[0].projected is not None
    assert stack.blocks[0].in_one is not None
