"""What gRPC needs before models are loaded: its packages, and its port.

Where `GRPC_PORT` is not set, this is the only module of the room that is imported, and it imports no package.
"""

import re
import socket
from importlib import import_module
from typing import Any

from service.settings import Settings, SettingsError
from service.socket.server import bind

PACKAGES = {"grpc": "grpcio", "google.protobuf": "protobuf"}
OLDEST_GRPC = (1, 83, 2)  # before it, what a compressed message becomes was not bounded
REMEDY = "pip install 'heed-server[grpc]', or unset it"


def take_port(settings: Settings, options: dict[str, Any]) -> tuple[Settings, socket.socket | None]:
    """Return settings and `options` with the port that was taken for gRPC, and what holds it; None for none.

    Raises SettingsError where packages are missing, or the port is not to be had.
    """
    if settings.grpc_port is None:
        return settings, None
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


def hold_port(host: str, port: int) -> socket.socket:
    """Take the port without listening on it, for those that will; 0 takes a free one.

    Raises OSError where it is taken: what listens on a shared port gets a part of the calls, strangers too.
    """
    bind(host, port).close()
    return bind(host, port, shared=True)


def address_of(host: str, port: int) -> str:
    """Return host and port in one."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
