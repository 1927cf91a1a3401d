"""The kernels of a GPU, as far as a machine without one can tell: how they are called, and when believed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import linear, loading, packed, varlen
from models.kernels import kernel_name
from models.masks import band_of
from models.outputs import Selection
from models.packed import CAUSAL
from models.parts import Part
from models.protocol import Answer, Item, Tokens
from models.spec import AttentionSpec, FeedForwardSpec, ModelSpec, NormSpec, PositionSpec
from models.stack import Stack
from models.varlen import Batch, Made, plainly, ragged_kernel, ragged_name
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

CPU = torch.device("cpu")
LENGTHS = (5, 1, 9, 2)


def as_written(q: Tensor, k: Tensor, v: Tensor, batch: Batch, *, scale: float, causal: bool) -> Made:
    """A kernel that does what one is to do."""
    z, lse = plainly(q, k, v, batch.lengths, scale=scale, causal=causal)
    return Made(z.to(q.dtype), lse)


def rows(
    heads: int, key_heads: int, width: int = 8, lengths: tuple[int, ...] = LENGTHS
) -> tuple[Tensor, ...]:
    chance = torch.Generator().manual_seed(1)
    fused = torch.randn(sum(lengths), heads + 2 * key_heads, width, generator=chance)
    return fused.split([heads, key_heads, key_heads], dim=1)


def test_a_batch_says_where_each_sequence_ends() -> None:
    batch = Batch.of(LENGTHS, CPU)
    assert batch.ends.tolist() == [0, 5, 6, 15, 17]
    assert batch.ends.dtype == torch.int32


def test_a_processor_has_no_such_kernel() -> None:
    assert ragged_kernel(CPU, torch.float32, 64, 1) is None
    assert ragged_name(CPU, torch.float32, 64, 1) is None


def test_the_page_of_a_model_names_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_fastest", {})
    for module in (linear, loading):
        monkeypatch.setattr(module, "native", lambda: None)
    stack = Stack(SPECS["layer"], random_parameters_of(SPECS["layer"]), CPU)
    assert loading._kernels(stack, torch.float32, CPU) == f"torch, {kernel_name(CPU)}"
    for kernel in (varlen._flash, varlen._efficient):
        monkeypatch.setattr(varlen, "ragged_kernel", lambda *_, kernel=kernel: kernel)
        assert loading._kernels(stack, torch.float32, CPU) == f"torch, {varlen.NAMES[kernel]}"


@pytest.mark.parametrize("dtype", varlen.TOLERANCES)
@pytest.mark.parametrize("group", [1, 3])
def test_a_kernel_that_is_right_is_believed(dtype: torch.dtype, group: int) -> None:
    assert varlen._agrees(as_written, CPU, dtype, 16, group)


def _refusing(*_: Any, **__: Any) -> Made:
    raise RuntimeError("no kernel image is available for execution on the device")


def _wrong(change: Callable[[Made], Made]) -> varlen.Kernel:
    return lambda *given, **named: change(as_written(*given, **named))


@pytest.mark.parametrize(
    "kernel",
    {
        "refuses": _refusing,
        "is off": _wrong(lambda made: Made(made.z * 1.01, made.lse)),
        "logsumexp in base 2": _wrong(lambda made: Made(made.z, [lse * 1.442695 for lse in made.lse])),
        "logsumexp turned": _wrong(lambda made: Made(made.z, [lse.T for lse in made.lse])),
        "one sequence short": _wrong(lambda made: Made(made.z[:-1], made.lse)),
        "never causal": lambda *given, scale, causal: as_written(*given, scale=scale, causal=False),
        "its own scale": lambda *given, scale, causal: as_written(*given, scale=1.0, causal=causal),
        "looks at others": lambda q, k, v, batch, *, scale, causal: Made(
            plainly(q, k, v, [len(q)], scale=scale, causal=causal)[0],
            plainly(q, k, v, batch.lengths, scale=scale, causal=causal)[1],
        ),
    }.values(),
)
def test_a_kernel_that_is_not_is_left_alone(kernel: varlen.Kernel) -> None:
    assert not varlen._agrees(kernel, CPU, torch.float32, 16, 1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_flash_attention_is_asked_as_torch_documents_it(
    monkeypatch: pytest.MonkeyPatch, causal: bool, key_heads: int
) -> None:
    q, k, v = rows(4, key_heads)

    def function(q, k, v, ends_q, ends_k, longest_q, longest_k, **named: Any) -> tuple[Tensor, Tensor]:
        assert ends_q.tolist() == ends_k.tolist() == [0, 5, 6, 15, 17]
        assert (longest_q, longest_k) == (9, 9)
        assert named["window_size"] == ((-1, 0) if causal else (-1, -1))
        assert named["enable_gqa"] is (key_heads != 4)
        assert named["return_aux"].lse
        assert named["num_splits"] == 1  # what makes a row the same in every batch
        z, lse = plainly(q, k, v, LENGTHS, scale=named["scale"], causal=causal)
        return z, torch.cat(lse, dim=1)

    _, more, aux = varlen._varlen()
    monkeypatch.setattr(varlen, "_varlen", lambda: (function, more, aux))
    made = varlen._flash(q, k, v, Batch.of(LENGTHS, CPU), scale=0.3, causal=causal)
    expected = as_written(q, k, v, Batch.of(LENGTHS, CPU), scale=0.3, causal=causal)
    torch.testing.assert_close(made.z, expected.z)
    for found, lse in zip(made.lse, expected.lse, strict=True):
        torch.testing.assert_close(found, lse)


@pytest.mark.parametrize("kernel", [varlen._flash, varlen._efficient])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_torch_takes_the_call_and_gives_these_shapes(kernel: varlen.Kernel, key_heads: int) -> None:
    """Torch's own description of both entries, run without a device: names, order and shapes."""
    q, k, v = (
        torch.empty(17, heads, 16, device="meta", dtype=torch.float16) for heads in (4, key_heads, key_heads)
    )
    ends = torch.empty(5, device="meta", dtype=torch.int32)
    made = kernel(q, k, v, Batch(ends, LENGTHS), scale=0.3, causal=True)
    assert made.z.shape == (17, 4, 16)
    assert [tuple(lse.shape) for lse in made.lse] == [(4, length) for length in LENGTHS]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chosen", [slice(None), slice(1, None, 2)])
