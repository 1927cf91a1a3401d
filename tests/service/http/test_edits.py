"""Edits of `attend` and `/v1/attention` over the fake runtime: what they come to, and every refusal."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.edit import Edit
from models.heads.sets import HeadSet
from service.wire.counts import MOST_EDITED_HEADS, MOST_EDITS
from tests.fakes import FakeRuntime, fake_card
from tests.serving import refused, served

X = np.arange(12.0).reshape(3, 4)
QKV = {name: np.ones((2, 3, 2)).tolist() for name in ("query", "key", "value")}
SETS = {"two": HeadSet(pairs=((1, 0), (0, 1)), weights=(0.5, 2.0))}
MODELS = (
    fake_card(head_sets=SETS),
    fake_card("few", edits=("scale",), not_offered={"edits.block": "its probe has not shown it"}),
    fake_card("none", edits=()),
)


@pytest.fixture(scope="module")
def runtime():
    return FakeRuntime(*MODELS)


@pytest.fixture(scope="module")
def service(runtime):
    with served(runtime) as running:
        yield running


def embedded(*edits):
    return {"embeddings": X.tolist(), "edits": list(edits)}


def resolved(service, runtime, one, **options):
    """Return the edits that reach the device of one input's."""
    reply = service.attend({"inputs": [one], **options})
    assert reply.status_code == 200, reply.text
    ((item,),) = runtime.batches[-1:]
    return item.edits


def same(one: Edit, other: Edit) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Edit.__dataclass_fields__)


# ---- what they do


def test_a_silenced_head_is_zeros_in_z_and_the_reply_says_that_the_input_was_edited(service):
    edit = {"edit": "scale", "layers": 0, "heads": [1], "value": 0}
    body = {"inputs": [embedded(edit), embedded()], "layers": "all", "outputs": ["z"]}
    edited, other = service.attend(body).json()["outputs"]
    z = 2 * X
    assert other == {"z": [z.tolist()] * 2}
    assert edited["edited"] is True
    np.testing.assert_array_equal(edited["z"], [np.hstack([z[:, :2], 0 * z[:, 2:]]), z])


def test_weights_are_those_after_what_was_added_blocked_and_put(service):
    edits = [
        {"edit": "pattern", "heads": [[1, 1]], "queries": [0], "value": [[0.25, 0.5, -1]]},
        {"edit": "block", "heads": [[1, 0]], "queries": [1, 2], "keys": [0]},
        {"edit": "add", "heads": [[1, 0]], "queries": [-1], "keys": [[1, 2]], "value": np.log(3)},
    ]
    body = {"inputs": [embedded(*edits)], "outputs": ["weights"]}
    (output,) = service.attend(body).json()["outputs"]
    third = [1 / 3] * 3
    expected = [[third, [0, 0.5, 0.5], [0, 0.75, 0.25]], [[0.25, 0.5, -1], third, third]]
    np.testing.assert_allclose(output["weights"], expected, rtol=1e-6)


def test_rows_of_arrays_are_those_of_the_queries_in_the_order_they_are_named(service):
    edits = [
        {"edit": "pattern", "heads": [[1, 1]], "queries": [2, 0], "value": [[1, 2, 3], [4, 5, 6]]},
        {
            "edit": "set",
            "heads": [[1, 1], [1, 0]],
            "queries": [-1, "first"],
            "value": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
        },
    ]
    one = {**embedded(*edits), "spans": {"first": [0, 1]}}
    (output,) = service.attend({"inputs": [one], "outputs": ["z", "weights"]}).json()["outputs"]
    np.testing.assert_allclose(output["weights"][1], [[4, 5, 6], [1 / 3] * 3, [1, 2, 3]], rtol=1e-6)
    np.testing.assert_array_equal(output["z"], [[7, 8, 3, 4], 2 * X[1], [5, 6, 1, 2]])


# ---- where they are


