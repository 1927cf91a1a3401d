"""The kernels of a GPU, as far as a machine without one can tell: how they are called, and when believed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.attention import torch_private
from models.attention.ragged import choice as ragged
from models.attention.ragged import kernels
from models.attention.ragged.batch import Batch
from models.attention.ragged.choice import ragged_kernel, ragged_name
from models.attention.torch_private import kernel_name
from models.compiled import native
from models.compiled.extents import AttentionResult
from models.device import gpu
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of
from tests.slow_stack import random_parameters

CPU = torch.device("cpu")
LENGTHS = (5, 1, 9, 2)


def as_written(
    q: Tensor, k: Tensor, v: Tensor, batch: Batch, *, scale: float, causal: bool
) -> AttentionResult:
    """A kernel that does what one is to do."""
    z, lse = ragged.as_written(q, k, v, batch.lengths, scale=scale, causal=causal)
    return made(z.to(q.dtype), lse)


def made(z: Tensor, lse: list[Tensor]) -> AttentionResult:
    return AttentionResult(z, lse, [None] * len(lse))


def rows(
    heads: int, key_heads: int, width: int = 8, lengths: tuple[int, ...] = LENGTHS
) -> tuple[Tensor, ...]:
    chance = torch.Generator().manual_seed(1)
    fused = torch.randn(sum(lengths), heads + 2 * key_heads, width, generator=chance)
    return fused.split([heads, key_heads, key_heads], dim=1)


def test_a_batch_says_where_each_sequence_begins() -> None:
    batch = Batch.of(LENGTHS, CPU)
    assert batch.cu_seqlens.tolist() == [0, 5, 6, 15, 17]
    assert batch.cu_seqlens.dtype == torch.int32


def test_a_processor_has_no_such_kernel() -> None:
    assert ragged_kernel(CPU, torch.float32, 64, 1) is None
    assert ragged_name(CPU, torch.float32, 64, 1) is None


@pytest.mark.parametrize("kernel", [kernels.by_flash, kernels.by_efficient])
def test_the_page_of_a_model_names_the_kernel(
    monkeypatch: pytest.MonkeyPatch, kernel: kernels.Kernel
) -> None:
    instead_of_compiled_code(monkeypatch, kernel)
    stack = Stack(SPECS["layer"], random_parameters_of(SPECS["layer"]), CPU)
    names = f"ragged:{kernels.NAMES[kernel]}+reference:{kernel_name(CPU)}"
    assert stack.kernel.endswith(f", {names}")


def instead_of_compiled_code(monkeypatch: pytest.MonkeyPatch, kernel: kernels.Kernel) -> None:
    """Let this processor be a device with a kernel for ragged batches, and without compiled code."""
    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(ragged, "ragged_kernel", lambda *_: kernel)


@pytest.mark.parametrize("dtype", ragged.TOLERANCES)
@pytest.mark.parametrize("group", [1, 3])
def test_a_kernel_that_is_right_is_believed(dtype: torch.dtype, group: int) -> None:
    assert ragged.agrees(as_written, CPU, dtype, 16, group)


def _refusing(*_: Any, **__: Any) -> AttentionResult:
    raise RuntimeError("no kernel image is available for execution on the device")


def _wrong(change: Callable[[AttentionResult], AttentionResult]) -> kernels.Kernel:
    return lambda *given, **named: change(as_written(*given, **named))


@pytest.mark.parametrize(
    "kernel",
    {
        "refuses": _refusing,
        "is off": _wrong(lambda one: made(one.z * 1.01, one.lse)),
        "logsumexp in base 2": _wrong(lambda one: made(one.z, [lse * 1.442695 for lse in one.lse])),
        "logsumexp turned": _wrong(lambda one: made(one.z, [lse.T for lse in one.lse])),
        "one sequence short": _wrong(lambda one: made(one.z[:-1], one.lse)),
        "never causal": lambda *given, scale, causal: as_written(*given, scale=scale, causal=False),
        "its own scale": lambda *given, scale, causal: as_written(*given, scale=1.0, causal=causal),
        "looks at others": lambda q, k, v, batch, *, scale, causal: made(
            ragged.as_written(q, k, v, [len(q)], scale=scale, causal=causal)[0],
            ragged.as_written(q, k, v, batch.lengths, scale=scale, causal=causal)[1],
        ),
    }.values(),
)
def test_a_kernel_that_is_not_is_left_alone(kernel: kernels.Kernel) -> None:
    assert not ragged.agrees(kernel, CPU, torch.float32, 16, 1)


# What torch 2.11's entry takes after its ten first arguments; 2.13's takes `num_splits` too, and more.
OF_TORCH_2_11 = {"scale", "window_size_left", "window_size_right", "seqused_k", "alibi_slopes"}


@pytest.mark.parametrize("more", [set(), {"num_splits", "block_table"}], ids=["torch 2.11", "torch 2.13"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_flash_attention_is_asked_for_nothing_that_this_torch_does_not_know(
    monkeypatch: pytest.MonkeyPatch, causal: bool, key_heads: int, more: set[str]
) -> None:
    q, k, v = rows(4, key_heads)
    known = OF_TORCH_2_11 | more

    def entry(q, k, v, ends_q, ends_k, longest_q, longest_k, dropout, is_causal, debug, **named: Any) -> Any:
        assert ends_q.tolist() == ends_k.tolist() == [0, 5, 6, 15, 17]
        assert (longest_q, longest_k, dropout, is_causal, debug) == (9, 9, 0.0, causal, False)
        assert set(named) <= known
        assert (named["window_size_left"], named["window_size_right"]) == (-1, 0 if causal else -1)
        assert named.get("num_splits") == (1 if "num_splits" in known else None)  # a row is the same anywhere
        assert k.shape[1] == key_heads  # grouped heads are read, not copied
        z, lse = ragged.as_written(q, k, v, LENGTHS, scale=named["scale"], causal=causal)
        return z, torch.cat(lse, dim=1), None, None, None

    monkeypatch.setattr(torch_private, "_taken_by_flash", lambda: frozenset(known))
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", entry)
    made = kernels.by_flash(q, k, v, Batch.of(LENGTHS, CPU), scale=0.3, causal=causal)
    expected = as_written(q, k, v, Batch.of(LENGTHS, CPU), scale=0.3, causal=causal)
    torch.testing.assert_close(made.z, expected.z)
    for found, lse in zip(made.lse, expected.lse, strict=True):
        torch.testing.assert_close(found, lse)
    torch.testing.assert_close(made.packed_lse, torch.cat(list(expected.lse), dim=1))


def test_the_arguments_of_flash_attention_are_read_from_torch() -> None:
    """What is always passed must be there, in whatever torch this is."""
    assert torch_private._taken_by_flash() >= OF_TORCH_2_11


class OutOfMemoryError(RuntimeError):
    """Torch's own, by its name."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_kernel_that_there_was_no_memory_to_try_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    device, tried = torch.device("cuda:7"), []

    def agrees(kernel: kernels.Kernel, *_: Any) -> bool:
        tried.append(kernel)
        if len(tried) == 1:
            raise error
        return True

    monkeypatch.setattr(ragged, "_chosen", {})
    monkeypatch.setattr(ragged, "agrees", agrees)
    with pytest.raises(type(error)):
        ragged_kernel(device, torch.bfloat16, 64, 1)
    for _ in range(2):
        assert ragged_kernel(device, torch.bfloat16, 64, 1) is kernels.by_flash
    assert tried == [kernels.by_flash] * 2  # and what is known is not tried again


