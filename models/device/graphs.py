"""CUDA graphs: launches that are recorded once, and made again in one call of the host.

A graph has addresses, no tensors: whatever is read and written stays where it was when it was recorded. What
is taken while it is recorded is of a pool of its own, which no one else is given as long as a graph of it
lives; graphs of one pool take turns with it, so that they run in one stream, and only what is asked for by
`lent` outlasts the next of them.
"""

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Made = TypeVar("Made")

# One at a time records or replays: until 2.12 torch has one generator of random numbers for all graphs of a
# device, and replays none while another is recorded.
_one_at_a_time = threading.RLock()
_kept: dict[int, int] = {}  # bytes of graphs that live, by whose they are
_broken: list[str] = []  # why no graph can be used any more in this process


class Graph:
    """Recorded launches, of one stream."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def replay(self) -> None:
        """Launch them in the current stream, which is that one."""
        with _one_at_a_time:
            self._graph.replay()


class Recorder:
    """Records graphs of one stream. `cuda` is torch's module of that name.

    `abandon(pool)` ends a pool that a recording has left open, where its end could not.
    """

    def __init__(self, stream: Any, cuda: Any, abandon: Callable[[Any], None]) -> None:
        self.stream = stream
        self._cuda, self._abandon = cuda, abandon
        self._pool = cuda.graph_pool_handle()

    def record(self, work: Callable[[], Made]) -> tuple[Graph, Made]:
        """Return a graph of what `work` launches in the current stream, and what that returns.

        `work` must have run before, on tensors of the same sizes: a kernel that is used for the first time is
        loaded, which cannot be recorded. Nothing of it has run afterwards. Other threads may launch what they
        like; garbage is not collected, for a graph that goes while another one is recorded breaks that.
        """
        with _one_at_a_time, _no_garbage():
            graph = self._cuda.CUDAGraph()
            try:
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                made = work()
            except BaseException:
                with suppress(RuntimeError):  # what was wrong is said already
                    self._end(graph)
                raise
            self._end(graph)
            return Graph(graph), made

    def _end(self, graph: Any) -> None:
        """End a recording; where that cannot be, undo what it has left behind, and raise."""
        try:
            graph.capture_end()
        except RuntimeError:
            self._abandon(self._pool)
            self._reset()
            raise

    def _reset(self) -> None:
        """Record nothing once: the generator of random numbers leaves the state of being recorded."""
        try:
            empty = self._cuda.CUDAGraph()
            empty.capture_begin(pool=self._cuda.graph_pool_handle(), capture_error_mode="thread_local")
            empty.capture_end()
        except RuntimeError as error:
            log.warning("no CUDA graph is used any more until the next start: %s", str(error)[:200])
            _broken.append(str(error))


def usable() -> bool:
    """Whether graphs can be replayed: no recording was left open."""
    return not _broken


@contextmanager
def none_recorded() -> Iterator[None]:
    """Let no graph be recorded meanwhile: who waits for the whole device must not meet one."""
    with _one_at_a_time:
        yield


@contextmanager
def _no_garbage() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def keep_account(owner: object, nbytes: int) -> None:
    """Count memory as that of graphs as long as their owner lives: nothing else can have it."""
    _kept[id(owner)] = nbytes
    weakref.finalize(owner, _kept.pop, id(owner), None)


def kept_bytes() -> int:
    """Return the bytes that graphs hold, which look free to the allocator."""
    return sum(_kept.values())


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
