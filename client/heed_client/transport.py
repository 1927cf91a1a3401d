"""Between a flow's Calls and httpx: requests, replies, and which failures may be tried again.

And the trace that a call is part of, told to the server where the program is traced by OpenTelemetry.
"""

import sys
from importlib import import_module
from typing import Any

import httpx

from heed_client.errors import ConnectionFailed, DeadlineExceeded
from heed_client.exchange import Call, Reply

__all__ = ["arguments", "failed", "headers", "reply_of"]


def headers(api_key: str | None) -> dict[str, str]:
    """Return what every request carries."""
    agent = {"user-agent": "heed-client/0.1.0"}
    return agent if api_key is None else {**agent, "authorization": f"Bearer {api_key}"}


def arguments(call: Call) -> dict[str, Any]:
    """Return a Call as httpx takes it."""
    found: dict[str, Any] = {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params),
        "headers": {**call.headers, **_trace_headers()},
        "content": call.body,
    }
    if call.timeout_seconds is not None:
        found["timeout"] = call.timeout_seconds
    return found


def _trace_headers() -> dict[str, str]:
    """Return `traceparent` and what else the program's propagators tell of the current span; else nothing.

    Whoever has a current span has imported OpenTelemetry: where nobody has, there is nothing to look for.
    httpx that is instrumented writes its own over it, for the span that it makes of the call.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return {}
    headers: dict[str, str] = {}
    import_module("opentelemetry.propagate").inject(headers)  # it is no package that this one needs
    return headers


def reply_of(response: httpx.Response, body: bytes) -> Reply:
    """Return a response whose body has been read."""
    return Reply(status=response.status_code, headers=dict(response.headers), body=body)


def failed(error: httpx.TransportError, call: Call) -> ConnectionFailed:
    """Return what a flow may try again; raise what it must not, for the server may be at work on it."""
    failed = ConnectionFailed(f"{call.method} {call.path}: {error or type(error).__name__}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return failed
    if isinstance(error, httpx.TimeoutException):
        raise DeadlineExceeded(f"{call.method} {call.path}: no answer in time") from error
    raise failed from error
