import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Malformed
from service.wire import safetensors_format as wire

DTYPES = ["<f4", "<f2", "<u2", "<i4", "<i8", "?"]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def body_of(header: object, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda n: n != "__metadata__"), arrays, max_size=5
    )
)
def test_what_is_written_is_read_back_bit_for_bit(tensors):
    read = wire.decode(b"".join(wire.encode(tensors))).arrays
    assert read.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


def test_the_official_library_reads_what_heed_writes():
    z = np.arange(6, dtype=np.float32).reshape(2, 3)
    keys = np.arange(3, dtype=np.int32)
    back = safetensors.numpy.load(b"".join(wire.encode({"0.keys": keys, "0.z": z}, metadata={"model": "m"})))
    np.testing.assert_array_equal(back["0.z"], z)
    np.testing.assert_array_equal(back["0.keys"], keys)


def test_heed_reads_what_the_official_library_writes():
    tensors = {
        "0.embeddings": np.arange(6, dtype=np.float32).reshape(2, 3),
        "1.embeddings": np.ones((1, 3), np.float16),
        "2.embeddings": np.ones((1, 3), ml_dtypes.bfloat16),
        "0.mask": np.array([True, False]),
    }
    read = wire.decode(safetensors.numpy.save(tensors, metadata={"a": "b"}))
    assert read.metadata == {"a": "b"}
    for name, array in tensors.items():
        assert read.arrays[name].tobytes() == array.tobytes()
    assert read.arrays["2.embeddings"].dtype == np.uint16


def test_tensors_are_views_both_ways():
    array = np.ones((2, 2), np.float32)
    buffers = wire.encode({"0.z": array})
    assert np.shares_memory(np.frombuffer(buffers[1], np.uint8), array)
    body = b"".join(buffers)
    assert np.shares_memory(wire.decode(body).arrays["0.z"], np.frombuffer(body, np.uint8))


def test_first_tensor_lies_on_a_multiple_of_eight_bytes():
    for name in ("a", "ab", "abc", "abcdefg"):
        header = wire.encode({name: np.ones(1, np.float32)})[0]
        assert len(header) % 8 == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        struct.pack("<Q", 2**20 + 1) + b" " * (2**20 + 1),
        body_of(b"[]"),
        body_of(b"{"),
        body_of(b"\xff\xfe{}"),
        body_of("{}".encode("utf-16")),
        body_of(b'{"a":' + b"[" * 100_000),
        body_of(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', b"\0" * 8),
        body_of(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', b"\0" * 8),
        body_of(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            b"\0" * 8,
        ),
        body_of(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
        body_of({"a": entry()}, b"\0" * 7),
        body_of({"a": entry()}, b"\0" * 9),
        body_of({"a": entry("F64", [1])}, np.array(1e39).tobytes()),
        body_of({"a": entry("F8_E4M3", [8])}, b"\0" * 8),
        body_of({"a": entry(["F32"])}, b"\0" * 8),
        body_of({"a": entry(shape=[-2])}, b"\0" * 8),
        body_of({"a": entry(shape=[2.0])}, b"\0" * 8),
        body_of({"a": entry(shape=[True, 2])}, b"\0" * 8),
        body_of({"a": entry(shape="2")}, b"\0" * 8),
        body_of({"a": entry(shape=[2**62, 4], offsets=[0, 0])}),
        body_of({"a": entry(offsets=[0, 2**70])}, b"\0" * 8),
        body_of({"a": entry(offsets=[-8, 0])}, b"\0" * 8),
        body_of({"a": entry(offsets=[8, 0])}, b"\0" * 8),
        body_of({"a": entry(offsets=[0, 8, 8])}, b"\0" * 8),
        body_of({"a": entry(offsets=[0, "8"])}, b"\0" * 8),
        body_of({"a": entry(offsets=[4, 12])}, b"\0" * 12),
        body_of({"a": entry(), "b": entry()}, b"\0" * 8),
        body_of({"a": entry(), "b": entry(offsets=[4, 12])}, b"\0" * 12),
        body_of({"a": entry() | {"more": 1}}, b"\0" * 8),
        body_of({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
        body_of({"a": 1}),
        body_of({"a": None}),
        body_of({"__metadata__": {"a": 1}}),
        body_of({"__metadata__": []}),
        body_of({"a": entry("BOOL", [2], [0, 2])}, b"\x01\x02"),
    ],
)
def test_bodies_that_are_no_such_file_are_malformed(body):
    with pytest.raises(Malformed) as caught:
        wire.decode(body)
    assert len(caught.value.message) < 400
