"""Timings of several functions in one process, in turns, so that noise falls on all alike."""

import time
from collections.abc import Callable, Mapping

SECONDS = 0.02  # of one turn of one function


def turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least seconds of a call of each."""
    counts = {name: max(1, int(SECONDS / _seconds(function, 2))) for name, function in functions.items()}
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            least[name] = min(least[name], _seconds(function, counts[name]))
    return least


def _seconds(function: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count
