"""Messages read and written around the library are the library's: every field, and whatever bytes come."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import HeedError, Malformed
from service.grpc import protobuf, schema
from service.grpc.reply import written_reply
from service.grpc.request import read_request
from service.wire.dtypes import reserve_nothing
from service.wire.effort import TooMuch, within
from service.wire.oip_tensor import Tensor

NUMBERS = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int8),
    "INT16": ("int_contents", np.int16),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint8),
    "UINT16": ("uint_contents", np.uint16),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
}
KEPT = {"BOOL", "INT32", "INT64", "FP32"}
TEXTS = st.text(max_size=12)
CHOICES = st.one_of(
    st.booleans().map(lambda value: ("bool_param", value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: ("int64_param", value)),
    TEXTS.map(lambda value: ("string_param", value)),
    st.floats(allow_nan=False).map(lambda value: ("double_param", value)),
    st.integers(0, 2**64 - 1).map(lambda value: ("uint64_param", value)),
)


def request() -> Any:
    return schema.message("inference.ModelInferRequest")()


def read(message: Any) -> Any:
    return read_request(message.SerializeToString(), reserve_nothing)


def sent(datatype: str) -> np.ndarray:
    """Numbers to either side of what a byte, a varint of one byte and the datatype hold."""
    dtype = NUMBERS[datatype][1]
    if dtype is np.bool_:
        return np.array([[True, False], [False, True]])
    if np.issubdtype(dtype, np.floating):
        return np.array([[0.0, -1.5], [3e38, 1e-40]], dtype)
    limits = np.iinfo(dtype)
    top = min(int(limits.max), 2**63 - 1)
    return np.array([[limits.min, 0], [127, top]], dtype)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_are_the_same_in_contents_and_in_raw_bytes(datatype: str) -> None:
    array = sent(datatype)
    typed, raw = request(), request()
    for message in (typed, raw):
        message.inputs.add(name="mask", datatype=datatype, shape=array.shape)
    getattr(typed.inputs[0].contents, NUMBERS[datatype][0]).extend(array.reshape(-1).tolist())
    raw.raw_input_contents.append(array.tobytes())
    for message in (typed, raw):
        got = read(message)[2].inputs["mask"].array
        np.testing.assert_array_equal(got, array.astype(got.dtype))
        assert (got.dtype == array.dtype) == (datatype in KEPT)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_travels_in_raw_bytes_only(datatype: str) -> None:
    array = np.array([0.5, -2], np.float16 if datatype == "FP16" else ml_dtypes.bfloat16)
    message = request()
    message.inputs.add(name="embeddings", datatype=datatype, shape=array.shape)
    with pytest.raises(Malformed, match="raw_input_contents only"):
        read(message)
    message.raw_input_contents.append(array.tobytes())
    assert read(message)[2].inputs["embeddings"].datatype == datatype


def test_texts_are_the_same_in_contents_and_in_raw_bytes() -> None:
    texts = ("the bank", "", "Größe")
    typed, raw = request(), request()
    for message in (typed, raw):
        message.inputs.add(name="text", datatype="BYTES", shape=[3, 1])
    typed.inputs[0].contents.bytes_contents.extend(text.encode() for text in texts)
    raw.raw_input_contents.append(
        b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
    )
    for message in (typed, raw):
        tensor = read(message)[2].inputs["text"]
        assert (tensor.texts, tensor.shape) == (tuple(text.encode() for text in texts), (3, 1))


@pytest.mark.parametrize("start", range(8))
def test_raw_numbers_are_read_wherever_they_lie_and_copies_are_told_of(start: int) -> None:
    array = np.arange(5, dtype=np.float64)
    message = request()
    message.id = "x" * (start + 1)
    message.inputs.add(name="embeddings", datatype="FP32", shape=[5])
    message.raw_input_contents.append(array.astype(np.float32).tobytes())
    body, reserved = message.SerializeToString(), []
    got = read_request(body, reserved.append)[2].inputs["embeddings"].array
    np.testing.assert_array_equal(got, array)
    address = np.frombuffer(body, np.uint8).ctypes.data + len(body) - got.nbytes
    assert reserved == ([got.nbytes] if address % 4 else [])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, CHOICES, max_size=4), TEXTS, TEXTS, st.lists(TEXTS.filter(bool), unique=True))
def test_every_field_is_read_as_the_library_wrote_it(
    parameters: dict[str, tuple[str, Any]], name: str, version: str, outputs: list[str]
) -> None:
    message = request()
    message.model_name, message.model_version, message.id = name, version, name
    message.inputs.add(name="embeddings", datatype="FP32", shape=[0])
    for output in outputs:
        message.outputs.add(name=output)
    for key, (choice, value) in parameters.items():
        setattr(message.parameters[key], choice, value)
        setattr(message.inputs[0].parameters["content_type"], choice, value)
    model, asked, infer = read(message)
    assert (model, asked, infer.id) == (name, version, name or None)
    assert [output.name for output in infer.outputs or ()] == outputs
    expected = {key: value for key, (_, value) in parameters.items()}
    expected.pop("binary_data_output", None)
    assert infer.parameters == expected
    assert {key: type(value) for key, value in infer.parameters.items()} == {
        key: type(value) for key, value in expected.items()
    }
    assert infer.ignored == (("content_type",) if parameters else ())


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_are_a_message_or_refused(noise: bytes, at: int, byte: int) -> None:
    message = request()
    message.model_name = "fake"
    message.inputs.add(name="embeddings", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(
        [1] * 4
    )
    message.parameters["layers"].string_param = "all"
    whole = bytearray(message.SerializeToString())
    whole[at % len(whole)] = byte
    for body in (noise, bytes(whole), bytes(whole[: at % len(whole)])):
        try:
            read_request(body, reserve_nothing)
        except HeedError:
            continue
        message.FromString(body)  # what was read is a message to the library too


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_varints_are_read_as_they_were_written(numbers: list[int]) -> None:
    piece = b"".join(map(protobuf.varint, numbers))
    assert protobuf.varints(memoryview(piece)).tolist() == numbers
    if piece and numbers[-1] > 127:
        with pytest.raises(Malformed):
            protobuf.varints(memoryview(piece[:-1]))


def tensors(*described: tuple[str, str, list[int]], raw: int | None = None) -> Any:
    message = request()
    for name, datatype, shape in described:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for _ in range(len(described) if raw is None else raw):
        message.raw_input_contents.append(bytes(4))
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (tensors(("a", "FP32", [1]), ("b", "FP32", [1]), raw=1), "1 entries for 2 inputs"),
        (tensors(("a", "FP32", [1]), ("a", "FP32", [1])), "given twice"),
        (tensors(("a", "FP32", [2])), "has 4 bytes, but shape [2] of FP32 needs 8"),
        (tensors(("a", "FP32", [-1])), "from 0 to"),
        (tensors(("a", "FP32", [2**62, 2**62])), "more than"),
        (tensors(("a", "FP31", [1])), "is not served"),
        (tensors(("", "FP32", [1])), "needs a name"),
        (tensors(("a", "BYTES", [1])), "bytes"),
        (tensors(("a", "FP32", [3]), raw=0), "have 0 elements, but shape [3] needs 3"),
        (tensors(("a", "FP32", [1] * 2000)), "so many axes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_disagree_are_refused_with_what_they_have_and_need(message: Any, words: str) -> None:
    if words == "bytes":  # a text longer than its bytes
        message.raw_input_contents[0] = b"\xff\0\0\0"
    with pytest.raises(Malformed) as caught:
        read(message)
    assert words in caught.value.message


def test_numbers_in_contents_of_another_type_are_refused_with_the_right_one() -> None:
    message = tensors(("a", "FP32", [1]), raw=0)
    message.inputs[0].contents.fp64_contents.append(1)
    with pytest.raises(Malformed, match="FP32 stands in fp32_contents, and an input has it in fp64_contents"):
        read(message)


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 200), ("UINT8", 256), ("UINT64", 2**63)])
def test_a_number_beyond_its_datatype_is_refused(datatype: str, value: int) -> None:
    message = tensors(("a", datatype, [1]), raw=0)
    getattr(message.inputs[0].contents, NUMBERS[datatype][0]).append(value)
    with pytest.raises(Malformed, match="beyond"):
        read(message)


def test_numbers_one_by_one_are_read_as_packed_ones() -> None:
    message = tensors(("a", "FP32", [2]), ("b", "INT64", [2]), raw=0)
    one_by_one = b"".join(b"\x35" + np.float32(value).tobytes() for value in (1.5, 2.5))
    ids = b"".join(b"\x18" + protobuf.varint(value) for value in (7, 300))
    body = message.SerializeToString()
    for shape, contents in ((b"a", one_by_one), (b"b", ids)):
        inner = protobuf.delimited(1, shape) + protobuf.delimited(2, b"FP32" if shape == b"a" else b"INT64")
        whole = inner + protobuf.delimited(3, b"\x02") + protobuf.delimited(5, contents)
        _, _, infer = read_request(protobuf.delimited(5, whole), reserve_nothing)
        (tensor,) = infer.inputs.values()
        assert tensor.array is not None
        assert tensor.array.tolist() == ([1.5, 2.5] if shape == b"a" else [7, 300])
    assert body


def test_shared_memory_and_classification_are_not_offered() -> None:
    message = tensors(("a", "FP32", [1]))
    message.inputs[0].parameters["shared_memory_region"].string_param = "x"
    with pytest.raises(HeedError, match="not offered"):
        read(message)
    message = tensors(("a", "FP32", [1]))
    message.outputs.add(name="z").parameters["classification"].int64_param = 3
    with pytest.raises(HeedError, match="not offered"):
        read(message)


def test_many_fields_are_read_on_a_thread_and_too_many_not_at_all() -> None:
    message = tensors(("a", "FP32", [1]))
    for number in range(3000):
        message.parameters[f"p{number}"].bool_param = True
    body = message.SerializeToString()
    with pytest.raises(TooMuch):
        within(1500, lambda: read_request(body, reserve_nothing))
    assert len(read_request(body, reserve_nothing)[2].parameters) == 3000
    with pytest.raises(Malformed, match="more than 65536 fields"):
        read_request(body + b"\x48\x00" * 2**16, reserve_nothing)


def test_memory_of_varints_is_told_before_they_are_read() -> None:
    message = tensors(("a", "INT64", [1000]), raw=0)
    message.inputs[0].contents.int64_contents.extend(range(1000))

    def refuse(size: int) -> None:
        raise MemoryError(size)

    with pytest.raises(MemoryError, match=r"\d{5}"):
        read_request(message.SerializeToString(), refuse)


def test_a_reply_is_what_the_library_reads() -> None:
    z = np.arange(6, dtype=np.float32).reshape(2, 3)
    ids = np.array([1, 2], np.int32)
    made = written_reply(
        [Tensor("z", z), Tensor("ids", ids), Tensor("tokens", None, (b"the", b""), (2,))],
        model_name="fake",
        model_version="1",
        request_id="7",
        parameters={"0.edited": True},
    )
    reply = schema.message("inference.ModelInferResponse").FromString(b"".join(made))
    assert (reply.model_name, reply.model_version, reply.id) == ("fake", "1", "7")
    assert reply.parameters["0.edited"].bool_param
    described = [(one.name, one.datatype, list(one.shape)) for one in reply.outputs]
    assert described == [("z", "FP32", [2, 3]), ("ids", "INT32", [2]), ("tokens", "BYTES", [2])]
    assert list(reply.raw_output_contents) == [z.tobytes(), ids.tobytes(), b"\x03\0\0\0the\0\0\0\0"]
    assert sum(piece.obj is not None for piece in made if isinstance(piece, memoryview)) == 2  # no copies
