import contextlib
import json
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Invalid, Malformed, TooLarge
from service.wire import oip
from service.wire.dtypes import OIP
from service.wire.oip_tensor import Tensor, from_bytes

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
arrays = st.sampled_from(sorted(OIP.kept)).flatmap(lambda name: hnp.arrays(OIP.kept[name], SHAPES))


def described(name: str, array: np.ndarray, **changes: object) -> dict[str, object]:
    tensor = Tensor(name, array)
    return {"name": name, "shape": list(tensor.shape), "datatype": tensor.datatype, **changes}


def binary_body(tensors: dict[str, np.ndarray], **more: object) -> tuple[bytes, int]:
    inputs = [
        described(name, array, parameters={"binary_data_size": array.nbytes})
        for name, array in tensors.items()
    ]
    text = json.dumps({"inputs": inputs, **more}).encode()
    return text + b"".join(array.tobytes() for array in tensors.values()), len(text)


def json_body(*inputs: dict[str, object], **more: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def one(data: object, shape: list[object], datatype: str = "FP32") -> bytes:
    return json_body({"name": "x", "shape": shape, "datatype": datatype, "data": data})


@given(st.dictionaries(st.text(min_size=1, max_size=8), arrays, min_size=1, max_size=4))
def test_binary_tensors_are_read_bit_for_bit(tensors):
    body, header_length = binary_body(tensors)
    read = oip.decode(body, header_length).inputs
    assert list(read) == list(tensors)
    for name, array in tensors.items():
        assert read[name].array.tobytes() == array.tobytes()
        assert (read[name].shape, read[name].array.dtype) == (array.shape, array.dtype)


@given(st.lists(st.tuples(arrays, st.booleans()), min_size=1, max_size=4))
def test_replies_carry_every_dtype_bit_for_bit(outputs):
    asked = [
        (Tensor(f"o{i}", array), binary or array.dtype.kind not in "ib")
        for i, (array, binary) in enumerate(outputs)
    ]
    encoded = oip.encode(asked, model_name="m", model_version="1")
    body = b"".join(encoded.buffers)
    head = orjson.loads(body[: encoded.header_length])
    at = encoded.header_length
    for (tensor, binary), entry in zip(asked, head["outputs"], strict=True):
        assert entry["shape"] == list(tensor.shape)
        assert entry["datatype"] == tensor.datatype
        if binary:
            size = entry["parameters"]["binary_data_size"]
            assert body[at : at + size] == tensor.array.tobytes()
            at += size
        else:
            assert entry["data"] == tensor.array.reshape(-1).tolist()
    assert at in (None, len(body))


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_json_numbers_come_back_as_the_same_float32(array):
    body = b"".join(oip.encode([(Tensor("z", array), False)], model_name="m", model_version="1").buffers)
    entry = orjson.loads(body)["outputs"][0]
    flat = np.array(entry["data"], dtype=np.float32)
    assert flat.tobytes() == array.tobytes()
    read = oip.decode(json_body(entry), None).inputs["z"]
    np.testing.assert_array_equal(read.array, array)


@pytest.mark.parametrize(
    ("data", "shape", "datatype"),
    [
        ([1, 2.5, 3, 4], [2, 2], "FP32"),
        ([[1, 2.5], [3, 4]], [2, 2], "FP32"),
        ([[[1], [2.5]], [[3], [4]]], [2, 2, 1], "FP32"),
        ([1, 2, 3, 4], [4], "INT64"),
        ([[1, 2], [3, 4]], [2, 2], "INT32"),
        ([True, False], [2], "BOOL"),
        ([[True], [False]], [2, 1], "BOOL"),
        ([], [0, 3], "FP32"),
    ],
)
def test_json_data_may_be_flat_or_nested_as_its_shape(data, shape, datatype):
    tensor = oip.decode(one(data, shape, datatype), None).inputs["x"]
    assert (tensor.datatype, tensor.shape) == (datatype, tuple(shape))
    np.testing.assert_array_equal(tensor.array, np.array(data).reshape(shape))


def test_texts_are_read_from_json_and_from_bytes():
    texts = ["[CLS] a", "", "naïve ☕"]
    in_json = oip.decode(json_body({"name": "t", "shape": [3], "datatype": "BYTES", "data": texts}), None)
    packed = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    entry = {"name": "t", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(packed)}}
    text = json_body(entry)
    in_bytes = oip.decode(text + packed, len(text))
    for request in (in_json, in_bytes):
        assert request.inputs["t"].texts == tuple(t.encode() for t in texts)
        assert request.inputs["t"].datatype == "BYTES"