@pytest.mark.parametrize(
    ("address", "at"),
    [
        ({"layers": "all"}, ((0, 0), (0, 1), (1, 0), (1, 1))),
        ({"layers": -1}, ((1, 0), (1, 1))),
        ({"layers": [1, 0], "heads": [1]}, ((1, 1), (0, 1))),
        ({"heads": [[-1, 1], [0, 0]]}, ((1, 1), (0, 0))),
        ({"heads": {"pairs": [[0, 1]]}}, ((0, 1),)),
        ({"heads": "two"}, ((1, 0), (0, 1))),
    ],
)
def test_heads_are_numbers_of_layers_or_pairs_or_the_name_of_a_set(service, runtime, address, at):
    (edit,) = resolved(service, runtime, embedded({"edit": "scale", "value": 2, **address}))
    assert (edit.verb, edit.at, edit.value) == ("scale", at, 2.0)


@pytest.mark.parametrize(
    ("asked", "ranges"),
    [
        ([-1], ((2, 3),)),
        ([0, 2], ((0, 1), (2, 3))),
        ([[0, 2]], ((0, 2),)),
        ([1, [0, 1]], ((0, 2),)),
        ("end", ((2, 3),)),
        (["start", -1], ((0, 1), (2, 3))),
        ({"outside": ["start"]}, ((1, 3),)),
        ({"outside": [1]}, ((0, 1), (2, 3))),
        ({"start": 1}, ((1, 3),)),
        ([0, 1, 2], None),
        (None, None),
    ],
)
def test_queries_and_keys_are_positions_ranges_and_names(service, runtime, asked, ranges):
    spans = {"start": [0, 1], "end": [2, 3]}
    one = embedded({"edit": "add", "layers": 0, "queries": asked, "keys": asked, "value": 1.5})
    (edit,) = resolved(service, runtime, {**one, "spans": spans})
    assert (edit.queries, edit.keys) == (ranges, ranges)


def test_ranges_count_characters_of_a_text_where_spans_do(service, runtime):
    edit = {"edit": "block", "layers": 0, "queries": [-1], "keys": [[0, 1], "last"]}
    one = {"text": "zero one two three", "edits": [edit], "spans": {"last": [9, 18]}}
    (found,) = resolved(service, runtime, one, span_unit="characters")
    assert (found.queries, found.keys) == (((3, 4),), ((0, 1), (2, 4)))


def test_keys_of_memory_are_the_memorys(service, runtime):
    one = embedded({"edit": "block", "layers": 0, "keys": [-1]})
    (edit,) = resolved(service, runtime, {**one, "memory": np.ones((7, 4)).tolist()})
    assert edit.keys == ((6, 7),)


def test_each_input_has_its_own_edits_and_may_take_from_another(service):
    one = {"edit": "from", "layers": -1, "heads": [1], "queries": [0], "input": 0}
    scale = {"edit": "scale", "layers": -1, "heads": [1], "value": 3}
    other = {**embedded(scale), "embeddings": (X[:2] + 1).tolist()}
    body = {
        "inputs": [other, embedded(one), embedded(), embedded(one | {"input": 1}, scale)],
        "outputs": ["z"],
    }
    outputs = service.attend(body).json()["outputs"]
    taken = 2 * X
    taken[0, 2:] = 3 * 2 * (X[0, 2:] + 1)  # as it is after the source's own edits
    np.testing.assert_array_equal(outputs[1]["z"], taken)
    np.testing.assert_array_equal(outputs[2]["z"], 2 * X)
    np.testing.assert_array_equal(outputs[3]["z"], np.hstack([taken[:, :2], 3 * taken[:, 2:]]))


# ---- what is wrong


