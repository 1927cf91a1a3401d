"""Rows that are about load: slow callers beside healthy ones; goodput at four times the peak."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.resilience.crowd import Heard, beside, healthy
from benchmarks.resilience.figures import Figure
from tests.faults.limits import descriptors
from tests.faults.network import one_reply
from tests.faults.running import Running, running
from tests.faults.slow import PASSER_BY, SLOW_KINDS
from tests.faults.wire import attend, token_ids

ROWS = {"start": 0, "stop": 1500}  # enough work that the device is the limit, not the caller
FIELDS = {"inputs": [{"token_ids": token_ids(2500)}], "outputs": ["lse", "received", "entropy"], "rows": ROWS}
QUEUE = 64
RATES = (5, 10, 20, 40, 80)
TIGHT_MS = 3000
SETTLE_SECONDS = 1.0


def slow(folder: Path, *, short: bool) -> Figure:
    """Slow callers of each kind; then more slow bodies than there are descriptors.

    What is refused comes again five times a second. How much of the wait is due to that, and not to slowness,
    is seen beside as many callers who are not slow and come as often.
    """
    each, bodies, seconds = (60, 300, 10.0) if short else (500, 300, 40.0)
    servers: dict[str, tuple[list[str], tuple[str, ...], int]] = {
        f"{each} of each": ([], SLOW_KINDS, each),
        f"nofile 256, {bodies} slow bodies": (descriptors(256), ("slow body",), bodies),
    }
    said, met = [], True
    for number, (name, (prefix, kinds, count)) in enumerate(servers.items()):
        with running(folder / f"slow{number}", prefix=prefix) as server:
            healthy(server.port, 2)  # warms
            alone = healthy(server.port, seconds / 2)
            with beside(server.port, kinds, count):
                crowded = healthy(server.port, seconds)
            with beside(server.port, (PASSER_BY,), count):
                visited = healthy(server.port, seconds / 2)
            after = healthy(server.port, 2)
            met = met and server.stop() == 0
        ratio = crowded.p99_seconds / alone.p99_seconds
        print(f"  {name}: alone {_line(alone)}; beside {_line(crowded)}; after {_line(after)}", flush=True)
        print(f"  beside {count} who are not slow and come as often: {_line(visited)}", flush=True)
        said.append(
            f"{name}: {crowded.share:.1%} of {crowded.asked:,} answered, "
            f"p99 {crowded.p99_seconds * 1e3:.0f} ms, {ratio:.2f} times alone "
            f"(beside as many who are not slow {visited.p99_seconds / alone.p99_seconds:.2f} times)"
        )
        met = met and crowded.share >= 0.99 and ratio <= 2 and after.share == 1
    return Figure(
        "slow",
        "500 slow of each kind; nofile 256 with 300 slow bodies: ≥ 99% answered, p99 within 2 times alone",
        "; ".join(said),
        met=met,
        short=short,
    )


def _line(heard: Heard) -> str:
    return (
        f"{heard.answered} of {heard.asked}, p50 {heard.p50_seconds * 1e3:.1f} p99 "
        f"{heard.p99_seconds * 1e3:.1f} ms {heard.failures or ''}".strip()
    )


@dataclass(slots=True)
class Offered:
    """What an open loop got, answered in time or not."""

    rate: float
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Return the answers a second."""
        return self.answers["200"] / self.seconds


async def _offer(server: Running, rate: float, seconds: float, **fields: object) -> Offered:
    """Send at a rate whatever the server does; wait for every answer."""
    offered = Offered(rate)
    raw = attend({**FIELDS, **fields}, "Connection: close")

    async def one() -> None:
        try:
            reply = await one_reply(server.port, raw, 60)
            offered.answers[str(reply.status)] += 1
            if reply.status in (429, 503) and "retry-after" not in reply.headers:
                offered.answers["refused without Retry-After"] += 1
        except Exception as problem:  # noqa: BLE001  whatever went wrong is counted
            offered.answers[type(problem).__name__] += 1

    started, tasks = time.monotonic(), []
    while (passed := time.monotonic() - started) < seconds:
        tasks += [asyncio.create_task(one()) for _ in range(int(passed * rate) - len(tasks))]
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    offered.seconds = time.monotonic() - started
    return offered


async def _computed(server: Running) -> float:
    """Return how many sequences were computed, once nothing waits: a batch is told of after its answers."""
    last = -1.0
    while True:
        await asyncio.sleep(SETTLE_SECONDS)
        found = server.metric("heed_batch_sequences_sum")
        if found == last and server.metric("heed_queued_requests") == 0:
            return found
        last = found


async def _measured(server: Running, seconds: float) -> tuple[float, list[tuple[str, float, float, int]]]:
    peak = 0.0
    for rate in RATES:
        found = await _offer(server, rate, seconds / 2)
        peak = max(peak, found.goodput)
        print(f"  offered {rate}/s: {found.goodput:.1f}/s {dict(found.answers)}", flush=True)
    rows = []
    for name, fields in (("default", {}), ("tight", {"deadline_ms": TIGHT_MS})):
        before = await _computed(server)
        found = await _offer(server, 4 * peak, seconds, **fields)
        computed = await _computed(server) - before
        wasted = 1 - found.answers["200"] / computed if computed else 0.0
        silent = found.answers["refused without Retry-After"]
        rows.append((name, found.goodput / peak, wasted, silent))
        said = f"{found.goodput:.1f}/s, {wasted:.1%} for nobody, {dict(found.answers)}"
        print(f"  4 × {peak:.1f}/s, {name}: {said}", flush=True)
    return peak, rows


def overload(folder: Path, *, short: bool) -> Figure:
    """Four times the peak, default and tight deadlines, the server on one core and its callers on another."""
    cores = sorted(os.sched_getaffinity(0))
    promised = (
        "4 times overload, default and tight deadlines: goodput ≥ 90% of peak; computed for nobody ≤ 2%"
    )
    if len(cores) < 2:
        return Figure("overload", promised, "needs two cores, one for each side", met=None)
    prefix = ["taskset", "-c", str(cores[0])]
    try:
        with running(folder / "overload", prefix=prefix, max_queued_requests=QUEUE) as server:
            os.sched_setaffinity(0, cores[1:])
            peak, rows = asyncio.run(_measured(server, 8 if short else 16))
    finally:
        os.sched_setaffinity(0, cores)
    reached = "; ".join(
        f"{name}: {share:.0%} of {peak:.1f}/s, {wasted:.1%} for nobody, {silent} refused without Retry-After"
        for name, share, wasted, silent in rows
    )
    met = all(share >= 0.9 and wasted <= 0.02 and not silent for _, share, wasted, silent in rows)
    return Figure("overload", promised, reached, met=met, short=short)
