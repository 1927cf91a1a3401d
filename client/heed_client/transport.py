"""Between a flow's Calls and httpx: requests, replies, and what came in a reply's place.

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


def arguments(call: Call, otherwise: httpx.Timeout) -> dict[str, Any]:
    """Return a Call as httpx takes it, with the client's own timeouts where the Call has none."""
    found: dict[str, Any] = {
        "method": call.method,
        "url": call.server + call.path,
        "params": dict(call.params),
        "headers": {**call.headers, **_trace_headers()},
        "content": call.body,
    }
    bounds = otherwise if call.timeout_seconds is None else httpx.Timeout(call.timeout_seconds)
    if call.connect_seconds is not None:
        connect = min(
            call.connect_seconds,
            bounds.connect or call.connect_seconds,
            otherwise.connect or call.connect_seconds,
        )
        bounds = httpx.Timeout(connect=connect, read=bounds.read, write=bounds.write, pool=bounds.pool)
    found["timeout"] = bounds
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


def failed(error: httpx.TransportError, call: Call) -> ConnectionFailed | DeadlineExceeded:
    """Return what came in place of a reply; `broken` where the server may be at work on the request."""
    said = f"{call.method} {call.path}: {error or type(error).__name__}"
    unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.TimeoutException) and not unreached:
        failure: ConnectionFailed | DeadlineExceeded = DeadlineExceeded(
            f"{call.method} {call.path}: no answer in time"
        )
    else:
        failure = ConnectionFailed(said, broken=not unreached)
    failure.__cause__ = error
    return failure
