"""HEAD: what GET would say, without its body (RFC 9110, section 9.3.2). Load balancers look at health so.

Between the stations and the framework, whose routes are GET only.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMethod:
    """Pure ASGI: asks the framework for GET and keeps the body back; other methods pass."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send(message if message["type"] == "http.response.start" else {**message, "body": b""})

        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, without_body)
        finally:  # what the framework found out about the request, for the stations around
            scope.update({name: value for name, value in asked.items() if name not in scope})
