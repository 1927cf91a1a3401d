"""Where the first layer of another library's model begins: what enters it is the output `embedded`.

Every architecture names its layers differently. So, while a model is probed, the first of its modules is
looked for that reads exactly what the library itself calls the hidden states before any layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.pretrained.interception import current


class EntrySearch:
    """What was found: `module` is the first whose first input is the model's `hidden_states[0]`, or None.

    `width` is how many numbers a row of it has.
    """

    def __init__(self) -> None:
        self.module: nn.Module | None = None
        self.width = 0
        self._read: dict[nn.Module, Tensor] = {}  # by each module at its first call, in the order of calls

    def begin(self, *_: Any) -> None:
        """Forget what earlier passes read."""
        self._read.clear()

    def note(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Keep what a module is given."""
        first = _first(given, named)
        if first is not None:
            self._read.setdefault(module, first)

    def end(self, _module: nn.Module, _given: Any, out: Any) -> None:
        """Compare with the hidden states, where a pass tells them."""
        states = getattr(out, "hidden_states", None)
        if self.module is None and states:
            entering = states[0]
            found = (one for one, read in self._read.items() if _same(read, entering))
            self.module, self.width = next(found, None), int(entering.shape[-1])
        self._read.clear()


@contextmanager
def looking_for_entry(model: nn.Module) -> Iterator[EntrySearch]:
    """Watch the passes through a stack of layers, which must tell their hidden states once."""
    search = EntrySearch()
    inner = [one for one in model.modules() if one is not model]
    hooks = [one.register_forward_pre_hook(search.note, with_kwargs=True) for one in inner]
    hooks += [model.register_forward_pre_hook(search.begin), model.register_forward_hook(search.end)]
    try:
        yield search
    finally:
        for hook in hooks:
            hook.remove()


def collect_entry(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Keep what enters the first layer: a forward pre-hook of the module that was found."""
    now = current()
    if now is not None and not now.entered:
        first = _first(given, named)
        assert first is not None
        now.collect_entry(first)


def _first(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    first = given[0] if given else named.get("hidden_states")
    return first if isinstance(first, Tensor) else None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
