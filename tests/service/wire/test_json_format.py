"""JSON in: what is read exactly, and what is refused with a place and a reason."""

import json
import threading

import numpy as np
import orjson
import pytest
import simdjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.protocol import Answer, Text
from service.errors import Invalid, Malformed, TooLarge
from service.wire import json_strings
from service.wire.compiled.native import native
from service.wire.json_format import MOST_FIELDS, MOST_VALUES, decode, decode_value, encode
from service.wire.json_strings import MOST_LISTS
from service.wire.json_tensor import MOST_ROWS
from service.wire.reply import Reply


def body_of(field, value):
    """Write one input with one field; `value` is JSON text."""
    return b'{"inputs":[{"%s":%s}]}' % (field.encode(), value.encode())


def decoded(field, value):
    return decode(body_of(field, value))["inputs"][0][field]


def refusal(body):
    with pytest.raises(Malformed) as caught:
        decode(body)
    assert caught.value.code == "malformed"
    return caught.value.message


floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(floats)
def test_float32_bits_go_in_as_they_were_written(array):
    body = orjson.dumps({"inputs": [{"embeddings": array}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    read = decode(body)["inputs"][0]["embeddings"]
    assert read.dtype == np.float32
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@given(floats)
def test_float32_bits_come_out_as_they_were(array):
    body = encode(Reply(answers=[Answer(tensors={"z": array})], texts=[None], tokens=1))
    again = np.array(json.loads(bytes(body))["outputs"][0]["z"], dtype=np.float32)
    assert again.tobytes() == array.tobytes()


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_boolean_masks_are_read_exactly(mask):
    body = orjson.dumps({"inputs": [{"mask": mask}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    read = decode(body)["inputs"][0]["mask"]
    assert read.dtype == np.bool_
    assert np.array_equal(read, mask)


@given(hnp.arrays(np.int64, st.integers(1, 20)))
def test_token_ids_are_read_exactly(ids):
    read = decoded("token_ids", json.dumps(ids.tolist()))
    assert read.dtype == np.int64
    assert np.array_equal(read, ids)


def nested(leaf):
    return st.recursive(leaf, lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@given(st.lists(nested(st.integers(-9, 9)), max_size=4))
def test_nested_lists_are_read_if_and_only_if_numpy_calls_them_rectangular(value):
    try:
        expected = np.array(value, dtype=np.float32)
    except ValueError:
        assert "inputs[0].embeddings" in refusal(body_of("embeddings", json.dumps(value)))
        return
    assert np.array_equal(decoded("embeddings", json.dumps(value)), expected)


@given(st.lists(nested(st.booleans()), min_size=1, max_size=4))
def test_nested_masks_are_read_if_and_only_if_numpy_calls_them_rectangular(value):
    try:
        expected = np.array(value, dtype=np.bool_)
    except ValueError:
        refusal(body_of("mask", json.dumps(value)))
        return
    assert np.array_equal(decoded("mask", json.dumps(value)), expected)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[[1,2],[3]]", "inputs[0].embeddings[1] has 1 numbers, the row before 2"),
        ("[[[1],2],[3,4]]", "inputs[0].embeddings[0][1] is a number beside lists"),
        ("[[1,[2]],[3,4]]", "inputs[0].embeddings[0][1] is a list beside numbers"),
        ("[[[1,2]],[[3,4],[5,6]]]", "inputs[0].embeddings[1] has 2 numbers, the row before 1"),
        ("[[[1,2]],[[3,[4]]]]", "inputs[0].embeddings[1][0][1] is a list beside numbers"),
        ("[1,[2,[3]]]", "inputs[0].embeddings[1] is a list beside numbers"),
        ("[[],[1]]", "inputs[0].embeddings[1] has 1 numbers, the row before 0"),
        ("[[1,true]]", "inputs[0].embeddings[0][1] is a boolean"),
        ("[[1],[null]]", "inputs[0].embeddings[1][0] is null"),
        ('[[1],["2"]]', "inputs[0].embeddings[1][0] is a string"),
        ('[[1],[{"a":1}]]', "inputs[0].embeddings[1][0] is an object"),
        ("[{},[1]]", "inputs[0].embeddings[0] is an object"),
        ("[[1],{}]", "inputs[0].embeddings[1] is an object beside lists"),
        ('"text"', "inputs[0].embeddings is a string; give an array"),
        ("true", "inputs[0].embeddings is a boolean"),
        ("1.5", "inputs[0].embeddings is a number"),
        ("{}", "inputs[0].embeddings is an object"),
        ("[[0,0],[0,1e39]]", "inputs[0].embeddings[1][1] is beyond float32"),
        ("[[-3.5e38]]", "inputs[0].embeddings[0][0] is beyond float32"),
        ("[[1e999]]", "beyond any float"),
        ("[[1" + "0" * 40 + "]]", "inputs[0].embeddings[0][0] is beyond float32"),
        ("[[NaN]]", "not one whole JSON document"),
        ("[[Infinity]]", "not one whole JSON document"),
        ("[[01]]", "not written as JSON has it"),
        ("[[1],]", "not one whole JSON document"),
        ("[" * 14 + "1" + "]" * 14, "nests deeper"),
    ],
)
def test_embeddings_that_are_no_rectangle_of_numbers_are_refused_by_place(value, said):
    assert said in refusal(body_of("embeddings", value))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[1,2.0]", "inputs[0].token_ids[1] is not an integer"),
        ("[1,1e0]", "inputs[0].token_ids[1] is not an integer"),
        ("[9223372036854775808]", "inputs[0].token_ids[0] is beyond 64 bits"),
        ("[99999999999999999999]", "inputs[0].token_ids[0]"),
        ("[true]", "inputs[0].token_ids[0] is a boolean"),
        ('["7"]', "inputs[0].token_ids[0] is a string"),
        ("[1,null]", "inputs[0].token_ids[1] is null"),
        ("[1,[2]]", "inputs[0].token_ids[1] is a list beside numbers"),
        ("[[1],2]", "inputs[0].token_ids[1] is a number beside lists"),
    ],
)
def test_token_ids_must_be_integers_of_64_bits(value, said):
    assert said in refusal(body_of("token_ids", value))


@pytest.mark.parametrize(
    "value",
    [
        "[true,1]",
        "[1,true]",
        "[true,null]",
        "[null,true]",
        '[true,"true"]',
        '["true"]',
        '[true,"t"]',
        '[0,"null"]',
        "[true,[false]]",
        "[[true],[true,false]]",
        "[[0,null],[1]]",
        "[null,[1]]",
        "[{}]",
        "[1e39]",
        "[1.7976931348623157e308,null]",
    ],
)
def test_masks_of_mixed_kinds_are_refused(value):
    assert "inputs[0].mask" in refusal(body_of("mask", value))


def test_null_in_a_mask_of_numbers_is_minus_infinity():
    mask = decoded("mask", "[[0, null, -1.5], [null, null, 2]]")
    assert mask.dtype == np.float32
    assert np.array_equal(mask, np.array([[0, -np.inf, -1.5], [-np.inf, -np.inf, 2]], np.float32))


def test_mask_with_nulls_is_read_alike_in_parts_of_any_size(monkeypatch):
    rows = [[None if (row + column) % 3 == 0 else column / 4 for column in range(40)] for row in range(30)]
    expected = np.array([[-np.inf if one is None else one for one in row] for row in rows], np.float32)
    for part in (1, 7, 64, 1 << 20):
        monkeypatch.setattr("service.wire.json_tensor.PART_BYTES", part)
        assert np.array_equal(decoded("mask", json.dumps(rows)), expected)


def test_number_that_stands_for_null_inside_is_beyond_float32_when_a_caller_writes_it():
    assert "is beyond float32" in refusal(body_of("mask", "[null,1e99]"))
    assert "is beyond float32" in refusal(body_of("mask", "[-1e99,null]"))


def test_inputs_are_counted_before_any_is_read():
    with pytest.raises(Invalid, match="inputs has 4097 items; give at most 4096"):
        decode(b'{"inputs":[' + b"{}," * 4096 + b"7]}")


def test_lists_of_a_body_are_counted_before_it_is_parsed_and_brackets_of_texts_are_not():
    many = MOST_LISTS // 2
    assert "more than" in refusal(b'{"inputs":[],"x":[' + b"[[]]," * many + b"[]]}")
    assert "more than" in refusal(b'{"inputs":[],"x":[' + b'{"[":[]},' * many + b"[]]}")
    text = r"[\"[\\" * many
    (read,) = decode(b'{"inputs":[{"text":"' + text.encode() + b'"}]}')["inputs"]
    assert read["text"] == '["[\\' * many


def test_a_tensor_given_as_null_is_absent():
    assert decoded("embeddings", "null") is None


def test_an_integer_beyond_64_bits_is_a_number_as_javascript_writes_it():
    value = "[[100000000000000000000, -123456789012345678901, 18446744073709551616]]"
    text = body_of("embeddings", value).replace(b"}]", b',"text":"99999999999999999999 \\" 1e5"}]')
    read = decode(text)["inputs"][0]
    assert np.array_equal(read["embeddings"], np.array([[1e20, -1.2345678901234568e20, 2.0**64]], np.float32))
    assert read["text"] == '99999999999999999999 " 1e5'


def test_long_digits_in_fractions_and_exponents_are_not_mistaken_for_integers():
    value = "[[0.12345678901234567890123, 1e-0000000000000000000000005, 100000000000000000000]]"
    expected = np.array([[0.12345678901234567890123, 1e-5, 1e20]], np.float32)
    assert np.array_equal(decoded("embeddings", value), expected)


@pytest.mark.parametrize("text", ["[", "]]", "[CLS] [1]", "\\u005b", "\\\\u005b", '\\"[', "no bracket"])
def test_brackets_in_texts_do_not_disturb_the_count_of_arrays(text):
    body = b'{"inputs":[{"embeddings":[[1,2]],"text":"%s"}]}' % text.encode()
    assert np.array_equal(decode(body)["inputs"][0]["embeddings"], [[1, 2]])
    hidden = b'{"inputs":[{"text":"%s","embeddings":[[1,[2]]]}]}' % text.encode()
    assert "is a list beside numbers" in refusal(hidden)


def test_an_escaped_bracket_cannot_make_up_for_a_hidden_array():
    assert "is a list beside numbers" in refusal(
        b'{"inputs":[{"embeddings":[[1,[2]]]},{"text":"\\u005b\\u005B"}]}'
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b" \n\t ", "the body is empty"),
        (b"{", "not one whole JSON document"),
        (b'{"inputs": [', "not one whole JSON document"),
        (b"{} {}", "not one whole JSON document"),
        (b"{}x", "not one whole JSON document"),
        (b"{}\x00", "not one whole JSON document"),
        (b"[1]", "the body is a list; send a JSON object"),
        (b'"inputs"', "the body is a string"),
        (b"1", "the body is a number"),
        (b"true", "the body is a boolean"),
        (b"null", "the body is null"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\xc0\xaf"}', "not UTF-8"),
        (b'{"a":"\\ud800"}', "half a surrogate pair"),
        (b'{"a":"\\udc00\\ud800"}', "half a surrogate pair"),
        (b'{"\\ud800":1}', "half a surrogate pair"),
        (b'{"a":"\x01"}', "control characters"),
        (b'{"a":"x}', "a string has no end"),
        (b"{'a':1}", "not one whole JSON document"),
        (b'{"a":1,}', "not one whole JSON document"),
        (b'{"a":+1}', "not written as JSON has it"),
        (b'{"a":.5}', "not written as JSON has it"),
        (b'{"a":tru}', "not one whole JSON document"),
        (b'// x\n{"a":1}', "not one whole JSON document"),
        (b'{"a":1,"a":2}', "the body has the field 'a' twice"),
        (b'{"a":1,"\\u0061":2}', "the body has the field 'a' twice"),
        (b'{"inputs":[{"text":"a","text":"b"}]}', "inputs[0] has the field 'text' twice"),
        (b'{"a":1,"a\\u0000b":2}', "the body has a field with a NUL character in its name"),
        (b'{"rows":{"start":1,"start":2}}', "rows has the field 'start' twice"),
        (b'{"inputs":[{"x":{"y":[{"z":1,"z":1}]}}]}', "inputs[0].x.y has the field 'z' twice"),
        (b'{"a":' + b"[" * 16 + b"]" * 16 + b"}", "deeper than 16"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "deeper than 16"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
        ('{"inputs":[]}'.encode("utf-16"), ""),
        ('{"inputs":[]}'.encode("utf-16-le"), ""),
        ('{"inputs":[]}'.encode("utf-32"), ""),
        (b"\x1f\x8b\x08\x00\x00\x00", ""),
        (b"\x93NUMPY\x01\x00", ""),
    ],
)
def test_a_body_that_is_not_one_json_object_is_refused(body, said):
    assert said in refusal(body)


@pytest.mark.parametrize("size", range(len(b'{"inputs":[{"embeddings":[[1.5,2]],"mask":[true]}]}')))
def test_every_truncation_of_a_body_is_refused(size):
    refusal(b'{"inputs":[{"embeddings":[[1.5,2]],"mask":[true]}]}'[:size])


@given(st.binary(max_size=40))
def test_random_bytes_are_decoded_or_malformed(body):
    try:
        read = decode(body)
    except Malformed:
        return
    assert read == json.loads(body)


def test_a_text_may_hold_any_character():
    assert decode(b'{"inputs":[{"text":"a\\u0000b\\ud83d\\ude00"}]}')["inputs"][0]["text"] == "a\0b😀"


def test_depth_16_is_read():
    assert decode(b'{"a":' + b"[" * 15 + b"]" * 15 + b"}")
    assert decoded("embeddings", "[" * 13 + "1" + "]" * 13).shape == (1,) * 13


def test_names_are_shown_short_and_printable():
    message = refusal(('{"%s":1,"%s":1}' % (("\\u001b[31m" + "é" * 500,) * 2)).encode())
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 500


def test_objects_with_too_many_fields_are_refused():
    body = json.dumps({str(i): 0 for i in range(MOST_FIELDS + 1)}).encode()
    assert refusal(body) == f"the body has {MOST_FIELDS + 1} fields; the limit is {MOST_FIELDS}"


def test_values_outside_tensors_are_limited_in_number():
    numbers = ",".join(["0"] * MOST_VALUES)
    assert f"more than {MOST_VALUES} values outside the tensors" in refusal(
        f'{{"rows":[{numbers}]}}'.encode()
    )


def test_rows_of_a_tensor_are_limited_in_number():
    rows = ",".join(["[]"] * (MOST_ROWS + 1))
    assert f"more than {MOST_ROWS} rows" in refusal(body_of("embeddings", f"[{rows}]"))


def test_arrays_that_are_no_tensor_fields_stay_plain():
    envelope = decode(b'{"embeddings":[1],"heads":[0,3],"inputs":[{"spans":[[0,2]]},7,[8]],"x":1.5,"y":null}')
    assert envelope == {
        "embeddings": [1],
        "heads": [0, 3],
        "inputs": [{"spans": [[0, 2]]}, 7, [8]],
        "x": 1.5,
        "y": None,
    }


def test_decoding_goes_on_after_an_error_in_the_same_thread():
    errors = []
    for _ in range(3):
        with pytest.raises(Malformed) as caught:
            decode(body_of("embeddings", "[[1],[2,3]]"))
        errors.append(caught.value)  # its traceback holds the proxies of its parser
        assert np.array_equal(decoded("embeddings", "[[4,5]]"), [[4, 5]])
    assert len(errors) == 3


def test_threads_decode_at_the_same_time():
    arrays = [np.full((64, 64), i, np.float32) for i in range(8)]
    bodies = [
        orjson.dumps({"inputs": [{"embeddings": array}]}, option=orjson.OPT_SERIALIZE_NUMPY)
        for array in arrays
    ]
    results = [[] for _ in bodies]

    def work(index):
        for _ in range(20):
            results[index].append(decode(bodies[index])["inputs"][0]["embeddings"])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for array, result in zip(arrays, results, strict=True):
        assert len(result) == 20
        assert all(np.array_equal(array, one) for one in result)


def test_a_single_value_is_read_under_the_same_guards():
    assert decode_value(b'{"start":-4,"stop":null}') == {"start": -4, "stop": None}
    assert decode_value(b"[0, 1]") == [0, 1]
    assert decode_value(b"0.5") == 0.5
    for text in (b"", b"NaN", b'{"a":1,"a":1}', b"[" * 20 + b"]" * 20):
        with pytest.raises(Malformed):
            decode_value(text)


def test_the_reply_has_the_contracts_shape():
    text = Text(
        ids=np.array([1, 2]),
        type_ids=np.array([0, 0]),
        tokens=("[CLS]", "hé"),
        offsets=((0, 0), (0, 2)),
        special=(True, False),
        truncated=3,
    )
    answers = [
        Answer(
            tensors={
                "z": np.array([[1, 2]], np.float16),
                "top_k_keys": np.array([[[0, 1]]], np.int32),
                "scores": np.array([[[0.5, -np.inf]]], np.float32),
            }
        ),
        Answer(tensors={"z": np.array([[0.1]], np.float32)}),
    ]
    body = encode(Reply(answers=answers, texts=[text, None], tokens=3, model="m", version="2"))
    assert json.loads(body) == {
        "model": "m",
        "version": "2",
        "outputs": [
            {
                "z": [[1.0, 2.0]],
                "top_k_keys": [[[0, 1]]],
                "scores": [[[0.5, None]]],
                "tokens": ["[CLS]", "hé"],
                "offsets": [[0, 0], [0, 2]],
                "special": [True, False],
                "truncated": 3,
            },
            {"z": [[0.1]]},
        ],
        "usage": {"sequences": 2, "tokens": 3},
    }


def test_a_reply_without_a_model_names_none():
    body = encode(Reply(answers=[Answer(tensors={"z": np.ones((1, 1), np.float32)})], texts=[None], tokens=1))
    assert json.loads(body) == {"outputs": [{"z": [[1.0]]}], "usage": {"sequences": 1, "tokens": 1}}


def _many(entries: bytes, field: bytes) -> bytes:
    return b'{"inputs":[{"%s":[%s]}]}' % (field, entries)


@pytest.mark.skipif(native() is None, reason="without compiled code all of it is parsed")
def test_values_are_counted_outside_strings_before_they_are_parsed(monkeypatch):
    monkeypatch.setattr(json_strings, "MOST_PARSED", 2000)
    few = b'{"note": "' + b'a,b,\\",' * 5000 + b'", "inputs": [{"token_ids": [' + b"1," * 1000 + b"1]}]}"
    assert decode(few)["inputs"][0]["token_ids"].shape == (1001,)
    monkeypatch.setattr(simdjson, "Parser", lambda: pytest.fail("parsed"))
    for body in (_many(b"1," * 2000 + b"1", b"token_ids"), _many(b"1.5," * 2000 + b"[1]", b"embeddings")):
        with pytest.raises(TooLarge, match="over 2000 values") as caught:
            decode(body)
        assert caught.value.code == "body_too_large"


@pytest.mark.skipif(native() is None, reason="without compiled code all of it is parsed")
@pytest.mark.parametrize(
    ("entry", "expected"),
    [(b"1e-300", 0), (b"null", -np.inf), (b"true", True), (b"0.12345678901234567891", 0.12345679)],
)
def test_masks_and_floats_are_not_among_them(monkeypatch, entry, expected):
    monkeypatch.setattr(json_strings, "MOST_PARSED", 2000)
    mask = decode(_many(entry + (b"," + entry) * 2999, b"mask"))["inputs"][0]["mask"]
    assert mask.shape == (3000,)
    assert (mask == np.array(expected, mask.dtype)).all()


def edits_of(*edits, pad=""):
    """Return the edits of one input as they are read; with `pad`, by compiled code."""
    return decode(orjson.dumps({"inputs": [{"text": pad, "edits": edits}]}))["inputs"][0]["edits"]


PADS = ("", "x" * 5000)  # beside which a body is long enough for compiled code


@pytest.mark.parametrize("pad", PADS)
def test_matrices_of_edits_are_arrays_and_other_values_are_what_they_are(pad):
    matrix = (np.arange(128, dtype=np.float32) / 7).reshape(2, 8, 8)
    read = edits_of(
        {"edit": "set", "value": matrix.tolist(), "heads": [[0, 1]], "keys": {"outside": [[1, 2], "name"]}},
        {"edit": "scale", "value": 0.5},
        {"edit": "pattern", "value": "self"},
        {"edit": "pattern", "value": [[1, 0], [0.25, 0.75]]},
        {"edit": "block", "value": None},
        7,
        pad=pad,
    )
    assert read[0]["value"].dtype == np.float32
    np.testing.assert_array_equal(read[0]["value"], matrix)
    assert (read[0]["heads"], read[0]["keys"]) == ([[0, 1]], {"outside": [[1, 2], "name"]})
    assert [edit["value"] for edit in (read[1], read[2], read[4])] == [0.5, "self", None]
    np.testing.assert_array_equal(read[3]["value"], np.float32([[1, 0], [0.25, 0.75]]))
    assert read[5] == 7


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[1], [1, 2]], "value[1] has 2 numbers, the row before 1; make them equal"),
        ([1, [2]], "value[1] is a list beside numbers"),
        ([["a"]], "value[0][0] is a string; give numbers only"),
        ([[1e39]], "value[0][0] is beyond float32; the largest is ±3.40282347e+38"),
    ],
)
def test_matrices_of_edits_that_are_no_rectangle_of_numbers_are_refused_by_place(value, said, pad):
    body = orjson.dumps({"inputs": [{"text": pad}, {"edits": [{"value": 1}, {"value": value}]}]})
    assert refusal(body) == f"inputs[1].edits[1].{said}"


