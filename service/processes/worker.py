"""One HTTP process: everything of a server but the device, which it reaches through a RemoteRuntime.

    python -m service.processes.worker <control> <listener> <three of each line>

The arguments are descriptors that it was born with; its settings are the environment's and, on the control
channel, the command line's. It ends when it is told to (SIGTERM, as any server), and when the device has
failed or the device process has ended.
"""

import contextlib
import logging
import os
import socket
import sys

from models.errors import DeviceFailed
from service.app import create_app, service_of
from service.interpreter import calm_interpreter
from service.logs import configure_logging
from service.processes.channel import Channel, Closed
from service.processes.line import Line
from service.processes.remote import RemoteRuntime
from service.server import Server
from service.settings import load_settings

__all__ = ["main"]


def main(control_fd: int, listener_fd: int, *line_fds: int) -> int:
    """Serve until told to end; return the exit status."""
    control = Channel(socket.socket(fileno=control_fd))
    setup = control.receive()
    settings = load_settings(os.environ, setup["options"])
    configure_logging(lines=settings.log_format, level=settings.log_level)
    runtime = RemoteRuntime(control=control, lines=Line.at(line_fds))
    runtime.start()
    calm_interpreter()
    app = create_app(settings, runtime)
    service = service_of(app)
    runtime.on_failed = service.lifecycle.fail
    if runtime.failed.is_set():
        service.lifecycle.fail()
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)  # noqa: FBT003  the standard library's signature
    server = Server(
        app,
        lifecycle=service.lifecycle,
        drain_seconds=settings.drain_seconds,
        max_body_bytes=settings.max_body_bytes,
        abandon=service.abandon,
        refused=service.refused,
        listening=lambda: runtime.tell("listening"),
        grace_seconds=setup["grace_seconds"],
    )
    server.run(sockets=[listener])
    if service.engine.alive:
        logging.shutdown()
        os._exit(server.exit_status or 1)
    return server.exit_status


if __name__ == "__main__":
    with contextlib.suppress(Closed, DeviceFailed):  # the device process never got to serve
        sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
    sys.exit(1)
