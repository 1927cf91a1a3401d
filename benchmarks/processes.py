"""Two HTTP processes against one, in turns: what they bring where there is only JSON, and what they cost.

    python -m benchmarks.processes [--quick] [--turns 5] [--connections 32]

`compute` is the benchmark's layer, by the Open Inference Protocol; `identity` answers with what it is sent,
so that all there is to do is reading and writing JSON, and what lies between processes. Each turn measures
both servers, one after the other; the ratio is of the medians. `serve` as the first argument is the
identity's server, with options of `heed serve`.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

import models.runtime
from benchmarks.load import closed_loop
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.workload import bodies, sequences
from models.halves import widened
from models.protocol import Answer, BatchResult, Item, Tokens
from models.runtime import TorchRuntime
from service import cli

WORKLOADS = {"compute": ("oip", "service.cli"), "identity": ("json", "benchmarks.processes")}
WARM_SECONDS = 2


class Identity(TorchRuntime):
    """Whose z is the embeddings that came."""

    def run(
        self,
        batch: Sequence[Item],
        *,
        slots: int = 1,  # noqa: ARG002  as of any runtime
    ) -> BatchResult:
        """Answer at once."""
        found = []
        for item in batch:
            assert isinstance(item.input, Tokens)
            assert item.input.embeddings is not None
            found.append(Answer(tensors={"z": widened(item.input.embeddings)}))
        return BatchResult(answers=list(found), computed_tokens=sum(item.input.queries for item in batch))


def compare(kind: str, module: str, chosen: argparse.Namespace) -> dict[str, object]:
    """Return requests a second of one process and of two, turn by turn, and the ratio of their medians."""
    sent = bodies(kind, sequences(8, 128))
    path = path_of(kind, ("z",))
    rates: dict[int, list[float]] = {1: [], 2: []}
    with (
        serving(module=module) as (one, _),
        serving("--http-workers", "2", module=module) as (two, _),
    ):
        servers = {1: one, 2: two}
        for url in servers.values():
            closed_loop(url, path, sent, connections=chosen.connections, seconds=WARM_SECONDS)
        for turn in range(chosen.turns):
            order = (1, 2) if turn % 2 == 0 else (2, 1)
            for processes in order:
                load = closed_loop(
                    servers[processes], path, sent, connections=chosen.connections, seconds=chosen.seconds
                )
                if load.errors:
                    raise SystemExit(f"{load.errors} requests were refused")
                rates[processes].append(load.requests_per_second)
    ratio = statistics.median(rates[2]) / statistics.median(rates[1])
    return {"kind": kind, "connections": chosen.connections, "rates": rates, "ratio": ratio}


def main() -> int:
    """Measure, print the table, keep the result."""
    if sys.argv[1:2] == ["serve"]:
        models.runtime.TorchRuntime = Identity  # type: ignore[misc]  # what `heed serve` loads
        cli.main()
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three turns of two seconds")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=tuple(WORKLOADS), default=list(WORKLOADS))
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.turns, chosen.seconds = 3, 2
    rows = {}
    for name in chosen.only:
        row = rows[name] = compare(*WORKLOADS[name], chosen)
        print(f"{name:9} {row['kind']:5} {chosen.connections} connections   two / one {row['ratio']:.2f}")
        for processes, found in row["rates"].items():  # type: ignore[attr-defined]
            print(f"    {processes}: " + " ".join(f"{rate:6.0f}" for rate in found), flush=True)
    save("processes", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
