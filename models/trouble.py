"""What an exception out of torch, or out of whatever else reads a model folder, means to a caller."""

import torch

from models.errors import DeviceFailed, ModelError, OutOfMemory, SpecError
from models.reasons import is_panic, reason_of

__all__ = ["of_batch", "of_load"]


def of_batch(error: BaseException) -> ModelError | None:
    """Tell what a torch error means for the batch: too large, the device gone, or neither (None)."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return OutOfMemory("the device has no memory left for this batch")
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return DeviceFailed("the device failed and serves nothing any more")
    return None


def of_load(name: str, error: BaseException) -> ModelError | None:
    """Tell why a model cannot be loaded, whatever its loader raised.

    None for what is no fault of a folder, and must go on its way: KeyboardInterrupt, SystemExit.
    """
    if isinstance(error, ModelError):
        return error
    if not isinstance(error, Exception) and not is_panic(error):
        return None
    if (known := of_batch(error)) is not None:
        return SpecError(f"{name} cannot be loaded: {known}")
    if isinstance(error, MemoryError):
        return SpecError(f"{name} cannot be loaded: there is not enough memory")
    return SpecError(reason_of(name, error))
