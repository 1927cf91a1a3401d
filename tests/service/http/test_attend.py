"""`POST /v1/models/{model}/attend` over the fake runtime and the real engine."""

import json
import re

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.outputs import OUTPUTS
from service.batching.limits import Limits
from service.http.schemas import AttendRequest
from service.wire import safetensors_format
from tests.fakes import FakeRuntime, fake_card
from tests.serving import refused, served

ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
ONE = {"embeddings": ROWS}


@pytest.fixture(scope="module")
def service():
    with served() as running:
        yield running


def test_embeddings_give_vectors_and_weights(service):
    reply = service.attend({"inputs": [ONE]})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "model": "fake",
        "version": "1",
        "outputs": [
            {"z": [[2.0, 4.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]], "weights": [[[0.5, 0.5]] * 2] * 2}
        ],
        "usage": {"sequences": 1, "tokens": 2},
    }


def test_inputs_of_any_lengths_are_answered_in_order_each_of_its_own_length(service):
    lengths = [3, 1, 7, 2]
    inputs = [{"embeddings": [[n + i / 10] * 4 for i in range(n)]} for n in lengths]
    outputs = service.attend({"inputs": inputs, "outputs": ["z"]}).json()["outputs"]
    for one, output in zip(inputs, outputs, strict=True):
        expected = 2 * np.array(one["embeddings"], np.float32)
        assert np.array_equal(np.array(output["z"], np.float32), expected)


def test_text_is_answered_with_its_tokens(service):
    (output,) = service.attend({"inputs": [{"text": "to be"}], "outputs": ["weights"]}).json()["outputs"]
    assert output["tokens"] == ["to", "be"]
    assert output["offsets"] == [[0, 2], [3, 5]]
    assert output["special"] == [False, False]
    assert "truncated" not in output
    assert np.array(output["weights"]).shape == (2, 2, 2)


def test_a_text_that_was_cut_says_by_how_much(service):
    body = {"inputs": [{"text": " ".join("abcdefghijklmnopqrst")}], "outputs": ["lse"]}
    assert "set truncate" in refused(service.attend(body), 413, "sequence_too_long")
    (output,) = service.attend({**body, "truncate": True}).json()["outputs"]
    assert output["truncated"] == 4
    assert len(output["tokens"]) == 16


def test_token_ids_are_embedded_by_the_model(service):
    (output,) = service.attend({"inputs": [{"token_ids": [3, 9]}], "outputs": ["z"]}).json()["outputs"]
    assert output == {"z": [[6.0] * 4, [18.0] * 4]}


def test_layers_heads_and_rows_shape_the_answer(service):
    body = {
        "inputs": [ONE],
        "layers": "all",
        "heads": [1],
        "rows": [-1],
        "outputs": ["z", "weights", "top_k"],
        "top_k": 5,
    }
    (output,) = service.attend(body).json()["outputs"]
    assert np.array(output["z"]).shape == (2, 1, 4)
    assert np.array(output["weights"]).shape == (2, 1, 1, 2)
    assert np.array(output["top_k_keys"]).shape == (2, 1, 1, 2)
    assert output["z"][0] == [[10.0, 12.0, 14.0, 16.0]]


def test_every_output_can_be_asked_for(service):
    share = {"of": [0, 1], "over": [0, 3]}
    body = {"inputs": [{"token_ids": [1, 2, 1]}], "outputs": list(OUTPUTS), "share": share, "targets": [3]}
    (output,) = service.attend(body).json()["outputs"]
    assert set(output) == {*OUTPUTS, "next_tokens"}


def test_memory_makes_it_cross_attention(service):
    body = {"inputs": [{**ONE, "memory": [[0.0] * 4] * 5, "mask": [True] * 5}]}
    assert np.array(service.attend(body).json()["outputs"][0]["weights"]).shape == (2, 2, 5)


def test_float16_is_written_as_numbers(service):
    body = {"inputs": [{"embeddings": [[0.1] * 4] * 3}], "outputs": ["weights"], "dtype": "float16"}
    (output,) = service.attend(body).json()["outputs"]
    assert np.array(output["weights"], np.float16)[0, 0, 0] == np.float16(1 / 3)


