"""The row about what all this costs: the cells of `serve` and `latency`, in turns with another commit.

Two servers stand side by side, one of each commit, and the one that is not asked does nothing. A cell is
asked of one and then of the other, the next time the other way round; its ratio is the median over all
rounds. Every few rounds both are started anew, for a process keeps the luck it has with memory. The generator
of load is this project's own (`benchmarks.timed`), the same for both.
"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.resilience.checkout import checkout, serving, write_layer_by
from benchmarks.resilience.figures import Figure
from benchmarks.serve import path_of
from benchmarks.timed import Request, closed, request_of, summary
from benchmarks.workload import bodies, sequences
from tests.faults.running import ROOT, cpu_seconds_of

LEAST = 0.98
KINDS = ("json", "safetensors", "oip")
OUTPUTS = (("z",), ("z", "top_k"), ("z", "weights"))
CONNECTIONS = (1, 8, 32, 128)
ROUNDS_A_START = 3
AGAIN = 2  # times that cells below the promise are measured for as many rounds more


@dataclass(slots=True)
class Cell:
    """One workload: its ratios so far, this commit's over the other's, above 1 where this one is better."""

    benchmark: str
    kind: str
    outputs: tuple[str, ...]
    connections: int
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)  # processor time of the server, a request

    @property
    def name(self) -> str:
        """Say which."""
        return f"{self.benchmark} {self.kind} {'+'.join(self.outputs)} at {self.connections}"

    @property
    def ratio(self) -> float:
        """Return the median."""
        return statistics.median(self.ratios)


Server = tuple[str, int]


def cost(
    folder: Path,
    *,
    short: bool,
    against: str = "HEAD~1",
    rounds: int | None = None,
    seconds: float | None = None,
) -> Figure:
    """Compare the files as they are with those of a commit; `seconds` of a cell of a round."""
    rounds, seconds = rounds or (2 if short else 9), seconds or (0.5 if short else 1.0)
    cells = _cells(short=short)
    inputs = sequences(8, 128)
    requests = {
        (kind, outputs): [
            request_of(kind, "http://127.0.0.1", path_of(kind, outputs), body)
            for body in bodies(kind, inputs, outputs)
        ]
        for kind in KINDS
        for outputs in OUTPUTS
    }
    with checkout(against, folder) as before:
        sides = {at: folder / f"repository{number}" for number, at in enumerate((ROOT, before))}
        for at, repository in sides.items():
            write_layer_by(at, repository)
        low = cells
        for again in range(1 if short else 1 + AGAIN):
            if low:
                print(f"  {len(low)} cells, {rounds} rounds", flush=True)
                _measure(low, requests, sides, folder / f"log{again}", rounds, seconds)
            low = [cell for cell in cells if cell.ratio < LEAST]
    for cell in sorted(cells, key=lambda one: one.ratio):
        spread = f"{min(cell.ratios):.3f} to {max(cell.ratios):.3f}"
        cpu = statistics.median(cell.cpu_ratios)
        print(
            f"  {cell.ratio:.3f} ({spread}, {len(cell.ratios)} rounds; processor time {cpu:.3f})  {cell.name}"
        )
    lowest = min(cells, key=lambda one: one.ratio)
    middle = statistics.median(cell.ratio for cell in cells)
    cpu = statistics.median(statistics.median(cell.cpu_ratios) for cell in cells)
    return Figure(
        "cost",
        "serve and latency in turns with the commit before: every cell at least 0.98",
        f"against {against}: {len(cells)} cells, {len(low)} below {LEAST}; median {middle:.3f}, lowest "
        f"{lowest.ratio:.3f} ({lowest.name}); processor time a request {cpu:.3f}",
        met=not low,
        short=short,
    )


def _cells(*, short: bool) -> list[Cell]:
    outputs, connections = (OUTPUTS[:1], CONNECTIONS[:2]) if short else (OUTPUTS, CONNECTIONS)
    cells = [Cell("latency", kind, ("z",), 1) for kind in KINDS]
    return cells + [
        Cell("serve", kind, names, count) for names in outputs for kind in KINDS for count in connections
    ]


def _measure(
    cells: Sequence[Cell],
    requests: dict[tuple[str, tuple[str, ...]], list[Request]],
    sides: Mapping[Path, Path],
    log: Path,
    rounds: int,
    seconds: float,
) -> None:
    """Add a ratio a round to every cell."""
    for first in range(0, rounds, ROUNDS_A_START):
        with ExitStack() as servers:
            ours, other = (
                servers.enter_context(serving(at, repository, log.with_suffix(f".{first}-{number}")))
                for number, (at, repository) in enumerate(sides.items())
            )
            for server in (ours, other):  # warms
                for sent in requests.values():
                    closed(server[0], sent, connections=8, seconds=0.5)
            for number in range(first, min(rounds, first + ROUNDS_A_START)):
                for cell in cells:
                    sent = requests[cell.kind, cell.outputs]
                    pair = (ours, other) if number % 2 else (other, ours)
                    found = {server: _one(server, sent, cell, seconds) for server in pair}
                    (speed, cpu), (other_speed, other_cpu) = found[ours], found[other]
                    cell.ratios.append(speed / other_speed)
                    cell.cpu_ratios.append(other_cpu / cpu)


def _one(server: Server, requests: list[Request], cell: Cell, seconds: float) -> tuple[float, float]:
    """Return how good it was, requests a second or one over the median's milliseconds, and processor time."""
    url, pid = server
    before = cpu_seconds_of(pid)
    answers = closed(url, requests, connections=cell.connections, seconds=seconds)
    cpu = (cpu_seconds_of(pid) - before) / len(answers)
    load = summary(answers, connections=cell.connections)
    if load.errors:
        raise RuntimeError(f"{load.errors} errors: {cell.name}")
    return (1 / load.p50_ms if cell.benchmark == "latency" else load.requests_per_second), cpu
