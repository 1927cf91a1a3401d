"""Healthy and slow callers, each as a process of its own: neither waits for the other's event loop.

    python -m benchmarks.resilience.crowd healthy PORT SECONDS   # prints a line of JSON
    python -m benchmarks.resilience.crowd slow PORT COUNT KIND …  # goes on until it is ended

A slow caller prints one line when all of them are there.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from tests.faults.conversations import question
from tests.faults.network import one_reply
from tests.faults.running import ROOT
from tests.faults.slow import slow_callers

CALLER_SECONDS = 10.0  # after which a healthy caller has failed
GATHERING_SECONDS = 60.0
MODULE = "benchmarks.resilience.crowd"


@dataclass(frozen=True, slots=True)
class Heard:
    """What a healthy caller got: how many of its questions were answered, and what they took."""

    asked: int
    answered: int
    p50_seconds: float
    p99_seconds: float
    failures: dict[str, int]

    @property
    def share(self) -> float:
        """Return what part was answered."""
        return self.answered / self.asked


def healthy(port: int, seconds: float) -> Heard:
    """Ask one question after another, in a process of its own."""
    command = [sys.executable, "-m", MODULE, "healthy", str(port), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Heard(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def beside(port: int, kinds: Sequence[str], count: int) -> Iterator[None]:
    """Keep `count` slow callers of each kind while the block runs; all have come when it begins."""
    command = [sys.executable, "-m", MODULE, "slow", str(port), str(count), *kinds]
    crowd = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert crowd.stdout is not None
    try:
        first = crowd.stdout.readline()
        if not first.startswith("all there"):
            raise RuntimeError(f"the slow callers did not all come: {first}")
        print(f"  slow callers: {first.strip()}", flush=True)
        yield
        if crowd.poll() is not None:
            raise RuntimeError(f"the slow callers ended with {crowd.returncode}")
    finally:
        crowd.kill()
        crowd.wait()
        crowd.stdout.close()


async def _ask(port: int, seconds: float) -> Heard:
    taken: list[float] = []
    failures: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(taken) < 2:
        started = time.monotonic()
        try:
            reply = await one_reply(port, question(len(taken) % 8, "healthy"), CALLER_SECONDS)
            if reply.status != 200:
                failures[str(reply.status)] += 1
        except Exception as problem:  # noqa: BLE001  any failure of a healthy caller is counted
            failures[type(problem).__name__] += 1
        taken.append(time.monotonic() - started)
        await asyncio.sleep(0.005)
    cuts = statistics.quantiles(taken, n=100)
    return Heard(len(taken), len(taken) - failures.total(), cuts[49], cuts[98], dict(failures))


async def _crowd(port: int, count: int, kinds: tuple[str, ...]) -> None:
    async with slow_callers(port, kinds, count) as seen:
        async with asyncio.timeout(GATHERING_SECONDS):
            while min(seen[f"{kind}: made"] for kind in kinds) < count:
                await asyncio.sleep(0.02)
        print("all there:", dict(seen), flush=True)
        await asyncio.Event().wait()


def main(what: str, port: str, number: str, *kinds: str) -> None:
    """Be one healthy caller, or many slow ones."""
    if what == "healthy":
        print(json.dumps(asdict(asyncio.run(_ask(int(port), float(number))))))
    else:
        asyncio.run(_crowd(int(port), int(number), kinds))


if __name__ == "__main__":
    main(*sys.argv[1:])
