"""The Explorer: one page and its few files, served from the package, that show a sentence attend to itself.

Beside the request line, not on it: the page calls the same routes as any other client. Everything it needs
is its own, so the strictest content policy holds and it works without a network.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from service.errors import NotFound
from service.http.browsers.protection import page_headers

PREFIX = "/web/"  # under it lie the page's assets; they hold no secrets and need no key
PAGE = "index.html"
VIEWS = "views/"  # a folder of PREFIX's, one module a part of the page
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Revalidated on every load, which costs one 304: modules import each other by plain names, so a longer life
# could pair an old module with a new one after an upgrade.
REVALIDATED = {"cache-control": "no-cache"}
LINK = re.compile(rb'(?<=(?:href|.src)=")(?![a-z]+:|[#/])')


@dataclass(frozen=True, slots=True)
class _Asset:
    """One file of the page, as it goes out."""

    body: bytes
    media_type: str
    etag: str


def router(*, prefix: str = "", ancestors: Sequence[str] = ()) -> APIRouter:
    """Return the routes of the page and its assets; the files are read once, here.

    Links of the page are relative, so that it works behind any proxy; `prefix`, where it is known, makes them
    work without a slash behind it, too. `ancestors` are the origins whose pages may frame this one.
    """
    routes = APIRouter(tags=["pages"])
    assets = _packaged(prefix)
    headers = REVALIDATED | page_headers(ancestors=ancestors)

    def _reply(asset: _Asset, request: Request) -> Response:
        return _sent(asset, request, headers)

    @routes.get("/", response_class=HTMLResponse, response_model=None, summary="The Explorer")
    async def explorer_page(request: Request) -> Response:
        """Show the Explorer: a sentence, and whom each of its tokens attends to."""
        return _reply(assets[PAGE], request)

    def one(name: str, request: Request) -> Response:
        found = assets.get(name)
        if found is None:
            raise NotFound("the Explorer has no such file")
        return _reply(found, request)

    @routes.get(PREFIX + "{name}", include_in_schema=False)
    async def asset(name: str, request: Request) -> Response:
        return one(name, request)

    @routes.get(PREFIX + VIEWS + "{name}", include_in_schema=False)
    async def view(name: str, request: Request) -> Response:
        return one(VIEWS + name, request)

    return routes


def _packaged(before: str) -> dict[str, _Asset]:
    top = files("service") / "web"
    found = {}
    for folder, prefix in ((top, ""), (top / VIEWS, VIEWS)):
        for file in folder.iterdir():
            media_type = MEDIA_TYPES.get(file.name[file.name.rfind(".") :])
            if media_type is not None:
                body = file.read_bytes()
                if before and file.name == PAGE:
                    body = LINK.sub(f"{before}/".encode(), body)
                etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
                found[prefix + file.name] = _Asset(body, media_type, etag)
    return found


def _sent(asset: _Asset, request: Request, headers: dict[str, str]) -> Response:
    headers = {**headers, "etag": asset.etag}
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)
