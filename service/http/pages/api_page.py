"""`/docs`: the API as Swagger UI draws it, from files on this machine, so that it works without a network.

And what it draws, `/openapi.json`.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.errors import NotFound
from service.http.browsers.protection import page_headers

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
PREFIX = "/web/docs/"  # beside the Explorer's files, which need no key either
ONE_DAY = {"cache-control": "public, max-age=86400"}
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def router(describe: Callable[[], dict[str, Any]], *, ancestors: Sequence[str] = ()) -> APIRouter:
    """Return the page and the files it needs, which the package fastapi-offline carries.

    `describe` gives the API's description; it takes long, and is asked once, on a thread. Links are relative,
    so that they work behind any proxy. `ancestors` are the origins whose pages may frame this one.
    """
    routes = APIRouter(include_in_schema=False)
    folder = files("fastapi_offline") / "static"
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Heed",
        swagger_js_url=f"{PREFIX[1:]}swagger-ui-bundle.js",
        swagger_css_url=f"{PREFIX[1:]}swagger-ui.css",
        swagger_favicon_url="web/favicon.svg",
    )

    headers = page_headers(_policy(bytes(page.body)), ancestors=ancestors)
    described: list[bytes] = []

    @routes.get("/openapi.json")
    async def description() -> Response:
        if not described:
            described.append(await asyncio.to_thread(lambda: orjson.dumps(describe())))
        return Response(described[0], media_type="application/json")

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page.body, headers=headers)

    @routes.get(PREFIX + "{name}")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound("the API page has no such file")
        return Response((folder / name).read_bytes(), media_type=ASSETS[name], headers=ONE_DAY)

    return routes


def _policy(page: bytes) -> str:
    """Return what the page may load: its files, the lines in it that start it, and pictures in its style."""
    lines = [base64.b64encode(hashlib.sha256(found).digest()).decode() for found in SCRIPT.findall(page)]
    scripts = " ".join(["'self'", *(f"'sha256-{line}'" for line in lines)])
    return f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