def test_texts_are_written_to_json_and_to_bytes():
    tokens = Tensor("tokens", texts=(b"the", b"", "ß".encode()), text_shape=(3,))
    plain = oip.encode([(tokens, False)], model_name="m", model_version="1")
    assert plain.header_length is None
    assert orjson.loads(b"".join(plain.buffers))["outputs"][0]["data"] == ["the", "", "ß"]
    packed = oip.encode([(tokens, True)], model_name="m", model_version="1")
    assert packed.buffers[1] == b"\x03\0\0\0the\0\0\0\0\x02\0\0\0\xc3\x9f"


def test_names_beside_numbers_may_hold_brackets():
    body = json_body({"name": "x[0]", "shape": [2, 1], "datatype": "FP32", "data": [[1], [2]]}, id="[")
    np.testing.assert_array_equal(oip.decode(body, None).inputs["x[0]"].array, [[1], [2]])


def test_options_and_outputs_are_read():
    request = oip.decode(
        json_body(
            {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
            id="42",
            model_name="ignored",
            parameters={"binary_data_output": True, "layers": "all"},
            outputs=[{"name": "z"}, {"name": "weights", "parameters": {"binary_data": False}}],
        ),
        None,
    )
    assert request.id == "42"
    assert request.parameters == {"layers": "all"}
    assert request.outputs == (oip.Requested("z", True), oip.Requested("weights", False))


def test_numbers_are_views_of_the_body_both_ways():
    array = np.ones((4, 4), np.float32)
    body, header_length = binary_body({"x": array}, id="pad" * 9)
    padded = body[:header_length] + b" " * (-header_length % 4) + body[header_length:]
    read = oip.decode(padded, header_length + -header_length % 4).inputs["x"].array
    assert np.shares_memory(read, np.frombuffer(padded, np.uint8))
    encoded = oip.encode([(Tensor("z", array), True)], model_name="m", model_version="1")
    assert np.shares_memory(np.frombuffer(encoded.buffers[1], np.uint8), array)


def test_unaligned_numbers_are_aligned():
    for pad in range(4):
        body, header_length = binary_body({"x": np.arange(4, dtype=np.float32)}, id="p" * pad)
        array = oip.decode(body, header_length).inputs["x"].array
        assert array.flags.aligned
        np.testing.assert_array_equal(array, np.arange(4))


def test_raw_body_is_rows_of_float32():
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    request = oip.decode_raw(rows.tobytes(), "embeddings", width=4)
    np.testing.assert_array_equal(request.inputs["embeddings"].array, rows)
    assert request.binary


@pytest.mark.parametrize("body", [b"", b"\0" * 15, b"\0" * 17])
def test_raw_body_of_broken_rows_is_malformed(body):
    with pytest.raises(Malformed):
        oip.decode_raw(body, "embeddings", width=4)


@pytest.mark.parametrize("header_length", [-1, 0, 10**9, 5])
def test_header_length_that_disagrees_is_malformed(header_length):
    body, _ = binary_body({"x": np.ones(2, np.float32)})
    with pytest.raises(Malformed):
        oip.decode(body, header_length)


def sized(size: object, payload: bytes, shape: object = (2,), datatype: object = "FP32", **more: object):
    entry = {
        "name": "x",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
        **more,
    }
    return json_body(entry), payload


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        sized(8, b"\0" * 7),
        sized(8, b"\0" * 9),
        sized(7, b"\0" * 7),
        sized(4, b"\0" * 4),
        sized(-8, b"\0" * 8),
        sized(2**70, b"\0" * 8),
        sized("8", b"\0" * 8),
        sized(8.0, b"\0" * 8),
        sized(True, b"\0"),
        sized(None, b"\0" * 8),
        sized(8, b"\0" * 8, data=[1, 2]),
        sized(8, b"\0" * 8, shape=[-2]),
        sized(8, b"\0" * 8, shape=["2"]),
        sized(8, b"\0" * 8, shape=[2.0]),
        sized(8, b"\0" * 8, shape=[2**62, 2**62]),
        sized(0, b"", shape=[0, 2**64]),
        sized(8, b"\0" * 8, shape=[1] * 9),
        sized(8, b"\0" * 8, shape=2),
        sized(16, np.array([0, 1e39]).tobytes(), datatype="FP64"),
        sized(16, b"\xff" * 16, datatype="UINT64"),
        sized(8, b"\0" * 8, datatype="fp32"),
        sized(8, b"\0" * 8, datatype=None),
        sized(8, b"\0" * 8, datatype=["FP32"]),
        sized(2, b"\x01\x02", datatype="BOOL"),
        sized(8, b"\x05\0\0\0abcd", shape=[1], datatype="BYTES"),
        sized(8, b"\x04\0\0\0abcd", shape=[2], datatype="BYTES"),
        sized(8, b"\x04\0\0\0abcd", shape=[0], datatype="BYTES"),
        sized(8, b"\x00\0\0\0\x00\0\0\0", shape=[1], datatype="BYTES"),
        sized(3, b"\0\0\0", shape=[1], datatype="BYTES"),
        sized(8, b"\xff\xff\xff\xffabcd", shape=[1], datatype="BYTES"),
    ],
)
def test_binary_lengths_that_disagree_are_malformed(text, payload):
    with pytest.raises(Malformed):
        oip.decode(text + payload, len(text))


X = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"inputs": []}',
        b'{"inputs": {}}',
        b'{"inputs": [1]}',
        b'{"inputs": [[]]}',
        b"{}",
        b'{"id": "a", "id": "b"}',
        json_body(X, X),
        json_body({"name": "x", "shape": [2], "datatype": "FP32"}),
        json_body({"shape": [2], "datatype": "FP32", "data": [1, 2]}),
        json_body({"name": "x", "datatype": "FP32", "data": [1, 2]}),
        json_body({"name": 1, "shape": [2], "datatype": "FP32", "data": [1, 2]}),
        json_body(X, id=7),
        json_body(X, id="x" * 300),
        json_body(X, parameters=[]),
        json_body(X, parameters={"binary_data_output": 1}),
        json_body(X, outputs={}),
        json_body(X, outputs=["z"]),
        json_body(X, outputs=[{"name": "z"}, {"name": "z"}]),
        json_body(X, outputs=[{"name": "z", "parameters": {"binary_data": "yes"}}]),
        json_body(X, outputs=[{"name": None}]),
        one([1, 2, 3], [2]),
        one([1], [2]),
        one([[1], [2, 3]], [2, 1]),
        one([[1], 2], [2, 1]),
        one([[1], 2], [2]),
        one([[[1], 2], [3, 4]], [2, 2]),
        one([[1, 2]], [2]),
        one([[1, 2], [3, 4]], [4, 1]),
        one([[1, 2], []], [2, 1]),
        one("12", [2]),
        one(None, [2]),
        one({"0": 1}, [1]),
        one([1, "2"], [2]),
        one([1, True], [2]),
        one([1, None], [2]),
        one([1, {}], [2]),
        one([1, 1e39], [2]),
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1e400]}]}',
        b'{"inputs": [{"name": "\\ud800", "shape": [1], "datatype": "FP32", "data": [1]}]}',
        one([1.5], [1], "INT64"),
        one([2**31], [1], "INT32"),
        one([2**63], [1], "INT64"),
        one([1, 0], [2], "BOOL"),
        one([True, 0], [2], "BOOL"),
        one([True], [1]),
        one([1.0], [1], "FP16"),
        one([1.0], [1], "BF16"),
        one([1e39], [1], "FP64"),
        one([256], [1], "UINT8"),
        one([-1], [1], "UINT64"),
        one([128], [1], "INT8"),
        one([1.5], [1], "UINT16"),
        one([["a"]], [1], "BYTES"),
        one([["a", "b"]], [2], "BYTES"),
        one(["a", ["b"]], [2, 1], "BYTES"),
        one([["a"], ["b"], []], [2, 1], "BYTES"),
        one([[["a"], ["b"]]], [2, 1], "BYTES"),
        one(["a", "b"], [1, 1], "BYTES"),
        one(["a", 1], [2], "BYTES"),
        one(["a"], [2], "BYTES"),
        one("a", [1, 2], "BYTES"),
        one([1], [2**63]),
        one([1], [True]),
        b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}",
        json_body(X, parameters={"layers": json.loads("[" * 20 + "]" * 20)}),
    ],
)
def test_requests_that_are_no_such_protocol_are_malformed(body):
    with pytest.raises(Malformed) as caught:
        oip.decode(body, None)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "body",
    [
        json_body(X, surprise=1),
        json_body({**X, "surprise": 1}),
        json_body({**X, "parameters": {"shared_memory_region": "r"}}),
        json_body({**X, "parameters": {"binary_data": True}}),
        json_body({**X, "parameters": {"binary_datasize": 4}}),
        json_body(X, outputs=[{"name": "z", "parameters": {"binary": True, "binary-data": True}}]),
        json_body(X, outputs=[{"name": "z", "parameters": {"shared_memory_region": "r"}}]),
        json_body(X, outputs=[{"name": "z", "parameters": {"classification": 3}}]),
    ],
)
def test_features_that_are_not_offered_are_invalid(body):
    with pytest.raises(Invalid):
        oip.decode(body, None)