def test_bfloat16_is_refused_in_json_before_any_compute():
    runtime = FakeRuntime()
    with served(runtime) as service:
        reply = service.attend({"inputs": [ONE], "dtype": "bfloat16"})
    assert "binary formats only" in refused(reply, 422, "invalid")
    assert runtime.batches == []


def test_the_time_of_every_station_is_told(service):
    timing = service.attend({"inputs": [ONE]}).headers["server-timing"]
    assert [part.split(";")[0] for part in timing.split(", ")] == [
        "decode",
        "queue",
        "batch",
        "compute",
        "encode",
    ]
    assert all(re.fullmatch(r"\w+;dur=\d+\.\d{3}", part) for part in timing.split(", "))


def test_decoding_and_encoding_are_counted_by_format():
    with served() as service:
        service.attend({"inputs": [ONE]})
        assert service.metrics.formats == [("decoded", "json"), ("encoded", "json")]


def test_an_unknown_model_is_not_found(service):
    refused(service.attend({"inputs": [ONE]}, model="other"), 404, "unknown_model")


def test_json_options_do_not_go_into_the_query(service):
    reply = service.attend({"inputs": [ONE]}, params={"layers": "all"})
    assert "not into the query" in refused(reply, 422, "invalid")


def test_formats_that_are_not_served_are_refused(service):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert "application/json" in refused(
        service.attend(b"a=1", headers=headers), 415, "unsupported_media_type"
    )
    refused(service.attend({"inputs": [ONE]}, headers={"accept": "text/html"}), 406, "not_acceptable")


def test_a_result_over_the_limit_is_refused_with_both_numbers_before_any_compute():
    runtime = FakeRuntime()
    with served(runtime, limits=Limits(max_result_bytes=100)) as service:
        message = refused(service.attend({"inputs": [{"text": "a b c d e f"}]}), 413, "result_too_large")
        assert "100" in message
        assert str(6 * 4 * 4 + 2 * 6 * 6 * 4) in message
        assert service.attend({"inputs": [{"text": "a b"}], "outputs": ["z"]}).status_code == 200
    assert len(runtime.batches) == 1


def test_a_request_whose_own_result_overflows_fails_alone(service):
    reply = service.attend({"inputs": [{"embeddings": [[2e30, 0, 0, 0]]}]})
    refused(reply, 422, "not_finite")
    assert service.attend({"inputs": [ONE]}).status_code == 200


