"""CUDA graphs on a processor: operators are noted with the tensors they read and wrote, and done again there.

As on a GPU, nothing has run when a graph is recorded; numbers that come from the host while it is, or go
there, are errors; and of what a graph wrote, what another one of its pool was not recorded to read is lost
when that is replayed.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS_HOST = {"_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero"}


class Pool:
    """Graphs that take turns with the same memory, in the order in which they were recorded."""

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []


class Recording(TorchDispatchMode):
    def __init__(self, begins: Callable[[], None]) -> None:
        super().__init__()
        self._begins = begins
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.calls:
            self._begins()
        name = function._schema.name.split("::")[1]
        if name in READS_HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        result = function(*args, **(kwargs or {}))
        given = {one.untyped_storage()._cdata for one in tensors((args, kwargs))}
        # Views and what is changed in place are memory of what was given; the rest is written anew.
        made = [one for one in tensors(result) if one.untyped_storage()._cdata not in given]
        self.calls.append((function, args, kwargs or {}, made))
        return result


class FakeGraph:
    def __init__(self, number: int, refuses: Callable[[int], None]) -> None:
        self._recording = Recording(lambda: refuses(number))
        self._patches = pytest.MonkeyPatch()
        self.pool: Pool | None = None
        self.mode = ""
        self.ended = False
        self.replayed = 0

    def capture_begin(self, *, pool: Pool, capture_error_mode: str) -> None:
        self.pool, self.mode = pool, capture_error_mode
        pool.graphs.append(self)
        self._recording.__enter__()
        for name in ("from_numpy", "tensor", "as_tensor"):
            self._patches.setattr(torch, name, _from_host)

    def capture_end(self) -> None:
        self._patches.undo()
        self._recording.__exit__(None, None, None)
        self.ended = True
        self._lose()

    def replay(self) -> None:
        assert self.ended
        assert self.pool is not None
        self.replayed += 1
        own = self.pool.graphs.index(self)
        for place, other in enumerate(self.pool.graphs):
            if place not in (own, own - 1):
                other._lose()
        for function, args, kwargs, made in self._recording.calls:
            found = tensors(function(*args, **kwargs))
            for place, one in zip(made, found if made else (), strict=True):
                place.copy_(one)

    def _lose(self) -> None:
        for _, _, _, made in self._recording.calls:
            for one in made:
                one.fill_(torch.nan if one.is_floating_point() else 0)


def _from_host(*_: Any, **__: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing: a copy from the host")


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