def test_matrices_of_edits_nest_no_deeper_than_the_body_may():
    deepest = json.loads("[" * 11 + "1" + "]" * 11)
    assert edits_of({"value": deepest})[0]["value"].ndim == 11
    said = refusal(orjson.dumps({"inputs": [{"edits": [{"value": [deepest]}]}]}))
    assert said == "inputs[0].edits[0].value nests deeper than 11"


@pytest.mark.parametrize("pad", PADS)
def test_edits_that_are_no_list_of_objects_are_left_to_be_refused(pad):
    matrix = [[0.5] * 8] * 8
    for edits in ({"value": matrix}, "none", [[matrix]], None, 3):
        body = {"inputs": [{"text": pad, "edits": edits}]}
        assert decode(orjson.dumps(body)) == body


def test_edits_of_all_inputs_are_counted_before_they_are_read():
    one = {"edits": [{"value": []}] * 512}
    assert len(decode(orjson.dumps({"inputs": [one] * 16}))["inputs"]) == 16
    with pytest.raises(Invalid, match="the inputs have over 8192 edits together; send fewer at a time"):
        decode(orjson.dumps({"inputs": [one] * 16 + [{"edits": [{}]}]}))


def test_the_reply_says_which_inputs_were_edited():
    answers = [Answer(tensors={"z": np.ones((1, 1), np.float32)})] * 3
    reply = Reply(answers=answers, texts=[None] * 3, tokens=3, edited=[False, True, False])
    outputs = json.loads(bytes(encode(reply)))["outputs"]
    assert [output.get("edited") for output in outputs] == [None, True, None]
