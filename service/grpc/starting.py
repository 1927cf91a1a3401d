"""Where the server meets this room: packages and port at the start, then the parts that are there.

Where `GRPC_PORT` is not set, nothing else of the room is imported but `address`, and no package.
"""

import os
import re
import socket
from functools import partial
from importlib import import_module
from typing import Any

from starlette.types import ASGIApp

from service.grpc.address import address_of, hold_port
from service.http.around.stations import Station
from service.http.context import Context
from service.lifetime import Service
from service.settings import Settings, SettingsError
from service.socket.beside import Beside

PACKAGES = {"grpc": "grpcio", "google.protobuf": "protobuf"}
OLDEST_GRPC = (1, 83, 2)  # before it, what a compressed message becomes was not bounded
REMEDY = "pip install 'heed-server[grpc]', or unset it"


def take_port(settings: Settings, options: dict[str, Any]) -> tuple[Settings, socket.socket | None]:
    """Return settings and `options` with the port that was taken for gRPC, and what holds it; None for none.

    Raises SettingsError where packages are missing, or the port is not to be had.
    """
    if settings.grpc_port is None:
        return settings, None
    os.environ.setdefault(
        "GRPC_ENABLE_FORK_SUPPORT", "0"
    )  # nothing forks without exec; it logs where it is on
    if missing := _missing():
        raise SettingsError(missing)
    try:
        held = hold_port(settings.host, settings.grpc_port)
    except OSError as error:
        address = address_of(settings.host, settings.grpc_port)
        raise SettingsError(
            [f"cannot listen on {address} for gRPC: {error.strerror}; choose another GRPC_PORT"]
        ) from None
    options["grpc_port"] = held.getsockname()[1]
    return settings.model_copy(update={"grpc_port": options["grpc_port"]}), held


def grpc_stations(settings: Settings, context: Context) -> list[Station]:
    """Return the station that answers calls, where there are any."""
    if settings.grpc_port is None:
        return []
    from service.grpc.station import GrpcCalls

    return [partial(GrpcCalls, context=context, max_result_bytes=settings.max_result_bytes)]


def grpc_beside(settings: Settings, app: ASGIApp, service: Service) -> Beside | None:
    """Return what takes calls for an application beside HTTP, where there are any."""
    if settings.grpc_port is None:
        return None
    from service.grpc.wiring import grpc_server

    return grpc_server(settings, app, service)


def _missing() -> list[str]:
    """Return a sentence for each package that is not there, or too old."""
    problems = []
    for module, package in PACKAGES.items():
        try:
            version: str = import_module(module).__version__
        except ImportError as error:
            problems.append(
                f"GRPC_PORT is set, and the package {package} cannot be imported ({error}): {REMEDY}"
            )
            continue
        if package == "grpcio" and tuple(map(int, re.findall(r"\d+", version)[:3])) < OLDEST_GRPC:
            oldest = ".".join(map(str, OLDEST_GRPC))
            problems.append(
                f"GRPC_PORT is set, and grpcio is {version}; it must be {oldest} or later: {REMEDY}"
            )
    return problems
