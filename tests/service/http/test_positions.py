"""Positions in the words of callers: numbers, ranges, names of spans, and what is outside of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid
from service.http.fields.addresses import Outside, Rows
from service.http.fields.positions import Axis, merged, numbers, ranges, region, spans

NAMES = {"doc1": (2, 5), "doc2": (5, 7), "question": (8, 10)}
AXIS = Axis(length=10, path="inputs[0]", names=NAMES)


def refusal(call, asked, *, axis=AXIS, field="rows"):
    with pytest.raises(Invalid) as caught:
        call(asked, axis, field=field)
    return caught.value.message


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([3, 0, -1], (3, 0, 9)),
        (-2, (8,)),
        ("question", (8, 9)),
        (["question", 0], (8, 9, 0)),
        ([[0, 2], "doc2"], (0, 1, 5, 6)),
        (Rows(start=-3), (7, 8, 9)),
        (Rows(stop=-8), (0, 1)),
        (Outside(outside="doc1"), (0, 1, 5, 6, 7, 8, 9)),
        (Outside(outside=["doc1", 0, [5, 10]]), (1,)),
    ],
)
def test_single_positions_keep_the_order_in_which_they_are_asked_for(asked, found):
    assert numbers(asked, AXIS, field="rows") == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([3, 0, -1], ((0, 1), (3, 4), (9, 10))),
        (["doc2", "doc1"], ((2, 7),)),
        ([[4, 6], [5, 9], 0], ((0, 1), (4, 9))),
        (Rows(start=8), ((8, 10),)),
        (Outside(outside=["doc1", "question"]), ((0, 2), (5, 8))),
        (Outside(outside=[[3, 10]]), ((0, 3),)),
    ],
)
def test_what_is_taken_as_one_becomes_sorted_ranges_that_do_not_touch(asked, found):
    assert ranges(asked, AXIS, field="keys") == found


def test_two_numbers_are_one_range_where_a_region_stands_and_two_positions_elsewhere():
    assert region([2, 5], AXIS, field="share.of") == ((2, 5),)
    assert ranges([2, 5], AXIS, field="keys") == ((2, 3), (5, 6))
    assert region("doc1", AXIS, field="share.of") == ((2, 5),)
    assert region(["doc2", [0, 1]], AXIS, field="share.of") == ((0, 1), (5, 7))


def test_spans_one_by_one_keep_their_order_and_may_overlap():
    assert spans(["doc2", [4, 9], "doc1"], AXIS, field="columns") == ((5, 7), (4, 9), (2, 5))


def test_positions_that_are_not_there_are_refused_with_what_there_is():
    assert refusal(numbers, [10]) == "rows has 10; inputs[0] has 10 positions, from -10 to 9"
    assert refusal(ranges, [-11], field="keys") == "keys has -11; inputs[0] has 10 positions, from -10 to 9"
    assert refusal(spans, [[3, 11]], field="columns") == (
        "columns has [3, 11]; give start < end ≤ 10, the positions of inputs[0]"
    )
    assert refusal(numbers, Rows(start=4, stop=4)) == (
        "rows from 4 to 4 is no range within the 10 positions of inputs[0]"
    )
    short = Axis(length=6, path="inputs[1]", names=NAMES)
    assert refusal(numbers, "doc2", axis=short) == (
        "rows has 'doc2', which is [5, 7]; give start < end ≤ 6, the positions of inputs[1]"
    )
    assert refusal(ranges, Outside(outside=[[0, 10]])) == (
        "rows leaves nothing outside of the 10 positions of inputs[0]"
    )


def test_unknown_names_are_refused_with_the_nearest_known_one():
    assert refusal(numbers, "doc3") == "rows has 'doc3', which is no span of inputs[0]; did you mean doc2?"
    assert refusal(numbers, ["x"]).endswith("no span of inputs[0]; known: doc1, doc2, question")
    assert refusal(numbers, "x", axis=Axis(length=3, path="inputs[0]")).endswith(
        'which is no span of inputs[0]; give spans as an object, {"name": [start, end]}'
    )


@pytest.mark.parametrize("asked", [[1, 1], [9, -1], ["doc1", 3], ["doc1", [0, 9]], [[0, 10]] * 1000])
def test_the_same_row_twice_is_refused(asked):
    assert refusal(numbers, asked) == "rows of inputs[0] has the same one twice; give each once"


def test_ranges_are_converted_where_they_count_something_else():
    def halved(asked, labels):
        assert labels == ["columns"]
        return [(start // 2, end // 2) for start, end in asked]

    axis = Axis(length=10, path="inputs[0]", names=NAMES, convert=halved)
    assert spans([[4, 10], "doc1"], axis, field="columns") == ((2, 5), (2, 5))


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(1, 30)), max_size=8))
def test_merged_ranges_hold_the_same_positions_apart_from_each_other(found):
    found = [(start, max(start + 1, end)) for start, end in found]
    joined = merged(found)
    expected = np.zeros(40, bool)
    for start, end in found:
        expected[start:end] = True
    told = np.zeros(40, bool)
    for start, end in joined:
        told[start:end] = True
    assert np.array_equal(expected, told)
    assert all(end < start for (_, end), (start, _) in pairwise(joined))
