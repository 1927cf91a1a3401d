"""The first process of several: takes the address, owns the device, starts the HTTP processes, sees them end.

    starting ── all listen ──► serving ── SIGTERM, passed on ──► every process drains ──► exit 0, or 1
       └─── a process ends unasked, or the device fails ──► the others are told ──► exit 1, within seconds

A process or a device that gives no sign of life makes all unready, and ends the whole when it lasts
(`service.watchdog`). Nothing is started again: whoever runs the server does that, and sees why.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from models.device.allocator import IDLE_SECONDS, Rest, give_back_free_blocks
from models.protocol import Runtime
from service.batching.limits import Limits
from service.memory_budget import Ledger
from service.memory_granted import default_budget
from service.metrics.sharing import SHARED_VARIABLE
from service.processes.channel import Channel
from service.processes.device import Device, Link
from service.processes.memory import Memory
from service.processes.messages import Setup, ToDevice, ToQueue
from service.socket.leftovers import MetricsFolder
from service.socket.server import SIGNALS, bind, leave
from service.watchdog import BEAT_SECONDS, Patience, stacks

FAILED_SECONDS = 4.0  # for the HTTP processes to tell their callers and end, after a failure
DRAINED_SECONDS = 1.2  # beyond the drain, for what a process does after it: it ends by itself within 1.0
REAPED_SECONDS = 0.5  # for what was killed to be gone
POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class Supervisor:
    """`count` HTTP processes on one address in front of a device in this process.

    `max_memory_bytes` is what all of them may hold of requests, None for half of what is free once the models
    are loaded. `on_exit` is called when a second signal ends all on the spot. Raises OSError when the address
    is not to be had; NoRoom, as `start` does, when the temporary folder is full.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        count: int,
        drain_seconds: float,
        watchdog_seconds: float,
        max_memory_bytes: int | None = None,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_exit = on_exit
        self._max_memory_bytes = max_memory_bytes
        self._drain_seconds = drain_seconds
        self._watchdog_seconds = watchdog_seconds
        self._of_processes, self._of_device = Patience(watchdog_seconds), Patience(watchdog_seconds)
        # One that listens is refused by the first; then every process has a queue of connections of its own.
        bind(host, port).close()
        first = bind(host, port, shared=True)
        self.port: int = first.getsockname()[1]
        self._listeners = [first, *(bind(host, self.port, shared=True) for _ in range(count - 1))]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Link] = []
        self._woken = threading.Event()
        self._device: Device | None = None
        self._signals = 0
        self._metrics = MetricsFolder()
        self._ledger_fd = os.memfd_create("heed-ledger")
        os.ftruncate(self._ledger_fd, Ledger.SIZE)
        self._ledger = Ledger(self._ledger_fd)

    def start(self, options: Mapping[str, Any], *, grace_seconds: float) -> None:
        """Start the HTTP processes; they wait for the device. `options` are the command line's, by field."""
        for place, listener in enumerate(self._listeners):
            self._start(listener, Setup(dict(options), grace_seconds, os.getpid(), (self._ledger_fd, place)))
            listener.close()
        self._device = Device(self._links, on_news=self._woken.set)

    def serve(self, runtime: Runtime, limits: Limits, *, listening: Callable[[], None]) -> int:
        """Serve until the end, all processes within `limits`; return the exit status."""
        assert self._device is not None
        self._ledger.limit = self._max_memory_bytes or default_budget(processes=len(self._listeners))
        before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        try:
            self._device.start(runtime, limits)
            if self._wait(lambda: all(link.listening.is_set() for link in self._links)):
                listening()
                self._wait(lambda: False)
            return self._end()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """End what is left, by force, and tidy up."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._metrics.remove()

    def _start(self, listener: socket.socket, setup: Setup) -> None:
        control, their_control = socket.socketpair()
        work, their_work = socket.socketpair()
        memory = os.memfd_create("heed-requests")
        ends = (their_control.fileno(), their_work.fileno(), listener.fileno())
        theirs = [*ends, memory, self._metrics.lock]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.processes.worker", *map(str, theirs)],
            pass_fds=[*theirs, self._ledger_fd],
            env={**os.environ, SHARED_VARIABLE: self._metrics.path},
            start_new_session=True,  # a signal from the terminal comes once, from here
        )
        their_control.close()
        their_work.close()
        self._processes.append(process)
        self._metrics.reserve(process.pid)
        link = Link(
            control=Channel(control, takes=ToDevice),
            work=Channel(work, takes=ToQueue),
            memory=Memory(memory),
        )
        self._links.append(link)
        link.control.send(setup)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  signal's signature
        """Let every process drain; at the second signal, end all of them at once."""
        self._signals += 1
        for process in self._processes:
            if process.poll() is None:
                # A second signal would be one with the first where that is not taken yet.
                process.send_signal(number if self._signals == 1 else signal.SIGKILL)
        if self._signals > 1:
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(REAPED_SECONDS)
            self._metrics.remove()
            self._on_exit()
            leave(128 + number)
        self._woken.set()

    def _wait(self, done: Callable[[], bool]) -> bool:
        """Wait for what is to come; False when the end has begun instead."""
        device = self._device
        assert device is not None
        rest = Rest(IDLE_SECONDS)
        while not done():
            if self._signals or device.failed.is_set() or self._ended():
                return False
            if rest.due(time.monotonic(), served=device.served, busy=device.busy):
                give_back_free_blocks()
            self._look_after(time.monotonic())
            self._woken.wait(POLL_SECONDS)
            self._woken.clear()
        return True

    def _look_after(self, now: float) -> None:
        """Tell every process when one gives no sign of life, or the device; end what stays so."""
        assert self._device is not None
        self._device.look_after()
        limit = self._watchdog_seconds
        early = limit - 2 * BEAT_SECONDS  # what is said of it is heard within the limit
        silent = [
            process
            for process, link in zip(self._processes, self._links, strict=True)
            if link.silent_seconds(now) > early
        ]
        trouble = f"an HTTP process has given no sign for over {limit:g} s" if silent else ""
        self._device.tell_trouble(trouble)
        if self._of_processes.ended(now, trouble=bool(silent)):
            for process in silent:
                log.critical("HTTP process %d gives no sign and is ended", process.pid)
                process.kill()
                process.wait()
        if self._of_device.ended(now, trouble=self._device.silent_seconds > limit):
            log.critical("the device gives no sign; the server ends", extra={"fields": {"at": stacks()}})
            self._device.fail()

    def _ended(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes if process.poll() is not None]

    def _end(self) -> int:
        """See every process end; return 0 when all were told to and have lost nothing."""
        assert self._device is not None
        patience = self._drain_seconds + DRAINED_SECONDS
        if not self._signals:
            for process in self._ended():
                log.critical("HTTP process %d has ended with %d", process.pid, process.returncode)
            self._device.fail("an HTTP process has ended; the server is going down" if self._ended() else "")
            patience = FAILED_SECONDS
        until = time.monotonic() + patience
        while len(self._ended()) < len(self._processes):
            if time.monotonic() > until:
                log.error("HTTP processes did not end in time")
                return 1
            self._woken.wait(POLL_SECONDS)
            self._woken.clear()
        early = [-number for number in SIGNALS if self._signals]  # of one that did not serve yet
        worst = any(process.returncode not in (0, *early) for process in self._processes)
        return 1 if worst or self._device.failed.is_set() else 0
