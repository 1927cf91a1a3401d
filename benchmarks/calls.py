"""The same tensors by gRPC and by HTTP, in turns, on one server: rates, latency, and processor time.

    python -m benchmarks.calls [--quick] [--turns 5] [--connections 1 16]

Both ways are the Open Inference Protocol with tensors as bytes, for `z` of one sequence; both generators send
bytes that were made before, and read none of the answer. `identity` answers short
sequences with what it is sent, so that all there is to do is what lies between the socket and the device;
`compute` is the benchmark's layer. Milliseconds of the processor are the server's, of all its threads.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.timed import closed, request_of
from benchmarks.workload import BODIES, bodies, sequences
from service.grpc import schema

METHOD = "/inference.GRPCInferenceService/ModelInfer"
SERVERS = {"identity": "benchmarks.processes", "compute": "service.cli"}
LENGTHS = {"4 rows": (4, 4), "8 to 128 rows": (8, 128), "4096 rows": (4096, 4096)}
WARM_SECONDS = 1.0
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
WAYS = ("http", "grpc")


def message_of(x: NDArray[np.float32]) -> bytes:
    """Return the ModelInferRequest that asks for z of one sequence."""
    message = schema.message("inference.ModelInferRequest")(model_name="layer")
    message.inputs.add(name="embeddings", datatype="FP32", shape=x.shape)
    message.outputs.add(name="z")
    message.raw_input_contents.append(x.tobytes())
    return bytes(message.SerializeToString())


def closed_calls(address: str, messages: Sequence[bytes], *, connections: int, seconds: float) -> list[float]:
    """Keep so many calls in flight, each on a connection of its own; return the seconds of each answer."""

    async def one(at: int, until: float, found: list[float]) -> None:
        options: list[tuple[str, Any]] = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            infer = channel.unary_unary(METHOD)
            while (begin := time.perf_counter()) < until:
                await infer(messages[at % len(messages)])
                found.append(time.perf_counter() - begin)
                at += connections

    async def run() -> list[float]:
        found: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(one(at, until, found) for at in range(connections)))
        return found

    return uvloop.run(run())


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(module: str, lengths: tuple[int, int], chosen: argparse.Namespace) -> list[dict[str, object]]:
    """Return, for each number of connections, what each way gave turn by turn, and the ratios of medians."""
    count = 2 if lengths[1] > 1024 else BODIES
    inputs = sequences(*lengths, count=count)
    messages = [message_of(x) for x in inputs]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rows = []
    with serving("--grpc-port", str(port), module=module) as (url, pid):
        path = path_of("oip", ("z",))
        requests = [request_of("z", url, path, body) for body in bodies("oip", inputs)]

        def ask(way: str, connections: int, seconds: float) -> dict[str, float]:
            before, begin = processor_seconds(pid), time.perf_counter()
            if way == "http":
                answers = closed(url, requests, connections=connections, seconds=seconds)
                if {answer.status for answer in answers} != {200}:
                    raise SystemExit("requests were refused")
                took = [answer.end - answer.begin for answer in answers]
            else:
                took = closed_calls(f"127.0.0.1:{port}", messages, connections=connections, seconds=seconds)
            return {
                "rate": len(took) / (time.perf_counter() - begin),
                "p50_ms": 1000 * statistics.median(took),
                "processor_ms": 1000 * (processor_seconds(pid) - before) / len(took),
            }

        for connections in chosen.connections:
            for way in WAYS:
                ask(way, connections, WARM_SECONDS)
            turns: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for turn in range(chosen.turns):
                for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                    turns[way].append(ask(way, connections, chosen.seconds))
            medians = {
                way: {name: statistics.median(one[name] for one in found) for name in found[0]}
                for way, found in turns.items()
            }
            ratio = medians["grpc"]["rate"] / medians["http"]["rate"]
            rows.append({"connections": connections, "turns": turns, "medians": medians, "ratio": ratio})
    return rows


def main() -> int:
    """Measure, print the table, keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three turns of a second, and no long sequence")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.turns, chosen.seconds = 3, 1.0
    found: dict[str, object] = {}
    print("server    sequence        conn.   way   requests/s   p50 ms   processor ms")
    for server, module in SERVERS.items():
        for name, lengths in LENGTHS.items():
            if lengths[1] > 1024 and (chosen.quick or server == "identity"):
                continue
            rows = found[f"{server}, {name}"] = compare(module, lengths, chosen)
            for row in rows:
                for way, one in row["medians"].items():  # type: ignore[attr-defined]
                    print(
                        f"{server:9} {name:15} {row['connections']:5}   {way:4} {one['rate']:12.1f} "
                        f"{one['p50_ms']:8.2f} {one['processor_ms']:14.3f}",
                        flush=True,
                    )
    save("calls", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
