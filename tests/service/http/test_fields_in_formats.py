"""Every option crosses in every format: what reaches the device is what it is in JSON."""

import io
import json

import numpy as np
import pytest
import safetensors.numpy

from models.heads.sets import HeadSet
from models.outputs import OUTPUTS
from service.http.schemas import AttendRequest
from service.wire import safetensors_format
from tests.fakes import FakeRuntime, fake_card
from tests.serving import served

X = np.arange(12, dtype=np.float32).reshape(3, 4)
SETS = {"two": HeadSet(pairs=((1, 0), (0, 1)), weights=(0.5, 2.0))}
SPANS = {"start": [0, 1], "rest": [1, 3]}
ASKED = {
    "pairs": {"heads": [[1, 0], [-2, 1]], "outputs": ["weights"]},
    "weighted": {"heads": {"pairs": [[1, 0], [0, 0]], "weights": [0.5, -1]}, "outputs": ["mixed"]},
    "set": {"heads": "two", "outputs": ["mixed", "z"], "layers": [1]},
    "numbers": {
        "heads": [1],
        "outputs": ["weights", "share"],
        "share": {"of": [0, 1], "over": [[0, 1], [2, 3]]},
    },
    "one_name": {"spans": SPANS, "rows": "rest", "outputs": ["z"]},
    "rows": {"spans": SPANS, "rows": ["rest", 0], "outputs": ["z"]},
    "outside": {"spans": SPANS, "rows": {"outside": ["rest"]}, "outputs": ["z"]},
    "range": {"rows": {"start": -2}, "outputs": ["z"]},
    "columns": {
        "spans": SPANS,
        "heads": "two",
        "columns": ["rest", [0, 2]],
        "reduce": "mean",
        "rows": [-1],
        "outputs": ["mixed"],
    },
    "column": {"spans": SPANS, "heads": "two", "columns": ["start"], "outputs": ["mixed"]},
    "share": {"spans": SPANS, "share": {"of": "start", "over": ["start", "rest"]}, "outputs": ["share"]},
    "summed": {"spans": [[0, 1], [1, 3]], "outputs": ["weights"]},
    "unit": {"spans": SPANS, "span_unit": "tokens", "rows": "start", "outputs": ["z"]},
    "whole": {"layers": "all", "top_k": 2, "outputs": ["top_k"], "heads": [1, 0], "deterministic": True},
    "entropy": {"outputs": ["entropy"], "heads": "two"},
}


@pytest.fixture(scope="module")
def runtime():
    return FakeRuntime(fake_card(head_sets=SETS))


@pytest.fixture(scope="module")
def service(runtime):
    with served(runtime) as running:
        yield running


def written(value):
    return value if isinstance(value, str) else json.dumps(value)


def by_hand(name, value):
    """As a person writes a query: names and numbers with commas, where that says it all."""
    plain = name != "layers" and isinstance(value, list) and all(isinstance(one, str | int) for one in value)
    return ",".join(map(str, value)) if plain else written(value)


def in_json(service, asked):
    return service.attend({"inputs": [{"embeddings": X.tolist()}], **asked})


def in_npy(service, asked):
    file = io.BytesIO()
    np.save(file, X)
    params = {name: by_hand(name, value) for name, value in asked.items()}
    return service.attend(file.getvalue(), headers={"content-type": "application/x-npy"}, params=params)


def in_safetensors(service, asked):
    params = {name: written(value) for name, value in asked.items()}
    body = safetensors.numpy.save({"0.embeddings": X})
    return service.attend(body, headers={"content-type": "application/x-safetensors"}, params=params)


def inferred(service, asked, parameters):
    entry = {"name": "embeddings", "shape": X.shape, "datatype": "FP32", "data": X.reshape(-1).tolist()}
    outputs = [{"name": name} for name in asked["outputs"]]
    body = {"inputs": [entry], "outputs": outputs, "parameters": parameters}
    return service.post("/v2/models/fake/infer", body)


def in_parameters(service, asked):
    return inferred(service, asked, {name: value for name, value in asked.items() if name != "outputs"})


def in_strings_of_parameters(service, asked):
    return inferred(
        service, asked, {name: by_hand(name, value) for name, value in asked.items() if name != "outputs"}
    )


@pytest.mark.parametrize("send", [in_npy, in_safetensors, in_parameters, in_strings_of_parameters])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_what_is_asked_is_the_same_in_every_format(service, runtime, asked, send):
    selections = []
    for one in (in_json, send):
        first = len(runtime.batches)
        reply = one(service, asked)
        assert reply.status_code == 200, reply.text
        (item,) = (item for batch in runtime.batches[first:] for item in batch)
        selections.append((item.selection, item.deterministic))
    assert selections[0] == selections[1]


