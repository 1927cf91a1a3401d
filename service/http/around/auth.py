"""Who may ask: API keys as digests, compared in constant time, before anything is read.

`Authorization: Bearer <key>` or `X-API-Key: <key>`. Probes, metrics and the pages that hold no data are open.
The caller's tenant, for fairness between keys, is the first eight hex digits of its key's digest.
"""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unauthorized
from service.http.errors import send_error

OPEN_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/health", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready"}
)
OPEN_PREFIX = "/web/"  # the Explorer's files
MOST_CREDENTIALS = 4  # a caller has one or two; more is a search


class Authentication:
    """Pure ASGI: lets a request through when it has a key, the path is open, or no keys are set."""

    def __init__(self, app: ASGIApp, *, keys: Iterable[str] = ()) -> None:
        self.app = app
        self._digests = tuple(_digest(key.encode()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, with `scope["heed.tenant"]` set, or refuse it with 401."""
        if scope["type"] != "http" or not self._digests:
            await self.app(scope, receive, send)
            return
        tenant = self._tenant(scope)
        if tenant is None and not is_open(scope):
            refusal = Unauthorized("give a valid key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
            await send_error(scope, send, refusal)
            return
        scope["heed.tenant"] = tenant or ""
        await self.app(scope, receive, send)

    def _tenant(self, scope: Scope) -> str | None:
        """Return the tenant of the first valid key; every key is compared, so time tells nothing."""
        tenant: str | None = None
        for credential in _credentials(scope)[:MOST_CREDENTIALS]:
            offered = _digest(credential)
            for digest in self._digests:
                if hmac.compare_digest(offered, digest) and tenant is None:
                    tenant = digest.hex()[:8]
        return tenant


def is_open(scope: Scope) -> bool:
    """Whether a request needs no key, and counts against nobody's quota: `POST /` is no page."""
    path: str = scope["path"]
    if path == "/":
        return bool(scope["method"] != "POST")
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _credentials(scope: Scope) -> list[bytes]:
    found = []
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            kind, _, key = value.strip().partition(b" ")
            if kind.lower() == b"bearer":
                found.append(key.strip())
    return found
