"""Between numpy and the device: arrays in, answers out, each of them once a batch.

On a CPU nothing is copied that need not be. On a GPU both ways go through page-locked memory (`locked`): what
goes in is copied while the processor goes on, and what comes out is waited for once.
"""

import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device.locked import locked_memory
from models.halves import BFLOAT16

SMALL_BYTES = 1 << 20  # up to here tensors travel together; larger ones pay for a copy of their own
ALIGNMENT = 64
# Numbers that torch converts on the calling thread: from 32,768 on it shares the work and, where cores are
# busy, waits milliseconds for threads that have microseconds to do.
PIECE = 32_000

HALVES = (torch.float16, torch.bfloat16)
BITS = {torch.bfloat16: torch.int16}  # numpy has none: its bit patterns cross, as uint16
NUMPY: dict[torch.dtype, type[np.generic]] = {
    torch.bool: np.bool_,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.bfloat16: np.uint16,
}


with warnings.catch_warnings():
    # Torch warns once that it can be made to write into an array that must not be written. Nothing here does.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


def to_device(arrays: Sequence[NDArray[Any]], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return arrays, one after another along their first axis, as a tensor of a dtype.

    float16 and bfloat16 (`models.halves`) reach a device as they are, and are converted there. Not to be
    written: on a CPU one array alone is lent as it lies, for the caller's numbers need no copy. A GPU is not
    waited for.
    """
    if len(arrays) > 1 and len({one.dtype for one in arrays}) > 1:
        runs = (list(run) for _, run in groupby(arrays, key=lambda one: one.dtype))
        return torch.cat([to_device(run, device, dtype) for run in runs])
    if device.type != "cuda":
        whole = _lent(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        if device.type != "cpu":
            return whole.to(device).to(dtype)
        return _converted(whole, dtype) if whole.dtype in HALVES and whole.dtype != dtype else whole.to(dtype)
    raw = locked_memory().take(sum(one.nbytes for one in arrays))
    joined = _lent(_joined(arrays, raw))
    sent = joined.to(device, non_blocking=raw is not None)
    if raw is not None:
        _hold(raw, device)
    return sent.to(dtype)


def write_bytes(place: Tensor, given: NDArray[np.uint8]) -> None:
    """Write bytes into memory of a device that is there already; a GPU is not waited for."""
    raw = locked_memory().take(given.nbytes) if place.device.type == "cuda" else None
    if raw is None:
        place.copy_(torch.from_numpy(given))
        return
    raw[:] = given
    place.copy_(torch.from_numpy(raw), non_blocking=True)
    _hold(raw, place.device)


def tensor_of(given: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a few numbers, in lists or an array, as a tensor of its own; a GPU is not waited for."""
    if device.type != "cuda":
        if isinstance(given, np.ndarray) and given.dtype in (np.float16, BFLOAT16):
            half = _lent(given)
            return _converted(half, dtype) if device.type == "cpu" else half.to(device).to(dtype)
        return torch.tensor(given, dtype=dtype, device=device)
    array = np.asarray(given)
    return to_device([array.reshape(-1)], device, dtype).view(array.shape)


def _converted(halves: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers on a processor in a dtype, as a tensor of its own, made on the calling thread alone."""
    made = torch.empty(halves.shape, dtype=dtype)
    pieces = (torch.split(one, PIECE) for one in (made.view(-1), halves.reshape(-1)))
    for into, piece in zip(*pieces, strict=True):
        into.copy_(piece)
    return made


def _lent(array: NDArray[Any]) -> Tensor:
    """Return an array's own memory as a tensor of its dtype."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _hold(raw: NDArray[np.uint8], device: torch.device) -> None:
    """Let locked memory be nobody else's until what was begun on the calling thread is done."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    locked_memory().hold_until(event, raw)


def _joined(arrays: Sequence[NDArray[Any]], raw: NDArray[np.uint8] | None) -> NDArray[Any]:
    """Return arrays one after another, in `raw` where it is given."""
    if raw is None:
        return np.concatenate(arrays)
    shape = (sum(len(one) for one in arrays), *arrays[0].shape[1:])
    whole: NDArray[Any] = raw.view(arrays[0].dtype).reshape(shape)
    return np.concatenate(arrays, out=whole)


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Return tensors on a processor as C-contiguous arrays; bfloat16 as its bit patterns, uint16."""
    return [_array(tensor) for tensor in tensors]


def begin_copy(device_bytes: Tensor) -> NDArray[np.uint8]:
    """Begin to copy bytes into the processor's memory; the array holds them once the stream is done."""
    if device_bytes.device.type != "cuda":
        array: NDArray[np.uint8] = device_bytes.cpu().numpy()
        return array
    host = locked_memory().take(device_bytes.numel())
    if host is None:  # into ordinary memory the driver copies by parts, and waits
        return device_bytes.cpu().numpy()
    torch.from_numpy(host).copy_(device_bytes, non_blocking=True)
    _hold(host, device_bytes.device)
    return host


def on_processor(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors as they are on the processor; a GPU is waited for once."""
    if not tensors or tensors[0].device.type != "cuda":
        return list(tensors)
    copies = [begin_copy(one.reshape(-1).view(torch.uint8)) for one in tensors]
    settle(tensors[0].device)
    pairs = zip(copies, tensors, strict=True)
    return [torch.from_numpy(copy).view(one.dtype).view(one.shape) for copy, one in pairs]


def moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Return a tensor of the processor's on a device; a GPU is not waited for."""
    if tensor is None or device.type != "cuda":
        return tensor
    flat = to_device([tensor.contiguous().view(-1).numpy()], device, tensor.dtype)
    return flat.view(tensor.shape)


def used_here(tensor: Tensor) -> None:
    """Let memory that others let go of be nobody else's until what the calling thread has begun is done."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))


def settle(device: torch.device) -> None:
    """Wait until all that was begun on the calling thread is done: what other streams read must be there."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _array(tensor: Tensor) -> NDArray[Any]:
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        tensor = tensor.contiguous().cpu()
    if tensor.dtype in BITS:
        return tensor.view(BITS[tensor.dtype]).numpy().view(NUMPY[tensor.dtype])
    array: NDArray[Any] = tensor.numpy()
    return array
