"""Work in steps: a generator that yields where it may be left for a moment, and returns what it comes to."""

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

__all__ = ["Steps", "finish"]

Value = TypeVar("Value")
Steps: TypeAlias = Generator[None, None, Value]


def finish(steps: Steps[Value], at_yield: Callable[[], object] = lambda: None) -> Value:
    """Return what work comes to, all its steps run one after another; `at_yield` is called between them."""
    try:
        while True:
            next(steps)
            at_yield()
    except StopIteration as end:
        value: Value = end.value
        return value
