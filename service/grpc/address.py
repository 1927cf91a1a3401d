"""The port of gRPC: held from the start, and how it is written."""

import socket

from service.socket.server import bind


def hold_port(host: str, port: int) -> socket.socket:
    """Take the port without listening on it, for those that will; 0 takes a free one.

    Raises OSError where it is taken: what listens on a shared port gets a part of the calls, strangers too.
    """
    bind(host, port).close()
    return bind(host, port, shared=True)


def address_of(host: str, port: int) -> str:
    """Return host and port in one."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
