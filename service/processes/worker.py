"""One HTTP process: everything of a server but the queue and the device, which it reaches by messages.

    python -m service.processes.worker <control> <work> <listener> <memory> <lock>

The arguments are descriptors that it was born with; its settings are the environment's and, on the control
channel, the command line's. It ends when it is told to (SIGTERM, as any server), and when the device has
failed or the device process has ended; then the last to end sweeps the metrics' folder, whose lock all hold.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from models.device.allocator import keep_large_blocks
from models.errors import DeviceFailed
from service.app import connection_limits, create_app, service_of
from service.environment import load_settings
from service.grpc.starting import grpc_beside
from service.interpreter import calm_interpreter
from service.logs import configure_logging
from service.memory_budget import Budget, Ledger
from service.metrics.sharing import SHARED_VARIABLE
from service.processes.channel import Channel, Closed
from service.processes.memory import OwnMemory
from service.processes.messages import FromQueue, ToHttp
from service.processes.remote import RemoteModels
from service.processes.remote_engine import RemoteEngine
from service.socket.leftovers import sweep_when_last
from service.socket.server import Server, leave

# When memory runs out, the kernel's choice should be one of these: the first process sees it, says so and
# ends the whole in order. Its own death leaves no word.
OOM_SCORE = 900
SWEEP_SECONDS = 2.0  # for a first process that was killed to be gone, with all its memory

log = logging.getLogger(__name__)


def main(control_fd: int, work_fd: int, listener_fd: int, memory_fd: int, lock_fd: int) -> int:
    """Serve until told to end; return the exit status."""
    _volunteer()
    keep_large_blocks()
    control: Channel[ToHttp] = Channel(socket.socket(fileno=control_fd), takes=ToHttp)
    models = RemoteModels(control)
    setup = models.setup()
    settings = load_settings(os.environ, setup.options)
    configure_logging(lines=settings.log_format, level=settings.log_level)
    models.load_seconds = settings.load_seconds
    try:
        models.start()
    except DeviceFailed:
        _tidy(lock_fd, first_is_gone=models.gone)
        raise
    calm_interpreter()
    ledger = Ledger(*setup.ledger)
    budget = Budget(ledger.limit, ledger=ledger)
    memory = OwnMemory(memory_fd)
    work: Channel[FromQueue] = Channel(socket.socket(fileno=work_fd), takes=FromQueue)
    queue = partial(RemoteEngine, channel=work, memory=memory, models=models)
    app = create_app(settings, models, queue=queue, elsewhere=lambda: models.trouble, budget=budget)
    service = service_of(app)

    def beat(silent_seconds: float) -> None:
        models.alive(silent_seconds)
        memory.trim()

    service.heartbeat.watch(beat)
    if models.failed.is_set():
        service.lifecycle.fail(models.ended)
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)  # noqa: FBT003  the standard library's signature
    server = Server(
        app,
        lifecycle=service.lifecycle,
        drain_seconds=settings.drain_seconds,
        max_body_bytes=settings.max_body_bytes,
        budget=service.budget,
        abandon=service.abandon,
        refused=service.refused,
        limits=connection_limits(settings),
        places=service.places,
        listening=models.listening,
        grace_seconds=setup.grace_seconds,
        beside=grpc_beside(settings, app, service),
    )
    server.run(sockets=[listener])
    unheard = models.unheard_seconds > settings.watchdog_seconds and not models.failed.is_set()
    if service.lifecycle.state == "failed" and unheard:
        _end_the_first(setup.process)
    _tidy(lock_fd, first_is_gone=unheard or models.gone)
    return server.exit_status


def _volunteer() -> None:
    """Raise the kernel's score of this process for being ended when memory has run out (proc(5))."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(max(OOM_SCORE, int(score.read_text()))))


def _tidy(lock_fd: int, *, first_is_gone: bool) -> None:
    """Sweep the metrics' folder if nobody else will: the first process does at its own end."""
    if first_is_gone:
        sweep_when_last(os.environ[SHARED_VARIABLE], lock_fd, within_seconds=SWEEP_SECONDS)


def _end_the_first(pid: int) -> None:
    """End the device process, which gives no sign of life and so does not end itself."""
    if os.getppid() == pid:
        log.critical("the device process %d gives no sign and is ended", pid)
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    status = 1
    try:
        status = main(*(int(argument) for argument in sys.argv[1:]))
    except (Closed, DeviceFailed):  # the device process never got to serve
        pass
    except BaseException:
        log.critical("the HTTP process failed", exc_info=True)
    leave(status)  # whatever threads remain