@pytest.mark.parametrize("where", ["input", "output", "request"])
@pytest.mark.parametrize("parameter", ["content_type", "headers", "x", "triton_enable_empty_final_response"])
def test_parameters_of_strangers_are_ignored_and_named(where, parameter):
    strange = {"parameters": {parameter: {"any": [1]}}}
    body = json_body(
        {**X, **strange} if where == "input" else X,
        outputs=[{"name": "z", **strange} if where == "output" else {"name": "z"}],
        **strange if where == "request" else {},
    )
    request = oip.decode(body, None)
    assert request.ignored == ((parameter,) if where != "request" else ())
    assert request.parameters == (strange["parameters"] if where == "request" else {})


NULLS = {
    "request": [{name: None} for name in ("id", "outputs", "parameters", "model_name", "model_version")],
    "input": [{"parameters": None}, {"parameters": {"binary_data_size": None, "content_type": None}}],
    "output": [{"parameters": None}, {"parameters": {"binary_data": None}}],
}


@pytest.mark.parametrize(("where", "null"), [(where, null) for where in NULLS for null in NULLS[where]])
def test_null_is_absent_in_every_optional_field(where, null):
    output = {"name": "z"}
    plain = oip.decode(json_body(X, outputs=[output]), None)
    more = null if where == "request" else {}
    body = json_body(
        {**X, **null} if where == "input" else X,
        **{"outputs": [{**output, **null} if where == "output" else output], **more},
    )
    request = oip.decode(body, None)
    assert request.outputs == (None if "outputs" in more else plain.outputs)
    assert (request.id, request.parameters, request.binary) == (None, {}, False)
    np.testing.assert_array_equal(request.inputs["x"].array, [1, 2])


def test_null_data_beside_bytes_is_absent():
    text, payload = sized(8, np.array([1, 2], "<f4").tobytes(), data=None)
    np.testing.assert_array_equal(oip.decode(text + payload, len(text)).inputs["x"].array, [1, 2])


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("FP64", "<f8"),
        ("INT8", "i1"),
        ("INT16", "<i2"),
        ("UINT8", "u1"),
        ("UINT16", "<u2"),
        ("UINT32", "<u4"),
        ("UINT64", "<u8"),
    ],
)
def test_other_widths_are_read_and_settled_in_json_and_in_binary(datatype, dtype):
    array = np.array([[0, 1], [2, 100]], dtype)
    text, payload = sized(array.nbytes, array.tobytes(), shape=[2, 2], datatype=datatype)
    binary = oip.decode(text + payload, len(text)).inputs["x"]
    flat, nested = (
        oip.decode(one(data, [2, 2], datatype), None).inputs["x"]
        for data in (array.reshape(-1).tolist(), array.tolist())
    )
    for tensor in (binary, flat, nested):
        assert tensor.array.dtype == (np.float32 if datatype == "FP64" else np.int64)
        np.testing.assert_array_equal(tensor.array, array)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (["a", "b"], [2, 1]),
        ([["a"], ["b"]], [2, 1]),
        ([["a", "b"]], [1, 2]),
        ("a", []),
        (["a"], []),
        ([], [0]),
        ([[], []], [2, 0]),
    ],
)
def test_texts_are_flat_or_nested_as_their_shape_says(data, shape):
    tensor = oip.decode(one(data, shape, "BYTES"), None).inputs["x"]
    assert tensor.shape == tuple(shape)
    assert tensor.texts == tuple(text.encode() for text in np.array(data, object).reshape(-1).tolist())


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 210)))
def test_any_bytes_are_refused_on_purpose_or_read(body, header_length):
    with contextlib.suppress(Malformed, Invalid):
        oip.decode(body, header_length)


def test_more_texts_than_a_request_may_have_are_refused_before_any_is_made() -> None:
    with pytest.raises(Malformed, match=r"has 4194304 elements; the limit is 4096"):
        from_bytes("text", "BYTES", [1 << 22], memoryview(bytes(1 << 24)))


def test_a_text_longer_than_any_may_be_is_refused_before_it_is_copied() -> None:
    piece = struct.pack("<I", 5 << 20) + bytes(5 << 20)
    with pytest.raises(TooLarge, match=r"a text of 5242880 bytes is over the limit of 4194304") as refused:
        from_bytes("text", "BYTES", [1], memoryview(piece))
    assert refused.value.code == "sequence_too_long"
