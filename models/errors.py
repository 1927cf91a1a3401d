"""What can go wrong below the wall, and what an exception that nobody foresaw means to a caller.

Exceptions of torch and of native code are known by their classes' names, so that torch is not needed here.

ModelError
├── SpecError        a model folder or request describes something that cannot be built
├── UnknownModel     no such model, or no such version of it
├── TextError        text given to a model that cannot read it
├── TooLong          a sequence of more tokens than the model has positions
├── OutOfMemory      the device could not hold a batch; a smaller one may fit
└── DeviceFailed     the device is gone; nothing that comes after will work
"""

import re

LONGEST = 200  # characters of somebody else's message
GONE = "the device failed and serves nothing any more"
# Of torch, CUDA's runtime and driver, and its libraries: cublasCreate says of a full device that it is not
# initialized, cudaHostAlloc and lazy loading of a kernel that it is out of memory.
NO_MEMORY = re.compile(r"can't allocate memory|out of memory|_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")
OF_DEVICE = re.compile(r"CUDA (driver )?error|\bCU\w+_STATUS_")


class ModelError(Exception):
    """Anything raised by `models` on purpose; the message is written for the caller."""


class SpecError(ModelError):
    """A model folder, or a request, describes something that cannot be built."""


class UnknownModel(ModelError):
    """No model, or no version of it, has this name."""


class TextError(ModelError):
    """Text was given to a model that cannot read it."""


class TooLong(ModelError):
    """A sequence has more tokens than the model has positions for."""


class OutOfMemory(ModelError):
    """The device could not hold this batch; a smaller one may fit."""


class DeviceFailed(ModelError):
    """The device is gone: nothing that comes after will work."""


def is_fault(error: BaseException) -> bool:
    """Whether an exception is a failure, rather than an order to end (KeyboardInterrupt, SystemExit).

    Native code that gives up (tokenizers, safetensors) raises pyo3's panic, which is no Exception.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def of_batch(error: BaseException) -> ModelError | None:
    """Return what an error of torch means for a batch: too large, the device gone, or neither (None).

    That the device is gone is what an error of CUDA means at worst: `Gpu.meaning` asks it.
    """
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in kinds or NO_MEMORY.search(text):
        return OutOfMemory("the device has no memory left for this batch")
    if "AcceleratorError" in kinds or OF_DEVICE.search(text):
        return DeviceFailed(GONE)
    return None


def of_load(name: str, error: BaseException) -> ModelError | None:
    """Return why a model cannot be loaded, whatever its loader raised; None for an order to end."""
    if isinstance(error, ModelError):
        return error
    if not is_fault(error):
        return None
    if isinstance(error, MemoryError):
        said = "there is not enough memory"
    elif isinstance(known := of_batch(error), OutOfMemory):
        said = "the device has no memory left for it; unload a model, or choose a narrower dtype"
    elif known is not None:
        said = str(known)
    else:
        line = next(iter(str(error).splitlines()), "")[:LONGEST]
        said = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return SpecError(printable(f"{name} cannot be loaded: {said}"))


def printable(text: str) -> str:
    """Return a text that can be written as UTF-8: a file's name need not be."""
    return text.encode("utf-8", "backslashreplace").decode()
