"""The envelopes: what is admitted, what is refused in which words, and how options travel in a query."""

import numpy as np
import pytest
from fastapi import FastAPI

from models.outputs import OUTPUTS
from service.errors import Invalid, Malformed
from service.http import attend
from service.http.context import Context
from service.http.envelope import options_from_query, read_envelope
from service.http.fields.addresses import Rows
from service.http.pages.openapi import request_docs
from service.http.schemas import AttendRequest, AttentionRequest

ONE = {"embeddings": np.zeros((2, 4), np.float32)}

SPANS = (
    'spans must be a list of [start, end], whole numbers from 0, or {"name": [start, end]}, names of 1 to 64 '
    'characters, or "words"'
)
HEADS = 'heads must be a list of numbers, or of pairs [layer, head], or {"pairs", "weights"}, or a name'
COLUMNS = "columns must be a list of ranges [start, end], whole numbers from 0, and names of spans"


def refusal(envelope, schema=AttendRequest):
    with pytest.raises(Invalid) as caught:
        read_envelope(schema, envelope)
    return caught.value.message


def test_everything_but_inputs_has_a_default():
    asked = read_envelope(AttendRequest, {"inputs": [ONE]})
    assert asked.layers == -1
    assert asked.outputs == ["z", "weights"]
    assert asked.top_k == 8
    assert asked.dtype == "float32"
    assert asked.heads is asked.rows is asked.spans is asked.deadline_ms is None
    assert not asked.deterministic
    assert not asked.truncate


def test_tensors_pass_as_the_arrays_they_are():
    assert read_envelope(AttendRequest, {"inputs": [ONE]}).inputs[0].embeddings is ONE["embeddings"]


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ({}, "inputs is missing"),
        ({"inputs": []}, "inputs has 0 items; give at least 1"),
        ({"inputs": [ONE] * 4097}, "inputs has 4097 items; give at most 4096"),
        ({"inputs": 3}, "inputs must be a list"),
        ({"inputs": [3]}, "inputs[0] must be an object"),
        ({"inputs": [ONE, {"embeddings": "x"}]}, "inputs[1].embeddings must be an array"),
        ({"inputs": [{"text": 3}]}, "inputs[0].text must be a string"),
        ({"inputs": [ONE], "layer": 1}, "layer is no field here; did you mean layers?"),
        ({"inputs": [ONE], "edits": []}, "edits belongs to an input; give it within inputs"),
        ({"inputs": [ONE], "mask": [1]}, "mask belongs to an input; give it within inputs"),
        ({"inputs": [ONE], "topk": 1}, "topk is no field here; did you mean top_k?"),
        ({"inputs": [{"embedding": 1}]}, "inputs[0].embedding is no field here; did you mean embeddings?"),
        ({"inputs": [ONE], "top_k": 0}, "top_k must be at least 1"),
        ({"inputs": [ONE], "top_k": 2**40}, "top_k must be at most 4096"),
        ({"inputs": [ONE], "top_k": True}, "top_k must be an integer"),
        ({"inputs": [ONE], "top_k": 8.0}, "top_k must be an integer"),
        ({"inputs": [ONE], "top_k": "8"}, "top_k must be an integer"),
        ({"inputs": [ONE], "deterministic": 1}, "deterministic must be true or false"),
        ({"inputs": [ONE], "dtype": "f4"}, "dtype must be one of 'float32', 'float16' or 'bfloat16'"),
        ({"inputs": [ONE], "deadline_ms": 0}, "deadline_ms must be at least 1"),
        ({"inputs": [ONE], "outputs": []}, "outputs has 0 items; give at least 1"),
        ({"inputs": [ONE], "outputs": "z"}, "outputs must be a list"),
        ({"inputs": [ONE], "heads": [0, "1"]}, HEADS),
        ({"inputs": [ONE], "heads": [2**31]}, HEADS),
        ({"inputs": [ONE], "heads": [0, [1, 2]]}, HEADS),
        ({"inputs": [ONE], "heads": [[1, 2, 3]]}, HEADS),
        ({"inputs": [ONE], "heads": {"pairs": [[1, 2]], "weight": [1]}}, HEADS),
        ({"inputs": [ONE], "heads": {"weights": [1]}}, HEADS),
        ({"inputs": [ONE], "heads": {"pairs": [[1, 2]], "weights": [1e39]}}, HEADS),
        ({"inputs": [ONE], "columns": [0, 1]}, COLUMNS),
        ({"inputs": [ONE], "columns": 3}, COLUMNS),
        ({"inputs": [ONE], "reduce": "max"}, "reduce must be one of 'mean' or 'sum'"),
        ({"inputs": [ONE], "column": []}, "column is no field here; did you mean columns?"),
        ({"inputs": [ONE], "spans": [[0, 1, 2]]}, SPANS),
        ({"inputs": [ONE], "spans": [[-1, 1]]}, SPANS),
        ({"inputs": [ONE], "spans": {"": [0, 1]}}, SPANS),
        ({"inputs": [ONE], "spans": {"a" * 65: [0, 1]}}, SPANS),
        ({"inputs": [{"text": "a", "spans": [[0, 1, 2]]}]}, f"inputs[0].{SPANS}"),
    ],
)
def test_each_problem_is_named_with_its_place_and_remedy(envelope, message):
    assert refusal(envelope) == message