def test_every_option_is_among_those_that_cross():
    sent = {name for asked in ASKED.values() for name in asked}
    elsewhere = {
        "inputs",
        "dtype",
        "deadline_ms",
        "priority",
        "truncate",
        "targets",
        "tokens",
    }  # tested beside this
    assert set(AttendRequest.model_fields) - elsewhere == sent


def test_targets_are_the_same_in_every_format(service, runtime):
    asked = {"targets": [3, "ein"], "outputs": ["logprobs"]}
    for send in (in_json, in_npy, in_safetensors, in_parameters, in_strings_of_parameters):
        first = len(runtime.batches)
        reply = send(service, asked)
        assert reply.status_code == 200, reply.text
        (item,) = (item for batch in runtime.batches[first:] for item in batch)
        assert item.selection.targets == (3, runtime.tokenize(item.card, "ein").ids[0])


def test_words_that_are_predicted_are_named_in_every_format(service, monkeypatch):
    inputs = [{"token_ids": [1, 2, 3]}, {"token_ids": [1]}]
    asked = {"outputs": ["next"], "top_k": 2}
    monkeypatch.setattr(FakeRuntime, "spelled", lambda _, __, ids: [f"w{at}" for at in range(len(ids))])
    expected = [[["w0", "w1"], ["w2", "w3"], ["w4", "w5"]], [["w0", "w1"]]]
    assert [
        one["next_tokens"] for one in service.attend({"inputs": inputs, **asked}).json()["outputs"]
    ] == expected
    reply = service.attend({"inputs": inputs, **asked}, headers={"accept": "application/x-safetensors"})
    metadata = safetensors_format.decode(reply.content).metadata
    assert [json.loads(metadata[f"{place}.next_tokens"]) for place in (0, 1)] == expected
    lengths = {"name": "lengths", "shape": [2], "datatype": "INT32", "data": [3, 1]}
    entry = {"name": "token_ids", "shape": [2, 3], "datatype": "INT64", "data": [1, 2, 3, 1, 0, 0]}
    body = {"inputs": [entry, lengths], "outputs": [{"name": "next_tokens"}], "parameters": {"top_k": 2}}
    (tensor,) = service.post("/v2/models/fake/infer", body).json()["outputs"]
    padded = [*expected[0], *expected[1], ["", ""], ["", ""]]
    assert tensor == {
        "name": "next_tokens",
        "datatype": "BYTES",
        "shape": [2, 3, 2],
        "data": [word for row in padded for word in row],
    }


def test_words_of_a_model_without_text_are_not_spelt():
    with served(FakeRuntime(fake_card(inputs=("token_ids",)))) as service:
        entry = {"name": "token_ids", "shape": [2], "datatype": "INT64", "data": [1, 2]}
        reply = service.post(
            "/v2/models/fake/infer", {"inputs": [entry], "outputs": [{"name": "next_tokens"}]}
        )
    assert reply.status_code == 422
    assert "model fake takes no text; ask for next_ids" in reply.json()["error"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_is_the_same_in_every_format(service, name):
    needs = {"share": {"of": [[0, 1]], "over": [[0, 3]]}} if name == "share" else {}
    asked = {"outputs": [name], "layers": "all", **needs}
    inputs = [{"text": "a b c"}, {"text": "a b c d e"}]
    replies = service.attend({"inputs": inputs, **asked}).json()["outputs"]
    headers = {"accept": "application/x-safetensors"}
    tensors = safetensors.numpy.load(service.attend({"inputs": inputs, **asked}, headers=headers).content)
    entry = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [one["text"] for one in inputs]}
    parameters = {option: value for option, value in asked.items() if option != "outputs"}
    body = {"inputs": [entry], "outputs": [{"name": name}], "parameters": parameters}
    (padded,) = service.post("/v2/models/fake/infer", body).json()["outputs"]
    whole = np.float32(padded["data"]).reshape(padded["shape"])
    for place, reply in enumerate(replies):
        array = np.float32(reply[name])
        np.testing.assert_array_equal(tensors[f"{place}.{name}"], array)
        within = tuple(slice(size) for size in array.shape)
        np.testing.assert_array_equal(whole[place][within], array)
        one = service.attend(
            {"inputs": inputs[place : place + 1], **asked}, headers={"accept": "application/x-npy"}
        )
        np.testing.assert_array_equal(np.load(io.BytesIO(one.content)), array)
