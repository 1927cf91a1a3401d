"""`heed bench`: a small closed-loop load test of a running server, from where its callers stand.

Beside the request line. Each connection sends its next request when its last was answered; bodies are made
once and replies are not decoded, but the generator is Python and takes CPU of its own: on one machine with
the server, read its figures as a lower bound. Several servers are asked in turn.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from service.commands.client import Key, Url, asked, client, refuse
from service.wire import safetensors_format

if TYPE_CHECKING:
    import httpx

BODIES = 16  # of different lengths, sent in turn
SAFETENSORS = "application/x-safetensors"
REPLY_SECONDS = 60.0
LONGEST_SECONDS = 3600
MOST_CONNECTIONS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What some connections got in `seconds`: latencies of requests answered with 200, refusals by status."""

    connections: int
    seconds: float
    latencies: Sequence[float]
    refused: Counter[str]


def bench(
    model: Annotated[str, typer.Argument(help="a name that `heed models` lists")],
    *,
    connections: Annotated[str, typer.Option(help="how many at a time; several, with commas")] = "1,8,32",
    seconds: Annotated[float, typer.Option(min=0.1, max=LONGEST_SECONDS, help="of each measurement")] = 5.0,
    shortest: Annotated[int, typer.Option(min=1, help="tokens of the shortest sequence")] = 8,
    longest: Annotated[int, typer.Option(min=1, help="tokens of the longest sequence")] = 128,
    outputs: Annotated[str, typer.Option(help="what to ask for, separated by commas")] = "z",
    url: Url = "http://127.0.0.1:8000",
    api_key: Key = None,
) -> None:
    """Measure a running server: requests a second and latencies, by number of connections."""
    counts = _counts(connections)
    if shortest > longest:
        refuse(f"--shortest {shortest} is over --longest {longest}")
    with client(url, api_key) as heed:
        urls = heed.urls
        card = asked(lambda: heed.model(model))
    bodies = _bodies(card.details.get("d_input") or card.d_model, shortest, longest)
    table = Table("connections", "requests/s", "p50 ms", "p99 ms", "not answered", box=None, pad_edge=False)
    answered = 0
    for count in counts:
        path = f"/v1/models/{model}/attend"
        measured = asyncio.run(
            _measure(urls, path, bodies, outputs=outputs, key=api_key, count=count, seconds=seconds)
        )
        answered += len(measured.latencies)
        table.add_row(*_row(measured))
    Console().print(table)
    if not answered:
        raise typer.Exit(1)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values are not above (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def _measure(
    urls: Sequence[str],
    path: str,
    bodies: Sequence[bytes],
    *,
    outputs: str,
    key: str | None,
    count: int,
    seconds: float,
) -> Measured:
    import httpx  # comes with heed-client, which a server can do without

    headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    latencies: list[float] = []
    refused: Counter[str] = Counter()
    async with httpx.AsyncClient(
        headers=headers, params={"outputs": outputs}, limits=limits, timeout=REPLY_SECONDS
    ) as caller:
        for url in urls:
            await _request(caller, url + path, bodies[0])  # connects, and warms what is cold
        in_turn = cycle(urls)
        began = time.perf_counter()

        async def connection(first: int) -> None:
            for body in cycle([*bodies[first:], *bodies[:first]]):
                started = time.perf_counter()
                status = await _request(caller, next(in_turn) + path, body)
                ended = time.perf_counter()
                if status == "200":
                    latencies.append(ended - started)
                else:
                    refused[status] += 1
                if ended - began >= seconds:
                    return

        await asyncio.gather(*(connection(number % len(bodies)) for number in range(count)))
        took = time.perf_counter() - began
    return Measured(connections=count, seconds=took, latencies=latencies, refused=refused)


async def _request(caller: "httpx.AsyncClient", url: str, body: bytes) -> str:
    """Return the status of one request, or the name of what went wrong before there was one."""
    from httpx import HTTPError

    try:
        return str((await caller.post(url, content=body)).status_code)
    except HTTPError as error:
        return type(error).__name__


def _bodies(width: int, shortest: int, longest: int) -> list[bytes]:
    """Return requests of one sequence each, lengths evenly from the shortest to the longest."""
    chance = np.random.default_rng(0)
    lengths = np.linspace(shortest, longest, BODIES).astype(int)
    chance.shuffle(lengths)
    sequences: list[Any] = [chance.standard_normal((length, width), dtype=np.float32) for length in lengths]
    return [b"".join(safetensors_format.encode({"0.embeddings": one})) for one in sequences]


def _counts(connections: str) -> list[int]:
    parts = [part.strip() for part in connections.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST_CONNECTIONS for part in parts):
        refuse(f"--connections is numbers from 1 to {MOST_CONNECTIONS}, separated by commas")
    return [int(part) for part in parts]


def _row(measured: Measured) -> list[str]:
    latencies = measured.latencies
    spent = [f"{1000 * percentile(latencies, share):.2f}" if latencies else "" for share in (0.5, 0.99)]
    refused = ", ".join(f"{status}: {count}" for status, count in sorted(measured.refused.items()))
    return [str(measured.connections), f"{len(latencies) / measured.seconds:.0f}", *spent, refused or "0"]