Z = np.zeros((2, 3, 2)).tolist()
REFUSED = [
    (
        {"edit": "scael", "layers": 0, "value": 0},
        "edits[0].edit is 'scael', which is no verb; did you mean scale?",
    ),
    ({"edit": "scale", "layer": 0}, "edits[0].layer is no field here; did you mean layers?"),
    ({"layers": 0, "value": 0}, "edits[0].edit is missing"),
    ({"edit": "scale", "layers": 0}, "edits[0] has no value, which scale needs"),
    ({"edit": "from", "layers": 0}, "edits[0] has no input, which from needs"),
    (
        {"edit": "scale", "layers": 0, "keys": [0], "value": 0},
        "edits[0] has keys, which scale does not take; it takes queries, value",
    ),
    (
        {"edit": "block", "layers": 0, "keys": [0], "value": 1},
        "edits[0] has value, which block does not take; it takes queries, keys",
    ),
    ({"edit": "block", "layers": 0}, "edits[0] blocks every key of every row; say which in queries or keys"),
    ({"edit": "scale", "value": 0}, 'edits[0] does not say of which layers: give layers, a list or "all"'),
    ({"edit": "scale", "heads": [0], "value": 0}, "edits[0] does not say of which layers"),
    (
        {"edit": "scale", "layers": 2, "value": 0},
        "edits[0].layers has 2; model fake has 2 layers, from -2 to 1",
    ),
    ({"edit": "scale", "layers": [0, -2], "value": 0}, "edits[0].layers has the same one twice"),
    (
        {"edit": "scale", "layers": 0, "heads": [2], "value": 0},
        "edits[0].heads has 2; there are 2, from 0 to 1",
    ),
    (
        {"edit": "scale", "heads": [[0, 2]], "value": 0},
        "edits[0].heads has [0, 2]; there are 2 heads a layer",
    ),
    ({"edit": "scale", "heads": [[2, 0]], "value": 0}, "edits[0].heads has [2, 0]; model fake has 2 layers"),
    ({"edit": "scale", "heads": [[0, 0], [0, 0]], "value": 0}, "edits[0].heads has the same pair twice"),
    (
        {"edit": "scale", "heads": [[0, 0]], "layers": 0, "value": 0},
        "edits[0] has layers beside heads that bring",
    ),
    (
        {"edit": "scale", "heads": "tow", "value": 0},
        "edits[0].heads is 'tow', which is no head set of model fake",
    ),
    (
        {"edit": "scale", "heads": {"pairs": [[0, 0]], "weights": [2.0]}, "value": 0},
        "edits[0].heads has weights, and an edit does the same in each of its heads",
    ),
    ({"edit": "scale", "layers": 0, "value": "zero"}, "edits[0].value must be a number: scale does the same"),
    ({"edit": "add", "layers": 0, "value": [[1.0]]}, "edits[0].value must be a number: add does the same"),
    (
        {"edit": "add", "layers": 0, "value": True},
        "edits[0].value must be a number within ±3.40282347e+38, the name",
    ),
    (
        {"edit": "scale", "layers": 0, "value": 1e39},
        "edits[0].value must be a number within ±3.40282347e+38, the name",
    ),
    (
        {"edit": "pattern", "layers": 0, "value": "previuos"},
        "edits[0].value is 'previuos', which is no pattern; did you mean previous?",
    ),
    ({"edit": "pattern", "layers": 0, "value": 1}, "edits[0].value of pattern must be a matrix, or the name"),
    (
        {"edit": "pattern", "layers": 0, "queries": [0, 1], "value": [[1.0] * 3] * 3},
        "edits[0].value has shape [3, 3]; give [2, 3] or [2, 2, 3]",
    ),
    (
        {"edit": "set", "layers": 0, "value": [[1.0] * 2] * 3},
        "edits[0].value has shape [3, 2]; give [2, 3, 2]",
    ),
    ({"edit": "set", "layers": "all", "value": Z}, "edits[0].value has shape [2, 3, 2]; give [4, 3, 2]"),
    ({"edit": "set", "layers": 0, "value": 0}, "edits[0].value of set must be an array"),
    (
        {"edit": "set", "layers": 0, "queries": [0, [0, 2]], "value": Z},
        "edits[0].queries of inputs[0] has the same one twice",
    ),
    (
        {"edit": "scale", "layers": 0, "queries": [3], "value": 0},
        "edits[0].queries has 3; inputs[0] has 3 positions",
    ),
    ({"edit": "block", "layers": 0, "keys": [[1, 4]]}, "edits[0].keys has [1, 4]; give start < end ≤ 3"),
    ({"edit": "block", "layers": 0, "keys": "end"}, "edits[0].keys has 'end', which is no span of inputs[0]"),
    ({"edit": "block", "layers": 0, "keys": {"outside": [[0, 3]]}}, "edits[0].keys leaves nothing outside"),
    ({"edit": "block", "layers": 0, "keys": 1.5}, "edits[0].keys must be a list of positions"),
    (
        {"edit": "from", "layers": 0, "input": 0},
        "edits[0] takes z from inputs[0]; give the place of another of the 2 inputs",
    ),
    (
        {"edit": "from", "layers": 0, "input": 2},
        "edits[0] takes z from inputs[2]; give the place of another of the 2 inputs",
    ),
    (
        {"edit": "from", "layers": 0, "input": 1},
        "edits[0] takes rows up to 2, and inputs[1] has 1 rows",
    ),
    ({"edit": "from", "layers": 0, "input": -1}, "edits[0].input must be at least 0"),
    (3, "edits[0] must be an object"),
]


