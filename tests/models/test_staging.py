"""What crosses between numpy and a device arrives as it was."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.device.staging import PIECE, SMALL_BYTES, _joined, begin_copy, tensor_of, to_device, to_host
from models.halves import BFLOAT16, Numbers, bfloat16_of, widened
from tests.halved import HALVES, halved

CPU = torch.device("cpu")


def tensors() -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    numbers = torch.randn(7, 5, generator=chance)
    return [
        numbers,
        numbers.T,  # not in the order of its axes
        torch.tensor(True),
        numbers.half(),
        numbers.bfloat16(),
        torch.empty(0, 3),
        torch.randn(SMALL_BYTES // 4 + 1, generator=chance),
        torch.arange(3, dtype=torch.int32),
        torch.arange(SMALL_BYTES // 2, dtype=torch.int32).view(2, -1),
        torch.tensor(-torch.inf),
    ]


def test_tensors_come_out_as_they_are() -> None:
    given = tensors()
    for tensor, array in zip(given, to_host(given), strict=True):
        assert array.shape == tuple(tensor.shape)
        assert array.flags.c_contiguous
        if tensor.dtype == torch.bfloat16:
            assert array.dtype == np.uint16
            tensor, array = tensor.view(torch.int16), array.view(np.int16)
        assert torch.equal(torch.from_numpy(array.copy()), tensor)


def test_nothing_comes_out_of_nothing() -> None:
    assert to_host([]) == []


def test_bytes_come_out_as_they_are() -> None:
    given = torch.arange(200, dtype=torch.uint8)
    assert np.array_equal(begin_copy(given), np.arange(200))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_arrays_go_in_one_after_another(dtype: type) -> None:
    arrays = [np.arange(6, dtype=dtype).reshape(3, 2), np.full((1, 2), 9, dtype), np.empty((0, 2), dtype)]
    arrays[0].flags.writeable = False
    expected = np.concatenate(arrays)
    assert np.array_equal(to_device(arrays, CPU, torch.float64).numpy(), expected)
    for raw in (None, np.empty(expected.nbytes, np.uint8)):
        joined = _joined(arrays, raw)
        assert np.array_equal(joined, expected)
        assert joined.dtype == dtype
        assert raw is None or np.shares_memory(joined, raw)


def halves(kind: Literal["float16", "bfloat16"], shape: tuple[int, ...] = (3, 4), seed: int = 0) -> Numbers:
    return halved(np.random.default_rng(seed).standard_normal(shape), kind)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_halves_become_what_their_float32_would(
    kind: Literal["float16", "bfloat16"], dtype: torch.dtype
) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    array = patterns.view(np.float16) if kind == "float16" else bfloat16_of(patterns)
    array = array[np.isfinite(widened(array))].reshape(-1, 8)
    array.flags.writeable = False
    for arrays in ([array], [array[:5], array[5:6], array[6:]]):
        expected = to_device([widened(one) for one in arrays], CPU, dtype)
        for made in (to_device(arrays, CPU, dtype), tensor_of(array, CPU, dtype)):
            assert made.dtype == dtype
            assert torch.equal(made.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("kind", HALVES)
def test_halves_travel_as_halves(kind: Literal["float16", "bfloat16"]) -> None:
    arrays = [halves(kind), halves(kind, (2, 4), seed=1)]
    for raw in (None, np.empty(5 * 4 * 2, np.uint8)):
        joined = _joined(arrays, raw)
        assert joined.nbytes == 5 * 4 * 2
        assert joined.tobytes() == b"".join(one.tobytes() for one in arrays)
        assert raw is None or np.shares_memory(joined, raw)


@pytest.mark.parametrize("kind", HALVES)
def test_long_ones_are_made_in_pieces_by_one_thread(kind: Literal["float16", "bfloat16"]) -> None:
    array = halves(kind, (3, PIECE // 2 + 7))
    pieces: list[int] = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function._schema.name in ("aten::copy_", "aten::_to_copy"):
                pieces.append(args[-1].numel())
            return function(*args, **(kwargs or {}))

    for make in (
        lambda: to_device([array, array], CPU, torch.float32),
        lambda: tensor_of(array, CPU, torch.float32),
    ):
        pieces.clear()
        with Copies():
            made = make()
        assert sum(pieces) == made.numel()
        assert max(pieces) < 32_768  # from there on torch shares the work
    assert np.array_equal(made.numpy(), widened(array))


def test_sequences_of_different_dtypes_stand_in_one_batch() -> None:
    wide = np.random.default_rng(2).standard_normal((2, 4), dtype=np.float32) * 1e30  # beyond float16
    arrays = [halves("float16"), wide, halves("bfloat16"), halves("bfloat16", seed=1), halves("float16")]
    expected = np.concatenate([widened(one) for one in arrays])
    assert to_device(arrays, CPU, torch.float32).numpy().tobytes() == expected.tobytes()


def test_a_tensor_of_its_own_shares_nothing_with_the_caller() -> None:
    array = halves("bfloat16")
    made = tensor_of(array, CPU, torch.bfloat16)
    before = array.tobytes()
    made.zero_()
    assert array.tobytes() == before
    assert array.dtype == BFLOAT16


def test_one_array_is_lent_and_more_are_joined(recwarn: pytest.WarningsRecorder) -> None:
    array = np.frombuffer(np.arange(4.0, dtype=np.float32).tobytes(), np.float32).reshape(2, 2)
    assert not array.flags.writeable
    assert to_device([array], CPU, torch.float32).data_ptr() == array.ctypes.data
    joined = to_device([array, array], CPU, torch.float32)
    assert joined.shape == (4, 2)
    joined.add_(1)
    assert np.array_equal(array.ravel(), np.arange(4.0))
    assert not recwarn.list
