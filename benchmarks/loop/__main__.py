"""How long one callback of the event loop takes, for requests that ask much of it in every route and format.

    python -m benchmarks.loop [--only WORD] [--times 3] [--all]

What takes over 5 ms of the loop's thread keeps everybody else waiting. The server is the real one over a
runtime that computes nothing, so that all there is to see is the service's own. Processor time of the loop's
thread is measured, which does not depend on who else uses the machine; the best of several tries counts.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.loop.corpus import corpus
from benchmarks.loop.requests import CARD, MODELS
from benchmarks.report import save
from service.app import create_app, service_of
from service.interpreter import calm_interpreter
from service.logs import configure_logging
from service.settings import Settings
from service.socket.server import Server, bind
from tests.fakes import FakeRuntime, fake_card

LIMIT_MS = 5.0


class Probe:
    """Times every callback of one event loop: `worst` is the longest since `forget`, and whose it was."""

    def __init__(self) -> None:
        self.worst_ms, self.whose = 0.0, ""
        self._thread: int | None = None

    def forget(self) -> None:
        """Begin anew."""
        self.worst_ms, self.whose = 0.0, ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the loop of the thread that runs this."""
        run = asyncio.Handle._run  # noqa: SLF001  asyncio has no hook for this
        self._thread = threading.get_ident()

        def timed(handle: Any) -> None:
            if threading.get_ident() != self._thread:
                run(handle)
                return
            started = time.thread_time()
            run(handle)
            ms = 1000 * (time.thread_time() - started)
            if ms > self.worst_ms:
                self.worst_ms, self.whose = ms, _name(handle)

        asyncio.Handle._run = timed  # type: ignore[method-assign]  # noqa: SLF001
        try:
            yield
        finally:
            asyncio.Handle._run = run  # type: ignore[method-assign]  # noqa: SLF001


def _name(handle: Any) -> str:
    callback = handle._callback  # noqa: SLF001
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {getattr(owner.get_coro(), '__qualname__', '?')}"
    return str(getattr(callback, "__qualname__", callback))[:60]


@contextlib.contextmanager
def serving(probe: Probe) -> Iterator[int]:
    """Serve a runtime of many models on a thread with an event loop of its own; yields the port."""
    runtime = FakeRuntime(CARD, *(fake_card(f"model-{at:04}") for at in range(MODELS - 1)))
    configure_logging(lines="json", level="error")
    calm_interpreter()
    app = create_app(Settings(admin=True, max_body_bytes=64 << 20, max_queued_tokens=2**20), runtime)
    service = service_of(app)
    listener = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(
        app,
        lifecycle=service.lifecycle,
        drain_seconds=5,
        max_body_bytes=64 << 20,
        abandon=service.abandon,
        refused=service.refused,
        listening=ready.set,
    )

    def run() -> None:
        with probe.watching():
            loop = asyncio.new_event_loop()  # not uvloop: its callbacks cannot be watched
            loop.run_until_complete(server.serve([listener]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def ask(port: int, raw: bytes) -> tuple[int, int]:
    """Send one request; return the status and the bytes of the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        head, _, body = raw.partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):  # refused before all was read
            while piece := connection.recv(1 << 20):
                received += piece
    return int(received[9:12] or b"0"), len(received)


def main() -> int:
    """Ask everything; return 1 where anything held the loop for too long."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="print what is within the limit too")
    options = parser.parse_args()
    probe = Probe()
    rows: list[dict[str, Any]] = []
    with serving(probe) as port:
        for name, make in corpus():
            if options.only not in name:
                continue
            raw = make()
            tries = []
            for _ in range(options.times):
                probe.forget()
                status, size = ask(port, raw)
                ask(port, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")  # what is done after a reply
                tries.append((probe.worst_ms, probe.whose))
            ms, whose = min(tries)
            rows.append({"request": name, "status": status, "loop_ms": round(ms, 2), "by": whose})
            if options.all or ms > LIMIT_MS:
                sizes = f"{len(raw):>9} B in {size:>9} B out"
                print(f"{ms:8.2f} ms  {status}  {sizes}  {name}  ({whose})", flush=True)
    over = [row for row in rows if row["loop_ms"] > LIMIT_MS]
    print(f"{len(rows)} requests, {len(over)} hold the event loop for over {LIMIT_MS:g} ms")
    if not options.only:
        save("loop", {"limit_ms": LIMIT_MS, "rows": rows})
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