@pytest.mark.parametrize(("edit", "said"), REFUSED)
def test_what_is_wrong_with_an_edit_is_said_of_its_place(service, edit, said):
    body = {"inputs": [embedded(edit), {"embeddings": X[:1].tolist()}]}
    assert refused(service.attend(body), 422, "invalid").startswith(f"inputs[0].{said}")


@pytest.mark.parametrize(
    ("model", "verb", "said"),
    [
        ("few", "block", "which model few does not offer: its probe has not shown it; it offers scale"),
        ("few", "add", "which model few does not offer; it offers scale"),
        ("none", "scale", "which model none does not offer; it offers no edits"),
    ],
)
def test_a_verb_that_the_model_does_not_offer_is_refused_with_the_reason(service, model, verb, said):
    edit = {"edit": verb, "layers": 0, "keys": [0], "value": 1}
    said = f"inputs[0].edits[0].edit is {verb}, {said}"
    assert refused(service.attend({"inputs": [embedded(edit)]}, model=model), 422, "invalid") == said


@pytest.mark.parametrize("name", ["previous", "self"])
def test_patterns_of_one_sequence_are_refused_where_keys_are_anothers(service, name):
    one = {**embedded({"edit": "pattern", "layers": 0, "value": name}), "memory": X.tolist()}
    assert "queries and keys of one sequence" in refused(service.attend({"inputs": [one]}), 422, "invalid")


@pytest.mark.parametrize("value", [[[1.0, None, 0.0]] * 3, [[1e39, 0.0, 0.0]] * 3, [[1.0], [1.0, 2.0]]])
def test_matrices_that_are_none_are_malformed(service, value):
    body = {"inputs": [embedded({"edit": "pattern", "layers": 0, "value": value})]}
    assert "inputs[0].edits[0].value" in refused(service.attend(body), 400, "malformed")


def test_edits_of_an_input_are_limited_in_number(service):
    edit = {"edit": "scale", "layers": 0, "value": 1}
    assert service.attend({"inputs": [embedded(*[edit] * MOST_EDITS)]}).status_code == 200
    message = refused(service.attend({"inputs": [embedded(*[edit] * (MOST_EDITS + 1))]}), 422, "invalid")
    assert message == "inputs[0].edits has 65 items; give at most 64"


def test_heads_in_edits_of_a_request_are_limited_in_number():
    wide = fake_card(layers=200, heads=200, key_heads=200, d_model=200, d_k=1, d_v=1)
    one = {"token_ids": [1], "edits": [{"edit": "scale", "layers": "all", "value": 1}] * 32}
    with served(FakeRuntime(wide)) as service:
        message = refused(service.attend({"inputs": [one]}), 422, "invalid")
    assert message.startswith("up to inputs[0].edits[26] the edits name 1080000 heads")
    assert f"the limit of a request is {MOST_EDITED_HEADS}" in message


