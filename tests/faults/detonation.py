"""What one bomb costs: its reply, processor time, memory beyond its own bytes, and what others wait."""

import threading
import time
from dataclasses import dataclass

from tests.faults.bombs import Bomb
from tests.faults.running import Running
from tests.faults.wire import Cut


@dataclass(frozen=True, slots=True)
class Damage:
    """What was measured while a bomb was answered."""

    status: int | None  # None: no reply in time, or none at all
    body_bytes: int
    grown_bytes: int  # most memory, beyond what was there before and the bytes that were sent
    cpu_seconds: float
    seconds: float
    worst_health_seconds: float
    unhealthy: int  # times that `/health` did not say so meanwhile


def detonate(server: Running, bomb: Bomb, *, timeout: float) -> Damage:
    """Send one bomb, and ask for `/health` all the while."""
    raw = bomb.make()
    server.forget_peak()
    before, cpu_before = server.memory(), server.cpu_seconds()
    waits: list[float] = []
    unwell: list[float] = []
    over = threading.Event()
    prober = threading.Thread(target=_probe, args=(server, over, waits, unwell, timeout))
    prober.start()
    started = time.monotonic()
    try:
        status: int | None = server.ask(raw, timeout).status
    except (OSError, Cut):
        status = None
    seconds = time.monotonic() - started
    over.set()
    prober.join()
    return Damage(
        status=status,
        body_bytes=len(raw),
        grown_bytes=max(0, server.memory("VmHWM") - before - len(raw)),
        cpu_seconds=server.cpu_seconds() - cpu_before,
        seconds=seconds,
        worst_health_seconds=max(waits),
        unhealthy=len(unwell),
    )


def _probe(
    server: Running, over: threading.Event, waits: list[float], unwell: list[float], timeout: float
) -> None:
    """Ask once at least, and until it is over."""
    while True:
        started = time.monotonic()
        well = server.healthy(timeout)
        waits.append(time.monotonic() - started)
        if not well:
            unwell.append(started)
        if over.wait(0.01):
            return
