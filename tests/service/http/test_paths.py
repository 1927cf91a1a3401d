"""Behind a proxy's prefix, whether or not the proxy takes it away."""

import json
import re

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeRuntime

BODY = json.dumps({"inputs": [{"embeddings": [[1, 0, 0, 0]]}], "outputs": ["z"]}).encode()
LINK = re.compile(r'(?:src|href)="([^"#]+)"')


def client(**settings: object) -> TestClient:
    return TestClient(create_app(Settings(**settings), FakeRuntime()))


@pytest.mark.parametrize("before", ["", "/heed"])
def test_every_kind_of_route_is_found_with_the_prefix_and_without(before: str) -> None:
    with client(root_path="/heed", api_keys="sesame") as http:
        key = {"authorization": "Bearer sesame"}
        assert http.post(f"{before}/v1/models/fake/attend", content=BODY, headers=key).status_code == 200
        assert http.get(f"{before}/v2/models/fake", headers=key).status_code == 200
        assert http.get(f"{before}/health").status_code == 200
        assert http.get(f"{before}/").status_code == 200
        assert http.get(f"{before}/web/explorer.js").status_code == 200
        assert http.get(f"{before}/v1/models").status_code == 401
        assert http.get(f"{before}/v2/models/none", headers=key).json().keys() == {"error"}
        page = http.get("/metrics").text
    assert 'route="/v1/models/{model}/attend"} 1.0' in page
    assert "/heed" not in page


def test_a_path_that_only_begins_like_the_prefix_is_another() -> None:
    with client(root_path="/heed") as http:
        assert http.get("/heedless/health").status_code == 404
        assert http.get("/heed").status_code == 200


def test_the_description_names_the_prefix_as_the_servers_address() -> None:
    with client(root_path="/heed") as http:
        assert http.get("/openapi.json").json()["servers"] == [{"url": "/heed"}]
    with client() as http:
        assert "servers" not in http.get("/openapi.json").json()


def test_links_of_the_page_carry_the_prefix_so_that_no_slash_is_needed() -> None:
    with client(root_path="/heed") as http:
        links = LINK.findall(http.get("/heed").text)
        assert len(links) > 5
        assert {link.startswith("/heed/") for link in links} == {True}
        assert {http.get(link).status_code for link in links} == {200}


def test_links_of_the_pages_are_relative_where_no_prefix_is_known() -> None:
    with client() as http:
        for page in ("/", "/docs"):
            links = LINK.findall(http.get(page).text)
            assert links
            assert [link for link in links if link.startswith("/") or ":" in link] == []


def test_framing_pages_are_named_on_both_pages_and_are_none_by_default() -> None:
    with client(frame_ancestors="self,https://huggingface.co") as http:
        for page in ("/", "/docs"):
            policy = http.get(page).headers["content-security-policy"]
            assert "frame-ancestors 'self' https://huggingface.co;" in policy
    with client() as http:
        assert "frame-ancestors 'none';" in http.get("/").headers["content-security-policy"]
