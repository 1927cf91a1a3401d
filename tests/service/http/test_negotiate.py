"""Content-Type and Accept: which format is read, which one is written, and what is refused."""

import pytest
from starlette.datastructures import Headers

from models.outputs import Selection
from service.errors import Invalid, NotAcceptable, UnsupportedMedia
from service.http import negotiate
from service.http.negotiate import REPLIES, REQUESTS, ReplyFormat, reply_format, request_format


def reading(**headers):
    return request_format(Headers({name.replace("_", "-"): value for name, value in headers.items()}).raw)


def writing(accept):
    return reply_format(Headers({} if accept is None else {"accept": accept}).raw)


@pytest.mark.parametrize(
    "given", ["application/json", "Application/JSON", "application/json; charset=utf-8", " application/json "]
)
def test_json_is_known_by_its_name(given):
    assert reading(content_type=given).name == "json"


def test_a_body_without_a_content_type_is_json():
    assert reading().name == "json"


@pytest.mark.parametrize("given", ["application/x-www-form-urlencoded", "text/json", "", "json", "a\x1bb"])
def test_other_content_types_are_refused_with_the_known_ones(given):
    with pytest.raises(UnsupportedMedia) as caught:
        reading(content_type=given)
    assert caught.value.message.isprintable()
    for one in REQUESTS:
        assert one.media_type in caught.value.message


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/*",
        "application/json",
        "APPLICATION/JSON;q=0.1",
        "text/html, application/json;q=0.5",
        "text/html,*/*;q=0.01",
        "application/json;version=1;q=1",
    ],
)
def test_json_is_written_where_it_is_accepted_or_nothing_is_said(accept):
    assert writing(accept).name == "json"


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "*/*;q=x",
        "application/json;q=nan",
        "application/json;q=2",
        ",",
        "text/*",
    ],
)
def test_an_accept_that_admits_nothing_is_refused(accept):
    with pytest.raises(NotAcceptable, match="application/json"):
        writing(accept)


def test_the_best_liked_format_is_written(monkeypatch):
    other = ReplyFormat(
        name="other", media_type="application/x-other", encode=lambda _: (b"",), check=lambda _: None
    )
    monkeypatch.setattr(negotiate, "REPLIES", (REPLIES[0], other))
    assert writing("application/x-other").name == "other"
    assert writing("*/*").name == "json"
    assert writing("application/json;q=0.5, application/x-other;q=0.6").name == "other"
    assert writing("application/json, application/x-other").name == "json"
    assert writing("application/json;q=0, */*").name == "other"
    assert writing("application/*;q=0.2, application/x-other;q=0.1").name == "json"


def test_bfloat16_does_not_travel_in_json():
    with pytest.raises(Invalid, match="binary formats only"):
        REPLIES[0].check([Selection(outputs=("z",), dtype="bfloat16")])
    REPLIES[0].check([Selection(outputs=("z",), dtype="float16")])
