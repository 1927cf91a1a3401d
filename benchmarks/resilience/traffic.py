"""Rows that are about traffic: drains, the network, callers who leave, deadlines."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks.resilience.fake import fake_server
from benchmarks.resilience.figures import Figure
from tests.faults.bombs import LONG_TEXT
from tests.faults.drain import drain_under_load, learn_all
from tests.faults.leavers import Waited, leave_while_waiting, miss_deadlines
from tests.faults.network import KINDS, Trial
from tests.faults.running import running
from tests.faults.wire import attend

DRAIN_SECONDS = 30
SHORT_DRAIN_SECONDS = 3  # where long texts are under way: they must not make it later
LONG_TEXTS: tuple[Callable[[], bytes], ...] = (
    lambda: attend({"inputs": [{"text": LONG_TEXT}] * 30}),
    lambda: attend({"inputs": [{"text": LONG_TEXT}] * 30, "truncate": True}),
    lambda: attend({"inputs": [{"text": "a b " * 3900}] * 1024, "truncate": True}),
    lambda: attend({"inputs": [{"text": "a b " * 300}] * 4096}),
)


def drain(folder: Path, *, short: bool) -> Figure:
    """SIGTERMs under load with 1 and 2 workers, long texts in every other two."""
    rounds, before = (4, 100) if short else (20, 500)
    sent, lost, statuses, latest = 0, [], Counter[int | None](), 0.0
    late = Counter[str]()
    expected = None
    for number in range(rounds):
        workers, keep_alive, long_texts = 1 + number % 2, number % 4 < 2, number % 4 in (1, 2)
        limit = SHORT_DRAIN_SECONDS if long_texts else DRAIN_SECONDS
        with running(folder / f"drain{number}", http_workers=workers, drain_seconds=limit) as server:
            expected = expected or asyncio.run(learn_all(server.port))
            work = drain_under_load(
                server,
                callers=40,
                before=before,
                keep_alive=keep_alive,
                seed=number,
                texts=[make() for make in LONG_TEXTS] if long_texts else (),
                expected=expected,
            )
            drained = asyncio.run(work)
            late["tracebacks"] += server.tracebacks()
        print(
            f"  {workers} workers: {drained.sent} sent, {dict(drained.answers)}, {len(drained.lost)} lost, "
            f"{drained.late} late callers, long texts {dict(drained.texts)}, "
            f"status {drained.status} after {drained.seconds:.1f} s of {limit}",
            flush=True,
        )
        for one in drained.lost[:3]:
            print(f"    {one[:200]}", flush=True)
        late["late"] += drained.seconds > limit + 2
        sent, latest = sent + drained.answers.total(), max(latest, drained.seconds)
        lost += drained.lost
        statuses[drained.status] += 1
    reached = f"{rounds} SIGTERMs, {sent:,} answers checked, {len(lost)} lost, exits {dict(statuses)}, "
    reached += f"latest {latest:.1f} s, {late['late']} later than DRAIN_SECONDS + 2 s, "
    reached += f"{late['tracebacks']} tracebacks"
    return Figure(
        "drain",
        "20 SIGTERMs under load, 1 and 2 workers, 10,000 requests: 0 lost, exit 0, never later than "
        "DRAIN_SECONDS + 2 s, also with long texts",
        reached,
        met=not lost and set(statuses) == {0} and not late.total() and (short or sent >= 10_000),
        short=short,
    )


def network(folder: Path, *, short: bool) -> Figure:
    """Every kind of fault, many times, with 1 and 2 workers."""
    times, healthy, wrong = (5 if short else 50), 0, Counter[str]()
    crashes = tracebacks = 0

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
            tracebacks += server.tracebacks()
            ended = server.stop() if server.alive else None
            crashes += ended not in (0, None)
            print(f"  {workers} workers: status {ended}, {server.tracebacks()} tracebacks", flush=True)
    bad = {name: count for name, count in wrong.items() if count}
    reached = f"{len(KINDS)} kinds × {times} × 2, {healthy} healthy answers checked, "
    reached += f"wrong: {bad or 0}, {crashes} crashes, {tracebacks} tracebacks"
    return Figure(
        "network",
        "31 kinds × 50, 1 and 2 workers: 0 wrong, 0 crashes, half-closed callers answered",
        reached,
        met=not bad and not crashes and not tracebacks and healthy >= times * len(KINDS),
        short=short,
    )


def leavers(folder: Path, *, short: bool) -> Figure:
    """Callers who leave, pipelined or not, and deadlines that pass, behind a busy device.

    Each turn has a server of its own: one that has measured how long its batches take refuses at once what
    must wait in the queue here.
    """
    count, at_a_time = (200, 100) if short else (1000, 250)
    kinds: dict[str, Callable[[int], Coroutine[Any, Any, Waited]]] = {
        "left": lambda port: leave_while_waiting(port, at_a_time, pipelined=False),
        "left, pipelined": lambda port: leave_while_waiting(port, at_a_time, pipelined=True),
        "deadlines": lambda port: miss_deadlines(port, at_a_time),
    }
    executed: Counter[str] = Counter()
    told: Counter[int | str] = Counter()
    for name, make in kinds.items():
        for turn in range(count // at_a_time):
            with fake_server(folder / f"{name}-{turn}", batch_seconds=3.0) as server:
                waited = asyncio.run(make(server.port))
            executed[name] += waited.executed
            told += waited.answers
            print(f"  {name}: {at_a_time}, {waited.executed} executed {dict(waited.answers)}", flush=True)
    return Figure(
        "leavers",
        "1,000 callers who left, pipelined or not; 1,000 deadlines: 0 executed",
        f"{count} of each, executed: {dict(executed)}; deadlines were told {dict(told)}",
        met=not any(executed.values()) and told == {504: count},
        short=short,
    )
