"""Compiled JSON: the same numbers, the same text and the same refusals as simdjson and orjson."""

import ctypes
import importlib.util
import json
import mmap
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Malformed
from service.wire import json_format, json_text, oip
from service.wire.compiled import native, structures
from service.wire.oip_tensor import json_kind

COMPILER = shutil.which("cc") or shutil.which("gcc")

needs_compiled = pytest.mark.skipif(native.native() is None, reason="built where there was no C compiler")


def variants():
    if native.native() is None:
        return []
    library = ctypes.CDLL(importlib.util.find_spec("service.wire.compiled._native").origin)
    return [native.Native(library), native.Native(library, plain=True)]


def written(array, compiled):
    out = np.full(compiled.most_bytes(array) + 64, 0x5A, np.uint8)
    length = compiled.write(array, out)
    assert length <= compiled.most_bytes(array)
    assert (out[-64:] == 0x5A).all()
    return out[:length].tobytes()


def by_orjson(array):
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def read(body, tensors=json_format.TENSORS, *, compiled):
    """Return what a body is read as, or its refusal; arrays as their dtype, shape and bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_format, "native", lambda: compiled)
        try:
            return plain(json_format.decode(body, tensors=tensors))
        except Malformed as refusal:
            return str(refusal)


def plain(value):
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def arrays(lifted):
    """Take all that was lifted, in the order of the marks in the text."""
    taken = [
        lifted.take(mark.decode(), "float") for mark in re.findall(rb'"(heed:[0-9a-f]+:\d+)"', lifted.text)
    ]
    assert not lifted.left
    return taken


def large(text, *, name="embeddings"):
    """Return a body with a field, large enough to be looked at."""
    padding = json.dumps("x" * json_format.SMALLEST_LIFTED_BODY)
    return f'{{"padding": {padding}, "inputs": [{{"{name}": {text}}}]}}'.encode()


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")
def test_it_was_built_where_there_is_a_compiler():
    assert native.native() is not None


@needs_compiled
@pytest.mark.parametrize("compiled", variants(), ids=["fast", "plain"])
class TestText:
    def test_numbers_of_any_bits(self, compiled):
        bits = np.random.default_rng(7).integers(0, 2**32, 1 << 19, dtype=np.uint32)
        assert written(bits.view(np.float32), compiled) == by_orjson(bits.view(np.float32))

    @pytest.mark.parametrize(
        ("low", "high"), [(1e-7, 1e-5), (1e-5, 1e-3), (1e-3, 0.1), (0.1, 1), (1, 10), (1, 1e4)]
    )
    def test_numbers_of_the_usual_sizes(self, compiled, low, high):
        some = np.random.default_rng(3).uniform(low, high, 1 << 16).astype(np.float32)
        some[::2] *= -1
        assert written(some, compiled) == by_orjson(some)

    def test_borders(self, compiled):
        """Every power of two and of ten with its neighbours, whole numbers, halves and thousandths."""
        powers = np.concatenate(
            [np.ldexp(np.float32(1), np.arange(-149, 128)), 10.0 ** np.arange(-45, 39)]
        ).astype(np.float32)
        near = [np.nextafter(powers, np.float32(edge)) for edge in (-np.inf, np.inf)]
        whole = np.arange(1 << 15)
        some = np.concatenate([powers, *near, whole, whole / 2, whole / 1000, whole + 2**24, whole * 1e9])
        some = some.astype(np.float32)
        assert written(some, compiled) == by_orjson(some)
        assert written(-some, compiled) == by_orjson(-some)

    def test_what_is_not_finite_is_null(self, compiled):
        some = np.tile(np.array([1, np.nan, np.inf, -np.inf, 0, -0.0], np.float32), 20)
        assert written(some, compiled) == by_orjson(some)

    def test_the_longest_numbers_have_room(self, compiled):
        longest = np.full((40, 9), -1.19631895e-05, np.float32)
        assert len(by_orjson(longest[0])) == 9 * native.LARGEST_NUMBER_BYTES + 1
        assert written(longest, compiled) == by_orjson(longest)

    @pytest.mark.parametrize("rank", [1, 2, 4, 5, 16])
    @pytest.mark.parametrize("first", [64, 4096])
    def test_the_most_brackets_have_room(self, compiled, first, rank):
        longest = np.full((first,) + (1,) * (rank - 1), -1.19631895e-05, np.float32)
        assert written(longest, compiled) == by_orjson(longest)

    @given(
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=1, max_dims=5, max_side=9),
            elements=st.floats(width=32, allow_nan=False),
        )
    )
    def test_any_shape(self, compiled, array):
        assert written(array, compiled) == by_orjson(array)


def test_a_reply_has_its_arrays_in_their_places():
    rng = np.random.default_rng(0)
    body = {
        "first": rng.standard_normal((9, 11)).astype(np.float32),
        "small": np.float32([1.5]),
        "empty": np.zeros((70, 0), np.float32),
        "integers": np.arange(200, dtype=np.int32),
        "half": rng.standard_normal(100).astype(np.float16),
        "list": [rng.standard_normal(64).astype(np.float32), None, "text"],
        "last": rng.standard_normal((2, 3, 40)).astype(np.float32),
    }
    assert bytes(json_text.dumps(body)) == by_orjson(body)


def test_a_reply_stays_as_it_is_when_others_are_written():
    rng = np.random.default_rng(4)
    sizes = [100, 40_000, 64, json_text.LARGEST_KEPT_BYTES // 8, 3000]
    bodies = [{"z": rng.standard_normal(size).astype(np.float32)} for size in sizes]
    texts = [json_text.dumps(body) for body in bodies]
    for body, text in zip(bodies, texts, strict=True):
        assert bytes(text) == by_orjson(body)


def test_a_text_that_looks_like_what_stands_for_an_array_is_a_text():
    for place in range(2):
        items = [("tokens", [json_text._MARK]), ("z", np.ones(64, np.float32))]
        body = dict(items[::-1] if place else items)
        assert bytes(json_text.dumps(body)) == by_orjson(body)


def test_without_compiled_code_the_text_is_the_same(monkeypatch):
    body = {"z": np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)}
    text = bytes(json_text.dumps(body))
    monkeypatch.setattr(json_text, "native", lambda: None)
    assert json_text.dumps(body) == text


STYLES = {
    "compact": {"separators": (",", ":")},
    "python's": {},
    "indented": {"indent": 1},
    "spaced": {"separators": (" , ", " : ")},
}


@needs_compiled
@pytest.mark.parametrize("compiled", variants(), ids=["fast", "plain"])
class TestReading:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize("shape", [(3, 40), (1, 70), (70, 1), (2, 9, 8), (2, 3, 4, 5), (64,), (128, 7)])
    def test_floats_are_lifted_whatever_the_style(self, compiled, style, shape):
        array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        body = large(json.dumps(array.tolist(), **STYLES[style]))
        lifted = compiled.lift(body, ["embeddings"])
        (taken,) = arrays(lifted)
        assert taken.tobytes() == array.tobytes()
        assert taken.shape == shape
        assert read(body, compiled=compiled) == read(body, compiled=None)

    def test_several_are_lifted_and_small_ones_stay(self, compiled):
        rng = np.random.default_rng(2)
        inputs = [{"embeddings": rng.standard_normal((rows, 8)).tolist()} for rows in (20, 1, 9, 7, 64)]
        body = json.dumps({"inputs": inputs, "rows": list(range(100)), "outputs": ["z"]}).encode()
        lifted = compiled.lift(body, ["embeddings", "memory"])
        assert [array.shape for array in arrays(lifted)] == [(20, 8), (9, 8), (64, 8)]
        assert len(lifted.text) < len(body) / 8
        assert read(body, compiled=compiled) == read(body, compiled=None)

    @pytest.mark.parametrize(
        "number",
        [
            *(
                "0",
                "-0",
                "0.0",
                "-0.0",
                "-0e5",
                "1",
                "-17",
                "123456789",
                "1e5",
                "1E+5",
                "1e-5",
                "1.25e-07",
                "0.1e1",
            ),
            *(
                "0.30000001192092896",
                "-1.1754943508222875e-38",
                "3.4028234663852886e38",
                "3.5e38",
                "1e-46",
                "1e400",
            ),
            *(
                "1.0000000596046448",
                "0.000000000000000000000000000012345678901",
                "123456789012345678",
                "16777217",
            ),
            *("1234567890123456789", "12345678901234567890", "9007199254740993", "16777217.0000000000000001"),
            *(
                "0.00000000000000000000000000000000000000000000000000000000000000000000000000000000001",
                "7.00649232e-45",
            ),
            *(
                "01",
                "1.",
                ".5",
                "+1",
                "-",
                "1e",
                "1e+",
                "--1",
                "1.5.2",
                "1-2",
                "0x1",
                "NaN",
                "null",
                "true",
                '"1"',
            ),
            *(
                "1_0",
                "1 2",
                "- 1",
                "1.5e3.2",
                "[1]",
                "{}",
                "",
                "-0.1.1",
                "-a.5",
                "a.5",
                "0.5a",
                "1.5e",
                "5-0.5",
            ),
            *("0.1234567890123456", "0.12345678901234567", "0.123456789012345678", "0.1234567890123456789"),
            *(
                "9.12345678901234567",
                "9.123456789012345678",
                "10.5",
                "-10.25",
                "0.5 ",
                " 0.5",
                "\t0.5\n",
                "0.5\x00",
            ),
        ],
    )
    @pytest.mark.parametrize("place", [0, 5, 63, 71])
    def test_every_number_is_read_or_refused_as_before(self, compiled, number, place):
        numbers = ["0.25", "-1.5", "0.125"] * 24
        numbers[place] = number
        body = large("[" + ",".join(numbers) + "]")
        assert read(body, compiled=compiled) == read(body, compiled=None)

    @given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 20))
    @example(1 + 2**-24, 17)  # in the middle between two float32
    @example(1 + 2**-24 + 2**-52, 17)
    @example(1 + 2**-24 - 2**-53, 17)
    def test_doubles_are_rounded_as_before(self, compiled, number, digits):
        body = large(
            "[" + ",".join([repr(number), f"{number:.{digits}e}", f"{number:.{digits}f}"] * 22) + "]"
        )
        assert read(body, compiled=compiled) == read(body, compiled=None)

    @pytest.mark.parametrize("name", ["mask", "embeddings", "token_ids"])
    @pytest.mark.parametrize(
        "entries",
        [
            "0,1",
            "0.5,null",
            "null,0.5",
            "null",
            "true,false",
            "false",
            "true,1",
            "0,true",
            "null,true",
            "true,null",
            "nul",
            "nulll",
            "tru",
            "truee",
            "true ,false",
            "-1e-3,null ",
            "1e39,null",
            "1e99,null",
            '"a"',
        ],
    )
    @pytest.mark.parametrize("rows", [1, 3])
    def test_masks_are_read_or_refused_as_before(self, compiled, name, entries, rows):
        row = "[" + ",".join([entries] * 40) + "]"
        body = large(row if rows == 1 else f"[{row},{row} , {row}]", name=name)
        assert read(body, compiled=compiled) == read(body, compiled=None)

    @pytest.mark.parametrize(
        "number",
        [
            "0.12345678901234567891",
            "-0.00000000000000000001e-30",
            "1e-300",
            "33554435.0000000001",
            "0" * 2,
            "-12345678901234567890",
            "1." + "0" * 900 + "1",
            "1." + "0" * 1100 + "1",
            "0x1p3",
            "1e39",
            "1e+400",
            "1e",
            "-0",
            "-0.0",
            "1e0000000000000000000001",
            "1.17549429e-38",
            "1e-45",
            "7e-46",
            "infinity",
            "nan",
        ],
    )
    @pytest.mark.parametrize("place", [0, 71])
    def test_rare_numbers_are_read_or_refused_as_before(self, compiled, number, place):
        numbers = ["0.25"] * 72
        numbers[place] = number
        body = large("[" + ",".join(numbers) + "]")
        assert read(body, compiled=compiled) == read(body, compiled=None)

    @pytest.mark.parametrize(
        "number", ["0.12345678901234567891", "1e-300", "1.0000000596046448", "7.00649232e-45"]
    )
    def test_rare_numbers_are_lifted(self, compiled, number):
        lifted = compiled.lift(large("[" + ",".join([number] * 64) + "]"), ["embeddings"])
        (taken,) = arrays(lifted)
        assert (taken == np.float32(float(number))).all()

    @pytest.mark.parametrize(
        "text",
        [
            "[[1.5],[1.5,2.5]]".replace("1.5", ",".join(["0.5"] * 64)),
            "[" + ",".join(["[0.5,0.5]"] * 40) + ",0.5]",
            "[" + ",".join(["[0.5,0.5]"] * 40) + ",[[0.5]]]",
            "[" + ",".join(["0.5"] * 70) + ",[0.5]]",
            "[" + ",".join(["0.5"] * 70),
            "[" + ",".join(["0.5"] * 70) + ",]",
            "[" + ",".join(["0.5"] * 70) + "}",
            "[" * 20 + ",".join(["0.5"] * 70) + "]" * 20,
            "[" * 5 + ",".join(["0.5"] * 70) + "]" * 5,
            "[[]," * 70 + "[]" + "]" * 70,
            "[" + ",".join(["[]"] * 70) + "]",
        ],
    )
    def test_what_is_no_rectangle_is_refused_in_the_same_words(self, compiled, text):
        assert read(large(text), compiled=compiled) == read(large(text), compiled=None)

    @pytest.mark.parametrize(
        "body",
        [
            '{"embeddings":%s,"inputs":[{"text":"a"}]}',
            '{"inputs":[{"token_ids":%s,"mask":%s}]}',
            '{"inputs":[{"embeddings":%s,"embeddings":%s}]}',
            '{"inputs":[{"embeddings":%s}],"options":{"value":%s}}',
            '{"inputs":[{"note":"\\"embeddings\\":","embeddings":%s}]}',
            '{"inputs":[{"note":"embeddings","x":%s}]}',
            '{"inputs":[{"embeddings" \n:\t%s}]}',
            '{"inputs":[{"embedding\\u0073":%s}]}',
            '{"inputs":[["embeddings",%s]]}',
            '{"inputs":{"embeddings":%s}}',
            '{"inputs":[{"embeddings":%s}]',
            '{"inputs":[{"embeddings":%s}]}}',
            '{"inputs":[{"embeddings":%s "mask":null}]}',
            '{"inputs":[{"embeddings"::%s}]}',
            '{"inputs":[{"embeddings":"%s}]}',
            '{"inputs":[{"embeddings":-%s}]}',
            '{"inputs":[{"embeddings":%s.5}]}',
            '{"inputs":[{"embeddings":%s%s}]}',
            '[{"embeddings":%s}]',
            "[%s]",
        ],
    )
    def test_lists_anywhere_else_are_read_as_before(self, compiled, body):
        numbers = json.dumps(np.full((9, 80), 0.25).tolist())
        body = body.replace("%s", numbers).encode()
        assert len(body) >= json_format.SMALLEST_LIFTED_BODY
        assert read(body, compiled=compiled) == read(body, compiled=None)

    @pytest.mark.parametrize("datatype", ["FP32", "INT64", "INT32", "BOOL", "BYTES", "FP16", "X"])
    def test_tensors_of_every_protocol_datatype(self, compiled, datatype):
        data = np.arange(2000).tolist()
        body = {"inputs": [{"name": "a", "shape": [2000], "datatype": datatype, "data": data}]}
        body = json.dumps(body).encode()
        kinds = {"data": json_kind}
        assert read(body, kinds, compiled=compiled) == read(body, kinds, compiled=None)

    @pytest.mark.parametrize(
        ("inside", "count"), [("[0.5]", (1 << 20) - 1), ("[0.5]", 1 << 20), ("[[0.5]]", 1 << 19)]
    )
    def test_the_limit_of_lists_is_the_same(self, compiled, inside, count):
        body = large("[" + ",".join([inside] * count) + "]")
        assert read(body, compiled=compiled) == read(body, compiled=None)

    def test_what_is_misplaced_many_times_is_not_looked_at_one_by_one(self, compiled, monkeypatch):
        monkeypatch.setattr(native.Lifted, "take", lambda *_: pytest.fail("taken"))
        item = '"key":[' + ",".join(["0"] * 64) + "]"
        body = ('{"inputs":[{' + ",".join([item] * 100) + "}]}").encode()
        assert "fields; the limit is" in read(body, compiled=compiled)

    def test_what_stands_for_a_list_is_no_name_for_it(self, compiled):
        """Another process's marks, and this one's after they were used, are texts like others."""
        numbers = json.dumps([0.5] * 2000).encode()
        for guess in (compiled._mark.encode() + b"1", b"heed:0123456789abcdef:0"):
            body = b'{"inputs":[{"embeddings":%s},{"memory":"%s"}]}' % (numbers, guess)
            assert read(body, compiled=compiled) == read(body, compiled=None)

    def test_mutilated_bodies_are_read_or_refused_as_before(self, compiled):
        chance = random.Random(5)
        rows = np.random.default_rng(5).standard_normal((12, 9)).astype(np.float32).tolist()
        whole = large(json.dumps(rows, separators=(",", ":")))
        start = whole.index(b'"inputs"')
        for _ in range(1500):
            body = bytearray(whole)
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(start, len(body))
                body[at : at + chance.randint(0, 2)] = chance.choice(
                    [
                        b"",
                        b",",
                        b"]",
                        b"[",
                        b"-",
                        b".",
                        b"e",
                        b"0",
                        b"9",
                        b'"',
                        b" ",
                        b"\\",
                        b"}",
                        b"\xff",
                        b"\x00",
                    ]
                )
            assert read(bytes(body), compiled=compiled) == read(bytes(body), compiled=None)

    def test_nothing_beyond_the_body_is_read(self, compiled):
        """Bodies end where a page ends that has none after it: a byte further, and this process is gone."""
        libc = ctypes.CDLL(None, use_errno=True)
        size = mmap.PAGESIZE * 4
        pages = mmap.mmap(-1, size + mmap.PAGESIZE)
        every = np.frombuffer(pages, np.uint8)
        assert libc.mprotect(ctypes.c_void_p(every.ctypes.data + size), mmap.PAGESIZE, 0) == 0
        try:
            for ending in ("]}]}", "]}", "]", "", ",", "-", "0.", ',"'):
                for last in ("0.5", "-0.123456789", "1", "0.30000001192092896"):
                    text = '{"inputs":[{"embeddings":[' + ",".join(["0.25"] * 900 + [last]) + ending
                    body = every[size - len(text) : size]
                    body[:] = np.frombuffer(text.encode(), np.uint8)
                    assert read(body.data, compiled=compiled) == read(text.encode(), compiled=None)
        finally:
            libc.mprotect(ctypes.c_void_p(every.ctypes.data + size), mmap.PAGESIZE, 3)


@needs_compiled
def test_a_reply_of_the_protocol_in_numbers_is_as_before(monkeypatch):
    tensors = [(oip.Tensor("z", np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)), False)]
    encoded = oip.encode(tensors, model_name="m", model_version="1")
    monkeypatch.setattr(json_text, "native", lambda: None)
    again = oip.encode(tensors, model_name="m", model_version="1")
    assert b"".join(encoded.buffers) == b"".join(again.buffers)


@needs_compiled
def test_a_library_built_for_other_structures_is_not_called(monkeypatch, caplog):
    native.native.cache_clear()
    monkeypatch.setitem(structures.NUMBERS, "FEWEST_LIFTED", 32)
    try:
        assert native.native() is None
    finally:
        native.native.cache_clear()
    assert "other structures: number.FEWEST_LIFTED" in caplog.text


@needs_compiled
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4), np.float16),
        np.zeros((4, 4), np.float32).T[1:],
        np.float32(1).reshape(()),
        np.zeros((1,) * 17, np.float32),
    ],
    ids=["float64", "float16", "strided", "no axis", "17 axes"],
)
def test_arrays_that_c_cannot_read_never_reach_it(array):
    with pytest.raises(ValueError, match="C-contiguous float32 of 1 to 16 axes"):
        native.native().write(array, np.empty(1 << 12, np.uint8))


@needs_compiled
def test_a_text_never_goes_beyond_its_memory():
    array, compiled = np.zeros((4, 4), np.float32), native.native()
    size = compiled.most_bytes(array)
    for out in (np.empty(size - 1, np.uint8), np.empty(size, np.int8), np.empty(2 * size, np.uint8)[::2]):
        with pytest.raises(ValueError, match=f"up to {size} bytes"):
            compiled.write(array, out)


@needs_compiled
def test_arrays_stand_between_pieces_of_text():
    compiled = native.native()
    arrays = [np.arange(3, dtype=np.float32), np.ones((2, 2), np.float32), np.zeros(3, np.float32)]
    pieces = [b"{", b",", b", ", b"}"]
    out = np.full(sum(map(compiled.most_bytes, arrays)) + 5, 0x5A, np.uint8)
    length = compiled.join(pieces, arrays, out)
    assert out[:length].tobytes() == b"{[0.0,1.0,2.0],[[1.0,1.0],[1.0,1.0]], [0.0,0.0,0.0]}"
    with pytest.raises(ValueError, match="has no room"):
        compiled.join(pieces, arrays, out[:-1])
    assert compiled.join([b"alone"], [], out) == 5


@needs_compiled
def test_guards_hold_where_python_drops_asserts():
    script = """
import numpy as np
from service.wire.compiled.native import native
assert False, "asserts are dropped here"
for array, size in ((np.zeros(99), 1 << 16), (np.zeros(99, np.float32), 99)):
    try:
        native().write(array, np.empty(size, np.uint8))
    except ValueError as error:
        print(error)
    else:
        raise SystemExit("reached C")
"""
    subprocess.run([sys.executable, "-O", "-c", script], check=True, timeout=120)


def test_a_library_that_cannot_be_loaded_is_done_without(monkeypatch, tmp_path):
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"not a library")
    spec = importlib.util.spec_from_file_location("service.wire.compiled._native", broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    native.native.cache_clear()
    try:
        assert native.native() is None
    finally:
        native.native.cache_clear()
