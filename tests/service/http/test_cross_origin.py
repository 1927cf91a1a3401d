"""What browsers are told about pages of other origins; `tests/e2e/test_pages_elsewhere.py` asks one."""

import json

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.http.browsers.cross_origin import READABLE
from service.settings import Settings
from tests.asgi import Reply, call
from tests.fakes import FakeRuntime

APP = "https://app.example.com"
ATTEND = "/v1/models/fake/attend"
ASKED = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
BODY = json.dumps({"inputs": [{"embeddings": [[1, 0, 0, 0]]}], "outputs": ["z"]}).encode()


def preflight(origin: str, *, settings: Settings, **asked: str) -> Reply:
    headers = {"origin": origin, **ASKED, **{name.replace("_", "-"): value for name, value in asked.items()}}
    return call(create_app(settings, FakeRuntime()), ATTEND, method="OPTIONS", headers=list(headers.items()))


def allowed(reply: Reply) -> str | None:
    return reply.header("access-control-allow-origin")


def test_a_browser_may_ask_first_without_a_key() -> None:
    reply = preflight(APP, settings=Settings(cors_origins=APP, api_keys="sesame"))
    assert (reply.status, allowed(reply)) == (200, APP)
    assert reply.header("access-control-allow-headers") == ASKED["access-control-request-headers"]
    assert set((reply.header("access-control-allow-methods") or "").split(", ")) == {"GET", "HEAD", "POST"}
    assert reply.header("access-control-allow-credentials") == "true"
    assert reply.header("x-request-id")


@pytest.mark.parametrize(
    ("origin", "asked"),
    [
        ("https://elsewhere.example.com", {}),
        ("https://app.example.com.evil.example", {}),
        ("http://app.example.com", {}),
        ("null", {}),
        (APP, {"access_control_request_method": "DELETE"}),
    ],
)
def test_who_is_not_named_is_told_so_in_the_words_of_every_refusal(
    origin: str, asked: dict[str, str]
) -> None:
    reply = preflight(origin, settings=Settings(cors_origins=APP), **asked)
    assert (reply.status, reply.json()["error"]["code"]) == (403, "forbidden")
    assert "CORS_ORIGINS" in reply.json()["error"]["message"]
    assert allowed(reply) in (None, APP)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://a.example.com", 200),
        ("https://a.b.example.com", 200),
        ("https://example.com", 403),
        ("https://aexample.com", 403),
        ("https://a.example.com.evil.org", 403),
        ("https://a.example.com:444", 403),
    ],
)
def test_a_star_before_a_host_is_every_host_below_it(origin: str, status: int) -> None:
    assert preflight(origin, settings=Settings(cors_origins="https://*.example.com")).status == status


def test_everyone_is_everyone_but_never_with_the_browsers_own_credentials() -> None:
    settings = Settings(cors_origins="*")
    asked = preflight("null", settings=settings)
    assert (asked.status, allowed(asked), asked.header("access-control-allow-credentials")) == (
        200,
        "*",
        None,
    )
    with TestClient(create_app(settings, FakeRuntime())) as client:
        reply = client.post(ATTEND, content=BODY, headers={"origin": APP, "cookie": "a=b"})
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in reply.headers


def test_answers_and_refusals_of_every_station_may_be_read() -> None:
    settings = Settings(cors_origins=f"{APP},https://other.example", api_keys="sesame", max_body_bytes=1024)
    key = {"authorization": "Bearer sesame"}
    with TestClient(create_app(settings, FakeRuntime())) as client:
        replies = [
            client.post(ATTEND, content=BODY, headers={"origin": APP, **key}),
            client.post(ATTEND, content=BODY, headers={"origin": APP}),
            client.post(ATTEND, content=b"x" * 2000, headers={"origin": APP, **key}),
            client.post(ATTEND, content=b"{", headers={"origin": APP, **key}),
            client.post("/v1/models/none/attend", content=BODY, headers={"origin": APP, **key}),
            client.get("/nowhere", headers={"origin": APP, **key}),
            client.get("/health", headers={"origin": APP}),
        ]
    assert [reply.status_code for reply in replies] == [200, 401, 413, 400, 404, 404, 200]
    assert {reply.headers["access-control-allow-origin"] for reply in replies} == {APP}
    readable = {
        name for reply in replies for name in reply.headers["access-control-expose-headers"].split(", ")
    }
    assert readable == set(READABLE)
    assert all("Origin" in reply.headers["vary"] for reply in replies)


def test_what_nobody_expected_may_be_read_too() -> None:
    runtime = FakeRuntime()
    runtime.cards = lambda: 1 / 0  # type: ignore[method-assign,assign]
    reply = call(create_app(Settings(cors_origins=APP), runtime), "/v1/models", headers=[("origin", APP)])
    assert (reply.status, allowed(reply)) == (500, APP)


def test_a_page_that_is_not_named_may_read_nothing_and_caches_keep_replies_apart() -> None:
    with TestClient(create_app(Settings(cors_origins=APP), FakeRuntime())) as client:
        reply = client.post(ATTEND, content=BODY, headers={"origin": "https://elsewhere.example"})
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers
    assert "Origin" in reply.headers["vary"]


def test_without_the_setting_nothing_is_said_and_no_question_answered() -> None:
    reply = preflight(APP, settings=Settings())
    assert reply.status == 405
    assert not [name for name, _ in reply.headers if name.startswith("access-control")]


def test_a_question_is_counted_as_what_it_is() -> None:
    with TestClient(create_app(Settings(cors_origins=APP), FakeRuntime())) as client:
        client.options(ATTEND, headers={"origin": APP, **ASKED})
        page = client.get("/metrics").text
    assert 'heed_requests_total{code="200",model="",route="preflight"} 1.0' in page
