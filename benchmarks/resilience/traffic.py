"""Rows that are about traffic: drains, the network, slow callers, leavers and deadlines, overload."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

from benchmarks.resilience.fake import fake_server
from benchmarks.resilience.figures import Figure
from tests.faults.conversations import question
from tests.faults.drain import drain_under_load
from tests.faults.leavers import leave_while_waiting, miss_deadlines
from tests.faults.limits import descriptors
from tests.faults.network import KINDS, Trial, one_reply
from tests.faults.running import running
from tests.faults.slow import SLOW_KINDS, slow_callers

__all__ = ["drain", "leavers", "network", "slow"]

DRAIN_SECONDS = 30


def drain(folder: Path, *, short: bool) -> Figure:
    """SIGTERMs under load with 1 and 2 workers, connections kept and closed."""
    rounds, before = (4, 100) if short else (20, 500)
    sent, lost, statuses, latest = 0, [], Counter[int | None](), 0.0
    for number in range(rounds):
        workers = 1 + number % 2
        with running(folder / f"drain{number}", http_workers=workers) as server:
            keep_alive = number % 4 < 2
            work = drain_under_load(server, callers=40, before=before, keep_alive=keep_alive, seed=number)
            drained = asyncio.run(work)
        print(
            f"  {workers} workers: {drained.sent} sent, {dict(drained.answers)}, {len(drained.lost)} lost, ",
            end="",
        )
        print(f"status {drained.status} after {drained.seconds:.1f} s", flush=True)
        sent, latest = sent + drained.sent, max(latest, drained.seconds)
        lost += drained.lost
        statuses[drained.status] += 1
    reached = (
        f"{rounds} SIGTERMs, {sent} requests, {len(lost)} lost, exits {dict(statuses)}, latest {latest:.1f} s"
    )
    return Figure(
        "drain",
        "20 SIGTERMs under load, 1 and 2 workers, 10,000 requests: 0 lost, exit 0, in DRAIN_SECONDS + 2 s",
        reached,
        met=not lost and set(statuses) == {0} and latest <= DRAIN_SECONDS + 2 and (short or sent >= 10_000),
        short=short,
    )


def network(folder: Path, *, short: bool) -> Figure:
    """Every kind of fault, many times, with 1 and 2 workers."""
    times, healthy, wrong, crashes = (5 if short else 50), 0, Counter[str](), 0

    async def all_kinds(port: int) -> int:
        async with Trial.of(port) as trial:
            for kind in KINDS:
                complaints = await trial.run(kind, times)
                wrong[kind.name] += len(complaints)
                if complaints:
                    print(
                        f"  {kind.name}: {len(complaints)} of {times} wrong: {complaints[0][:150]}",
                        flush=True,
                    )
            return trial.healthy.answered

    for workers in (1, 2):
        with running(folder / f"network{workers}", http_workers=workers) as server:
            healthy += asyncio.run(all_kinds(server.port))
            crashes += not server.alive
            print(f"  {workers} workers: alive {server.alive}, {server.tracebacks()} tracebacks", flush=True)
    bad = {name: count for name, count in wrong.items() if count}
    reached = f"{len(KINDS)} kinds × {times} × 2, {healthy} healthy answers checked, "
    reached += f"wrong: {bad or 0}, {crashes} crashes"
    return Figure(
        "network",
        "31 kinds × 50, 1 and 2 workers: 0 wrong, 0 crashes, half-closed callers answered",
        reached,
        met=not bad and not crashes,
        short=short,
    )


async def _latencies(
    port: int, seconds: float, beside: AbstractAsyncContextManager[object]
) -> tuple[list[float], int]:
    """Seconds of each healthy answer, and how many failed, while something goes on beside."""
    taken: list[float] = []
    failed = 0
    async with beside:
        await asyncio.sleep(min(3.0, seconds / 4))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.monotonic()
            try:
                reply = await one_reply(port, question(len(taken) % 8, "healthy"), 10)
                failed += reply.status != 200
            except Exception as problem:  # noqa: BLE001  any failure of a healthy caller is counted
                failed += 1
                print(f"  healthy caller: {problem!r}"[:150], flush=True)
            taken.append(time.monotonic() - started)
            await asyncio.sleep(0.005)
    return taken, failed


def _p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def slow(folder: Path, *, short: bool) -> Figure:
    """Slow callers of each kind; then more slow bodies than there are descriptors."""
    each, bodies, seconds = (60, 300, 10.0) if short else (500, 300, 40.0)

    async def measured(port: int, kinds: tuple[str, ...], count: int) -> tuple[list[float], int]:
        return await _latencies(port, seconds, slow_callers(port, kinds, count))

    with running(folder / "slow") as server:
        alone, _ = asyncio.run(_latencies(server.port, 5, nullcontext()))
        crowded, failed = asyncio.run(measured(server.port, SLOW_KINDS, each))
    with running(folder / "few", prefix=descriptors(256)) as server:
        few, few_failed = asyncio.run(measured(server.port, ("slow body",), bodies))
    shares = [1 - failed / len(crowded), 1 - few_failed / len(few)]
    ratio = _p99(crowded) / _p99(alone)
    reached = f"{each} of each: {shares[0]:.1%} answered, p99 {_p99(crowded) * 1e3:.0f} ms, "
    reached += f"{ratio:.1f} times alone; nofile 256, {bodies} slow bodies: {shares[1]:.1%} answered"
    return Figure(
        "slow",
        "500 slow of each kind; nofile 256 with 300 slow bodies: ≥ 99% answered, p99 within 2 times alone",
        reached,
        met=min(shares) >= 0.99 and ratio <= 2,
        short=short,
    )


def leavers(folder: Path, *, short: bool) -> Figure:
    """Callers who leave, pipelined or not, and deadlines that pass, behind a busy device."""
    count, at_a_time = (200, 100) if short else (1000, 250)
    executed: Counter[str] = Counter()
    with fake_server(folder / "leavers", batch_seconds=3.0) as port:
        kinds: dict[str, Callable[[], object]] = {
            "left": lambda: leave_while_waiting(port, at_a_time, pipelined=False),
            "left, pipelined": lambda: leave_while_waiting(port, at_a_time, pipelined=True),
            "deadlines": lambda: miss_deadlines(port, at_a_time),
        }
        for name, make in kinds.items():
            for _ in range(count // at_a_time):
                waited = asyncio.run(make())  # type: ignore[arg-type]
                executed[name] += waited.executed
                print(f"  {name}: {at_a_time}, {waited.executed} executed {dict(waited.answers)}", flush=True)
    return Figure(
        "leavers",
        "1,000 callers who left, pipelined or not; 1,000 deadlines: 0 executed",
        f"{count} of each, executed: {dict(executed)}",
        met=not any(executed.values()),
        short=short,
    )
