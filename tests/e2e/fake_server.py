"""The whole server on a fake runtime, as a process of its own: real sockets, signals and exit status.

    python -m tests.e2e.fake_server '{"settings": {"max_body_bytes": 4096}, "batch_seconds": 0.01}'

Prints its port on the first line, and that of gRPC behind it where there is one.
`fail_after` batches the device fails; `hang_after`, it never comes back.
`stuck_on_text`, `stuck_on_load`: whoever tokenizes, or loads, never comes back.
"""

import json
import sys
import time
from collections.abc import Sequence

from models.errors import DeviceFailed
from models.protocol import Item
from service.app import connection_limits, create_app, engine_limits, service_of
from service.grpc.starting import grpc_beside, take_port
from service.logs import configure_logging
from service.processes.supervisor import Supervisor
from service.settings import Settings
from service.socket.server import Server, bind, leave
from service.watchdog import end_when_stuck
from tests.fakes import FakeRuntime


def with_workers(settings: Settings, runtime: FakeRuntime, plan: dict[str, object]) -> int:
    count = settings.http_workers
    supervisor = Supervisor(
        settings.host,
        0,
        count=count,
        drain_seconds=settings.drain_seconds,
        watchdog_seconds=settings.watchdog_seconds,
    )
    said = f" {settings.grpc_port}" if settings.grpc_port else ""
    try:
        grace_seconds = float(plan.get("grace_seconds", 0.5))  # type: ignore[arg-type]
        supervisor.start(plan["settings"], grace_seconds=grace_seconds)  # type: ignore[arg-type]

        def listening() -> None:
            sys.stdout.write(f"{supervisor.port}{said}\n")
            sys.stdout.flush()

        status = supervisor.serve(runtime, engine_limits(settings), listening=listening)
    finally:
        supervisor.close()
    return status


def main(plan: dict[str, object]) -> int:
    options: dict[str, object] = plan.setdefault("settings", {})  # type: ignore[assignment]
    settings = Settings(**{"port": 0, **options})  # type: ignore[arg-type]
    settings, _held = take_port(settings, options)
    configure_logging(lines=settings.log_format, level=settings.log_level)
    ran = 0

    def before_run(_: Sequence[Item]) -> None:
        nonlocal ran
        ran += 1
        if ran > plan.get("fail_after", float("inf")):  # type: ignore[operator]
            raise DeviceFailed("the device fell off the bus")
        if ran > plan.get("hang_after", float("inf")):  # type: ignore[operator]
            time.sleep(3600)
        time.sleep(float(plan.get("batch_seconds", 0)))  # type: ignore[arg-type]

    runtime = FakeRuntime(before_run=before_run)
    if plan.get("stuck_on_text"):
        runtime.tokenize = lambda *_, **__: time.sleep(3600)  # type: ignore[assignment, method-assign]
    if plan.get("stuck_on_load"):
        runtime.load = lambda _: time.sleep(3600)  # type: ignore[assignment, method-assign]
    if settings.http_workers > 1:
        return with_workers(settings, runtime, plan)
    app = create_app(settings, runtime)
    service = service_of(app)
    service.heartbeat.watch(end_when_stuck(settings.watchdog_seconds, end=lambda: leave(1)))
    listener = bind(settings.host, settings.port)
    said = f" {settings.grpc_port}" if settings.grpc_port else ""
    sys.stdout.write(f"{listener.getsockname()[1]}{said}\n")
    sys.stdout.flush()
    server = Server(
        app,
        lifecycle=service.lifecycle,
        drain_seconds=settings.drain_seconds,
        max_body_bytes=settings.max_body_bytes,
        abandon=service.abandon,
        refused=service.refused,
        limits=connection_limits(settings),
        places=service.places,
        grace_seconds=float(plan.get("grace_seconds", 0.5)),  # type: ignore[arg-type]
        beside=grpc_beside(settings, app, service),
    )
    server.run(sockets=[listener])
    return server.exit_status


if __name__ == "__main__":
    leave(main(json.loads(sys.argv[1])))
