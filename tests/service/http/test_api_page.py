import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI

from service.http.errors import install
from service.http.pages import api_page


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(docs_url=None)
    app.include_router(api_page.router(dict))
    install(app)
    return app


async def get(app: FastAPI, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://heed") as client:
        return await client.get(path)


def test_api_page_needs_nothing_from_another_host(app: FastAPI) -> None:
    page = asyncio.run(get(app, "/docs"))
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    assert all(source.startswith("web/") for source in sources)
    for source in sources:
        if source.startswith("web/docs/"):
            assert asyncio.run(get(app, f"/{source}")).status_code == 200


def test_unknown_file_is_not_found(app: FastAPI) -> None:
    assert asyncio.run(get(app, "/web/docs/__init__.py")).status_code == 404
