"""One replica: a server with its models loaded, as an ASGI application below whatever path it was put at."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app, require_paths, service_of
from service.commands.loading import load_runtime
from service.environment import load_settings, require_tracing
from service.interpreter import tokenize_alone
from service.lifetime import Service
from service.logs import configure_logging

REQUEST_ID = b"x-request-id"

log = logging.getLogger(__name__)


def load_replica(options: Mapping[str, Any]) -> "Replica":
    """Load the models and wire the application; `options` win over the environment of this process.

    Raises SettingsError, ModelError.
    """
    settings = load_settings(os.environ, options)
    require_tracing(settings.otlp_endpoint)
    require_paths(settings)
    configure_logging(lines=settings.log_format, level=settings.log_level)
    tokenize_alone()
    runtime = load_runtime(settings)
    app = create_app(settings, runtime)
    names = ", ".join(card.name for card in runtime.cards()) or "no models"
    log.info("a replica serves %s", names)
    return Replica(app, service_of(app))


class Replica:
    """ASGI: an application in a host that names requests itself, and may have put it below a path.

    `service` are the application's parts.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.service = service
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's life."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":  # the host adds the same once more
                message["headers"] = [one for one in message["headers"] if one[0] != REQUEST_ID]
            await send(message)

        await self._app(_at_the_root(scope), receive, sent)


def _at_the_root(scope: Scope) -> Scope:
    """Return the scope as if nothing stood before the application's own paths: stations compare whole ones.

    ASGI has `root_path`, what the host has put it below, at the head of `path`.
    """
    root = scope.get("root_path", "")
    path: str = scope["path"]
    if not root or not f"{path}/".startswith(f"{root}/"):
        return scope
    raw, encoded = scope.get("raw_path"), root.encode()
    if raw is not None and raw.startswith(encoded):
        raw = raw[len(encoded) :] or b"/"
    return {**scope, "root_path": "", "path": path[len(root) :] or "/", "raw_path": raw}
