"""Killing and freezing the server's processes, and what is seen of it from outside."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.faults.running import HEALTH, Running, shared_memory
from tests.faults.wire import Cut, connect

PROBES = 12  # new connections, which reach every HTTP process
PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What followed a signal: seconds until no process said that it was well, and how it ended."""

    red_seconds: float | None
    status: int | None  # None: it did not end
    survivors: int


def victim_of(server: Running, victim: str) -> int:
    """The id of the `device` process or of an HTTP `worker`."""
    return server.process.pid if victim == "device" else server.children()[0]


def strike(server: Running, victim: str, number: signal.Signals, *, patience: float = 20) -> Aftermath:
    """Send a signal to one process; watch until all are red, and then until the whole has ended.

    A frozen first process cannot end by itself: it is killed once all are red, and the others must follow.
    """
    os.kill(victim_of(server, victim), number)
    red = _seconds_until_red(server, patience)
    if victim == "device" and number == signal.SIGSTOP:
        server.process.kill()
    return _end_of(server, red, patience)


def strike_thread(server: Running, raw: bytes, *, patience: float = 20) -> Aftermath:
    """Ask what makes the device's thread fail or freeze; watch until all are red and the whole has ended."""
    with connect(server.port, patience) as waiting:
        waiting.sendall(raw)
        return _end_of(server, _seconds_until_red(server, patience), patience)


def _end_of(server: Running, red: float | None, patience: float) -> Aftermath:
    until = time.monotonic() + patience
    while (server.alive or server.survivors()) and time.monotonic() < until:
        time.sleep(0.02)
    return Aftermath(red, server.process.poll(), len(server.survivors()))


def _seconds_until_red(server: Running, patience: float) -> float | None:
    """Seconds after which several new connections at once were told nothing good; None: not in time."""
    started = time.monotonic()
    with ThreadPoolExecutor(PROBES) as probes:  # those to a frozen process take PROBE_SECONDS each
        while time.monotonic() - started < patience:
            began = time.monotonic()
            if not any(list(probes.map(_says_well, [server] * PROBES))):
                return began - started
            time.sleep(0.01)
    return None


def _says_well(server: Running) -> bool:
    try:
        return server.ask(HEALTH, PROBE_SECONDS).status == 200
    except (OSError, Cut):
        return False


def left_behind(server: Running) -> list[str]:
    """Files of the server that are still there: in its temporary folder and in shared memory."""
    return sorted({one.name for one in server.scratch.iterdir()} | (shared_memory() - server.shared_before))
