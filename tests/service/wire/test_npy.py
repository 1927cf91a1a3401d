import io
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from service.errors import Malformed
from service.wire import npy

DTYPES = ["<f4", "<f2", "<i4", "<i8", "|b1"]


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(text: str, payload: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    line = text.encode("latin1")
    length = struct.pack("<H" if version[0] == 1 else "<I", len(line))
    return b"\x93NUMPY" + bytes(version) + length + line + payload


@pytest.mark.parametrize("descr", DTYPES)
def test_numpy_and_heed_read_each_others_files_bit_for_bit(descr):
    @given(hnp.arrays(descr, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
    def agree(array):
        read = npy.decode(saved(array))
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert read.tobytes() == array.tobytes()
        back = np.load(io.BytesIO(b"".join(npy.encode(array))), allow_pickle=False)
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())

    agree()


@pytest.mark.parametrize("descr", [">f4", ">f2", ">i4", ">i8"])
def test_big_endian_numbers_come_in_native_order(descr):
    array = np.arange(6).astype(descr).reshape(2, 3)
    read = npy.decode(saved(array))
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_fortran_order_comes_c_contiguous():
    array = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    body = saved(array)
    assert b"'fortran_order': True" in body
    read = npy.decode(body)
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, array)


def test_bfloat16_is_saved_and_read_as_ml_dtypes_does():
    array = np.linspace(-3, 3, 7, dtype=np.float32).astype(ml_dtypes.bfloat16)
    read = npy.decode(saved(array))
    assert read.dtype == np.uint16
    assert read.tobytes() == array.tobytes()
    back = np.load(io.BytesIO(b"".join(npy.encode(read)))).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_three_versions_are_read(version):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ones((2, 2), np.float32), version=version)
    np.testing.assert_array_equal(npy.decode(file.getvalue()), np.ones((2, 2)))


def test_header_of_another_writer_is_read():
    body = with_header('{"shape":( 2 ,), "fortran_order" : False,"descr": "<f4"}', b"\0" * 8)
    np.testing.assert_array_equal(npy.decode(body), [0, 0])


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # numpy's own, of Python 2
@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,3L,)}",
        "{u'descr': u'<f4', u'fortran_order': False, u'shape': (2L, 3)}   ",
        "{ 'shape' : ( 2 , 3 ) ,\n 'fortran_order' : False , 'descr' : 'float32' }\n",
        "{'descr': 'f4', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '=f4', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '|f4', 'fortran_order': False, 'shape': (2, 3)}",
        '{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}',
    ],
)
def test_headers_that_numpy_reads_are_read(text):
    body = with_header(text + " " * (-(len(text) + 11) % 16) + "\n", np.arange(6, dtype="<f4").tobytes())
    expected = np.load(io.BytesIO(body), allow_pickle=False)
    np.testing.assert_array_equal(npy.decode(body), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", ["i1", "i2", "u1", "u2", "u4", "u8"])
def test_whole_numbers_of_other_widths_are_int64(order, code):
    array = np.array([[0, 1, 2], [3, 4, 100]]).astype(order + code)
    for saved_array in (array, np.asfortranarray(array)):
        read = npy.decode(saved(saved_array))
        assert read.dtype == np.int64
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("order", "<>")
def test_float64_is_narrowed_to_the_nearest_float32(order):
    array = np.random.default_rng(1).standard_normal((4, 5)).astype(order + "f8")
    read = npy.decode(saved(array))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype(np.float32))


def test_float64_that_is_not_finite_is_left_to_those_who_know_what_it_is_for():
    array = np.array([np.inf, -np.inf, np.nan, 3.4028235e38])
    np.testing.assert_array_equal(npy.decode(saved(array)), array.astype(np.float32))
    with pytest.raises(Malformed, match="beyond float32"):
        npy.decode(saved(np.array([-np.inf, 1e39])))


def test_numbers_are_a_view_of_the_body():
    body = saved(np.ones((4, 4), np.float32))
    assert np.shares_memory(npy.decode(body), np.frombuffer(body, np.uint8))


def test_reply_holds_a_view_of_the_array():
    array = np.ones((4, 4), np.float32)
    header, numbers = npy.encode(array)
    assert len(header) % 64 == 0
    assert np.shares_memory(np.frombuffer(numbers, np.uint8), array)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPZ\x01\x00\x00\x00",
        with_header(GOOD, b"\0" * 8, (4, 0)),
        with_header(GOOD, b"\0" * 8, (1, 1)),
        with_header(GOOD, b"\0" * 7),
        with_header(GOOD, b"\0" * 9),
        with_header(GOOD, b"\0" * 8)[:20],
        b"\x93NUMPY\x02\x00\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        with_header(GOOD + " " * 10_000, b"\0" * 8),
        with_header("{}", b""),
        with_header("[1, 2]", b""),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        with_header("{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }", b"\0" * 16),
        with_header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        with_header("{'descr': '<i3', 'fortran_order': False, 'shape': (1,), }", b"\0" * 3),
        with_header("{'descr': '<f1', 'fortran_order': False, 'shape': (1,), }", b"\0"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", np.array(3.5e38).tobytes()),
        with_header("{'descr': '<u8', 'fortran_order': False, 'shape': (1,), }", b"\xff" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2LL,), }", b"\0" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (L,), }", b"\0" * 8),
        with_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", b"\0" * 4),
        with_header("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }", b"\0" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", b"\0" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2 2), }", b"\0" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", b"\0" * 4),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,,), }", b"\0" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,), }", b"\0" * 8),
        with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, {2**62}), }}"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 9 + "), }", b"\0" * 4),
        with_header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", b"\0" * 8),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': True}", b"\0" * 8),
        with_header("{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}", b"\0" * 8),
        with_header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (2,)}", b"\0" * 8),
        with_header("{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", b"\x01\x02"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\xff", b"\0" * 8, (3, 0)),
        with_header("{" * 9_000),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1" * 9_000),
    ],
)
def test_bodies_that_are_no_such_file_are_malformed(body):
    with pytest.raises(Malformed):
        npy.decode(body)


def test_size_under_0_is_told_for_what_it_is():
    body = with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -1), }")
    with pytest.raises(Malformed, match=r"\(2, -1\) has a size under 0"):
        npy.decode(body)


def test_pickled_objects_are_never_loaded():
    body = saved(np.array([{"a": 1}], dtype=object))
    with pytest.raises(Malformed, match="float32"):
        npy.decode(body)