def _failing(error: BaseException) -> kernels.Kernel:
    def kernel(*_: Any, **__: Any) -> AttentionResult:
        raise error

    return kernel


def test_what_ails_the_device_is_no_refusal_of_a_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OutOfMemoryError):
        ragged.agrees(_failing(OutOfMemoryError("CUDA out of memory")), CPU, torch.float32, 16, 1)
    sticky = _failing(RuntimeError("CUDA error: an illegal memory access was encountered"))
    monkeypatch.setattr(gpu, "computes", lambda _: False)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        ragged.agrees(sticky, CPU, torch.float32, 16, 1)
    assert not caplog.records
    monkeypatch.setattr(gpu, "computes", lambda _: True)  # it was refused, and the device goes on
    assert not ragged.agrees(sticky, CPU, torch.float32, 16, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("kernel", [kernels.by_flash, kernels.by_efficient])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_torch_takes_the_call_and_gives_these_shapes(kernel: kernels.Kernel, key_heads: int) -> None:
    """Torch's own description of both entries, run without a device: names, order and shapes."""
    q, k, v = (
        torch.empty(17, heads, 16, device="meta", dtype=torch.float16) for heads in (4, key_heads, key_heads)
    )
    ends = torch.empty(5, device="meta", dtype=torch.int32)
    made = kernel(q, k, v, Batch(ends, LENGTHS), scale=0.3, causal=True)
    assert made.z.shape == (17, 4, 16)
    assert [tuple(lse.shape) for lse in made.lse] == [(4, length) for length in LENGTHS]


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
    "outputs", [("z",), ("z", "weights", "lse", "entropy"), ("top_k_keys", "top_k_weights", "top_k_rest")]
)
def test_a_model_answers_the_same_by_way_of_such_a_kernel(
    monkeypatch: pytest.MonkeyPatch, computed, name: str, outputs: tuple[str, ...]
) -> None:
    spec = SPECS[name]
    batch = [item(spec, length, outputs) for length in LENGTHS]
    expected = Stack(spec, random_parameters_of(spec), CPU).run(batch)
    instead_of_compiled_code(monkeypatch, as_written)
    computed()
    found = Stack(spec, random_parameters_of(spec), CPU).run(batch)
    reads_z = "z" in outputs or spec.layers > 1  # in its first layer
    assert ((0, "ragged", [0, 1, 2, 3]) in computed()) == reads_z
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        for key, array in other.tensors.items():
            seen = other.tensors["top_k_weights"] > 0 if key == "top_k_keys" else ...
            np.testing.assert_allclose(one.tensors[key][seen], array[seen], rtol=1e-5, atol=1e-5, err_msg=key)


def test_on_such_a_device_a_mask_slows_its_owner_only(monkeypatch: pytest.MonkeyPatch, computed) -> None:
    spec = SPECS["decoder"]
    instead_of_compiled_code(monkeypatch, as_written)
    stack = Stack(spec, random_parameters_of(spec), CPU)
    batch = [item(spec, length, ("z", "lse")) for length in LENGTHS]
    batch[2] = replace(batch[2], input=replace(batch[2].input, mask=np.arange(9) % 2 == 0))
    stack.run(batch)
    assert computed() == [
        one for layer in (0, 1) for one in ((layer, "ragged", [0, 1, 3]), (layer, "reference", [2]))
    ]


def random_parameters_of(spec: ModelSpec) -> dict[str, Tensor]:
    return {name: torch.as_tensor(array) for name, array in random_parameters(spec).items()}


def item(spec: ModelSpec, length: int, outputs: tuple[str, ...]) -> Item:
    chance = np.random.default_rng(length)
    x = chance.standard_normal((length, spec.d_model), dtype=np.float32)
    card = card_of(spec)
    chosen = Selection(outputs=outputs, layers=tuple(range(spec.layers)), layer_axis=True, top_k=3)
    return Item(card=card, input=Tokens(embeddings=x), selection=chosen)
