"""`/docs`: the API as Swagger UI draws it, from files on this machine, so that it works without a network.

And what it draws, `/openapi.json`.
"""

import asyncio
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.errors import NotFound

__all__ = ["router"]

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
PREFIX = "/web/docs/"  # beside the Explorer's files, which need no key either
ONE_DAY = {"cache-control": "public, max-age=86400", "x-content-type-options": "nosniff"}


def router(describe: Callable[[], dict[str, Any]]) -> APIRouter:
    """Return the page and the files it needs, which the package fastapi-offline carries.

    `describe` gives the API's description; it takes long, and is asked once, on a thread.
    """
    routes = APIRouter(include_in_schema=False)
    folder = files("fastapi_offline") / "static"
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Heed",
        swagger_js_url=f"{PREFIX}swagger-ui-bundle.js",
        swagger_css_url=f"{PREFIX}swagger-ui.css",
        swagger_favicon_url="/web/favicon.svg",
    )

    described: list[bytes] = []

    @routes.get("/openapi.json")
    async def description() -> Response:
        if not described:
            described.append(await asyncio.to_thread(lambda: orjson.dumps(describe())))
        return Response(described[0], media_type="application/json")

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page.body)

    @routes.get(PREFIX + "{name}")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound("the API page has no such file")
        return Response((folder / name).read_bytes(), media_type=ASSETS[name], headers=ONE_DAY)

    return routes
