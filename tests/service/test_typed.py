"""What is typed after `heed attend`: heads, positions, edits."""

import pytest

from heed_client import Edit
from service.commands.typed import read_edit, read_heads, read_layer, read_places, read_spans


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("5.1", {"heads": [(5, 1)]}),
        ("5.1, -1.0", {"heads": [(5, 1), (-1, 0)]}),
        ("5.*,-2.*", {"layers": [5, -2]}),
        ("*", {"layers": "all"}),
        ("*.*", {"layers": "all"}),
        ("induction heads", {"heads": "induction heads"}),
    ],
)
def test_heads_are_pairs_layers_all_or_a_name(text, read):
    assert read_heads(text) == read


@pytest.mark.parametrize("text", ["5", "5.1,6.*", "5.1,name", "1.2.3", ".", "5.x"])
def test_heads_that_are_none_of_these_are_refused(text):
    with pytest.raises(ValueError, match="give pairs of layer and head"):
        read_heads(text)


def test_positions_are_numbers_ranges_names_and_all_others():
    assert read_places("3,-1, 4:7 ,name") == [3, -1, (4, 7), "name"]
    assert read_places("outside:4:7,9") == {"outside": [(4, 7), 9]}
    for text in ("", "4:", "3-5", "-4:2"):
        with pytest.raises(ValueError, match="give a number, a range"):
            read_places(text)


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("scale 5.1,5.5 0", Edit.scale(0.0, heads=[(5, 1), (5, 5)])),
        ("scale * 0.5 queries=-1", Edit.scale(0.5, layers="all", queries=[-1])),
        ("block 5.* queries=-1 keys=0:3", Edit.block(layers=[5], queries=[-1], keys=[(0, 3)])),
        ("add set -4.6 keys=outside:4:7", Edit.add(-4.6, heads="set", keys={"outside": [(4, 7)]})),
        ("pattern 5.1 previous", Edit.pattern("previous", heads=[(5, 1)])),
    ],
)
def test_edits_are_a_verb_heads_a_value_and_places(text, edit):
    assert read_edit(text) == edit


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("silence 5.1", "begins with none of scale, block, add, pattern"),
        ("scale 5.1", "not written as 'scale 5.1 0' is"),
        ("block 5.1 3", "not written as 'block"),
        ("scale 5.1 0 rows=3", "not written as"),
        ("scale 5.1 none", "give a number"),
        ("pattern 5.1 diagonal", "choose one of previous, self, first, uniform"),
        ("scale 5 0", "give pairs"),
    ],
)
def test_edit_that_is_mistyped_is_refused_with_how_it_is_written(text, said):
    with pytest.raises(ValueError, match=said):
        read_edit(text)


def test_spans_and_layers():
    assert (read_spans("words"), read_spans("0:3,3:5")) == ("words", [(0, 3), (3, 5)])
    assert (read_layer("all"), read_layer("-2")) == ("all", -2)
    for read, text in ((read_spans, "3,4"), (read_spans, "outside:1:2"), (read_layer, "first")):
        with pytest.raises(ValueError, match="give"):
            read(text)
