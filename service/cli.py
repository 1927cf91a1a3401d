"""The command line, `heed`: one function a command, each added by one line at the end.

`serve` is here, for it stands before the first station: it reads the settings, takes the address, loads the
models, and only then listens. Its options are made from the settings' fields.
"""

import contextlib
import inspect
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from models.errors import ModelError
from models.protocol import Runtime
from service import __version__
from service.app import connection_limits, create_app, engine_limits, require_paths, service_of
from service.commands import attending, client
from service.commands.bench import bench
from service.commands.heads import heads
from service.commands.healthcheck import healthcheck
from service.commands.importing import import_folder
from service.commands.loading import load_runtime
from service.commands.tokenizing import tokenize
from service.commands.train import train
from service.environment import load_settings, require_tracing, service_links
from service.grpc.address import address_of
from service.grpc.starting import grpc_beside, take_port
from service.interpreter import tokenize_alone
from service.logs import configure_logging
from service.processes.supervisor import Supervisor
from service.settings import Settings, SettingsError
from service.socket.leftovers import NoRoom, RunMarker
from service.socket.relied_on import changed_parts
from service.socket.server import GRACE_SECONDS, SIGNALS, Server, bind, leave
from service.watchdog import end_when_stuck

REPEATED = {"model": "NAME=PATH[:DTYPE]"}  # options that may be given again

log = logging.getLogger(__name__)

cli = typer.Typer(
    name="heed",
    help="The attention server: contextual vectors and attention matrices over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would print keys and tensors
)


def main() -> NoReturn:
    """Run the command that the arguments name; the process ends with it, whatever threads remain."""
    _open_streams()
    status: object = 1
    try:
        cli()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # noqa: BLE001  told as Python would, which then waits for threads
        sys.excepthook(*sys.exc_info())
    finally:
        leave(status if isinstance(status, int) else 1)


def _open_streams() -> None:
    """Put the null device where a standard stream was closed: its number must not become a socket's."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  at the lowest number that is free
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003  for other processes of this server
            setattr(sys, name, stream)


def _say(line: str, *, err: bool = False) -> None:
    """Print a line; where the stream is full, or its reader gone, nobody is told and nothing stops."""
    with contextlib.suppress(OSError):
        typer.echo(line, err=err)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer's signature
    if wanted:
        typer.echo(f"heed {__version__}")
        raise typer.Exit


@cli.callback()
def heed(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Attention over HTTP."""


def serve(**options: Any) -> None:
    """Load the models and serve them; every option is also HEED_<NAME> in the environment."""
    options = {name: value for name, value in options.items() if value not in (None, [])}
    try:
        settings = load_settings(os.environ, options)
        require_tracing(settings.otlp_endpoint)
        require_paths(settings)
        settings, _held = take_port(settings, options)
    except SettingsError as error:
        _refuse(*error.problems)
    if changed := changed_parts():
        _refuse(*changed)
    configure_logging(lines=settings.log_format, level=settings.log_level)
    if "api_keys" in settings.model_fields_set and not settings.api_keys:
        log.warning("API_KEYS is set and empty: everyone may ask; unset it where that is meant")
    tokenize_alone()
    if ignored := service_links(os.environ):
        log.warning(
            "ignored %d variables that Kubernetes made for a Service, among them %s; "
            "set enableServiceLinks: false to be rid of them",
            len(ignored),
            ignored[0],
        )
    if settings.http_workers > 1:
        _serve_with_workers(settings, options)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    marker = RunMarker(host=settings.host, port=settings.port, repository=settings.model_repository)
    _begin(marker)
    try:
        status = _serve_alone(settings, listener, marker)
    except SettingsError as error:
        _refuse(*error.problems)
    except ModelError as error:
        _refuse(str(error))
    finally:
        marker.end()
    leave(status)


def _serve_alone(settings: Settings, listener: socket.socket, marker: RunMarker) -> int:
    """Serve with this process; return the exit status."""
    runtime = load_runtime(settings)
    app = create_app(settings, runtime)
    service = service_of(app)

    def end() -> None:
        marker.end()
        leave(1)

    service.heartbeat.watch(end_when_stuck(settings.watchdog_seconds, end=end))
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
        listening=lambda: _say(_announcement(runtime, settings, listener.getsockname()[1])),
        on_exit=marker.end,
        beside=grpc_beside(settings, app, service),
    )
    server.run(sockets=[listener])
    return server.exit_status


def _serve_with_workers(settings: Settings, options: dict[str, Any]) -> NoReturn:
    """Serve with several HTTP processes in front of this one, which has the device."""
    if not sys.platform.startswith("linux"):
        _refuse("HTTP_WORKERS over 1 needs Linux; leave it at 1")
    marker = RunMarker(host=settings.host, port=settings.port, repository=settings.model_repository)
    try:
        supervisor = Supervisor(
            settings.host,
            settings.port,
            count=settings.http_workers,
            drain_seconds=settings.drain_seconds,
            watchdog_seconds=settings.watchdog_seconds,
            max_memory_bytes=settings.max_memory_bytes,
            on_exit=marker.end,
        )
    except OSError as error:
        _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    except NoRoom as error:
        _refuse(str(error))
    _begin(marker)
    try:
        supervisor.start(options, grace_seconds=GRACE_SECONDS)
        runtime = load_runtime(settings)
        said = _announcement(runtime, settings, supervisor.port)
        status = supervisor.serve(runtime, engine_limits(settings), listening=lambda: _say(said))
    except SettingsError as error:
        _refuse(*error.problems)
    except (ModelError, NoRoom) as error:
        _refuse(str(error))
    finally:
        supervisor.close()
        marker.end()
    leave(status)


def _announcement(runtime: Runtime, settings: Settings, port: int) -> str:
    names = ", ".join(card.name for card in runtime.cards()) or "no models"
    said = f"heed {__version__} serves {names} on http://{address_of(settings.host, port)}"
    calls = settings.grpc_port
    return said if calls is None else f"{said}, and calls of gRPC on {address_of(settings.host, calls)}"


def _refuse(*problems: str) -> NoReturn:
    for problem in problems:
        _say(f"heed: {problem}", err=True)
    raise typer.Exit(2)


def _begin(marker: RunMarker) -> None:
    """Mark this run, say when the last one ended without a word, and end in order while models are loaded."""

    def end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  signal's signature
        raise SystemExit(128 + number)

    marker.begin()
    for number in SIGNALS:
        signal.signal(number, end)


class _Uncut(TyperCommand):
    """Help as plain lines: rich's table cuts the names of options where a terminal is narrow."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(ctx, formatter)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` one option a setting: the name, the default and the words are the field's."""
    parameters = []
    for name, field in Settings.model_fields.items():
        kind: Any = bool if field.annotation is bool else list[str] if name in REPEATED else str
        flag = f"--{name.replace('_', '-')}"
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=field.description,
            metavar=None if kind is bool else REPEATED.get(name, name.split("_")[-1].upper()),
            show_default=False if field.default in (None, ()) else str(field.default).lower(),
        )
        annotation = Annotated[kind | None, option]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, keyword, default=None, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


cli.command(cls=_Uncut)(_with_settings(serve))
cli.command()(client.models)
cli.command()(attending.attend)
cli.command()(tokenize)
cli.command()(bench)
cli.command()(healthcheck)
cli.command()(train)
cli.command("import")(import_folder)
cli.add_typer(heads)

if __name__ == "__main__":
    main()
