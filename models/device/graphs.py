"""CUDA graphs: launches that are recorded once, and made again in one call of the host.

A graph has addresses, no tensors: whatever is read and written stays where it was when it was recorded. What
is taken while it is recorded is of a pool of its own, which no one else is given as long as a graph of it
lives; graphs of one pool take turns with it, so that they run in one stream, and only what is asked for by
`lent` outlasts the next of them.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class Recorder:
    """Records graphs of one stream. `cuda` is torch's module of that name."""

    def __init__(self, stream: Any, cuda: Any) -> None:
        self.stream = stream
        self._cuda = cuda
        self._pool = cuda.graph_pool_handle()

    def record(self, work: Callable[[], Made]) -> tuple[Any, Made]:
        """Return a graph of what `work` launches in the current stream, and what that returns.

        `work` must have run before, on tensors of the same sizes: a kernel that is used for the first time is
        loaded, which cannot be recorded. Nothing of it has run afterwards. Other threads may do as they like.
        """
        graph = self._cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            made = work()
        except BaseException:
            with suppress(RuntimeError):  # what was wrong is said already
                graph.capture_end()
            raise
        graph.capture_end()
        return graph, made


class _Address:
    """Memory of a device as the CUDA array interface (version 3, of Numba's documentation) describes it."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
        }


def lent(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor's memory without holding it: the pool of its graphs does, and may use it."""
    if tensor.device.type != "cuda":
        return tensor
    raw = torch.as_tensor(_Address(tensor.data_ptr(), tensor.nbytes), device=tensor.device)
    return raw.view(tensor.dtype).view(tensor.shape)