def test_all_parts_at_once_are_what_each_is_alone(
    monkeypatch: pytest.MonkeyPatch, causal: bool, chosen: slice
) -> None:
    monkeypatch.setattr(packed, "ragged_kernel", lambda *_: as_written)
    q, k, v = rows(4, 2)
    ends = np.cumsum(LENGTHS)
    parts = [Part(slice(int(end) - n, int(end)), lse=True) for n, end in zip(LENGTHS, ends, strict=True)]
    spec = AttentionSpec(causal=causal)
    found = packed._at_once(q, k, v, spec, parts[chosen], causal=causal)
    expected = packed.contextualize_packed(q, k, v, spec, parts[chosen])
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found[0], expected[0])
    for made, one in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(made.lse, one.lse)


SPECS = {
    "layer": ModelSpec(d_model=48, heads=3),
    "encoder": ModelSpec(
        d_model=32,
        heads=4,
        layers=2,
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=40),
    ),
    "decoder": ModelSpec(
        d_model=32,
        heads=4,
        kv_heads=2,
        layers=2,
        residual=True,
        attention=AttentionSpec(causal=True),
        norm=NormSpec(kind="rms", placement="pre", final=True),
        positions=PositionSpec(kind="rotary"),
    ),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    "outputs", [("z",), ("z", "weights", "lse", "entropy"), ("top_k_keys", "top_k_rest")]
)
def test_a_model_answers_the_same_by_way_of_such_a_kernel(
    monkeypatch: pytest.MonkeyPatch, name: str, outputs: tuple[str, ...]
) -> None:
    spec = SPECS[name]
    stack = Stack(spec, random_parameters_of(spec), CPU)
    batch = [item(spec, length, outputs) for length in LENGTHS]
    expected = stack.run(batch)
    asked = []

    def at_once(q: Tensor, k: Tensor, v: Tensor, rule: AttentionSpec, parts: list[Part]) -> Any:
        asked.append(len(parts))
        bands = {band_of(rule, queries=part.length, keys=part.length) for part in parts}
        return packed._at_once(q, k, v, rule, parts, causal=CAUSAL in bands)

    monkeypatch.setattr(packed, "ragged_kernel", lambda *_: as_written)
    monkeypatch.setattr("models.stack.contextualize_packed", at_once)
    monkeypatch.setattr(Stack, "_in_one", lambda *_: None)
    found = stack.run(batch)
    assert bool(asked) == ("z" in outputs or spec.layers > 1)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        for key, array in other.tensors.items():
            np.testing.assert_allclose(one.tensors[key], array, rtol=1e-5, atol=1e-5, err_msg=key)


def random_parameters_of(spec: ModelSpec) -> dict[str, Tensor]:
    return {name: torch.as_tensor(array) for name, array in random_parameters(spec).items()}


def item(spec: ModelSpec, length: int, outputs: tuple[str, ...]) -> Item:
    chance = np.random.default_rng(length)
    x = chance.standard_normal((length, spec.d_model), dtype=np.float32)
    card = fake_card(
        layers=spec.layers,
        heads=spec.heads,
        key_heads=spec.key_heads,
        d_model=spec.d_model,
        d_k=spec.key_width,
        d_v=spec.value_width,
    )
    chosen = Selection(outputs=outputs, layers=tuple(range(spec.layers)), layer_axis=True, top_k=3)
    return Item(card=card, input=Tokens(embeddings=x), selection=chosen)
