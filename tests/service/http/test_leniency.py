"""Null is absent, for every optional field that a schema has now or will have."""

import logging
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from service.errors import Invalid
from service.http.embeddings import EmbeddingsRequest
from service.http.envelope import IgnoredNames, options_from_query, read_envelope
from service.http.fields.addresses import Rows
from service.http.schemas import AttendInput, AttendRequest, AttentionInput, AttentionRequest
from service.wire.names import misspelt
from tests.fakes import FakeRuntime
from tests.serving import served

QKV = {name: np.ones((1, 2), np.float32) for name in ("query", "key", "value")}
LEAST: dict[type[BaseModel], dict[str, Any]] = {
    AttendRequest: {"inputs": [{"text": "a"}]},
    AttendInput: {"text": "a"},
    AttentionRequest: {"inputs": [QKV]},
    AttentionInput: QKV,
    EmbeddingsRequest: {"input": "a"},
    Rows: {},
}
OPTIONAL = [
    (schema, name)
    for schema in LEAST
    for name, field in schema.model_fields.items()
    if not field.is_required() and name not in LEAST[schema]
]
REQUIRED = [
    (schema, name)
    for schema in LEAST
    for name, field in schema.model_fields.items()
    if field.is_required() and schema is not EmbeddingsRequest  # whose input the route looks at
]


def values(request: BaseModel) -> dict[str, Any]:
    return {name: getattr(request, name) for name in type(request).model_fields if name not in QKV}


@pytest.mark.parametrize(("schema", "name"), OPTIONAL)
def test_null_is_absent_in_every_optional_field(schema: type[BaseModel], name: str) -> None:
    least = LEAST[schema]
    given, left_out = read_envelope(schema, {**least, name: None}), read_envelope(schema, least)
    if "inputs" in least:
        assert len(given.inputs) == len(left_out.inputs)
    assert {**values(given), "inputs": None} == {**values(left_out), "inputs": None}


@pytest.mark.parametrize(("schema", "name"), REQUIRED)
def test_null_is_not_there_where_a_field_is_required(schema: type[BaseModel], name: str) -> None:
    with pytest.raises(Invalid):
        read_envelope(schema, {**LEAST[schema], name: None})


@pytest.mark.parametrize(("schema", "name"), OPTIONAL)
def test_null_is_documented_in_every_optional_field(schema: type[BaseModel], name: str) -> None:
    field = schema.model_json_schema()["properties"][name]
    assert {"type": "null"} in field["anyOf"]


@pytest.mark.parametrize("schema", [AttendRequest, AttentionRequest])
def test_null_is_absent_in_every_option_of_a_query(schema: type[BaseModel]) -> None:
    for name in schema.model_fields:
        if name != "inputs":
            assert options_from_query([(name, "null")]) == {name: None}


def test_every_route_answers_as_if_nulls_were_not_there() -> None:
    with served(FakeRuntime()) as service:
        for path, least, schema, part in (
            ("/v1/models/fake/attend", {"inputs": [{"text": "a b"}]}, AttendRequest, AttendInput),
            (
                "/v1/attention",
                {"inputs": [{name: array.tolist() for name, array in QKV.items()}]},
                AttentionRequest,
                AttentionInput,
            ),
            ("/v1/embeddings", {"model": "fake", "input": "a b"}, EmbeddingsRequest, None),
        ):
            full = {**dict.fromkeys(schema.model_fields), **least}
            if part is not None:
                full["inputs"] = [{**dict.fromkeys(part.model_fields), **least["inputs"][0]}]
            plain, nulls = service.post(path, least), service.post(path, full)
            assert plain.status_code == 200, plain.text
            assert nulls.content == plain.content


def test_unknown_field_is_unknown_though_it_is_null() -> None:
    with pytest.raises(Invalid, match="did you mean top_k"):
        read_envelope(AttendRequest, {**LEAST[AttendRequest], "topk": None})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("layer", "layers"),
        ("Layers", "layers"),
        ("top-k", "top_k"),
        ("deadline", "deadline_ms"),
        ("truncation", "truncate"),
        ("content_type", None),
        ("headers", None),
        ("sequence_id", None),
        ("stream", None),
        ("temperature", None),
        ("trace", None),
        ("user", None),
        ("x" * 100_000, None),
    ],
)
def test_names_like_ours_are_told_from_strangers(name: str, ours: str | None) -> None:
    known = [*AttendRequest.model_fields, "timeout", "binary_data_output"]
    assert misspelt(name, known) == ours


def test_ignored_names_are_logged_once_and_take_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    names = IgnoredNames(most=3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            names.note(["a", "b"], where="/x")
        names.note(["a"], where="/y")
        names.note([f"c{number}" for number in range(100)], where="/x")
    assert [(one.fields["at"], one.fields["name"]) for one in caplog.records] == [
        ("/x", "'a'"),
        ("/x", "'b'"),
        ("/y", "'a'"),
    ]
