"""Tensors of a safetensors file by ordinary reads, each in memory of its own.

Nothing is mapped: a file that is cut or written over does nothing to a tensor that has been read, and one
that is cut while it is read is that model's reason, where touching a mapping would end the process (SIGBUS).
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.config import shown
from models.errors import SpecError
from models.regular_files import open_file

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LARGEST_HEADER = 16 * 2**20  # of a file of thousands of tensors it is far below this
MOST_AT_ONCE = 1 << 30  # Linux reads 2 GiB at a time at the most


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file's header describes it; `start`: its first byte, from the start of the file."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int
    nbytes: int

    @classmethod
    def of(cls, file: Path, entry: dict[str, Any], data: int) -> Self:
        """Return the tensor of one entry of a header; the file's data begin at its byte `data`."""
        first, end = entry["data_offsets"]
        return cls(file, tuple(entry["shape"]), entry["dtype"], data + first, end - first)


class TensorFile:
    """An open safetensors file: `stored` is what its header says, by the file's own names."""

    def __init__(self, file: Path, descriptor: int) -> None:
        """Read the header; raise SafetensorError, or what its readers raise, where the file is not whole."""
        self._name, self._descriptor = file.name, descriptor
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header claims {length} bytes; the limit is {LARGEST_HEADER}")
        # Every rule of the format is checked there, of the very file that is open here.
        safe_open(f"/dev/fd/{descriptor}", framework="pt", backend="pread")
        header = json.loads(os.pread(descriptor, length, 8))
        header.pop("__metadata__", None)
        self.stored = {name: StoredTensor.of(file, entry, 8 + length) for name, entry in header.items()}

    def read(self, name: str) -> Tensor:
        """Return a tensor; raise SpecError for a dtype that is not read, or a file cut short meanwhile."""
        stored = self.stored[name]
        dtype = DTYPES.get(stored.dtype)
        if dtype is None:
            raise SpecError(f"{shown(name)} is stored as {stored.dtype}, not as one of {', '.join(DTYPES)}")
        if math.prod(stored.shape) * dtype.itemsize != stored.nbytes:
            raise SpecError(
                f"{shown(name)} of {self._name} has {stored.nbytes} bytes, which is not its shape"
            )
        tensor = torch.empty(stored.shape, dtype=dtype)
        room = tensor.reshape(-1).view(torch.uint8).numpy().data
        done = 0
        while done < len(room):
            rest = room[done : done + MOST_AT_ONCE]
            if not (read := os.preadv(self._descriptor, [rest], stored.start + done)):
                raise SpecError(f"{self._name} was cut short while it was read; load the model again")
            done += read
        return tensor


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file; raise SpecError where there is none, or none that is whole."""
    if not os.path.lexists(path):
        raise SpecError(f"{path.name} is missing")
    with open_file(path) as file:
        try:
            tensors = TensorFile(path, file.fileno())
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as problem:
            raise SpecError(f"{path.name} is not a whole safetensors file: {str(problem)[:120]}") from problem
        try:
            yield tensors
        except OSError as problem:
            raise SpecError(f"{path.name} cannot be read: {problem.strerror}") from problem