@pytest.mark.parametrize("layers", ["al", [0, True], {"start": 0}, 2**31, 1.0, []])
def test_layers_of_no_kind_are_refused_in_one_sentence(layers):
    message = refusal({"inputs": [ONE], "layers": layers})
    assert message.startswith('layers must be a number, a list of numbers, or "all"')
    assert ";" not in message.removeprefix('layers must be a number, a list of numbers, or "all";')


@pytest.mark.parametrize("rows", [{"begin": 1}, {"start": "1"}, [True], 3, {"outside": {}}, []])
def test_rows_of_no_kind_are_refused_in_one_sentence(rows):
    message = refusal({"inputs": [ONE], "rows": rows})
    assert message.startswith("rows must be a list of numbers, ranges [start, end] and names of spans, or {")
    assert ";" not in message


@pytest.mark.parametrize("target", [1.5, -1, 2**31, "", "a" * 257, [1], True])
def test_targets_of_no_kind_are_refused_in_one_sentence(target):
    remedy = "must be a token id, a whole number from 0, or a string of one token, of 1 to 256 characters"
    assert refusal({"inputs": [ONE], "targets": [3, target]}) == f"targets[1] {remedy}"
    assert refusal({"inputs": [ONE | {"targets": [target]}]}) == f"inputs[0].targets[0] {remedy}"


@pytest.mark.parametrize("share", [{"of": "a"}, {"of": 3, "over": "a"}, {"of": [[1]], "over": "a"}, "a"])
def test_shares_of_no_kind_are_refused_in_one_sentence(share):
    message = refusal({"inputs": [ONE], "share": share})
    assert message.startswith('share must be {"of": …, "over": …}, each a range')
    assert ";" not in message


@pytest.mark.parametrize(
    "asked",
    [
        {"heads": [0, 3]},
        {"heads": [[0, 3], [-1, 2]]},
        {"heads": {"pairs": [[0, 3]], "weights": [2]}},
        {"heads": "qr"},
        {"rows": ["question", -1, [3, 5]]},
        {"rows": "question"},
        {"rows": {"outside": "question"}},
        {"columns": ["doc1", [3, 5]], "reduce": "mean"},
        {"share": {"of": [0, 3], "over": ["doc1", [3, 5]]}},
        {"spans": {"doc1": [0, 3]}},
    ],
)
def test_heads_and_positions_may_be_said_in_several_ways(asked):
    read = read_envelope(AttendRequest, {"inputs": [ONE], **asked})
    for name, value in asked.items():
        said = getattr(read, name)
        assert (said.model_dump() if hasattr(said, "model_dump") else said) == value


def test_at_most_ten_problems_are_listed_and_the_rest_counted():
    message = refusal({"inputs": [ONE], **{f"unknown_{i}": 0 for i in range(14)}})
    assert message.count("is no field here") == 10
    assert message.endswith("; and 4 more")


def test_lists_stop_at_their_first_problem():
    qkv = {name: np.zeros((1, 2), np.float32) for name in ("query", "key", "value")}
    said = refusal({"inputs": [qkv], "heads": ["x"] * 1000}, AttentionRequest)
    assert said == "heads[0] must be an integer"


def test_values_are_never_repeated():
    secret = "s3cret" * 20
    message = refusal(
        {
            "inputs": [{"text": "a", "mask": secret, "spans": secret}],
            "dtype": secret,
            "layers": secret,
            "outputs": [1, secret],
            "top_k": secret,
        }
    )
    assert "s3cret" not in message


def test_unknown_names_are_shown_short_and_printable():
    message = refusal({"inputs": [ONE], "\x1b[31m\r\n" + "n" * 1000: 1})
    assert message.isprintable()
    assert len(message.split(" is no field here")[0]) <= 80