def test_a_large_request_and_reply_go_through_whole():
    card = fake_card(d_model=256, heads=1, key_heads=1, d_k=256, d_v=256, max_tokens=None)
    array = np.random.default_rng(0).standard_normal((200, 256)).astype(np.float32)
    body = orjson.dumps(
        {"inputs": [{"embeddings": array}], "outputs": ["z"]}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    assert len(body) > 256 * 1024
    with served(FakeRuntime(card)) as service:
        reply = service.attend(body)
    read = np.array(reply.json()["outputs"][0]["z"], np.float32)
    assert read.tobytes() == (2 * array).tobytes()


def test_errors_of_large_bodies_and_of_long_texts_come_back_from_their_thread(service):
    rows = [[0.5, 0.5, 0.5, 0.5]] * 20_000
    ragged = json.dumps({"inputs": [{"embeddings": [*rows, [1.0]]}]}).encode()
    assert "has 1 numbers" in refused(service.attend(ragged), 400, "malformed")
    refused(service.attend({"inputs": [{"embeddings": rows}]}), 413, "sequence_too_long")
    refused(service.attend({"inputs": [{"text": "word " * 5000}]}), 413, "sequence_too_long")


MALFORMED = [
    b'{"inputs":[{"text":"a"}],"inputs\\u0000":1}',
    b"",
    b"{",
    b"null",
    b"[]",
    b"[" * 3000,
    b'{"inputs":[{"embeddings":[[1,2,3,NaN]]}]}',
    b'{"inputs":[{"embeddings":[[1,2,3,1e400]]}]}',
    b'{"inputs":[{"embeddings":[[1,2,3,1e39]]}]}',
    b'{"inputs":[{"embeddings":[[1,2,3,4],[1,2,3]]}]}',
    b'{"inputs":[{"embeddings":[[1,2,3,"4"]]}]}',
    b'{"inputs":[{"embeddings":[[1,2,3,true]]}]}',
    b'{"inputs":[{"embeddings":[[1,2,[3],4]]}]}',
    b'{"inputs":[{"embeddings":[[[1],2,3,4]]}]}',
    b'{"inputs":[],"inputs":[{"text":"a"}]}',
    b'{"inputs":[{"text":"\\ud83d"}]}',
    b'{"inputs":[{"text":"\xff\xfe"}]}',
    b'{"inputs":[{"token_ids":[1.5]}]}',
    b'{"inputs":[{"token_ids":[18446744073709551615]}]}',
    b'{"inputs":[{"text":"a","mask":[true,0]}]}',
    b'{"inputs":[{"text":"a"}],"x":' + b"[" * 20 + b"]" * 20 + b"}",
    '{"inputs":[{"text":"a"}]}'.encode("utf-16"),
    b'{"inputs":[{"text":"a"}]} {}',
    b'{"inputs":[{"text":"a"}],"x":[' + b"0," * 300_000 + b"0]}",
]
INVALID = [
    b"{}",
    b'{"inputs":[]}',
    b'{"inputs":[{}]}',
    b'{"inputs":[[]]}',
    b'{"inputs":{"text":"a"}}',
    b'{"inputs":[{"text":""}]}',
    b'{"inputs":[{"text":3}]}',
    b'{"inputs":[{"embeddings":[]}]}',
    b'{"inputs":[{"embeddings":[[]]}]}',
    b'{"inputs":[{"embeddings":[1,2,3,4]}]}',
    b'{"inputs":[{"embeddings":[[[1,2,3,4]]]}]}',
    b'{"inputs":[{"embeddings":null}]}',
    b'{"inputs":[{"token_ids":[]}]}',
    b'{"inputs":[{"token_ids":[-1]}]}',
    b'{"inputs":[{"text":"a","mask":[true,true]}]}',
    b'{"inputs":[{"text":"a","mask":[2]}]}',
    b'{"inputs":[{"text":"a"}],"layers":9}',
    b'{"inputs":[{"text":"a"}],"layers":1e9}',
    b'{"inputs":[{"text":"a"}],"layers":99999999999999999999}',
    b'{"inputs":[{"text":"a"}],"heads":[5]}',
    b'{"inputs":[{"text":"a"}],"rows":[1]}',
    b'{"inputs":[{"text":"a"}],"outputs":["zz"]}',
    b'{"inputs":[{"text":"a"}],"\\u001b\\n\\r":1}',
    b'{"inputs":[{"text":"a"}],"deadline_ms":0}',
    b'{"inputs":[{"text":"a"}],"priority":1000}',
]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(body, 400, "malformed") for body in MALFORMED] + [(body, 422, "invalid") for body in INVALID],
)
def test_bodies_that_are_wrong_are_refused_and_the_next_is_answered(service, body, status, code):
    reply = service.attend(body)
    refused(reply, status, code)
    assert len(reply.content) <= 8192
    assert service.attend({"inputs": [{"text": "a"}], "outputs": ["lse"]}).status_code == 200


scalars = st.none() | st.booleans() | st.integers(-5, 2**33) | st.floats() | st.text(max_size=5)
garbage = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = ["embeddings", "token_ids", "text", "pair", "memory", "mask", "spans", "other"]
options = [*AttendRequest.model_fields.keys() - {"inputs", "deadline_ms"}, "x"]
near_misses = st.fixed_dictionaries(
    {"inputs": st.lists(st.dictionaries(st.sampled_from(names), garbage, max_size=3), max_size=3)},
    optional=dict.fromkeys(options, garbage),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(near_misses | garbage)
def test_nested_garbage_is_answered_or_refused_and_never_fails(service, body):
    reply = service.attend(json.dumps(body).encode())
    assert reply.status_code in (200, 400, 413, 422)
    assert len(reply.content) <= 8192 or reply.status_code == 200


def test_a_reply_leaves_out_tokens_where_nobody_wants_them(service):
    body = {"inputs": [{"text": " ".join("abcdefghijklmnopqrst")}], "truncate": True, "outputs": ["lse"]}
    (output,) = service.attend({**body, "tokens": False}).json()["outputs"]
    assert set(output) == {"lse", "truncated"}
    reply = service.attend({**body, "tokens": False}, headers={"accept": "application/x-safetensors"})
    about = safetensors_format.decode(reply.content).metadata
    assert [name for name in about if name.startswith("0.")] == ["0.truncated"]