def test_inputs_that_take_from_each_other_are_refused(service):
    edit = {"edit": "from", "layers": 0}
    body = {"inputs": [embedded(edit | {"input": 1}), embedded(edit | {"input": 0})]}
    message = refused(service.attend(body), 422, "invalid")
    assert message.startswith("inputs[0] from inputs[1] from inputs[0]: inputs cannot take z from each other")


def test_one_bad_edit_of_several_inputs_is_named_with_its_place(service):
    good = {"edit": "scale", "layers": 0, "value": 1}
    body = {"inputs": [embedded(good), embedded(good, good | {"layers": 5})]}
    assert refused(service.attend(body), 422, "invalid").startswith("inputs[1].edits[1].layers has 5")


# ---- the caller's own queries, keys and values


def test_edits_of_own_queries_keys_and_values_have_no_layers(service, runtime):
    edits = [
        {"edit": "add", "queries": [0], "keys": [-1], "value": -2},
        {"edit": "scale", "heads": [1], "value": 0},
        {"edit": "pattern", "heads": [0], "value": [[1.0, 0.0, 0.0]] * 3},
    ]
    reply = service.attention({"inputs": [{**QKV, "edits": edits}], "outputs": ["weights"]})
    assert reply.json()["outputs"][0]["edited"] is True
    np.testing.assert_array_equal(reply.json()["outputs"][0]["weights"][0], [[1, 0, 0]] * 3)
    add, scale, pattern = runtime.batches[-1][0].edits
    assert (add.at, add.queries, add.keys, add.value) == (((0, 0), (0, 1)), ((0, 1),), ((2, 3),), -2.0)
    assert (scale.at, pattern.at) == (((0, 1),), ((0, 0),))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"edit": "set", "value": Z}, "edits[0].edit is set; /v1/attention has add, block, pattern, scale"),
        ({"edit": "scale", "heads": [2], "value": 0}, "edits[0].heads has 2; there are 2, from 0 to 1"),
        ({"edit": "scale", "layers": 0, "value": 0}, "edits[0].layers is no field here"),
        ({"edit": "from", "input": 1}, "edits[0].input is no field here"),
        ({"edit": "scale", "heads": [[0, 1]], "value": 0}, "edits[0].heads[0] must be an integer"),
    ],
)
def test_what_needs_a_model_is_refused_without_one(service, edit, said):
    body = {"inputs": [{**QKV, "edits": [edit]}]}
    assert refused(service.attention(body), 422, "invalid").startswith(f"inputs[0].{said}")


# ---- anything


numbers = st.integers(-4, 4) | st.floats(allow_nan=False) | st.booleans() | st.none()
names = st.sampled_from(["all", "two", "start", "self", "uniform", "words", ""])
anything = st.recursive(
    numbers | names,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["outside", "start", "stop", "pairs", "weights"]), inner, max_size=2
        )
    ),
    max_leaves=8,
)
positions = st.lists(st.integers(-3, 2), min_size=1, max_size=2) | st.just([[0, 2]]) | anything
wild = st.fixed_dictionaries(
    {"edit": st.sampled_from(["add", "block", "pattern", "set", "from", "scale"]) | names},
    optional={
        "layers": st.integers(-2, 1) | st.just("all") | anything,
        "heads": st.lists(st.integers(0, 1), max_size=2) | st.just([[0, 1]]) | anything,
        "queries": positions,
        "keys": positions,
        "value": st.floats(-9, 9) | st.sampled_from([Z, X[:, :3].tolist(), "first"]) | anything,
        "input": st.integers(-1, 2) | anything,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(wild, max_size=2) | anything, min_size=1, max_size=2), st.booleans())
def test_random_edits_are_done_or_refused_and_never_fail(service, edits, own):
    inputs = [{**(QKV if own else {"embeddings": X.tolist()}), "edits": some} for some in edits]
    body = json.dumps({"inputs": inputs, "outputs": ["z", "weights"]}).encode()
    reply = service.attention(body) if own else service.attend(body)
    assert reply.status_code in (200, 400, 422), reply.text
