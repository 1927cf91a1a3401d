"""The process: sockets, signals, and an end that loses nothing and is never late.

    serving ── SIGTERM ──► grace ──► closing ──► finished (exit 0, or 1 when requests were left unanswered)
       └────── device failed ──────────► closing, quickly ──► exit 1          a second signal: exit at once

In the grace the server is not ready but still accepts, with `Connection: close` on every reply, so that a
balancer learns of it before a caller does. The process ends with `leave`, whatever threads remain: one that
tokenizes a long text, one that loads a model from a slow disk. Should the event loop or the interpreter's
lock not come back, faulthandler's timer, which needs neither, ends the process.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, NoReturn, cast

import uvicorn
from starlette.types import ASGIApp

from service.http.around.lifecycle import Lifecycle
from service.inlet import Inlet
from service.memory_budget import Budget
from service.socket.beside import Beside, Nobody
from service.socket.connection import Connection
from service.socket.pace import ConnectionLimits
from service.socket.places import ACCEPTED_AT_ONCE, SEATS, Places
from service.socket.sweep import Sweep

GRACE_SECONDS = 2.0
FAILED_SECONDS = 2.0  # to tell the callers of a failed device
ABANDON_SECONDS = 0.3  # to tell callers whose answers did not come in time; and again, those who still wait
LIFESPAN_SECONDS = 0.3  # for the application to stop after that, or as long as the drain leaves, at most
LONGEST_LIFESPAN_SECONDS = 2.5
LAST_SECONDS = 4.5  # after a device failure the process ends by then, whatever hangs
LATE_SECONDS = 1.0  # the same after a drain, beyond its seconds; giving back gigabytes takes a while
POLL_SECONDS = 0.02
BACKLOG = 2048
SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Take an address without listening on it yet; raise OSError when it is not to be had.

    `shared`: other sockets, all of them taken so, may listen on it too; each gets a part of the connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((host, port))
    except OSError:
        taken.close()
        raise
    taken.setblocking(False)  # noqa: FBT003  the standard library's signature
    return taken


def flush() -> None:
    """Let out what was logged and printed."""
    logging.shutdown()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed when Python began
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it any more
            stream.flush()


def leave(status: int) -> NoReturn:
    """End the process at once, whatever threads remain, with what was logged and printed."""
    flush()
    os._exit(status)


def _accepted(listeners: list[socket.socket], *, most: int) -> list[socket.socket]:
    """Accept what waits, at most so many."""
    taken: list[socket.socket] = []
    for listener in listeners:
        with contextlib.suppress(OSError):  # nobody waits any more, or it is closed already
            while len(taken) < most:
                taken.append(listener.accept()[0])
    return taken


class Server(uvicorn.Server):
    """Serves one application on bound sockets; `exit_status` is the process's when `run` returns.

    `abandon` is called when `drain_seconds` have passed and requests are still unanswered: it should make
    the application answer them at once. `refused` is called for each request refused before routing,
    `listening` once, when connections are taken, `on_exit` when a second signal ends the process on the spot.
    `beside` is begun and ended with it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifecycle: Lifecycle,
        drain_seconds: float,
        max_body_bytes: int,
        budget: Budget | None = None,
        abandon: Callable[[], None] = lambda: None,
        refused: Callable[[int], None] = lambda _: None,
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008  frozen
        places: Places | None = None,
        listening: Callable[[], None] = lambda: None,
        on_exit: Callable[[], None] = lambda: None,
        beside: Beside | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._places = places = places or Places()

        def protocol(**uvicorn: Any) -> Inlet:
            connection = Connection(
                max_body_bytes=max_body_bytes,
                budget=budget,
                refused=refused,
                limits=limits,
                places=places,
                **uvicorn,
            )
            return Inlet(connection)

        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, protocol),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.keep_alive_seconds,
                backlog=ACCEPTED_AT_ONCE,
            )
        )
        self.exit_status = 0
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds
        self._grace_seconds = min(grace_seconds, drain_seconds / 2)
        self._abandon = abandon
        self._listening = listening
        self._on_exit = on_exit
        self._beside = beside or Nobody()
        self._drain_began: float | None = None
        self._drain_told = False
        self._ends_process = False
        self._sweep = Sweep(places.endings)

    # ---- signals

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Own SIGINT and SIGTERM while serving; the exit status is ours, so neither is raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  signal's signature
        """Begin to drain; at the second signal, end the process at once."""
        if self._drain_began is not None:
            self._on_exit()
            leave(128 + sig)
        # From here, and not from when the event loop comes round: threads may keep the lock from it.
        self._drain_began = time.monotonic()  # the clock of event loops
        self._end_by_force(after_seconds=self._drain_seconds + LATE_SECONDS)
        self._lifecycle.drain()

    # ---- a server's life, in uvicorn's order

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end; `leave` must follow, for threads may be at work that nobody waits for."""
        self._ends_process = True
        loop = (self.config.get_loop_factory() or asyncio.new_event_loop)()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self.serve(sockets))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        self._places.settle()
        await super().startup(sockets=sockets)
        await self._beside.begin()
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio would accept as many at once
        self._listening()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop serving; twice a second, close connections that stall."""
        now = asyncio.get_running_loop().time()
        await self._sweep.over(self._connections, now)
        if self._lifecycle.state == "failed":
            return True
        if self._drain_began is not None:
            if not self._drain_told:
                self._drain_told = True
                log.info("draining", extra={"fields": {"seconds": self._drain_seconds}})
            if now - self._drain_began >= self._grace_seconds:
                return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer what was accepted within its time, and stop the application."""
        loop = asyncio.get_running_loop()
        failed = self._lifecycle.state == "failed"
        if failed:
            self._end_by_force(after_seconds=LAST_SECONDS)
        self._lifecycle.drain()
        await self._beside.close()
        await self._stop_accepting(sockets or [])
        began = loop.time() if self._drain_began is None else self._drain_began
        left = FAILED_SECONDS if failed else began + self._drain_seconds - loop.time()
        if not await self._finished(within_seconds=left):
            self.exit_status = 1
            unanswered = len(self.server_state.tasks) + self._beside.unanswered
            log.error("requests were not answered in time", extra={"fields": {"requests": unanswered}})
            self._abandon()
            if not await self._finished(within_seconds=ABANDON_SECONDS):
                for task in self.server_state.tasks:
                    task.cancel()
                await self._finished(within_seconds=ABANDON_SECONDS)
        await self._beside.end()
        with contextlib.suppress(TimeoutError):
            left = 0.0 if failed else began + self._drain_seconds - loop.time()
            seconds = min(max(LIFESPAN_SECONDS, left), LONGEST_LIFESPAN_SECONDS)
            await asyncio.wait_for(self.lifespan.shutdown(), seconds)
        if self._lifecycle.state == "failed":
            self.exit_status = 1

    async def _stop_accepting(self, sockets: list[socket.socket]) -> None:
        """Take every connection the kernel has completed, then close the listeners; nothing comes between.

        No more at a time than there is room for: those that are too many are told, and close.
        """
        for _ in range(BACKLOG // SEATS):
            room = self._places.room
            waiting = _accepted(sockets, most=room)
            if len(waiting) < room:
                break
            await self._connect(waiting)
            waiting = []
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        await self._connect(waiting)

    async def _connect(self, waiting: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for accepted in waiting:
            with contextlib.suppress(OSError):  # its caller left in the meantime
                await loop.connect_accepted_socket(self._connection, accepted)

    def _connection(self) -> asyncio.Protocol:
        protocol = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )

    async def _finished(self, *, within_seconds: float) -> bool:
        """Wait until every connection has had its answer and is closed; whether that came in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_seconds
        state = self.server_state
        while state.connections or state.tasks or self._beside.unanswered:
            now = loop.time()
            if now >= until:
                return False
            await self._sweep.over(self._connections, now)
            for connection in list(self._connections):
                connection.retire(now)
            await asyncio.sleep(POLL_SECONDS)
        return True

    @property
    def _connections(self) -> set[Connection]:
        return cast(set[Connection], self.server_state.connections)

    def _end_by_force(self, *, after_seconds: float) -> None:
        """End the process by then with 1, and where its threads are on standard error, whatever hangs."""
        if self._ends_process:
            faulthandler.dump_traceback_later(after_seconds, exit=True)
