"""Pages of other origins: which may call this server from a script, and what they may read of a reply.

Two stations, which are there when CORS_ORIGINS is set. The one is around everything, so that a refusal can be
read as well as an answer; the other answers a browser's question before a request, which has no key. Source:
Fetch, section 3.3, as starlette implements it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden
from service.http.browsers.origins import EVERYONE, pattern_of
from service.http.errors import send_error

METHODS = ("GET", "HEAD", "POST")
# What a script may read beside the few that it always may: all that replies have of our own.
READABLE = (
    "content-encoding",
    "inference-header-content-length",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "server-timing",
    "traceresponse",
    "www-authenticate",
    "x-compute-characters",
    "x-compute-time",
    "x-compute-tokens",
    "x-compute-type",
    "x-inference-time",
    "x-queue-time",
    "x-request-id",
    "x-tokenization-time",
    "x-total-time",
)
REMEMBERED_SECONDS = 7200  # the longest that a browser keeps an answer to its question
REFUSED = "pages of this origin may not ask this, or not by this method; CORS_ORIGINS names those that may"


class CrossOrigin:
    """Pure ASGI: says on every reply to a page of an origin that may ask that it may read it.

    Origins that are named may send what a browser keeps for this address, as cookies of a proxy before it;
    where `*` is everyone, nobody may.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        self.app = app
        self._rules = CORSMiddleware(
            app,
            allow_origins=[one for one in origins if "*." not in one],
            allow_origin_regex=pattern_of(origins) or None,
            allow_methods=METHODS,
            allow_headers=[EVERYONE],
            allow_credentials=EVERYONE not in origins,
            allow_private_network=True,
            expose_headers=READABLE,
            max_age=REMEMBERED_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or (headers := Headers(scope=scope)).get("origin") is None:
            await self.app(scope, receive, send)
            return
        scope[RULES] = self._rules
        await self._rules.simple_response(scope, receive, send, request_headers=headers)


RULES = "heed.cross_origin"  # in the scope of a request that a page of some origin made


@dataclass(frozen=True, slots=True)
class _Asked:
    """What metrics and the log call a browser's question: it is of no route, but of one to be."""

    path: str = "preflight"


class Preflight:
    """Pure ASGI, behind the observer and before the keys: answers what a browser asks before a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question, or pass a request on."""
        rules: CORSMiddleware | None = scope.get(RULES)
        if rules is None or scope["method"] != "OPTIONS":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "access-control-request-method" not in headers:
            await self.app(scope, receive, send)
            return
        scope["route"] = _Asked()
        reply = rules.preflight_response(request_headers=headers)
        if reply.status_code != 200:
            await send_error(scope, send, Forbidden(REFUSED))
            return
        await reply(scope, receive, send)