def test_attention_knows_the_rule_and_no_layers():
    qkv = {name: np.zeros((1, 2), np.float32) for name in ("query", "key", "value")}
    asked = read_envelope(AttentionRequest, {"inputs": [qkv], "scale": 2, "causal": True, "left_window": 3})
    assert (asked.scale, asked.causal, asked.left_window) == (2.0, True, 3)
    assert "layers is no field here" in refusal({"inputs": [qkv], "layers": 0}, AttentionRequest)
    for softcap in (0, 1e-300):  # which float32 would make 0, and 0 is none in compiled code
        least = "softcap must be at least 1.1754943508222875e-38"
        assert refusal({"inputs": [qkv], "softcap": softcap}, AttentionRequest) == least
    assert refusal({"inputs": [qkv], "left_window": -1}, AttentionRequest) == "left_window must be at least 0"
    assert "scale must be at most" in refusal({"inputs": [qkv], "scale": 1e39}, AttentionRequest)
    assert refusal({"inputs": [{}]}, AttentionRequest).startswith("inputs[0].query is missing")


def test_options_in_a_query_mean_what_they_mean_in_json():
    query = {
        "layers": "all",
        "outputs": "z,top_k",
        "heads": "0, 3",
        "rows": '{"start":-4}',
        "top_k": "5",
        "dtype": "float16",
        "deterministic": "true",
        "deadline_ms": "500",
        "priority": "-1",
    }
    asked = read_envelope(AttendRequest, {"inputs": [ONE], **options_from_query(query.items())})
    assert asked == AttendRequest(
        inputs=[ONE],
        layers="all",
        outputs=["z", "top_k"],
        heads=[0, 3],
        rows=Rows(start=-4),
        top_k=5,
        dtype="float16",
        deterministic=True,
        deadline_ms=500,
        priority=-1,
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("layers", "-1", -1),
        ("layers", "0,1", [0, 1]),
        ("layers", "0,", [0]),
        ("layers", "[0]", [0]),
        ("outputs", "z", ["z"]),
        ("outputs", '["z"]', ["z"]),
        ("heads", "3", [3]),
        ("heads", "null", None),
        ("rows", "-1", [-1]),
        ("scale", "0.5", 0.5),
        ("scale", "null", None),
        ("similarity", "cosine", "cosine"),
        ("causal", "false", False),
        ("spans", "[[0,2],[2,3]]", [[0, 2], [2, 3]]),
        ("scale", "nan", "nan"),
        ("top_k", "1x", "1x"),
        ("top_k", "", ""),
    ],
)
def test_a_query_value_is_json_a_list_or_a_word(name, text, value):
    assert options_from_query([(name, text)]) == {name: value}


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ([("heads", "1"), ("heads", "2")], Malformed),
        ([("rows", '{"start":1,"start":2}')], Malformed),
        ([("rows", "[1")], Malformed),
        ([("inputs", "[]")], Invalid),
        ([(f"a{i}", "") for i in range(65)], Malformed),
    ],
)
def test_a_query_that_says_things_twice_or_brokenly_is_refused(query, error):
    with pytest.raises(error):
        options_from_query(query)


def test_the_documentation_names_every_output_and_its_meaning():
    schema = request_docs(AttendRequest)["requestBody"]["content"]["application/json"]["schema"]
    assert "$ref" not in str(schema)
    assert set(schema["properties"]["outputs"]["anyOf"][0]["items"]["enum"]) == {*OUTPUTS, "top_k", "next"}
    for output in OUTPUTS.values():
        assert output.meaning in schema["properties"]["outputs"]["description"]


def test_binary_bodies_are_documented_with_the_options_that_go_into_the_query():
    for schema in (AttendRequest, AttentionRequest):
        content = request_docs(schema)["requestBody"]["content"]
        for media_type in ("application/x-npy", "application/x-safetensors"):
            said = content[media_type]["schema"]["description"]
            assert all(name in said for name in schema.model_fields if name != "inputs")


def test_every_field_is_documented_and_every_example_is_valid():
    for schema in (AttendRequest, AttentionRequest):
        for name, field in schema.model_fields.items():
            assert field.description, name
        for example in schema.model_config["json_schema_extra"]["examples"]:
            inputs = [
                {
                    name: value if isinstance(value, str) else np.array(value, np.float32)
                    for name, value in one.items()
                }
                for one in example["inputs"]
            ]
            assert read_envelope(schema, {**example, "inputs": inputs})


def test_openapi_documents_both_routes_with_their_replies():
    app = FastAPI()
    app.include_router(attend.router(Context(runtime=None, engine=None, metrics=None)))
    paths = app.openapi()["paths"]
    reply = paths["/v1/models/{model}/attend"]["post"]["responses"]["200"]
    entry = reply["content"]["application/json"]["schema"]["properties"]["outputs"]["items"]
    assert set(OUTPUTS) < set(entry["properties"])
    assert {"tokens", "truncated"} < set(entry["properties"])
    assert "application/json" in paths["/v1/attention"]["post"]["requestBody"]["content"]
