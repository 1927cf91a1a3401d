"""Timings of several functions in one process, in turns, so that noise falls on all alike."""

import time
from collections.abc import Callable, Mapping

import torch

SECONDS = 0.02  # of one turn of one function


def turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least seconds of a call of each."""
    counts = {name: max(1, int(SECONDS / _seconds(function, 2))) for name, function in functions.items()}
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            least[name] = min(least[name], _seconds(function, counts[name]))
    return least


def with_threads(function: Callable[[], object], count: int) -> Callable[[], object]:
    """Return the same, with so many of torch's threads, whatever ran before."""

    def call() -> object:
        torch.set_num_threads(count)
        return function()

    return call


def _seconds(function: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count


def least_within(
    functions: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    least_rounds: int,
    most_rounds: int = 1000,
) -> dict[str, float]:
    """Return the least seconds of a call of each, of as many turns of one call as the time allows."""
    least = dict.fromkeys(functions, float("inf"))
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < least_rounds or (rounds < most_rounds and time.perf_counter() < until):
        rounds += 1
        for name, function in functions.items():
            least[name] = min(least[name], _seconds(function, 1))
    return least
