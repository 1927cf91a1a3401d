"""What Heed uses of uvicorn, httptools and the framework that is promised to nobody: looked at at start.

A server of uvicorn's cannot be told to bound a wait or to read a body into its place; so ours is made of its
classes, by names and arguments that its next version may change. Found out under way, that would be a
connection that hangs.
"""

import dis
import inspect
from functools import cache
from importlib.metadata import version
from typing import Any

import fastapi
import httptools
import uvicorn
from starlette.middleware.errors import ServerErrorMiddleware
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.socket.connection import Connection
from service.socket.cycle import Cycle
from service.socket.server import Server

# Attributes and methods, those that are overridden among them.
RELIED_ON: dict[type, str] = {
    uvicorn.Server: (
        "capture_signals config handle_exit lifespan on_tick run serve server_state servers shutdown startup"
    ),
    uvicorn.Config: "get_loop_factory http_protocol_class",
    LifespanOn: "shutdown state",
    ServerState: "connections default_headers tasks",
    HttpToolsProtocol: (
        "connection_lost connection_made cycle data_received eof_received flow headers loop on_body "
        "on_header on_headers_complete on_message_begin on_message_complete on_response_complete on_url "
        "parser pause_writing pipeline resume_writing scope send_400_response server_state shutdown "
        "timeout_keep_alive_handler transport url _unset_keepalive_if_required"
    ),
    RequestResponseCycle: (
        "body disconnected keep_alive message_event more_body receive response_started scope transport"
    ),
    FlowControl: "pause_reading read_paused resume_reading",
    httptools.HttpRequestParser: "feed_data get_http_version set_dangerous_leniencies should_upgrade",
    fastapi.FastAPI: "build_middleware_stack openapi",
    ServerErrorMiddleware: "app",
}
# How the factory of connections is called, and what is made over: both sides take the same.
CALLED = {HttpToolsProtocol.__init__: "config server_state app_state _loop"}
OVERRIDDEN = {Server: uvicorn.Server, Connection: HttpToolsProtocol, Cycle: RequestResponseCycle}

PINNED = {
    "uvicorn": "uvicorn[standard]>=0.54,<0.55",
    "httptools": "httptools>=0.7",
    "fastapi": "fastapi>=0.115",
    "starlette": "starlette>=1.0",
}


def changed_parts() -> list[str]:
    """Return what is not there as Heed uses it, each with the version that is installed and the remedy."""
    changed = [
        _said(of, f"has no {of.__name__}.{name}")
        for of, names in RELIED_ON.items()
        for name in names.split()
        if not _has(of, name)
    ]
    for called, names in CALLED.items():
        if missing := set(names.split()) - set(inspect.signature(called).parameters):
            changed.append(_said(called, f"has no {', '.join(sorted(missing))} in {called.__qualname__}"))
    for ours, theirs in OVERRIDDEN.items():
        for name, method in inspect.getmembers(ours, inspect.isfunction):
            before = getattr(theirs, name, method)
            if name != "__init__" and _arguments(method) != _arguments(before):
                changed.append(_said(theirs, f"calls {before.__qualname__} with {_arguments(before)}"))
    return changed


def _said(of: Any, what: str) -> str:
    package = of.__module__.partition(".")[0]
    return f"{package} {version(package)} {what}; Heed is built on another: pip install '{PINNED[package]}'"


def _has(of: type, name: str) -> bool:
    """Whether a class has this attribute, or one of its methods sets it."""
    return hasattr(of, name) or name in _set_by(of)


@cache
def _set_by(of: type) -> set[str]:
    methods = (inspect.unwrap(method) for _, method in inspect.getmembers(of, inspect.isfunction))
    return {
        one.argval for method in methods for one in dis.get_instructions(method) if one.opname == "STORE_ATTR"
    }


def _arguments(method: Any) -> str:
    return ", ".join(inspect.signature(method).parameters)
