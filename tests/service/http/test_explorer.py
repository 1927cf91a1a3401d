"""The Explorer's files as they go out: types, caching, and a policy that nothing of the page breaks."""

import re
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI

from service.http.errors import install
from service.http.pages import explorer
from tests.asgi import Reply, call

SUBRESOURCE = re.compile(r'(?:src|href)="(web/[^"]+)"')
IMPORT = re.compile(r'from "(\.[^"]+)"')


@pytest.fixture(scope="module")
def app() -> FastAPI:
    made = FastAPI()
    made.include_router(explorer.router())
    install(made)
    return made


def get(app: FastAPI, path: str, **headers: str) -> Reply:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return call(app, path, headers=named)


def linked(app: FastAPI) -> dict[str, Reply]:
    """Everything the page loads: what it links to, and what its modules import, however deep."""
    wanted = [f"/{path}" for path in SUBRESOURCE.findall(get(app, "/").body.decode())]
    found: dict[str, Reply] = {}
    while wanted:
        path = wanted.pop()
        if path not in found:
            found[path] = get(app, path)
            wanted += [urljoin(path, name) for name in IMPORT.findall(found[path].body.decode())]
    return found


def test_the_page_is_html_and_may_load_from_its_own_origin_only(app: FastAPI) -> None:
    reply = get(app, "/")
    assert reply.status == 200
    assert reply.header("content-type") == "text/html; charset=utf-8"
    policy = reply.header("content-security-policy") or ""
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_everything_the_page_loads_is_packaged_with_its_type(app: FastAPI) -> None:
    found = linked(app)
    assert {path: reply.status for path, reply in found.items()} == dict.fromkeys(found, 200)
    types = {path.rpartition(".")[2]: reply.header("content-type") for path, reply in found.items()}
    assert types == {
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml",
    }
    assert len(found) > 3


def test_nothing_of_the_page_is_inline_or_from_elsewhere(app: FastAPI) -> None:
    html = get(app, "/").body.decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)
    for path, reply in linked(app).items():
        addresses = set(re.findall(r"https?://[^\s\"')]+", reply.body.decode()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path


def test_a_known_file_is_not_sent_again(app: FastAPI) -> None:
    first = get(app, "/web/explorer.css")
    tag = first.header("etag") or ""
    again = get(app, "/web/explorer.css", if_none_match=f'"other", W/{tag}')
    assert (again.status, again.body, again.header("etag")) == (304, b"", tag)
    assert get(app, "/web/explorer.css", if_none_match='"other"').body == first.body
    assert first.header("cache-control") == "no-cache"


@pytest.mark.parametrize(
    "name",
    [
        "none.js",
        "..%2f__init__.py",
        "%2e%2e%2fcli.py",
        "explorer.py",
        "views/none.js",
        "views/..%2fexplorer.js",
    ],
)
def test_no_other_file_is_served(app: FastAPI, name: str) -> None:
    reply = get(app, explorer.PREFIX + name)
    assert reply.status == 404
    assert reply.json()["error"]["code"] == "unknown_route"
