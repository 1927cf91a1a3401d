import json
import logging

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from models import errors as below
from service import errors as above
from service.http.errors import STATUS, error_reply, install
from tests.asgi import call

STATUSES = [
    (above.Malformed("m"), 400, "malformed"),
    (above.Unauthorized("m"), 401, "unauthorized"),
    (above.Forbidden("m"), 403, "forbidden"),
    (above.NotFound("m"), 404, "unknown_route"),
    (above.NotFound("m", code="unknown_model"), 404, "unknown_model"),
    (above.NotAcceptable("m"), 406, "not_acceptable"),
    (above.TooLarge("m"), 413, "body_too_large"),
    (above.TooLarge("m", code="result_too_large"), 413, "result_too_large"),
    (above.TooLarge("m", code="sequence_too_long"), 413, "sequence_too_long"),
    (above.UnsupportedMedia("m"), 415, "unsupported_media_type"),
    (above.Invalid("m"), 422, "invalid"),
    (above.NotFinite("m"), 422, "not_finite"),
    (above.Overloaded("m"), 429, "overloaded"),
    (above.Unavailable("m"), 503, "not_ready"),
    (above.Unavailable("m", code="draining"), 503, "draining"),
    (above.Unavailable("m", code="device_failed"), 503, "device_failed"),
    (above.Unavailable("m", code="out_of_memory"), 503, "out_of_memory"),
    (above.DeadlineExceeded("m"), 504, "deadline_exceeded"),
    (below.UnknownModel("m"), 404, "unknown_model"),
    (below.SpecError("m"), 422, "invalid"),
    (below.TextError("m"), 422, "invalid"),
    (below.TooLong("m"), 413, "sequence_too_long"),
    (below.OutOfMemory("m"), 503, "out_of_memory"),
    (below.DeviceFailed("m"), 503, "device_failed"),
]


def reply_to(error: Exception, path: str = "/v1/models") -> tuple[int, dict[str, object], dict[str, str]]:
    reply = error_reply(error, path=path, request_id="r-1")
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    assert int(headers["content-length"]) == len(reply.body) <= 8192
    return reply.status, json.loads(reply.body), headers


@pytest.mark.parametrize(("error", "status", "code"), STATUSES, ids=lambda value: str(value))
def test_error_has_the_contracts_status_and_code(error: Exception, status: int, code: str) -> None:
    assert reply_to(error)[:2] == (
        status,
        {"error": {"code": code, "message": "m", "request_id": "r-1"}},
    )


def test_every_error_class_has_a_status() -> None:
    for error in (*vars(above).values(), *vars(below).values()):
        if isinstance(error, type) and error not in (above.HeedError, below.ModelError):
            assert error_reply(error("m"), path="/", request_id="").status != 500, error


@pytest.mark.parametrize("path", ["/v2", "/v2/models/x/infer"])
def test_open_inference_paths_get_the_protocols_body(path: str) -> None:
    assert reply_to(above.Invalid("wrong width"), path)[:2] == (422, {"error": "wrong width"})


def test_path_that_only_begins_like_v2_is_not_the_protocols() -> None:
    assert reply_to(above.Invalid("m"), "/v2x")[1]["error"] != "m"


def test_overload_says_when_to_come_back() -> None:
    assert reply_to(above.Overloaded("m", retry_after_seconds=2.2))[2]["retry-after"] == "3"
    assert reply_to(above.Overloaded("m"))[2]["retry-after"] == "1"
    assert "retry-after" not in reply_to(above.Invalid("m"))[2]


def test_missing_key_says_how_to_authenticate() -> None:
    assert reply_to(above.Unauthorized("m"))[2]["www-authenticate"] == "Bearer"


def test_unexpected_error_shows_no_internals_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, body, _ = reply_to(KeyError("secret place"))
    assert status == 500
    assert body["error"]["code"] == "internal"  # type: ignore[index]
    assert "secret" not in json.dumps(body)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret place" in str(record.exc_info[1])


@pytest.mark.parametrize("filler", ["x", "\n", "\x1b", '"', "é", "𝄞", "\ud800", "\\"])
def test_body_stays_under_8_kib_and_on_one_line(filler: str) -> None:
    _, body, _ = reply_to(above.Invalid(filler * 100_000))
    message = body["error"]["message"]  # type: ignore[index]
    assert len(message.splitlines()) == 1
    assert "\x1b" not in message


def test_validation_problems_are_at_most_ten_and_echo_no_value() -> None:
    problems = [{"loc": ("body", n), "msg": "wrong", "input": "SECRET", "type": "x"} for n in range(200_000)]
    status, body, _ = reply_to(RequestValidationError(problems))
    message = body["error"]["message"]  # type: ignore[index]
    assert status == 422
    assert message.count("wrong") == 10
    assert message.endswith("and 199990 more")
    assert "SECRET" not in message


@pytest.fixture
def app() -> FastAPI:
    """Three routes that fail in three ways."""
    app = FastAPI(redirect_slashes=False)
    install(app)

    @app.get("/refuse")
    def refuse() -> None:
        raise above.Overloaded("full")

    @app.get("/number")
    def number(n: int) -> int:
        return n

    @app.get("/below")
    def model() -> None:
        raise below.UnknownModel("no such model")

    return app


def test_routes_errors_become_replies_and_are_named_in_the_scope(app: FastAPI) -> None:
    reply = call(app, "/refuse")
    assert (reply.status, reply.json()["error"]["code"]) == (429, "overloaded")
    assert reply.scope["heed.code"] == "overloaded"
    assert call(app, "/below").json()["error"]["code"] == "unknown_model"


def test_frameworks_own_errors_speak_the_contracts_words(app: FastAPI) -> None:
    assert call(app, "/nowhere").json()["error"]["code"] == "unknown_route"
    assert call(app, "/refuse/").status == 404
    wrong = call(app, "/refuse", method="DELETE")
    assert (wrong.status, wrong.header("allow")) == (405, "GET")
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    missing = call(app, "/number")
    assert (missing.status, missing.json()["error"]["code"]) == (422, "invalid")
    assert "query.n" in missing.json()["error"]["message"]


def test_status_table_has_only_errors() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models"])
def test_memory_that_is_not_there_is_said_with_the_requests_id_and_logged(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, body, headers = reply_to(MemoryError("Unable to allocate 9.3 GiB for secret"), path)
    assert status == 503
    assert (headers["retry-after"], headers["x-request-id"]) == ("1", "r-1")
    assert "secret" not in json.dumps(body)
    if path == "/v1/models":
        assert body["error"]["code"] == "out_of_memory"  # type: ignore[index]
    (record,) = caplog.records
    assert (record.message, record.fields) == ("out of memory", {"id": "r-1"})  # type: ignore[attr-defined]
